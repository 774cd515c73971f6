"""What is chosen before jobs start: which jobs, what lasts for later rounds, which problems of inputs are accepted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jobs.job import add_ancestors
from jobs.processes import read_user_name
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.reconcile.unsettled import list_unsettled_remarks
from sweep.errors import UsageError
from sweep.kept_limits import KeptLimits, select_kept_jobs, update_limits
from sweep.plan.manifest import Manifest
from sweep.preflight.gate import GateReport
from sweep.stored_sweep import StoredSweep


def select_wanted(stored: StoredSweep, given: Collection[str], kept: Collection[str]) -> set[str]:
    """Keys that may be sent: of the cells and jobs that were given now, else of those that are kept, else all."""
    named = select_kept_jobs(stored, kept) if kept and not given else {job.key for job in stored.select_jobs([*given])}
    return add_ancestors(stored.manifest.jobs, named)


def keep_choices(stored: StoredSweep, given: Mapping[str, object], accepted: Collection[str]) -> None:
    """Keeps what was chosen now for the rounds to come. What is None or empty stays as it is.

    `accepted`: names of all problems of inputs that the user has accepted, now or before.
    """
    chosen = {**given, "ignored_inputs": tuple(accepted)}
    update_limits(
        stored.paths.limits, {name: value for name, value in chosen.items() if value is not None and value != ()}
    )


def name_currency(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The choices, with the currency of a budget in money, which is that of the plan's prices.

    Raises UsageError for such a budget where the plan has no prices.
    """
    if given.get("budget_money") is None:
        return {**given}
    if manifest.prices is None:
        raise UsageError(
            "--budget-money needs prices: give the sweep file `prices` (docs/how-to/budget.md) and plan "
            f"{manifest.sweep} again"
        )
    return {**given, "budget_currency": manifest.prices.currency}


def merge_budgets(manifest: Manifest, kept: KeptLimits, given: Mapping[str, Any]) -> KeptLimits:
    """The kept limits, with the budgets that hold for one round in the place of the kept ones. `given`: by field; None:
    the kept one."""
    return replace(kept, **{name: value for name, value in name_currency(manifest, given).items() if value is not None})


def list_accepted_problems(report: GateReport, kept: KeptLimits, *, ignore_data: bool) -> tuple[str, ...]:
    """Names of all problems of inputs that are accepted from now on.

    Raises PlanConflictError for data that are not those of the plan, and InputsError for problems that nobody accepts.
    """
    report.raise_conflict()
    if ignore_data:
        return (*kept.ignored_inputs, *(problem.name for problem in report.problems))
    report.raise_problems()
    return kept.ignored_inputs


# A resumption: a new budget of attempts for jobs that have stopped.


def select_stopped_keys(
    stored: StoredSweep, snapshot: SweepSnapshot, words: Sequence[str], phase: str | None = None
) -> tuple[list[str], int]:
    """Keys of the jobs that get a new budget, and how many have stopped in all. `words`: as `sweep.selection` reads
    them; empty: all. `phase`: these jobs, and what they need.

    What another user may still have in the queue is among them only where it is named.
    """
    chosen = add_ancestors(stored.manifest.jobs, {job.key for job in stored.select_chains(words, phase)})
    stopped = snapshot.select_in_state({JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN})
    keys = [job.key for job in stopped if job.key in chosen]
    if not words:
        keys = [key for key in keys if not is_hidden(snapshot, key)]
    return keys, len(stopped)


def is_hidden(snapshot: SweepSnapshot, key: str) -> bool:
    """Whether another user may have the job in the queue, where this one cannot see it."""
    return key in snapshot.observed and bool(snapshot.observed[key].hidden_owner)


def list_hidden_remarks(snapshot: SweepSnapshot) -> list[str]:
    """What to know of stopped jobs that are passed over as another user may have them."""
    stopped = snapshot.select_in_state({JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN})
    return list_unsettled_remarks(snapshot) if any(is_hidden(snapshot, job.key) for job in stopped) else []


def record_resumption(stored: StoredSweep, snapshot: SweepSnapshot, keys: Collection[str]) -> None:
    """Writes the new budgets; a runner at work and the next round start the jobs."""
    stored.ledger.append_wishes(snapshot.build_resumption(key, read_user_name()) for key in keys)
