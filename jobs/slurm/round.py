"""One round of a sweep on Slurm: look, decide, act. Idempotent: nothing is left to do when it is repeated at once."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.cluster import ClusterState, Observation, Placed, Refused, Request
from jobs.errors import StoreRefusedError, storage_problem
from jobs.job import Job
from jobs.reconcile.decide import Action, Invalidate, Room, Submit, Withdraw, decide, depth_first
from jobs.reconcile.node_exclusion import excluded_nodes, exclusion_limit
from jobs.reconcile.retries import memory_for
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import Batch, Former, Place, sweep_of
from jobs.slurm.client import SlurmClient
from jobs.slurm.limits import gpu_type_for, lane_names, measure_room, misfit
from jobs.slurm.query import Look, notes_of, settle, take_look
from jobs.slurm.script import Launch
from jobs.slurm.sender import Sender, SendReport
from jobs.slurm.site import Site
from jobs.slurm.timeouts import Patience
from jobs.store.ledger import Ledger
from jobs.store.results import set_result_aside

# Slurm behind the `Cluster` protocol: one look a round, arrays out, tasks withdrawn by id and state.


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


OWN_LANE = "--max-queued"
MOST_PASSES = 3


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What the round did."""

    sent: int = 0
    """Jobs."""
    calls: int = 0
    """sbatch calls."""
    withdrawn: int = 0
    limits: tuple[str, ...] = ()
    """Why not everything went out, one line each: expected, the next round goes on."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Jobs that Slurm will not take as they are, with its reason."""
    problem: str = ""
    """Why the round ended early."""

    def followed_by(self, later: "RoundReport") -> "RoundReport":
        """Both together; limits and problems are the later one's."""
        return replace(
            later,
            sent=self.sent + later.sent,
            calls=self.calls + later.calls,
            withdrawn=self.withdrawn + later.withdrawn,
            refused={**self.refused, **later.refused},
        )


