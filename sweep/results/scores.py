"""Task scores of a result.json and the stable scores made of them (docs/formats.md)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.results.values import number, whole


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One evaluation task's outcome. `score`, `stderr` and `chance` are fractions, or bits per byte for kind loss."""

    task: str
    kind: str
    score: float
    stderr: float | None
    chance: float | None
    n: int | None

    @property
    def held_out(self) -> bool:
        """A split of another kind than the training data, told by the task's name (`shapes_heldout`, `x_held_out`)."""
        return "heldout" in self.task.replace("_", "").replace("-", "")


SCORE_FIELDS = ("task", "kind", "score", "stderr", "chance", "n")
"""As in the column `scores`."""


@dataclass(frozen=True, slots=True)
class StableScore:
    """Mean over tasks of (score - chance), with its standard error and the two means that it is the difference of."""

    score: float
    stderr: float | None
    accuracy: float
    chance: float


def task_scores(result: Mapping[str, Any]) -> list[TaskScore]:
    """The readable entries of a result's `scores`, by name; entries without a numeric score are left out."""
    given = result.get("scores")
    entries = sorted(given.items()) if isinstance(given, dict) else []
    found = [task_score(name, entry) for name, entry in entries if isinstance(entry, dict)]
    return [task for task in found if task is not None]


def task_score(name: str, entry: Mapping[str, Any]) -> TaskScore | None:
    """One entry; None without a numeric score."""
    score = number(entry.get("score"))
    if score is None:
        return None
    return TaskScore(
        task=name,
        kind=str(entry.get("kind", "")),
        score=score,
        stderr=number(entry.get("stderr")),
        chance=number(entry.get("chance")),
        n=whole(entry.get("n")),
    )


def stable_score(tasks: Iterable[TaskScore]) -> StableScore | None:
    """The stable score of those tasks that state a chance level; None if none does.

    Its standard error takes the tasks as independent: sqrt(sum of squares) / number of tasks; None if a task has none.
    """
    scored = [(task.score, task.chance, task.stderr) for task in tasks if task.chance is not None]
    if not scored:
        return None
    accuracy = sum(score for score, _, _ in scored) / len(scored)
    chance = sum(chance for _, chance, _ in scored) / len(scored)
    errors = [error for _, _, error in scored if error is not None]
    stderr = math.sqrt(sum(error**2 for error in errors)) / len(scored) if len(errors) == len(scored) else None
    return StableScore(score=accuracy - chance, stderr=stderr, accuracy=accuracy, chance=chance)


def score_values(tasks: Sequence[TaskScore]) -> dict[str, Any]:
    """The score columns of results.parquet."""
    groups = {
        "vision": [task for task in tasks if task.kind == "vision" and not task.held_out],
        "heldout_vision": [task for task in tasks if task.kind == "vision" and task.held_out],
        "text": [task for task in tasks if task.kind == "text"],
    }
    values: dict[str, Any] = {"scores": [{name: getattr(task, name) for name in SCORE_FIELDS} for task in tasks]}
    for prefix, group in groups.items():
        stable = stable_score(group)
        if stable is not None:
            values[f"{prefix}_stable_score"] = stable.score
            values[f"{prefix}_stable_stderr"] = stable.stderr
            values[f"{prefix}_accuracy"] = stable.accuracy
            values[f"{prefix}_chance"] = stable.chance
    losses = [task.score for task in tasks if task.kind == "loss"]
    if losses:
        values["bits_per_byte"] = sum(losses) / len(losses)
    return values
