"""A finished sweep's counted tokens, images and requests beside what its plan expects of them.

    python -m tests.end_to_end.counted STORE SWEEP

Plan the sweep again first, so that the stored plan is of today's counts. Exit code 1 if a number is more than 2 % off.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.store.paths import Store
from jobs.store.results import check_result
from sweep.plan.manifest import read_manifest
from sweep.text_format import format_columns

TOLERANCE = 0.02


@dataclass(frozen=True)
class Comparison:
    """One number of the finished jobs of one phase."""

    phase: str
    name: str
    planned: float
    counted: float

    @property
    def error(self) -> float:
        """As a share of what was counted."""
        return abs(self.planned - self.counted) / self.counted if self.counted else float(self.planned > 0)


def compare_counts(store: Store, sweep: str) -> list[Comparison]:
    """Every number that both plan and results have, by phase."""
    planned: dict[tuple[str, str], float] = defaultdict(float)
    counted: dict[tuple[str, str], float] = defaultdict(float)
    for job in read_manifest(store.locate_sweep(sweep).manifest).jobs:
        result = check_result(store.locate_run(job.stage, job.key), job.key).content
        if result is None:
            continue
        for name, expected, found in iter_numbers(job, result):
            planned[job.phase, name] += expected
            counted[job.phase, name] += found
    return [Comparison(*where, planned[where], counted[where]) for where in planned]


def iter_numbers(job: Job, result: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """(name, planned, counted) of one job."""
    estimate = job.estimate
    if job.stage == "evaluate":
        scores = result["scores"].values()
        yield "requests", estimate.requests, sum(score["requests"] for score in scores)
        yield "tokens", estimate.tokens, sum(score["tokens"] for score in scores)
        yield "images", estimate.images, sum(score["n"] for score in scores if score["kind"] == "vision")
        return
    # a fine-tune's batches are padded to their longest example: that is no work of the plan's
    padding = result["padding"] if job.stage == "finetune" else 0
    yield "tokens", estimate.tokens, result["tokens"] - padding
    if estimate.images or result["images"]:
        yield "images", estimate.images, result["images"]


def main(store: str, sweep: str) -> int:
    """Prints the table."""
    found = compare_counts(Store(Path(store)), sweep)
    rows = [["phase", "number", "planned", "counted", "off by"]]
    rows += [
        [each.phase, each.name, f"{each.planned:,.0f}", f"{each.counted:,.0f}", f"{100 * each.error:.2f} %"]
        for each in found
    ]
    print("\n".join(format_columns(rows, left=2, rules=(1,))))
    return int(any(each.error > TOLERANCE for each in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
