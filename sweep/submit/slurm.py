"""One round of a sweep on Slurm, as `sweep submit`, `sweep tick` and `sweep cancel` make it."""

import argparse
import getpass
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs.claims.submit_lock import hold_submit_lock
from jobs.cluster import ClusterState
from jobs.errors import InfeasibleJobError, NoSchedulerError
from jobs.reconcile.decide import Action, Submit
from jobs.reconcile.state import JobState
from jobs.slurm.client import SlurmClient
from jobs.slurm.code_snapshot import save_code_snapshot
from jobs.slurm.round import Round, RoundReport, SlurmCluster
from jobs.slurm.script import LaunchSettings
from jobs.slurm.site import query_site
from jobs.slurm.timeouts import SlurmTimeouts
from sweep.errors import SweepError
from sweep.results.evidence import load_job_evidence
from sweep.stored_sweep import StoredSweep, read_slurm_timeouts
from sweep.submit.report import count_states, print_action_rows, print_report, read_stage_program

SUBMIT_LOCK_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRequest:
    """What the user asks of a round."""

    wanted: Collection[str]
    """Keys that may be sent."""
    max_queued: int | None = None
    submit_interval_s: float | None = None
    dry: bool = False
    """Look and decide, change nothing, neither here nor there."""


def resolve_slurm_timeouts(request: RoundRequest) -> SlurmTimeouts:
    """With the pace of the command line."""
    patience = read_slurm_timeouts()
    return (
        patience
        if request.submit_interval_s is None
        else replace(patience, submit_interval_s=request.submit_interval_s)
    )


@contextmanager
def open_slurm_round(stored: StoredSweep, request: RoundRequest) -> Iterator[Round]:
    """A round that has looked. Unless it is dry, nobody else submits jobs of this sweep while the block lasts."""
    if request.dry:
        yield prepare_round(stored, request, lambda: True)
        return
    with hold_submit_lock(stored.store.submitters, wait_seconds=SUBMIT_LOCK_TIMEOUT_SECONDS) as holds_submit_lock:
        yield prepare_round(stored, request, holds_submit_lock)


def prepare_round(stored: StoredSweep, request: RoundRequest, holds_submit_lock: Callable[[], bool]) -> Round:
    """Reads the cluster's limits, pins the code, takes the first look."""
    patience = resolve_slurm_timeouts(request)
    client = SlurmClient(patience)
    user = getpass.getuser()
    site = query_site(client, user)
    if site.problem:
        raise NoSchedulerError(
            f"Slurm cannot be asked: {site.problem}; nothing was done: see `sweep doctor`, try again later, "
            "or run it on this machine with --backend local"
        )
    launch = build_launch(stored, dry=request.dry)
    picture = stored.build_empty_snapshot()
    cluster = SlurmCluster(
        jobs=picture.by_key,
        launch=launch,
        client=client,
        site=site,
        user=user,
        ledger=stored.ledger,
        patience=patience,
        holds_submit_lock=holds_submit_lock,
        dry=request.dry,
    )
    made = Round(picture=picture, cluster=cluster, wanted=request.wanted, max_queued=request.max_queued)
    made.reload()
    return made


def build_launch(stored: StoredSweep, *, dry: bool) -> LaunchSettings:
    """Pins the code in the store, unless nothing is to be sent."""
    code = None if dry else save_code_snapshot(stored.store)
    return LaunchSettings(
        store=stored.store,
        sweep=stored.manifest.sweep,
        program=read_stage_program(),
        code=code.path.resolve() if code else stored.store.code,
        revision=code.revision if code else "",
    )


def check_jobs_fit(made: Round, actions: Sequence[Action]) -> None:
    """Raises InfeasibleJobError if this cluster could never run one of the jobs that are to be sent."""
    jobs = [made.snapshot.by_key[action.key] for action in actions if isinstance(action, Submit)]
    misfits = [(job, reason) for job in jobs if (reason := made.cluster.find_infeasible_reason(job)) is not None]
    if misfits:
        job, reason = misfits[0]
        raise InfeasibleJobError(
            f"{len(misfits)} jobs can never run here, and nothing was sent; the first, {job.phase} {job.key}: {reason}"
        )


