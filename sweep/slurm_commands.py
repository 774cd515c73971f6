"""What `sweep submit`, `sweep tick` and `sweep cancel` do on Slurm, and what they print."""

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from jobs.cluster import ClusterState
from jobs.reconcile.decide import Action, Submit
from jobs.slurm.round import Round, RoundReport
from sweep.errors import SweepError
from sweep.results.evidence import gather
from sweep.stored_sweep import StoredSweep
from sweep.submit.report import action_rows, print_report, state_counts
from sweep.submit.slurm import Request, planned_a100_hours, refuse_misfits, slurm_round

CANCEL_POLL_SECONDS = 2.0


def submit_to_slurm(options: argparse.Namespace, stored: StoredSweep, wanted: Collection[str]) -> int:
    """One round; the exit code is 0 if all went as it can, limits included."""
    request = Request(wanted=wanted, max_queued=options.max_queued, pace_seconds=options.pace, dry=options.dry_run)
    with slurm_round(stored, request) as made:
        actions = made.decide()
        refuse_misfits(made, actions)
        if options.budget_a100_hours is not None:
            refuse_over_budget(made, options.budget_a100_hours)
        if options.dry_run:
            return show_actions(made, actions, stored, as_json=options.json)
        report = made.run(actions)
    return tell(made, report, as_json=options.json)


def refuse_over_budget(made: Round, budget: float) -> None:
    """SweepError if what was spent and what is left to do come to more A100-hours than `budget`."""
    spent = sum(each.costs.total.a100_hours or 0.0 for each in gather(made.picture).values())
    left = planned_a100_hours(made)
    if spent + left > budget:
        raise SweepError(
            f"nothing was sent: {spent:,.1f} A100-hours are spent and {left:,.1f} are left to do, "
            f"{spent + left:,.1f} together, above the budget of {budget:,.1f}"
        )


def tell(made: Round, report: RoundReport, *, as_json: bool) -> int:
    """Report on stdout, remarks on stderr."""
    outcome = outcome_of(made, report)
    print_report(outcome, as_json=as_json)
    name = outcome["sweep"]
    if not as_json:
        withdrawn = f", took {report.withdrawn} out of the queue" if report.withdrawn else ""
        print(f"sent {report.sent} jobs in {report.calls} sbatch calls{withdrawn}", file=sys.stderr)
    for line in report.limits:
        print(f"sweep: {line}; `sweep tick {name}` sends more as the queue drains", file=sys.stderr)
    for reason in dict.fromkeys(report.refused.values()):
        jobs = sum(each == reason for each in report.refused.values())
        print(f"sweep: Slurm refuses {jobs} jobs as they are: {reason}", file=sys.stderr)
    for remark in made.remarks:
        print(f"sweep: {remark}", file=sys.stderr)
    if report.problem:
        print(f"sweep: {report.problem}; nothing is lost, run it again", file=sys.stderr)
    return 1 if report.problem or report.refused else 0


def outcome_of(made: Round, report: RoundReport) -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    counts = state_counts(made.cluster.launch.sweep, made.picture, made.wanted)
    return {**counts, **asdict(report), "limits": list(report.limits), "refused": dict(report.refused)}


def show_actions(made: Round, actions: Sequence[Action], stored: StoredSweep, *, as_json: bool) -> int:
    """`--dry-run`."""
    action_rows(actions, stored, as_json=as_json)
    jobs = sum(isinstance(action, Submit) for action in actions)
    calls = len(made.cluster.batches_of([action for action in actions if isinstance(action, Submit)]))
    print(f"{jobs} jobs would be sent in {calls} sbatch calls", file=sys.stderr)
    for lane in sorted(made.room.full):
        print(f"sweep: no room for more under {lane}", file=sys.stderr)
    if made.cluster.problem:
        print(f"sweep: {made.cluster.problem}", file=sys.stderr)
        return 1
    return 0


def cancel_on_slurm(stored: StoredSweep, keys: Collection[str], grace_seconds: float) -> int:
    """Takes the jobs out of the queue, has running ones save and stop, ends them after the grace; how many ran.

    The wish is in the ledger already, so that nobody sends them again meanwhile.
    """
    with slurm_round(stored, Request(wanted=())) as made:
        running = live_of(made, keys, ClusterState.RUNNING)
        made.cluster.cancel(keys)
        deadline = time.monotonic() + grace_seconds
        left = running
        while left and time.monotonic() < deadline:
            made.cluster.wait(min(CANCEL_POLL_SECONDS, grace_seconds))
            made.look()
            left = live_of(made, keys, ClusterState.RUNNING)
            made.cluster.cancel(live_of(made, keys, ClusterState.QUEUED))  # requeued meanwhile
        made.cluster.kill(left)
        if made.cluster.problem:
            raise SweepError(f"{made.cluster.problem}; the jobs stay cancelled here, run it again to end them there")
    return len(running)


def live_of(made: Round, keys: Collection[str], state: ClusterState) -> list[str]:
    """Those of the keys that are in this state."""
    return [key for key in keys if key in made.live and made.live[key].state is state]
