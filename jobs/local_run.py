"""Runs a sweep's missing jobs on this machine: what `sweep submit` does without a scheduler."""

from collections.abc import Callable, Collection, Iterable, Sequence

from jobs.errors import NeverFitsError, StoreRefusedError, storage_problem
from jobs.job import Job
from jobs.local.cluster import STAGE_PROGRAM, LocalCluster
from jobs.local.runner import Progress, Runner, RunnerEnd, StopRequest
from jobs.local.runner_lock import holding_runner_lock
from jobs.reconcile.decide import Action
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from jobs.slots import Slots
from jobs.store.ledger import Ledger
from jobs.store.paths import Store


class LocalRun:
    """One sweep, one store, the slots of this machine. `program` runs a stage; it is given job.json's path."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        store: Store,
        sweep: str,
        slots: Slots,
        wanted: Collection[str] | None = None,
        program: Sequence[str] = STAGE_PROGRAM,
        report: Callable[[Progress], None] = lambda _progress: None,
    ) -> None:
        self.store = store
        self.sweep = sweep
        self.cluster = LocalCluster(store, sweep, slots, program=program)
        self.ledger = Ledger(store.sweep(sweep).ledger)
        self.picture = Picture(jobs, store, self.ledger.folder)
        self.wanted = {job.key for job in jobs} if wanted is None else set(wanted)
        self.runner = Runner(
            picture=self.picture,
            wanted=self.wanted,
            cluster=self.cluster,
            ledger=self.ledger,
            trunks_first=slots.cpus > 1,
            report=report,
        )

    def preview(self) -> list[Action]:
        """What `run` would do first. Changes nothing."""
        self.runner.look_at_everything()
        self._refuse_misfits()
        return self.runner.decide()

    def run(self, stop: StopRequest) -> RunnerEnd:
        """Until nothing is left to do. RunnerBusyError, NeverFitsError or StoreRefusedError come before any start."""
        try:
            with holding_runner_lock(self.store, sweep=self.sweep, writer=self.ledger.writer):
                self.picture.look_at_everything({})
                self._refuse_misfits()
                return self.runner.run(stop)
        except OSError as error:
            raise StoreRefusedError(storage_problem(error)) from error

    def _refuse_misfits(self) -> None:
        jobs = [job for job in self.picture.jobs if job.key in self.wanted]
        undone = [job for job in jobs if self.picture.statuses[job.key].state is not State.DONE]
        refuse_misfits(undone, self.cluster)


def refuse_misfits(jobs: Iterable[Job], cluster: LocalCluster) -> None:
    """Raises NeverFitsError, naming the first of the jobs that could never run here."""
    misfits = [(job, reason) for job in jobs if (reason := cluster.misfit(job)) is not None]
    if misfits:
        job, reason = misfits[0]
        raise NeverFitsError(f"{len(misfits)} jobs can never run here; the first, {job.phase} {job.key}: {reason}")
