"""When an answer is right: the official rules of VQAv2 and GQA as vlm-evaluation applies them, and plain equality.

A rule takes the model's answer and the reference answers and gives 0 to 1.
"""

import re
import string
from collections.abc import Mapping, Sequence

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


def _without_one_apostrophe(form: str) -> list[str]:
    return [form[:place] + form[place + 1 :] for place, letter in enumerate(form) if letter == "'"]


CONTRACTIONS = {
    spelt: form for form in f"{SINGLE} {DOUBLE} {TRIPLE}".split() for spelt in _without_one_apostrophe(form)
} | {"somebody'd": "somebodyd"}
"""Contractions with one apostrophe forgotten, to their right form; the last is an oddity of the official table."""


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQAv2: mean over leaving out one reference of min(1, equal ones among the rest / 3).

    As in the official script the answer is normalised wholly, the references (usually ten) in their punctuation only.
    """
    return vote(normalised(answer), [without_punctuation(reference) for reference in references])


def vote(given: str, expected: Sequence[str]) -> float:
    """Mean over leaving out one of `expected` of min(1, those of the rest that equal `given` / 3)."""
    equal = expected.count(given)
    scores = [min(1.0, (equal - (reference == given)) / 3) for reference in expected]
    return sum(scores) / len(scores)


def gqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """GQA: the answer in lower case without punctuation equals a reference; spaces that are left over count."""
    return float(answer.translate(str.maketrans("", "", string.punctuation)).lower() in references)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """The answer equals a reference, both normalised as VQAv2 does it."""
    return float(normalised(answer) in {normalised(reference) for reference in references})


def normalised(answer: str) -> str:
    """VQAv2's normal form: punctuation gone, lower case, number words as digits, no articles, contractions mended."""
    return plain_words(without_punctuation(flat(answer)))


def flat(text: str) -> str:
    """One line, without space around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def plain_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower case, number words as digits, no articles, contractions mended, one space between words."""
    plain = [DIGITS.get(word, word) for word in text.lower().split() if word not in ARTICLES]
    return " ".join(contractions.get(word, word) for word in plain)


def without_punctuation(text: str) -> str:
    """A mark that touches a space somewhere in `text` vanishes, any other becomes a space; periods vanish."""
    vanish = NUMBER_WITH_COMMA.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        result = result.replace(mark, "" if vanish or f"{mark} " in text or f" {mark}" in text else " ")
    return PERIOD.sub("", result, count=PERIODS_REMOVED)
