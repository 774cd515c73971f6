"""Hours of a sweep by model and stage, planned against used and wasted, as plain text from rows of jobs.parquet."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.text_format import columns, hours

PHASES = ("trunk", "pretrain", "finetune", "evaluate")
KINDS = ("planned", "used", "wasted")
COLUMNS = (
    *("model", "phase", "state", "overstated_seconds"),
    *(f"{kind}_{unit}_hours" for kind in KINDS for unit in ("a100", "cpu")),
)
"""What is needed of jobs.parquet."""


@dataclass(slots=True)
class Hours:
    """A sum over jobs. `used` and `wasted` None: a GPU type has no factor."""

    jobs: int = 0
    done: int = 0
    planned: float = 0.0
    planned_of_done: float = 0.0
    used: float | None = 0.0
    wasted: float | None = 0.0

    def add(self, row: Mapping[str, Any], unit: str) -> None:
        """One job."""
        planned, done = row[f"planned_{unit}_hours"] or 0.0, row["state"] == "done"
        self.jobs += 1
        self.done += done
        self.planned += planned
        self.planned_of_done += planned * done
        self.used = plus(self.used, row[f"used_{unit}_hours"])
        self.wasted = plus(self.wasted, row[f"wasted_{unit}_hours"])

    def words(self) -> list[str]:
        """The sums as cells of a table."""
        known = ["?" if value is None else hours(value) for value in (self.used, self.wasted)]
        return [f"{self.done:,}/{self.jobs:,}", hours(self.planned), hours(self.planned_of_done), *known]


def plus(first: float | None, second: float | None) -> float | None:
    """A sum of which a part may be unknown."""
    return None if first is None or second is None else first + second


def hours_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for each stage of each model and one for all; shared jobs stand once. Empty before anything has run."""
    found = list(rows)
    unit = "a100" if any(row["planned_a100_hours"] or row["used_a100_hours"] != 0 for row in found) else "cpu"
    if not any(row[f"{kind}_{unit}_hours"] != 0 for row in found for kind in ("used", "wasted")):
        return ""
    sums: dict[tuple[str, str], Hours] = defaultdict(Hours)
    for row in found:
        sums[row["model"] or "", row["phase"]].add(row, unit)
        sums["all", ""].add(row, unit)
    name = "A100-hours" if unit == "a100" else "core-hours"
    head = [name, "stage", "done", "planned", "of done", "used", "wasted"]
    order = sorted((key for key in sums if key[1]), key=lambda key: place(key, found))
    table = [head, *([*key, *sums[key].words()] for key in order), ["all", "", *sums["all", ""].words()]]
    return "\n".join([*columns(table, left=2, rules=(1, len(table) - 1)), *overstated_note(found)]) + "\n"


def place(key: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Models as the plan has them, stages in the order of the chain."""
    models = list(dict.fromkeys(row["model"] or "" for row in rows))
    return models.index(key[0]), PHASES.index(key[1]) if key[1] in PHASES else len(PHASES)


def overstated_note(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A remark where the cluster's accounting says more than the attempts know of."""
    seconds = sum(row["overstated_seconds"] or 0 for row in rows)
    jobs = sum(bool(row["overstated_seconds"]) for row in rows)
    if not seconds:
        return []
    whose = "1 job's" if jobs == 1 else f"{jobs:,} jobs'"
    return ["", f"The cluster's accounting goes on for {seconds:,} s after the own ends of {whose} attempts."]
