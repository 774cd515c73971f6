"""From the answers to a vision task's questions to its score."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from stages.evaluation.metrics import RULES
from stages.evaluation.questions import VisionTask
from stages.evaluation.score import Score, standard_error


def score_answers(task: VisionTask, answers: Sequence[str]) -> Score:
    """The task's score of answers given in the order of its questions: over all, per kind, and what it adds."""
    rule = RULES[task.metric]
    values = [rule(given, question.answers) for given, question in zip(answers, task.questions, strict=True)]
    by_kind: dict[str, list[float]] = defaultdict(list)
    for question, value in zip(task.questions, values, strict=True):
        by_kind[question.kind].append(value)
    accuracy = mean([mean(kind) for kind in by_kind.values()]) if task.mean_of_kinds else mean(values)
    metrics = {"accuracy": accuracy}
    metrics |= {f"accuracy/{kind}": mean(by_kind[kind]) for kind in sorted(by_kind) if kind}
    metrics |= {f"chance/{kind}": level for kind, level in sorted(task.chance_by_kind.items())}
    return Score(
        kind="vision",
        score=accuracy,
        stderr=kinds_error(by_kind) if task.mean_of_kinds else standard_error(values),
        chance=task.chance,
        n=len(values),
        metrics=metrics | task.more(task.questions, answers),
    )


def mean(values: Sequence[float]) -> float:
    """Added up one after the other, as the official scorers do: a better sum would differ from theirs at the end."""
    return sum(values) / len(values)


def kinds_error(by_kind: Mapping[str, Sequence[float]]) -> float | None:
    """Standard error of the mean of the kinds' means, which are taken to be independent."""
    errors = [standard_error(values) for values in by_kind.values()]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(errors) if len(known) == len(errors) else None
