"""A seeded part of a task's questions, chosen by seed and question id alone, whatever the order of the file."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

from stages.evaluation.questions import Question


def subset(questions: Sequence[Question], size: int, seed: int, *, by_kind: bool = False) -> list[Question]:
    """`size` of the questions, or of each kind, in their order; all of them where there are no more.

    A larger size holds every question of a smaller one with the same seed.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        groups[question.kind if by_kind else ""].append(question.id)
    chosen = {name for group in groups.values() for name in sorted(group, key=lambda name: rank(name, seed))[:size]}
    return [question for question in questions if question.id in chosen]


def rank(name: str, seed: int) -> bytes:
    """A question's place in the seed's random order."""
    return sha256(f"{seed}:{name}".encode()).digest()
