"""POPE: coco_pope_{adversarial,popular,random}.json, a JSON object a line, with images of COCO's val2014."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from stages.evaluation.benchmarks.family import Family, PublishedModel, Text
from stages.evaluation.metrics import compute_yes_no_metrics
from stages.evaluation.questions import Question, parse_json, read_text
from stages.evaluation.score import compute_mean

SPLITS = ("adversarial", "popular", "random")


class POPEEntry(PublishedModel):
    """A line."""

    question_id: int
    image: Text
    text: str
    label: Literal["yes", "no"]


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """The splits number their questions alike, so the split is part of a question's id."""
    for split, path in files.items():
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            entry = parse_json(POPEEntry, line, f"{path}, line {number}")
            yield Question(
                id=f"{split}-{entry.question_id}",
                image=entry.image,
                question=entry.text,
                answers=(entry.label,),
                kind=split,
            )


def compute_split_metrics(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Precision, recall, F1 and share of `yes`: of each split, and the mean over the splits."""
    given: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for question, answer in zip(questions, answers, strict=True):
        given[question.kind][0].append(answer)
        given[question.kind][1].append(question.answers[0])
    by_split = {split: compute_yes_no_metrics(*both) for split, both in sorted(given.items())}
    names = ("precision", "recall", "f1", "yes_ratio")
    metrics = {name: compute_mean([found[name] for found in by_split.values()]) for name in names}
    return metrics | {f"{name}/{split}": found[name] for split, found in by_split.items() for name in names}


FAMILY = Family(
    name="pope",
    any_of=SPLITS,
    read=read_questions,
    metric="yes_no_accuracy",
    chance=0.5,
    by_kind=True,
    mean_of_kinds=True,
    extra_metrics=compute_split_metrics,
)