def sum_planned_a100_hours(made: Round) -> float:
    """What the wanted jobs that are not done are estimated to take; a job half way counts whole."""
    statuses = made.snapshot.statuses
    return sum(
        job.estimate.a100_hours
        for job in made.snapshot.jobs
        if job.key in made.wanted and statuses[job.key].state is not JobState.DONE
    )


# What `sweep submit`, `sweep tick` and `sweep cancel` do on Slurm, and what they print.

CANCEL_POLL_SECONDS = 2.0


def submit_to_slurm(options: argparse.Namespace, stored: StoredSweep, wanted: Collection[str]) -> int:
    """One round; the exit code is 0 if all went as it can, limits included."""
    request = RoundRequest(
        wanted=wanted, max_queued=options.max_queued, submit_interval_s=options.pace, dry=options.dry_run
    )
    with open_slurm_round(stored, request) as made:
        actions = made.decide()
        check_jobs_fit(made, actions)
        if options.budget_a100_hours is not None:
            check_budget(made, options.budget_a100_hours)
        if options.dry_run:
            return print_actions(made, actions, stored, as_json=options.json)
        report = made.run(actions)
    return print_round_report(made, report, as_json=options.json)


def check_budget(made: Round, budget: float) -> None:
    """SweepError if what was spent and what is left to do come to more A100-hours than `budget`."""
    spent = sum(each.costs.total.a100_hours or 0.0 for each in load_job_evidence(made.snapshot).values())
    left = sum_planned_a100_hours(made)
    if spent + left > budget:
        raise SweepError(
            f"nothing was sent: {spent:,.1f} A100-hours are spent and {left:,.1f} are left to do, "
            f"{spent + left:,.1f} together, above the budget of {budget:,.1f}"
        )


def print_round_report(made: Round, report: RoundReport, *, as_json: bool) -> int:
    """Report on stdout, remarks on stderr."""
    outcome = build_round_json(made, report)
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


def build_round_json(made: Round, report: RoundReport) -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    counts = count_states(made.cluster.launch.sweep, made.snapshot, made.wanted)
    return {**counts, **asdict(report), "limits": list(report.limits), "refused": dict(report.refused)}


def print_actions(made: Round, actions: Sequence[Action], stored: StoredSweep, *, as_json: bool) -> int:
    """`--dry-run`."""
    print_action_rows(actions, stored, as_json=as_json)
    jobs = sum(isinstance(action, Submit) for action in actions)
    calls = len(made.cluster.plan_batches([action for action in actions if isinstance(action, Submit)]))
    print(f"{jobs} jobs would be sent in {calls} sbatch calls", file=sys.stderr)
    for lane in sorted(made.capacity.full):
        print(f"sweep: no room for more under {lane}", file=sys.stderr)
    if made.cluster.problem:
        print(f"sweep: {made.cluster.problem}", file=sys.stderr)
        return 1
    return 0


def cancel_on_slurm(stored: StoredSweep, keys: Collection[str], grace_seconds: float) -> int:
    """Takes the jobs out of the queue, has running ones save and stop, ends them after the grace; how many ran.

    The wish is in the ledger already, so that nobody sends them again meanwhile.
    """
    with open_slurm_round(stored, RoundRequest(wanted=())) as made:
        running = list_jobs_in_state(made, keys, ClusterState.RUNNING)
        made.cluster.cancel(keys)
        deadline = time.monotonic() + grace_seconds
        left = running
        while left and time.monotonic() < deadline:
            made.cluster.wait(min(CANCEL_POLL_SECONDS, grace_seconds))
            made.reload()
            left = list_jobs_in_state(made, keys, ClusterState.RUNNING)
            made.cluster.cancel(list_jobs_in_state(made, keys, ClusterState.QUEUED))  # requeued meanwhile
        made.cluster.kill(left)
        if made.cluster.problem:
            raise SweepError(f"{made.cluster.problem}; the jobs stay cancelled here, run it again to end them there")
    return len(running)


def list_jobs_in_state(made: Round, keys: Collection[str], state: ClusterState) -> list[str]:
    """Those of the keys that are in this state."""
    return [key for key in keys if key in made.live and made.live[key].state is state]
