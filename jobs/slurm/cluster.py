"""Slurm behind the `Cluster` protocol: one look a round, arrays out, tasks withdrawn by id and state."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from jobs.cluster import ClusterState, Observation, Placed, Refused, Request
from jobs.job import Job
from jobs.reconcile.decide import Submit
from jobs.slurm.batch import Batch, sweep_of
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import Former, Place
from jobs.slurm.client import SlurmClient
from jobs.slurm.fit import gpu_type_for, misfit
from jobs.slurm.query import Look, notes_of, settle, take_look
from jobs.slurm.script import Launch
from jobs.slurm.sender import Sender, SendReport
from jobs.slurm.site import Site
from jobs.slurm.timeouts import Patience
from jobs.store.ledger import Ledger


class SlurmCluster:
    """One sweep on one Slurm cluster, for one round. Ids are used only as the last look found them, by job name."""

    name = "slurm"
    chained = True

    def __init__(
        self,
        *,
        jobs: Mapping[str, Job],
        launch: Launch,
        client: SlurmClient,
        site: Site,
        user: str,
        ledger: Ledger,
        patience: Patience,
        still_mine: Callable[[], bool] = lambda: True,
        dry: bool = False,
    ) -> None:
        self.jobs = jobs
        self.launch = launch
        self.client = client
        self.site = site
        self.user = user
        self.patience = patience
        self.ledger = BatchLedger(ledger)
        self.still_mine = still_mine
        self.dry = dry
        self.look: Look | None = None
        self.report = SendReport()
        self.problem = ""
        """Why nothing may be sent; empty if there is no reason."""
        self.memory_gib: Mapping[str, float] = {}
        self.exclude: tuple[str, ...] = ()

    def misfit(self, job: Job) -> str | None:
        return misfit(job, self.site)

    def adopt(self, jobs: Sequence[Job]) -> None:
        """Nothing: Slurm remembers."""

    def observe(self) -> Mapping[str, Observation]:
        """Asks, judges with what the look before missed, and notes in the ledger what that settles, unless `dry`."""
        self.look = self._take_look(self.look.seen.absent if self.look else {})
        self.problem = self.look.queue.problem
        if not self.dry and not self.problem:
            self._settle(self.look)
        return self.look.seen.observations

    def _settle(self, look: Look) -> None:
        self.problem = settle(look, self.ledger, self.client, self.patience)
        if look.seen.strays and not self.problem:
            self.look = self._take_look({})  # with the tasks that their scripts named
        if look.seen.duplicates:
            self._take_out(look, look.seen.duplicates)

    def _take_out(self, look: Look, ids: Sequence[str]) -> None:
        """The note first: a row of sacct that says who cancelled them is nobody's wish."""
        self.ledger.withdrawn(tasks_of(look, set(ids)))
        self.client.cancel(ids, state="PENDING")

    def submit(self, requests: Sequence[Request]) -> Sequence[Placed | Refused]:
        batches = self.batches_of([Submit(request.job.key, request.after) for request in requests])
        self.report = self._sender().send(batches)
        unsent = self.report.full or self.report.problem or "the array that it waits for was not sent"
        return [
            Placed(key=key, id=self.report.placed[key])
            if key in self.report.placed
            else Refused(key=key, reason=self.report.refused.get(key, unsent))
            for key in (request.job.key for request in requests)
        ]

    def batches_of(self, submits: Sequence[Submit]) -> list[Batch]:
        """The arrays that these jobs go out in."""
        former = Former(
            sweep=self.launch.sweep,
            jobs=self.jobs,
            live=self._places(),
            array_limit=self.site.array_limit,
            memory_gib=self.memory_gib,
            exclude=self.exclude,
            gpu_type=lambda job: gpu_type_for(job, self.site),
        )
        return former.batches(submits)

    def cancel(self, keys: Collection[str]) -> None:
        """Queued tasks leave the queue; running ones get SIGTERM, save and stop."""
        self.withdraw(keys)
        self.client.cancel(self._ids(keys, ClusterState.RUNNING), signal="TERM", batch=True)

    def withdraw(self, keys: Collection[str]) -> None:
        """Takes out what is still pending at that moment, and nothing that has begun meanwhile."""
        queued = self._ids(keys, ClusterState.QUEUED) + self._ids(keys, ClusterState.STUCK)
        if queued and self.look is not None:
            self._take_out(self.look, queued)

    def kill(self, keys: Collection[str]) -> None:
        self.client.cancel(self._ids(keys, ClusterState.RUNNING))

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _take_look(self, absent_since: Mapping[str, float]) -> Look:
        notes = notes_of(self.launch.store, self.launch.sweep, self.jobs.keys())
        return take_look(self.client, notes, self.launch.sweep, self.patience, absent_since)

    def _sender(self) -> Sender:
        # Slurm forgets an ended job after MinJobAge, and never with 0: slurm.conf(5)
        keeps = self.site.min_job_age_seconds / 2 or float("inf")
        age = time.time() - self.look.taken_at if self.look else float("inf")
        return Sender(
            client=self.client,
            ledger=self.ledger,
            launch=self.launch,
            user=self.user,
            patience=self.patience,
            still_mine=self.still_mine,
            parents_known_until=time.monotonic() + keeps - age,
            parents_known_for=keeps,
        )

    def _observed(self) -> Mapping[str, Observation]:
        return self.look.seen.observations if self.look else {}

    def _state(self, key: str) -> ClusterState | None:
        return self._observed()[key].state if key in self._observed() else None

    def _ids(self, keys: Collection[str], state: ClusterState) -> list[str]:
        return [self._observed()[key].id for key in self._own([key for key in keys if self._state(key) is state])]

    def _own(self, keys: Collection[str]) -> list[str]:
        """Without those whose live copy another sweep of the store has sent: it is not ours to end."""
        if self.look is None:
            return []
        names = {row.id: row.name for row in self.look.queue.rows}
        return [key for key in keys if sweep_of(names.get(self._observed()[key].id, "")) == self.launch.sweep]

    def _places(self) -> dict[str, Place]:
        live = {ClusterState.QUEUED, ClusterState.RUNNING}
        places = {}
        for key, seen in self._observed().items():
            array, _, index = seen.id.partition("_")
            if seen.state in live and index.isdigit():
                places[key] = Place(batch=array, index=int(index), id=array)
        return places


def tasks_of(look: Look, ids: set[str]) -> dict[str, list[str]]:
    """Keys of queued tasks by the name of their batch."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in look.queue.rows:
        if row.id in ids and row.name in look.notes.batches:
            found[row.name].append(look.notes.batches[row.name].tasks[int(row.id.partition("_")[2])])
    return found
