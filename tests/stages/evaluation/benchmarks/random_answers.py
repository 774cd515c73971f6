"""Answers that try every rule of the official scorers: numbers, articles, contractions, marks, boxes, nothing."""

import random

from stages.evaluation.benchmarks.pope import SPLITS
from stages.evaluation.benchmarks.refcoco import SPLIT_BY
from tests.stages.evaluation.benchmarks.published_files import Item

LINE = """
    red Red blue two 2 none zero ten The a an the THE dont don't cant couldntve couldn'tve hadnt've weve whove
    somebody'd somebodys what's it's let's Im I'm x-ray 1,000 1000 3.5 3. .5 U.S.A. st. no No not yes Yes unanswerable
    Unanswerable suitable left/right (big) "quoted" a_b a=b [x] {y} <z> @home `tick` semi;colon wow! really? é 黒 50% $5
    #1 yall'd've y'alld've ow's'at oclock
"""
WORDS = LINE.split()
JOINTS = (" ", " ", " ", "  ", ", ", ",", "-", " - ", "; ", "/", ".", ". ", "\n", "\t", "'s ", "? ")
KINDS = {
    "vqav2": ("yes/no", "number", "other"),
    "gqa": ("query", "verify", "choose", "logical", "compare"),
    "vizwiz": ("answerable", "unanswerable"),
    "textvqa": ("",),
    "refcoco": tuple(SPLIT_BY),
    "ocid_ref": ("minimum", "medium", "maximum"),
    "pope": SPLITS,
}


def phrase(source: random.Random) -> str:
    """A few words, joined by spaces and marks; sometimes nothing, sometimes a long row of periods."""
    if source.random() < 0.05:
        return source.choice(("", " ", ".", "...", "." * 40, "a." * 40, ",", "the", "\n"))
    words = [source.choice(WORDS)]
    while source.random() < 0.4:
        words += [source.choice(JOINTS), source.choice(WORDS)]
    return "".join(words) + source.choice(("", "", "", ".", " .", "!", " ", "?"))


def variant(source: random.Random, text: str) -> str:
    """The same, or nearly the same to some rule."""
    changed = source.choice(
        (text, text, text, text.lower(), text.title(), f"the {text}", f"{text}.", f" {text} ", text[:-1])
    )
    return changed if source.random() < 0.8 else phrase(source)


def box(source: random.Random) -> tuple[float, float, float, float]:
    """In an image of 640 x 480 pixels, whole pixels."""
    x, y = source.randrange(600), source.randrange(440)
    return (x, y, source.randrange(x + 2, 641), source.randrange(y + 2, 481))


def box_answer(source: random.Random, pixels: tuple[float, float, float, float]) -> str:
    """Near the box, in good and bad formats."""
    near = [part / size + source.gauss(0, 0.06) for part, size in zip(pixels, (640, 480, 640, 480), strict=True)]
    places = source.choice((1, 2, 2, 2, 3, 17))
    good = [round(min(max(part, 0.0), 1.0), places) for part in near]
    if source.random() < 0.75:
        return source.choice((str(good), str(good).replace(" ", ""), f" {good}", "[{}, {}, {}, {},]".format(*good)))
    bad = (
        f"{good}.", str(good)[:-1], str(tuple(good)), f"The box is {good}", str(good[:3]), str([*good, 0.5]), "", "[]",
        str([good[2], good[1], good[0], good[3]]), str([part * 640 for part in good]), "[0, 0, 1, 1]", "None", "1 +",
        "['0', '0', '1', '1']", "[0.1, 0.1, 1e400, 1]", "[-0.1, 0.2, 0.5, 0.6]", "[1j, 0, 1, 1]", "{0, 1}", "'\\d'",
        "[0.1, 0.2, 0.1, 0.6]", "[+0.1, 0.2, 0.5, 0.6]", "[nan, 0, 1, 1]", "[0, 0, 1, 1]\n", "\x00", "[[0], 0, 1, 1]",
        "[0, 0, True, 1]", "(" * 500,
    )  # fmt: skip
    return source.choice(bad)


def random_case(family: str, count: int, seed: int) -> tuple[list[Item], list[str]]:
    """Questions of a family, and an answer to each."""
    source = random.Random(seed)
    items, answers = [], []
    for number in range(1, count + 1):
        base = phrase(source)
        references = tuple(variant(source, base) for _ in range(10))
        if family == "gqa":
            references = (base.lower().translate(str.maketrans("", "", ".,?!;'")),)
        if family == "pope":
            references = (source.choice(("yes", "no")),)
        place = box(source)
        items.append(Item(number, f"What is {number}?", references, source.choice(KINDS[family]), place))
        is_box = family in ("refcoco", "ocid_ref")
        answers.append(box_answer(source, place) if is_box else variant(source, source.choice((base, references[0]))))
    return items, answers
