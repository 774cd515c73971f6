"""TextVQA's accuracy by M4C's processor (EvalAI's), which treats commas, question marks and 's otherwise than VQAv2."""

from collections.abc import Sequence

from stages.evaluation.answers import plain_words, vote, without_punctuation


def m4c_normalised(answer: str) -> str:
    """Lower case, no commas and question marks, 's a word of its own, and then as VQAv2; references likewise."""
    word = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(without_punctuation(word.replace("\n", " ").replace("\t", " ").strip()))


def textvqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean over leaving out one reference of min(1, equal ones among the rest / 3), all in M4C's normal form."""
    return vote(m4c_normalised(answer), [m4c_normalised(reference) for reference in references])
