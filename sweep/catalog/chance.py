"""The chance table (chance.yaml): which tasks the two stable scores are made of, and what guessing would score."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sweep.catalog import FOLDER, parse_entries, read_mapping
from sweep.catalog.entries import TaskChance, ZMetric
from sweep.errors import SweepFileError

KINDS = ("vision", "text")


@dataclass(frozen=True, slots=True)
class ChanceTable:
    """Tasks and the z-score's metrics, by name, in the file's order."""

    tasks: Mapping[str, TaskChance]
    z_score: Mapping[str, ZMetric]

    def find_task(self, task: str, kind: str) -> TaskChance | None:
        """The entry of a task of that name and kind; None where the table knows none."""
        entry = self.tasks.get(task)
        return entry if entry is not None and entry.kind == kind else None

    def list_counted_tasks(self, score: str) -> tuple[str, ...]:
        """Names of the tasks that the stable score `vision` or `text` is the mean of."""
        return tuple(name for name, task in self.tasks.items() if task.counts_in == score)


@cache
def load_chances(path: Path = FOLDER / "chance.yaml") -> ChanceTable:
    """The table of the package, or another file of the same form.

    Raises:
        SweepFileError: the file is missing or no YAML, a field is unknown, missing or of another type, or a task that
            counts has no chance level below 1.
    """
    content = read_mapping(path)
    tasks = {
        name: check_task_chance(task, path) for name, task in parse_entries(TaskChance, content, "tasks", path).items()
    }
    return ChanceTable(tasks, parse_entries(ZMetric, content, "z_score", path))


def check_task_chance(task: TaskChance, path: Path) -> TaskChance:
    """The entry, if its kind, its score and its chance level fit together."""
    where = f"{path}: tasks.{task.name}"
    if task.kind not in KINDS:
        raise SweepFileError(f"{where}.kind: {task.kind!r} is none of {', '.join(KINDS)}")
    if task.counts_in not in {task.kind, "none"}:
        raise SweepFileError(f"{where}.counts_in: {task.counts_in!r} is neither {task.kind!r} nor 'none'")
    if task.counts_in != "none" and (task.chance is None or not task.chance < 1):
        raise SweepFileError(f"{where}.chance: {task.chance!r}: a task that counts wants a fraction below 1")
    if not isinstance(task.parts, list | tuple) or not all(isinstance(part, str) for part in task.parts):
        raise SweepFileError(f"{where}.parts: {task.parts!r} is not a list of names")
    return replace(task, parts=tuple(task.parts), chance=None if task.chance is None else float(task.chance))
