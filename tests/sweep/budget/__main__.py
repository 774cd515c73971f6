"""Campaigns that would pass their budget, by chance: how many stop below it and say what is left.

    python -m tests.sweep.budget --cases 50 --seed 1

Costs, speeds, failures, requeues and the delay of the accounting are drawn; no Slurm is needed (`world.py`).
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.reconcile.state import JobState
from sweep.budget import caps, standing
from sweep.budget.caps import format_budget_line
from tests.sweep.budget.world import SWEEP, World, run_case

TOLERANCE = 1e-3
"""Rows of the accounting are whole seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of one case."""

    problem: str
    """Empty if it is as it should be."""
    share: float
    """Of the budget that was spent."""
    line: str


def judge(world: World) -> Verdict:
    """Whether the campaign stopped below its budget, for want of room alone, and says what is left."""
    cap, spent = world.case.cap, world.spent_now
    snapshot = world.snapshot()
    [row] = world.watch().build_rows(snapshot)
    line = format_budget_line(row, SWEEP)
    states = [status.state for status in snapshot.statuses.values()]
    open_jobs = sum(state in {JobState.READY, JobState.INTERRUPTED, JobState.WAITING} for state in states)
    problem = ""
    if spent > cap * (1 + TOLERANCE):
        problem = f"{spent:.2f} are spent"
    elif abs(row["left"] - (cap - spent)) > cap * TOLERANCE:
        problem = f"it says that {row['left']:.2f} are left, and it is {cap - spent:.2f}"
    elif world.in_cluster:
        problem = "it did not come to an end"
    elif open_jobs and not world.held:
        problem = "it stopped, and holds nothing back"
    elif open_jobs and "held back" not in line:
        problem = "it does not say that jobs are held back"
    return Verdict(problem=problem, share=spent / cap, line=line)


def forget_overruns(meters: Iterable[standing.JobMeter]) -> dict[str, float]:
    """As if no finished job had shown anything."""
    return dict.fromkeys((meter.job.phase for meter in meters), 1.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--without",
        choices=("doubt",),
        help="count what is in flight at its estimate alone, to see that some pass then",
    )
    options = parser.parse_args(arguments)
    if options.without:
        standing.MOST_OVERRUN = 1.0
        standing.find_overruns = forget_overruns
        caps.select_excess = lambda *_: []
    good, shares = 0, []
    for number in range(options.cases):
        with tempfile.TemporaryDirectory() as folder:
            world = run_case(options.seed, number, Path(folder))
            verdict = judge(world)
        good += not verdict.problem
        shares.append(verdict.share)
        found = f"WRONG: {verdict.problem}" if verdict.problem else "ok"
        print(
            f"{number:>3}  {found}  {verdict.share:6.1%} spent, {world.sent} sent, {world.withdrawn} withdrawn, "
            f"{len(world.case.jobs)} jobs; {verdict.line}",
            flush=True,
        )
    print(
        f"{good} of {options.cases} campaigns stopped below their budget and say what is left; "
        f"they spent {min(shares):.1%} to {max(shares):.1%} of it, {sum(shares) / len(shares):.1%} on average"
    )
    return 0 if good == options.cases else 1


if __name__ == "__main__":
    sys.exit(main())
