"""One round of a sweep on Slurm: look, decide, act. Idempotent: nothing is left to do when it is repeated at once."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.cluster import AcceptedRequest, AttemptRequest, ClusterState, Observation, RefusedRequest
from jobs.errors import StoreRefusedError, describe_storage_error
from jobs.job import Job
from jobs.reconcile.decide import Action, Invalidate, QueueCapacity, Submit, Withdraw, decide, sort_depth_first
from jobs.reconcile.node_exclusion import compute_exclusion_limit, select_excluded_nodes
from jobs.reconcile.retries import choose_memory_gib
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import ArrayTask, BatchPlanner, SlurmBatch, parse_sweep_name
from jobs.slurm.client import SlurmClient
from jobs.slurm.limits import compute_queue_capacity, find_infeasible_reason, list_limit_names, resolve_gpu_type
from jobs.slurm.query import SlurmSnapshot, load_batch_history, query_slurm, save_settled
from jobs.slurm.script import LaunchSettings
from jobs.slurm.sender import BatchSender, SendReport
from jobs.slurm.site import Site
from jobs.slurm.timeouts import SlurmTimeouts
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
        launch: LaunchSettings,
        client: SlurmClient,
        site: Site,
        user: str,
        ledger: Ledger,
        patience: SlurmTimeouts,
        holds_submit_lock: Callable[[], bool] = lambda: True,
        dry: bool = False,
    ) -> None:
        self.jobs = jobs
        self.launch = launch
        self.client = client
        self.site = site
        self.user = user
        self.timeouts = patience
        self.ledger = BatchLedger(ledger)
        self.holds_submit_lock = holds_submit_lock
        self.dry = dry
        self.slurm_snapshot: SlurmSnapshot | None = None
        self.report = SendReport()
        self.problem = ""
        """Why nothing may be sent; empty if there is no reason."""
        self.memory_gib: Mapping[str, float] = {}
        self.exclude: tuple[str, ...] = ()

    def find_infeasible_reason(self, job: Job) -> str | None:
        return find_infeasible_reason(job, self.site)

    def adopt(self, jobs: Sequence[Job]) -> None:
        """Nothing: Slurm remembers."""

    def observe(self) -> Mapping[str, Observation]:
        """Asks, judges with what the look before missed, and notes in the ledger what that settles, unless `dry`."""
        self.slurm_snapshot = self._query_slurm(
            self.slurm_snapshot.reconciled.missing_since if self.slurm_snapshot else {}
        )
        self.problem = self.slurm_snapshot.queue.problem
        if not self.dry and not self.problem:
            self._settle(self.slurm_snapshot)
        return self.slurm_snapshot.reconciled.observations

    def _settle(self, look: SlurmSnapshot) -> None:
        self.problem = save_settled(look, self.ledger, self.client, self.timeouts)
        if look.reconciled.unknown_batches and not self.problem:
            self.slurm_snapshot = self._query_slurm({})  # with the tasks that their scripts named
        if look.reconciled.duplicates:
            self._withdraw_ids(look, look.reconciled.duplicates)

    def _withdraw_ids(self, look: SlurmSnapshot, ids: Sequence[str]) -> None:
        """The note first: a row of sacct that says who cancelled them is nobody's wish."""
        self.ledger.write_withdrawn(group_keys_by_batch(look, set(ids)))
        self.client.cancel(ids, state="PENDING")

    def submit(self, requests: Sequence[AttemptRequest]) -> Sequence[AcceptedRequest | RefusedRequest]:
        batches = self.plan_batches([Submit(request.job.key, request.after) for request in requests])
        self.report = self._sender().send(batches)
        unsent = self.report.full or self.report.problem or "the array that it waits for was not sent"
        return [
            AcceptedRequest(key=key, id=self.report.placed[key])
            if key in self.report.placed
            else RefusedRequest(key=key, reason=self.report.refused.get(key, unsent))
            for key in (request.job.key for request in requests)
        ]

    def plan_batches(self, submits: Sequence[Submit]) -> list[SlurmBatch]:
        """The arrays that these jobs go out in."""
        former = BatchPlanner(
            sweep=self.launch.sweep,
            jobs=self.jobs,
            live=self._places(),
            array_limit=self.site.array_limit,
            memory_gib=self.memory_gib,
            exclude=self.exclude,
            gpu_type=lambda job: resolve_gpu_type(job, self.site),
        )
        return former.plan_batches(submits)

    def cancel(self, keys: Collection[str]) -> None:
        """Queued tasks leave the queue; running ones get SIGTERM, save and stop."""
        self.withdraw(keys)
        self.client.cancel(self._ids(keys, ClusterState.RUNNING), signal="TERM", batch=True)

    def withdraw(self, keys: Collection[str]) -> None:
        """Takes out what is still pending at that moment, and nothing that has begun meanwhile."""
        queued = self._ids(keys, ClusterState.QUEUED) + self._ids(keys, ClusterState.STUCK)
        if queued and self.slurm_snapshot is not None:
            self._withdraw_ids(self.slurm_snapshot, queued)

    def kill(self, keys: Collection[str]) -> None:
        self.client.cancel(self._ids(keys, ClusterState.RUNNING))

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _query_slurm(self, absent_since: Mapping[str, float]) -> SlurmSnapshot:
        notes = load_batch_history(self.launch.store, self.launch.sweep, self.jobs.keys())
        return query_slurm(self.client, notes, self.launch.sweep, self.timeouts, absent_since)

    def _sender(self) -> BatchSender:
        # Slurm forgets an ended job after MinJobAge, and never with 0: slurm.conf(5)
        keeps = self.site.min_job_age_seconds / 2 or float("inf")
        age = time.time() - self.slurm_snapshot.taken_at if self.slurm_snapshot else float("inf")
        return BatchSender(
            client=self.client,
            ledger=self.ledger,
            launch=self.launch,
            user=self.user,
            timeouts=self.timeouts,
            holds_submit_lock=self.holds_submit_lock,
            parents_known_until=time.monotonic() + keeps - age,
            parents_known_for=keeps,
        )

    def _observed(self) -> Mapping[str, Observation]:
        return self.slurm_snapshot.reconciled.observations if self.slurm_snapshot else {}

    def _state(self, key: str) -> ClusterState | None:
        return self._observed()[key].state if key in self._observed() else None

    def _ids(self, keys: Collection[str], state: ClusterState) -> list[str]:
        return [self._observed()[key].id for key in self._own([key for key in keys if self._state(key) is state])]

    def _own(self, keys: Collection[str]) -> list[str]:
        """Without those whose live copy another sweep of the store has sent: it is not ours to end."""
        if self.slurm_snapshot is None:
            return []
        names = {row.id: row.name for row in self.slurm_snapshot.queue.rows}
        return [key for key in keys if parse_sweep_name(names.get(self._observed()[key].id, "")) == self.launch.sweep]

    def _places(self) -> dict[str, ArrayTask]:
        live = {ClusterState.QUEUED, ClusterState.RUNNING}
        places = {}
        for key, seen in self._observed().items():
            array, _, index = seen.id.partition("_")
            if seen.state in live and index.isdigit():
                places[key] = ArrayTask(batch=array, index=int(index), id=array)
        return places


