"""The rules by their names in a task file. A rule takes the model's answer and the references and gives 0 to 1."""

import ast
import json
import re
import string
import warnings
from collections.abc import Callable, Mapping, Sequence

# When an answer is right: the official rules of VQAv2 and GQA as vlm-evaluation applies them, and plain equality.
#
# A rule takes the model's answer and the reference answers and gives 0 to 1.

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"zero": "0"}
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)")
PERIODS_REMOVED = int(re.UNICODE)
"""32: the official scripts give the flag where `sub` takes the most replacements."""
NUMBER_WITH_COMMA = re.compile(r"\d,\d")

SINGLE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
DOUBLE = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""
TRIPLE = "'ow's'at y'all'd've"


def _remove_one_apostrophe(form: str) -> list[str]:
    return [form[:place] + form[place + 1 :] for place, letter in enumerate(form) if letter == "'"]


CONTRACTIONS = {
    spelt: form for form in f"{SINGLE} {DOUBLE} {TRIPLE}".split() for spelt in _remove_one_apostrophe(form)
} | {"somebody'd": "somebodyd"}
"""Contractions with one apostrophe forgotten, to their right form; the last is an oddity of the official table."""


def compute_vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQAv2: mean over leaving out one reference of min(1, equal ones among the rest / 3).

    As in the official script the answer is normalised wholly, the references (usually ten) in their punctuation only.
    """
    return compute_leave_one_out(normalise_answer(answer), [remove_punctuation(reference) for reference in references])


def compute_leave_one_out(given: str, expected: Sequence[str]) -> float:
    """Mean over leaving out one of `expected` of min(1, those of the rest that equal `given` / 3)."""
    equal = expected.count(given)
    scores = [min(1.0, (equal - (reference == given)) / 3) for reference in expected]
    return sum(scores) / len(scores)


def compute_gqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """GQA: the answer in lower case without punctuation equals a reference; spaces that are left over count."""
    return float(answer.translate(str.maketrans("", "", string.punctuation)).lower() in references)


def compute_exact_match(answer: str, references: Sequence[str]) -> float:
    """The answer equals a reference, both normalised as VQAv2 does it."""
    return float(normalise_answer(answer) in {normalise_answer(reference) for reference in references})


def normalise_answer(answer: str) -> str:
    """VQAv2's normal form: punctuation gone, lower case, number words as digits, no articles, contractions mended."""
    return normalise_words(remove_punctuation(flatten_lines(answer)))


def flatten_lines(text: str) -> str:
    """One line, without space around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower case, number words as digits, no articles, contractions mended, one space between words."""
    plain = [DIGITS.get(word, word) for word in text.lower().split() if word not in ARTICLES]
    return " ".join(contractions.get(word, word) for word in plain)


def remove_punctuation(text: str) -> str:
    """A mark that touches a space somewhere in `text` vanishes, any other becomes a space; periods vanish."""
    vanish = NUMBER_WITH_COMMA.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        result = result.replace(mark, "" if vanish or f"{mark} " in text or f" {mark}" in text else " ")
    return PERIOD.sub("", result, count=PERIODS_REMOVED)


# Boxes as text: [x0, y0, x1, y1] as fractions of the image's width and height, as vlm-evaluation asks for them.

Box = Sequence[float]
"""x0, y0, x1, y1 with x0 < x1 and y0 < y1."""


def parse_box(answer: str) -> list[float] | None:
    """The box that an answer gives; None for anything but a list of four numbers in 0..1 with the corners in order.

    vlm-evaluation's rule: the whole answer is one Python literal, so `[0.1, 0.2, 0.3, 0.4]` with any spacing, but no
    tuple, no words around it, no percentages and no pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on answers such as '\d', which Python's parser warns about
            value = ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(part, int | float) for part in value):
        return None
    ordered = value[0] < value[2] and value[1] < value[3]
    return value if ordered and all(0 <= part <= 1 for part in value) else None


def compute_iou(one: Box, other: Box) -> float:
    """0 to 1, for boxes of which at least one has an area."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    return shared / (compute_area(one) + compute_area(other) - shared)


def compute_area(box: Box) -> float:
    """In the square of the coordinates' unit."""
    return (box[2] - box[0]) * (box[3] - box[1])


def render_box(box_pixels: Box, width: float, height: float) -> str:
    """A box x0, y0, x1, y1 in pixels as a reference: fractions of the image, rounded to two places as vlm-evaluation
    does it. ValueError for a box that has no area or leaves the image."""
    x0, y0, x1, y1 = box_pixels
    if not (x0 < x1 <= width and y0 < y1 <= height):
        raise ValueError(f"box {list(box_pixels)} has no area or leaves the image of {width} x {height} pixels")
    return json.dumps([round(part, 2) for part in (x0 / width, y0 / height, x1 / width, y1 / height)])


