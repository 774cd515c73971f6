"""One round of a sweep on Slurm, as `sweep submit`, `sweep tick` and `sweep cancel` make it."""

import getpass
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from jobs.claims.submit_lease import submitting
from jobs.errors import NeverFitsError, NoSchedulerError
from jobs.reconcile.decide import Action, Submit
from jobs.reconcile.state import State
from jobs.slurm.client import SlurmClient
from jobs.slurm.cluster import SlurmCluster
from jobs.slurm.code_snapshot import snapshot
from jobs.slurm.round import Round
from jobs.slurm.script import Launch
from jobs.slurm.site import read_site
from jobs.slurm.timeouts import Patience
from sweep.slurm_patience import patience_from_environment
from sweep.stage_program import stage_program
from sweep.stored_sweep import StoredSweep

LEASE_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks of a round."""

    wanted: Collection[str]
    """Keys that may be sent."""
    max_queued: int | None = None
    pace_seconds: float | None = None
    dry: bool = False
    """Look and decide, change nothing, neither here nor there."""


def patience_of(request: Request) -> Patience:
    """With the pace of the command line."""
    patience = patience_from_environment()
    return patience if request.pace_seconds is None else replace(patience, pace=request.pace_seconds)


@contextmanager
def slurm_round(stored: StoredSweep, request: Request) -> Iterator[Round]:
    """A round that has looked. Unless it is dry, nobody else submits jobs of this sweep while the block lasts."""
    if request.dry:
        yield prepared(stored, request, lambda: True)
        return
    with submitting(stored.store.submitters, patience_seconds=LEASE_PATIENCE_SECONDS) as still_mine:
        yield prepared(stored, request, still_mine)


def prepared(stored: StoredSweep, request: Request, still_mine: Callable[[], bool]) -> Round:
    """Reads the cluster's limits, pins the code, takes the first look."""
    patience = patience_of(request)
    client = SlurmClient(patience)
    user = getpass.getuser()
    site = read_site(client, user)
    if site.problem:
        raise NoSchedulerError(
            f"Slurm cannot be asked: {site.problem}; nothing was done: see `sweep doctor`, try again later, "
            "or run it on this machine with --backend local"
        )
    launch = launch_of(stored, dry=request.dry)
    picture = stored.empty_picture()
    cluster = SlurmCluster(
        jobs=picture.by_key,
        launch=launch,
        client=client,
        site=site,
        user=user,
        ledger=stored.ledger,
        patience=patience,
        still_mine=still_mine,
        dry=request.dry,
    )
    made = Round(picture=picture, cluster=cluster, wanted=request.wanted, max_queued=request.max_queued)
    made.look()
    return made


def launch_of(stored: StoredSweep, *, dry: bool) -> Launch:
    """Pins the code in the store, unless nothing is to be sent."""
    code = None if dry else snapshot(stored.store)
    return Launch(
        store=stored.store,
        sweep=stored.manifest.sweep,
        program=stage_program(),
        code=code.path.resolve() if code else stored.store.code,
        revision=code.revision if code else "",
    )


def refuse_misfits(made: Round, actions: Sequence[Action]) -> None:
    """Raises NeverFitsError if this cluster could never run one of the jobs that are to be sent."""
    jobs = [made.picture.by_key[action.key] for action in actions if isinstance(action, Submit)]
    misfits = [(job, reason) for job in jobs if (reason := made.cluster.misfit(job)) is not None]
    if misfits:
        job, reason = misfits[0]
        raise NeverFitsError(
            f"{len(misfits)} jobs can never run here, and nothing was sent; the first, {job.phase} {job.key}: {reason}"
        )


def planned_a100_hours(made: Round) -> float:
    """What the wanted jobs that are not done are estimated to take; a job half way counts whole."""
    statuses = made.picture.statuses
    return sum(
        job.estimate.a100_hours
        for job in made.picture.jobs
        if job.key in made.wanted and statuses[job.key].state is not State.DONE
    )