class Round:
    """`wanted`: keys that may be sent. `max_queued`: jobs of this sweep that may be in the queue at once."""

    def __init__(
        self, *, picture: Picture, cluster: SlurmCluster, wanted: Collection[str], max_queued: int | None = None
    ) -> None:
        self.picture = picture
        self.cluster = cluster
        self.wanted = wanted
        self.max_queued = max_queued
        self.live: dict[str, Observation] = {}
        """What Slurm has of the plan's jobs."""
        self.left_the_plan: dict[str, Observation] = {}
        """What it still has of jobs that an edit took out of the plan."""
        self.room = Room()

    def look(self) -> Look:
        """Slurm first, then the disk: what has ended by then is seen to be done.

        Looks once more, a few seconds later, where a job is missed without a word of its end.
        """
        look = self._look()
        if self._would_a_second_look_settle(look):
            self.cluster.wait(self.cluster.patience.look_again)
            look = self._look()
        return look

    def _look(self) -> Look:
        observed = dict(self.cluster.observe())
        look = self.cluster.look
        assert look is not None  # noqa: S101 - observe has just set it
        self.picture.look_at_everything(observed, look.endings())
        patience = self.cluster.patience.absent
        corrected = {
            **not_yet_visible(self.picture, observed, look, patience_seconds=patience),
            **behind_nobody(self.picture, observed, look.taken_at - patience),
        }
        if corrected:
            observed |= corrected
            self.picture.judge(corrected, observed)
        live = {key: seen for key, seen in observed.items() if seen.state is not ClusterState.ENDED}
        self.live = {key: seen for key, seen in live.items() if key in self.picture.by_key}
        self.left_the_plan = {key: seen for key, seen in live.items() if key not in self.picture.by_key}
        return look

    def _would_a_second_look_settle(self, look: Look) -> bool:
        """Whether some job that is not done is missed, and was sent so long ago that two looks suffice."""
        patience = self.cluster.patience
        missed = {key for key in look.seen.absent if key in self.picture.by_key}
        missed = {key for key in missed if self.picture.statuses[key].state is State.UNKNOWN}
        old_enough = look.taken_at + patience.look_again - patience.absent
        return not look.queue.problem and any(
            batch.sent_at <= old_enough and missed.intersection(batch.tasks.values())
            for batch in look.notes.batches.values()
            if batch.id
        )

    def decide(self) -> list[Action]:
        """What is to be done now; nothing is sent while the queue cannot be seen."""
        if self.cluster.problem:
            return []
        finished = self.picture.in_state({State.DONE})
        self.room = self._room()
        return decide(
            [*finished, *depth_first(self.picture.jobs, self.picture.statuses)],
            self.picture.statuses,
            wanted=self.wanted,
            observed=self.live,
            damaged=self.picture.damaged_parents(),
            chained=True,
            room=self.room,
        )

    def run(self, actions: Sequence[Action]) -> RoundReport:
        """Acts; and decides again where something was taken out that is to be sent anew, a few times at most."""
        total = report = self.act(actions)
        for _ in range(MOST_PASSES - 1):
            if not report.withdrawn or report.problem:
                break
            self.look()
            report = self.act(self.decide())
            total = total.followed_by(report)
        return total

    def act(self, actions: Sequence[Action]) -> RoundReport:
        """Does it. Raises StoreRefusedError; what was sent until then is in the ledger."""
        try:
            return self._act(actions)
        except OSError as error:
            raise StoreRefusedError(storage_problem(error)) from error

    def _act(self, actions: Sequence[Action]) -> RoundReport:
        for action in actions:
            if isinstance(action, Invalidate):
                set_result_aside(self.picture.evidence[action.key].run)
        withdrawn = [action.key for action in actions if isinstance(action, Withdraw)]
        queued = [
            key for key, seen in self.left_the_plan.items() if seen.state in {ClusterState.QUEUED, ClusterState.STUCK}
        ]
        self.cluster.withdraw([*withdrawn, *queued])
        self.live = {key: seen for key, seen in self.live.items() if key not in withdrawn}
        submits = [action for action in actions if isinstance(action, Submit)]
        self.cluster.report = SendReport()  # not that of the pass before
        refused = self._submit(submits) if submits else {}
        report = self.cluster.report
        self.live |= {key: Observation(state=ClusterState.QUEUED, id=each) for key, each in report.placed.items()}
        self.picture.judge([*report.placed, *withdrawn], self.live)
        limits = [f"no room for more under {lane}" for lane in sorted(self.room.full)]
        return RoundReport(
            sent=len(report.placed),
            calls=report.calls,
            withdrawn=len(withdrawn) + len(queued),
            limits=(*limits, *([report.full] if report.full else [])),
            refused=refused if report.invalid else {},
            problem=self.cluster.problem or report.problem,
        )

    @property
    def remarks(self) -> Sequence[str]:
        """What the last look found odd, one line each."""
        found = list(self.cluster.look.seen.remarks) if self.cluster.look else []
        running = [seen.id for seen in self.left_the_plan.values() if seen.state is ClusterState.RUNNING]
        if running:
            found.append(
                f"{len(running)} jobs that left the plan still run: {', '.join(running[:5])}; end them with scancel"
            )
        return found

    def _submit(self, submits: Sequence[Submit]) -> dict[str, str]:
        jobs = [self.picture.by_key[submit.key] for submit in submits]
        self.cluster.memory_gib = {job.key: memory_for(job, self.picture.evidence[job.key].outcomes) for job in jobs}
        outcomes = [outcome for evidence in self.picture.evidence.values() for outcome in evidence.outcomes]
        excluded = excluded_nodes(
            outcomes,
            time.time(),
            endings=[ending for known in self.picture.endings.values() for ending in known],
            limit=exclusion_limit(number_of_nodes(self.cluster.site)),
        )
        self.cluster.exclude = tuple(each.node for each in excluded)
        answers = self.cluster.submit(
            [Request(job=job, rank=rank, after=submits[rank].after) for rank, job in enumerate(jobs)]
        )
        return {answer.key: answer.reason for answer in answers if isinstance(answer, Refused)}

    def _room(self) -> Room:
        look, site = self.cluster.look, self.cluster.site
        left = measure_room(site, look.queue.rows, self.cluster.user) if look else {}
        if self.max_queued is not None:
            left[OWN_LANE] = self.max_queued - len(self.live)
        return Room(left, lambda job: [*lane_names(job, site, self.cluster.user), OWN_LANE])


def number_of_nodes(site: Site) -> int:
    """Of the cluster's largest partition; 0 where that is not known."""
    return max((partition.nodes or 0 for partition in site.partitions or ()), default=0)


def behind_nobody(picture: Picture, observed: Mapping[str, Observation], before: float) -> dict[str, Observation]:
    """Queued jobs that wait for others although all of their parents were done `before` that moment (Unix seconds).

    Their dependency names an id that was lost in a crash of the controller and given to another job: they could wait
    for ever, even for each other.
    """
    return {
        key: replace(seen, state=ClusterState.STUCK, message="waits for an id that is not its parent's any more")
        for key, seen in observed.items()
        if seen.behind and key in picture.by_key and _were_done(picture, picture.by_key[key].parents, before)
    }


def _were_done(picture: Picture, keys: Sequence[str], before: float) -> bool:
    if any(picture.statuses[key].state is not State.DONE for key in keys):
        return False
    try:
        return all(picture.evidence[key].run.result.stat().st_mtime < before for key in keys)
    except FileNotFoundError:
        return False


def not_yet_visible(
    picture: Picture, observed: Mapping[str, Observation], look: Look, *, patience_seconds: float
) -> dict[str, Observation]:
    """Jobs that Slurm calls COMPLETED a moment ago and whose result this machine does not see yet (NFS caches)."""
    endings = picture.endings
    found = {}
    for key, seen in observed.items():
        last = endings[key][-1] if endings.get(key) else None
        fresh = last is not None and last.state == "COMPLETED" and look.taken_at - last.ended_at < patience_seconds
        known = key in picture.by_key
        if known and seen.state is ClusterState.ENDED and fresh and picture.statuses[key].state is not State.DONE:
            words = "ended well a moment ago; its result is not visible from here yet"
            found[key] = replace(seen, state=ClusterState.UNKNOWN, message=words)
    return found
