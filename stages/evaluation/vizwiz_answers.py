"""VizWiz's rule: VQAv2's, but its table of contractions has backticks, and the references are taken as they are."""

from collections.abc import Sequence

from stages.evaluation.answers import CONTRACTIONS, flat, plain_words, vote, without_punctuation

WITH_APOSTROPHE = frozenset(("aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"))
KEPT_KEYS = frozenset(("couldn'tve", "hadn'tve"))

VIZWIZ_CONTRACTIONS = {
    spelt: form if spelt in WITH_APOSTROPHE else form.replace("'", "`")
    for spelt, form in CONTRACTIONS.items()
    if "'" not in spelt or spelt in KEPT_KEYS
}
"""An oddity of the official script: most mended contractions have a backtick, which no reference has. Its keys with a
backtick are left out here: punctuation is gone before they are looked up."""


def vizwiz_normalised(answer: str) -> str:
    """VQAv2's normal form with VizWiz's contractions."""
    return plain_words(without_punctuation(flat(answer)), VIZWIZ_CONTRACTIONS)


def vizwiz_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean over leaving out one reference of min(1, equal ones among the rest / 3); the answer alone is normalised."""
    return vote(vizwiz_normalised(answer), references)


def says_unanswerable(answer: str) -> bool:
    """Whether the answer is "unanswerable", in its normal form."""
    return vizwiz_normalised(answer) == "unanswerable"