def group_keys_by_batch(look: SlurmSnapshot, ids: set[str]) -> dict[str, list[str]]:
    """Keys of queued tasks by the name of their batch."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in look.queue.rows:
        if row.id in ids and row.name in look.batch_history.batches:
            found[row.name].append(look.batch_history.batches[row.name].tasks[int(row.id.partition("_")[2])])
    return found


OWN_LIMIT = "--max-queued"
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

    def merge_later(self, later: "RoundReport") -> "RoundReport":
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
        self, *, picture: SweepSnapshot, cluster: SlurmCluster, wanted: Collection[str], max_queued: int | None = None
    ) -> None:
        self.snapshot = picture
        self.cluster = cluster
        self.wanted = wanted
        self.max_queued = max_queued
        self.live: dict[str, Observation] = {}
        """What Slurm has of the plan's jobs."""
        self.orphaned_jobs: dict[str, Observation] = {}
        """What it still has of jobs that an edit took out of the plan."""
        self.capacity = QueueCapacity()

    def reload(self) -> SlurmSnapshot:
        """Slurm first, then the disk: what has ended by then is seen to be done.

        Looks once more, a few seconds later, where a job is missed without a word of its end.
        """
        look = self._reload_once()
        if self._needs_second_query(look):
            self.cluster.wait(self.cluster.timeouts.recheck_s)
            look = self._reload_once()
        return look

    def _reload_once(self) -> SlurmSnapshot:
        observed = dict(self.cluster.observe())
        look = self.cluster.slurm_snapshot
        assert look is not None  # noqa: S101 - observe has just set it
        self.snapshot.reload(observed, look.merge_records())
        patience = self.cluster.timeouts.missing_job_s
        corrected = {
            **find_invisible_results(self.snapshot, observed, look, patience_seconds=patience),
            **find_stale_dependencies(self.snapshot, observed, look.taken_at - patience),
        }
        if corrected:
            observed |= corrected
            self.snapshot.update(corrected, observed)
        live = {key: seen for key, seen in observed.items() if seen.state is not ClusterState.ENDED}
        self.live = {key: seen for key, seen in live.items() if key in self.snapshot.by_key}
        self.orphaned_jobs = {key: seen for key, seen in live.items() if key not in self.snapshot.by_key}
        return look

    def _needs_second_query(self, look: SlurmSnapshot) -> bool:
        """Whether some job that is not done is missed, and was sent so long ago that two looks suffice."""
        patience = self.cluster.timeouts
        missed = {key for key in look.reconciled.missing_since if key in self.snapshot.by_key}
        missed = {key for key in missed if self.snapshot.statuses[key].state is JobState.UNKNOWN}
        old_enough = look.taken_at + patience.recheck_s - patience.missing_job_s
        return not look.queue.problem and any(
            batch.sent_at <= old_enough and missed.intersection(batch.tasks.values())
            for batch in look.batch_history.batches.values()
            if batch.id
        )

    def decide(self) -> list[Action]:
        """What is to be done now; nothing is sent while the queue cannot be seen."""
        if self.cluster.problem:
            return []
        finished = self.snapshot.select_in_state({JobState.DONE})
        self.capacity = self._room()
        return decide(
            [*finished, *sort_depth_first(self.snapshot.jobs, self.snapshot.statuses)],
            self.snapshot.statuses,
            wanted=self.wanted,
            observed=self.live,
            damaged=self.snapshot.find_damaged_parents(),
            chained=True,
            room=self.capacity,
        )

    def run(self, actions: Sequence[Action]) -> RoundReport:
        """Acts; and decides again where something was taken out that is to be sent anew, a few times at most."""
        total = report = self.apply(actions)
        for _ in range(MOST_PASSES - 1):
            if not report.withdrawn or report.problem:
                break
            self.reload()
            report = self.apply(self.decide())
            total = total.merge_later(report)
        return total

    def apply(self, actions: Sequence[Action]) -> RoundReport:
        """Does it. Raises StoreRefusedError; what was sent until then is in the ledger."""
        try:
            return self._act(actions)
        except OSError as error:
            raise StoreRefusedError(describe_storage_error(error)) from error

    def _act(self, actions: Sequence[Action]) -> RoundReport:
        for action in actions:
            if isinstance(action, Invalidate):
                set_result_aside(self.snapshot.runs[action.key].run)
        withdrawn = [action.key for action in actions if isinstance(action, Withdraw)]
        queued = [
            key for key, seen in self.orphaned_jobs.items() if seen.state in {ClusterState.QUEUED, ClusterState.STUCK}
        ]
        self.cluster.withdraw([*withdrawn, *queued])
        self.live = {key: seen for key, seen in self.live.items() if key not in withdrawn}
        submits = [action for action in actions if isinstance(action, Submit)]
        self.cluster.report = SendReport()  # not that of the pass before
        refused = self._submit(submits) if submits else {}
        report = self.cluster.report
        self.live |= {key: Observation(state=ClusterState.QUEUED, id=each) for key, each in report.placed.items()}
        self.snapshot.update([*report.placed, *withdrawn], self.live)
        limits = [f"no room for more under {lane}" for lane in sorted(self.capacity.full)]
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
        found = list(self.cluster.slurm_snapshot.reconciled.remarks) if self.cluster.slurm_snapshot else []
        running = [seen.id for seen in self.orphaned_jobs.values() if seen.state is ClusterState.RUNNING]
        if running:
            found.append(
                f"{len(running)} jobs that left the plan still run: {', '.join(running[:5])}; end them with scancel"
            )
        return found

    def _submit(self, submits: Sequence[Submit]) -> dict[str, str]:
        jobs = [self.snapshot.by_key[submit.key] for submit in submits]
        self.cluster.memory_gib = {
            job.key: choose_memory_gib(job, self.snapshot.runs[job.key].outcomes) for job in jobs
        }
        outcomes = [outcome for evidence in self.snapshot.runs.values() for outcome in evidence.outcomes]
        excluded = select_excluded_nodes(
            outcomes,
            time.time(),
            endings=[ending for known in self.snapshot.endings.values() for ending in known],
            limit=compute_exclusion_limit(count_nodes(self.cluster.site)),
        )
        self.cluster.exclude = tuple(each.node for each in excluded)
        answers = self.cluster.submit(
            [AttemptRequest(job=job, rank=rank, after=submits[rank].after) for rank, job in enumerate(jobs)]
        )
        return {answer.key: answer.reason for answer in answers if isinstance(answer, RefusedRequest)}

    def _room(self) -> QueueCapacity:
        look, site = self.cluster.slurm_snapshot, self.cluster.site
        left = compute_queue_capacity(site, look.queue.rows, self.cluster.user) if look else {}
        if self.max_queued is not None:
            left[OWN_LIMIT] = self.max_queued - len(self.live)
        return QueueCapacity(left, lambda job: [*list_limit_names(job, site, self.cluster.user), OWN_LIMIT])