def compute_box_accuracy(answer: str, references: Sequence[str], least: float) -> float:
    """1 if the answer is a box that overlaps the first reference by `least` (intersection over union) or more."""
    box = parse_box(answer)
    if box is None:
        return 0.0
    return float(compute_iou(box, json.loads(references[0])) >= least)


BOX_RULES = ("box_accuracy_50", "box_accuracy_25")


def find_reference_problem(metric: str, references: Sequence[str]) -> str:
    """What makes a question's references none for this rule, and what would do; empty if nothing does."""
    if metric not in BOX_RULES:
        return ""
    try:
        value = json.loads(references[0])
        box = parse_box(references[0]) if isinstance(value, list) else None
    except (ValueError, RecursionError):
        box = None
    wanted = "[x0, y0, x1, y1] in fractions of the image is, with x0 < x1 and y0 < y1"
    return "" if box else f"{references[0][:80]!r} is no box: {wanted}"


def compute_box_accuracy_50(answer: str, references: Sequence[str]) -> float:
    """RefCOCO's rule: an overlap of at least 0.5."""
    return compute_box_accuracy(answer, references, 0.5)


def compute_box_accuracy_25(answer: str, references: Sequence[str]) -> float:
    """OCID-Ref's rule: an overlap of at least 0.25."""
    return compute_box_accuracy(answer, references, 0.25)


# TextVQA's accuracy by M4C's processor (EvalAI's), which treats commas, question marks and 's otherwise than VQAv2.


def normalise_m4c(answer: str) -> str:
    """Lower case, no commas and question marks, 's a word of its own, and then as VQAv2; references likewise."""
    word = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_words(remove_punctuation(word.replace("\n", " ").replace("\t", " ").strip()))


def compute_textvqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean over leaving out one reference of min(1, equal ones among the rest / 3), all in M4C's normal form."""
    return compute_leave_one_out(normalise_m4c(answer), [normalise_m4c(reference) for reference in references])


# VizWiz's rule: VQAv2's, but its table of contractions has backticks, and the references are taken as they are.

WITH_APOSTROPHE = frozenset(("aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"))
KEPT_KEYS = frozenset(("couldn'tve", "hadn'tve"))

VIZWIZ_CONTRACTIONS = {
    spelt: form if spelt in WITH_APOSTROPHE else form.replace("'", "`")
    for spelt, form in CONTRACTIONS.items()
    if "'" not in spelt or spelt in KEPT_KEYS
}
"""An oddity of the official script: most mended contractions have a backtick, which no reference has. Its keys with a
backtick are left out here: punctuation is gone before the words are searched for."""


def normalise_vizwiz(answer: str) -> str:
    """VQAv2's normal form with VizWiz's contractions."""
    return normalise_words(remove_punctuation(flatten_lines(answer)), VIZWIZ_CONTRACTIONS)


def compute_vizwiz_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean over leaving out one reference of min(1, equal ones among the rest / 3); the answer alone is normalised."""
    return compute_leave_one_out(normalise_vizwiz(answer), references)


def is_unanswerable(answer: str) -> bool:
    """Whether the answer is "unanswerable", in its normal form."""
    return normalise_vizwiz(answer) == "unanswerable"


# POPE's reading of an answer as yes or no, and what it reports of a set of them.


def is_yes(answer: str) -> bool:
    """The official rule: in the first sentence, without commas, none of the words `No`, `not`, `no`."""
    words = answer.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


# Why: docs/decisions.md, D46
def compute_yes_no_accuracy(answer: str, references: Sequence[str]) -> float:
    """1 if yes or no is what the first reference says."""
    return float(is_yes(answer) == (references[0] != "no"))


def compute_yes_no_metrics(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """accuracy, precision, recall and F1 of `yes`, and the share of answers that say it; 0 where nothing is divided."""
    said = [is_yes(answer) for answer in answers]
    true = [label != "no" for label in labels]
    hits = sum(given and wanted for given, wanted in zip(said, true, strict=True))
    precision, recall = compute_ratio(hits, sum(said)), compute_ratio(hits, sum(true))
    return {
        "accuracy": compute_ratio(sum(given == wanted for given, wanted in zip(said, true, strict=True)), len(said)),
        "precision": precision,
        "recall": recall,
        "f1": compute_ratio(2 * precision * recall, precision + recall),
        "yes_ratio": compute_ratio(sum(said), len(said)),
    }


def compute_ratio(part: float, whole: float) -> float:
    """`part` / `whole`; 0 of nothing."""
    return part / whole if whole else 0.0


Rule = Callable[[str, Sequence[str]], float]

RULES: Mapping[str, Rule] = {
    "vqa_accuracy": compute_vqa_accuracy,
    "gqa_accuracy": compute_gqa_accuracy,
    "vizwiz_accuracy": compute_vizwiz_accuracy,
    "textvqa_accuracy": compute_textvqa_accuracy,
    "box_accuracy_50": compute_box_accuracy_50,
    "box_accuracy_25": compute_box_accuracy_25,
    "yes_no_accuracy": compute_yes_no_accuracy,
    "exact_match": compute_exact_match,
}