def count_nodes(site: Site) -> int:
    """Of the cluster's largest partition; 0 where that is not known."""
    return max((partition.nodes or 0 for partition in site.partitions or ()), default=0)


def find_stale_dependencies(
    picture: SweepSnapshot, observed: Mapping[str, Observation], before: float
) -> dict[str, Observation]:
    """Queued jobs that wait for others although all of their parents were done `before` that moment (Unix seconds).

    Their dependency names an id that was lost in a crash of the controller and given to another job: they could wait
    for ever, even for each other.
    """
    return {
        key: replace(seen, state=ClusterState.STUCK, message="waits for an id that is not its parent's any more")
        for key, seen in observed.items()
        if seen.waits_for_parents and key in picture.by_key and _were_done(picture, picture.by_key[key].parents, before)
    }


def _were_done(picture: SweepSnapshot, keys: Sequence[str], before: float) -> bool:
    if any(picture.statuses[key].state is not JobState.DONE for key in keys):
        return False
    try:
        return all(picture.runs[key].run.result.stat().st_mtime < before for key in keys)
    except FileNotFoundError:
        return False


def find_invisible_results(
    picture: SweepSnapshot, observed: Mapping[str, Observation], look: SlurmSnapshot, *, patience_seconds: float
) -> dict[str, Observation]:
    """Jobs that Slurm calls COMPLETED a moment ago and whose result this machine does not see yet (NFS caches)."""
    endings = picture.endings
    found = {}
    for key, seen in observed.items():
        last = endings[key][-1] if endings.get(key) else None
        fresh = last is not None and last.state == "COMPLETED" and look.taken_at - last.ended_at < patience_seconds
        known = key in picture.by_key
        if known and seen.state is ClusterState.ENDED and fresh and picture.statuses[key].state is not JobState.DONE:
            words = "ended well a moment ago; its result is not visible from here yet"
            found[key] = replace(seen, state=ClusterState.UNKNOWN, message=words)
    return found
