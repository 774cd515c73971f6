"""One round of a sweep on Slurm: query, decide, act. Idempotent: nothing is left to do when it is repeated at once."""

import logging
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.environment import list_named_variables
from jobs.errors import StoreRefusedError, describe_storage_error
from jobs.job import Job
from jobs.observation import ClusterState, Observation
from jobs.reconcile.canary import HeldShape, list_held_keys
from jobs.reconcile.decide import Action, AmountRoom, Invalidate, QueueCapacity, Restore, Submit, Withdraw, decide
from jobs.reconcile.first_checkpoint import Canary
from jobs.reconcile.node_exclusion import (
    EXCLUSION_HOURS,
    MOST_NODES,
    compute_exclusion_limit,
    parse_node_list,
    select_avoided_nodes,
    select_excluded_nodes,
)
from jobs.reconcile.order import NO_PRIORITIES, sort_jobs
from jobs.reconcile.retries import choose_memory_gib
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import STOPPED, JobState
from jobs.reconcile.unsettled import list_unread_runs, list_unsettled_remarks
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import ArrayTask, BatchPlanner, SlurmBatch, parse_sweep_name
from jobs.slurm.client import SlurmClient
from jobs.slurm.parsing import SlurmAnswers
from jobs.slurm.query import (
    SlurmSnapshot,
    build_slurm_snapshot,
    has_writers_elsewhere,
    load_batch_history,
    query_answers,
    save_settled,
)
from jobs.slurm.refusals import Refusal, explain_refusal, list_choices
from jobs.slurm.sbatch_errors import RefusalKind
from jobs.slurm.script import LaunchSettings
from jobs.slurm.sender import BatchSender, SendReport
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.gpu_choice import choose_gpus
from jobs.slurm.site.limits import (
    can_ask_memory,
    compute_queue_capacity,
    describe_limit,
    find_job_partitions,
    list_limit_names,
)
from jobs.slurm.site.site import Site
from jobs.store.checks import measure_clock_skew
from jobs.store.ledger import Ledger
from jobs.store.results import set_result_aside

logger = logging.getLogger(__name__)

OWN_LIMIT = "--max-queued"
MOST_PASSES = 3
PENDING = {ClusterState.QUEUED, ClusterState.STUCK}


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What the round did."""

    sent: int = 0
    """Jobs."""
    calls: int = 0
    """sbatch calls."""
    withdrawn: int = 0
    """Jobs that left the queue, as squeue showed it afterwards."""
    restored: int = 0
    """Jobs whose inputs `sweep gc` had set aside, and that are brought back or made anew."""
    asked_to_stop: int = 0
    """Running jobs whose cancellation is asked for, and that were told to save and stop."""
    limits: tuple[str, ...] = ()
    """Why not everything went out, one line each: expected, the next round goes on."""
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    """Jobs that Slurm did not take, by key; it may take those later whose refusal is not INVALID."""
    problem: str = ""
    """Why the round ended early."""
    gpus: tuple[str, ...] = ()
    """Which of the site's GPUs were asked for and why, one line for each choice."""

    @property
    def invalid(self) -> dict[str, Refusal]:
        """Those that Slurm will never take as they are."""
        return {key: each for key, each in self.refused.items() if each.kind is RefusalKind.INVALID}

    def merge_later(self, later: "RoundReport") -> "RoundReport":
        """Both together; limits and problems are the later one's."""
        return replace(
            later,
            sent=self.sent + later.sent,
            calls=self.calls + later.calls,
            withdrawn=self.withdrawn + later.withdrawn,
            restored=self.restored + later.restored,
            asked_to_stop=self.asked_to_stop + later.asked_to_stop,
            refused={**self.refused, **later.refused},
            gpus=tuple(dict.fromkeys((*self.gpus, *later.gpus))),
        )


class SlurmRound:
    """One sweep on one Slurm cluster. `query` comes first; ids are used only as the last query found them.

    `wanted`: keys that may be sent. `priorities`: as `jobs.reconcile.order` takes them. `canary`: holds jobs until one
    of their shape has gone first. `max_queued`: jobs of this sweep that may be in the queue at once. `dry`: query and
    decide only; nothing is noted or changed.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        wanted: Collection[str],
        launch: LaunchSettings,
        client: SlurmClient,
        site: Site,
        ledger: Ledger,
        priorities: Mapping[str, int] = NO_PRIORITIES,
        canary: Canary | None = None,
        max_queued: int | None = None,
        holds_submit_lock: Callable[[], bool] = lambda: True,
        dry: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.snapshot = SweepSnapshot(jobs, launch.store, launch.sweep)
        self.wanted = wanted
        self.priorities = priorities
        self.canary = canary
        self.held: Mapping[str, HeldShape] = {}
        """By shape, what the last decision held."""
        self.launch = launch
        self.client = client
        client.named_variables = list_named_variables(job.settings for job in jobs)
        self.timeouts = client.timeouts
        self.site = site
        self.ledger = BatchLedger(ledger, clock, cluster=client.cluster)
        self.max_queued = max_queued
        self.holds_submit_lock = holds_submit_lock
        self.dry = dry
        self.clock = clock
        self.slurm: SlurmSnapshot
        """What the last query found."""
        self.problem = ""
        """Why nothing may be sent; empty if there is no reason."""
        self.capacity = QueueCapacity()
        self.held_back = ""
        """Why nothing may be sent although Slurm would take it; empty if there is no reason."""
        self.measure_room: Callable[[SweepSnapshot], AmountRoom] | None = None
        """What may still be sent under budgets; None: there are none."""
        self._room: AmountRoom | None = None
        self.unfit: Mapping[str, Refusal] = {}
        """Jobs that Slurm would not take, or never start. They are not sent, and hold up no others."""
        self._checker: FeasibilityChecker | None = None
        self.withdrawal_problem = ""
        """Why jobs that were to leave the queue are still in it, or why that is not known; empty if all left."""
        self.site_remarks: Sequence[str] = ()
        """What the cluster lacks and jobs of this round are therefore sent without, one line each."""
        self._missing_since: Mapping[str, float] = {}
        self._told_to_stop: set[str] = set()
        """Ids of running jobs that this round has sent a SIGTERM."""

    # Query: what Slurm has, and what is on disk.

    def query(self) -> None:
        """Queries once more, a few seconds later, where a job is missed and no record reports its end."""
        self._query_once()
        if self._needs_second_query():
            logger.info("a job is missing in squeue: queries again in %g s", self.timeouts.recheck_s)
            self.clock.sleep(self.timeouts.recheck_s)
            self._query_once()

    def _query_once(self) -> None:
        self.slurm = self._query_slurm(self._missing_since)
        self.problem = self.slurm.answers.queue.problem
        if not self.dry and not self.problem:
            self._settle()
        self._missing_since = self.slurm.reconciled.missing_since
        # The disk after Slurm: the result of what has ended by then is there.
        # Why: docs/decisions.md, D39
        self.snapshot.reload(self.slurm.build_report())
        answers, margin = self.slurm.answers, self.timeouts.missing_job_s
        self.snapshot.update(
            {
                **find_invisible_results(self.snapshot, self._ask_cluster_now(answers) - margin),
                **self._find_stale_dependencies(answers.taken_at - margin),
            }
        )
        self._log_observations()

    def _ask_cluster_now(self, answers: SlurmAnswers) -> float:
        """The moment of the answers by the controller's clock, which is asked if a result may not be visible yet."""
        if answers.controller_time or not find_invisible_results(self.snapshot, float("-inf")):
            return answers.cluster_now
        return self.client.query_controller_time() or answers.taken_at

    def _find_stale_dependencies(self, before: float) -> dict[str, Observation]:
        """By the file server's clock, which stamped the results: this machine's may be another."""
        if self.dry or not find_stale_dependencies(self.snapshot, float("inf")):
            return find_stale_dependencies(self.snapshot, before)
        return find_stale_dependencies(self.snapshot, before - (self._measure_lead() or 0.0))

    def _measure_lead(self) -> float | None:
        """Seconds by which this machine's clock is ahead of the file server's; None for who may write nothing."""
        if self.dry:
            return None
        with tempfile.TemporaryDirectory(prefix=".clock-", dir=self.launch.store.root) as folder:
            return measure_clock_skew(Path(folder), self.clock)

    def _log_observations(self) -> None:
        seen = Counter(observation.state.value for observation in self.snapshot.observed.values())
        states = Counter(status.state.value for status in self.snapshot.statuses.values())
        logger.info("Slurm has %s; the jobs are %s", format_counts(seen), format_counts(states))
        if self.problem:
            logger.info("nothing can be sent: %s", self.problem)
        for key, observation in self.snapshot.observed.items():
            logger.debug("%s: %s %s %s", key, observation.state, observation.id, observation.describe_wait())

    def _query_slurm(self, missing_since: Mapping[str, float]) -> SlurmSnapshot:
        lead = self._measure_lead() if has_writers_elsewhere(self.launch.store) else None
        history = load_batch_history(self.launch.store, self.launch.sweep, self.snapshot.by_key.keys(), lead)
        answers = query_answers(self.client, history, clock=self.clock)
        return build_slurm_snapshot(self.launch.sweep, history, answers, self.timeouts, missing_since)

    def _settle(self) -> None:
        found = self.slurm
        self.problem = save_settled(found, self.ledger, self.client, self.timeouts)
        if found.reconciled.unknown_batches and not self.problem:
            self.slurm = self._query_slurm({})  # with the tasks that their scripts named
        if found.reconciled.duplicates:
            self.withdrawal_problem = ""
            self._withdraw_ids(found, [each for each in found.reconciled.duplicates if self._may_end(each)])
            if self.withdrawal_problem:
                self.slurm.reconciled.remarks.append(self.withdrawal_problem)

    def _needs_second_query(self) -> bool:
        """Whether some job that is not done is missed, and was sent so long ago that two queries suffice."""
        missed = {key for key in self._missing_since if key in self.snapshot.by_key}
        missed = {key for key in missed if self.snapshot.statuses[key].state is JobState.UNKNOWN}
        old_enough = self.slurm.answers.taken_at + self.timeouts.recheck_s - self.timeouts.missing_job_s
        return not self.slurm.answers.queue.problem and any(
            batch.sent_at <= old_enough and missed.intersection(batch.tasks.values())
            for batch in self.slurm.batch_history.batches.values()
            if batch.id
        )

    @property
    def live(self) -> dict[str, Observation]:
        """What Slurm has of the plan's jobs, by key."""
        return {key: seen for key, seen in self.snapshot.observed.items() if seen.state is not ClusterState.ENDED}

    @property
    def orphaned_jobs(self) -> dict[str, Observation]:
        """What it still has of jobs that an edit took out of the plan, by key."""
        return {
            key: seen
            for key, seen in self.slurm.reconciled.observations.items()
            if key not in self.snapshot.by_key and seen.state is not ClusterState.ENDED
        }

    def list_remarks(self) -> list[str]:
        """What the last query found odd, one line each."""
        remarks = [*self.snapshot.remarks, *self.site_remarks, *list_unsettled_remarks(self.snapshot)]
        remarks += list_unread_runs(self.snapshot, self.wanted)
        running = [seen.id for seen in self.orphaned_jobs.values() if seen.state is ClusterState.RUNNING]
        if running:
            remarks.append(
                format_counted(len(running), "job that left the plan still runs", "jobs that left the plan still run")
                + f": {', '.join(running[:5])}; end them with scancel"
            )
        return [*remarks, *self._list_foreign_remarks()]

    def _list_foreign_remarks(self) -> list[str]:
        """What is to leave the queue and is another person's job."""
        ids = [*self.list_own_ids(self._find_unwanted(), {*PENDING, ClusterState.RUNNING}).values()]
        rows = {row.id: row for row in self.slurm.answers.queue.rows}
        foreign = {each: rows[each].user for each in [*ids, *self.slurm.reconciled.duplicates] if each in rows}
        owners = Counter(user for each, user in foreign.items() if not self._may_end(each))
        return [
            format_counted(number, f"job of {user} is", f"jobs of {user} are")
            + f" to leave the queue: only {user} (the next `sweep tick {self.launch.sweep}`) or an operator "
            "can take them out"
            for user, number in owners.items()
        ]

    def _find_unwanted(self) -> list[str]:
        """Keys of jobs that the cluster has and should have no more."""
        statuses = self.snapshot.statuses
        stopped = [key for key, status in statuses.items() if status.state in STOPPED or status.cancel_pending]
        return [key for key in [*stopped, *self.orphaned_jobs] if key in self.slurm.reconciled.observations]

    # Why: docs/decisions.md, D131
    def _may_end(self, job_id: str) -> bool:
        """Whether a round tries to end this job: this user's, and for root anybody's.

        Slurm refuses other people's, and notes each try as an attack in the controller's log.
        """
        owners = {row.id: row.user for row in self.slurm.answers.queue.rows if row.user}
        return os.geteuid() == 0 or owners.get(job_id, self.site.user) == self.site.user

    # Decide: nothing is changed.

    def decide(self) -> list[Action]:
        """What is to be done now; nothing while squeue does not answer."""
        if self.problem:
            return []
        self._room = self.measure_room(self.snapshot) if self.measure_room is not None else None
        candidates = self._select_candidates()
        self.unfit = self.checker.find_known(candidates)
        actions = self._decide_without_unfit()
        # Only what would be sent is asked about: a round with nothing to send asks nothing.
        while submits := [action.key for action in actions if isinstance(action, Submit)]:
            self.checker.find_refusals(self.snapshot.by_key[key] for key in submits)
            unfit = self.checker.find_known(candidates)
            if unfit.keys() == self.unfit.keys():
                break
            self.unfit = unfit
            actions = self._decide_without_unfit()
        logger.info("to do: %s", format_counts(Counter(type(action).__name__.lower() for action in actions)))
        for action in actions:
            logger.debug("%s", action)
        for limit in sorted(self.capacity.full):
            logger.info("no room for more under %s", limit)
        return actions

    def _decide_without_unfit(self) -> list[Action]:
        finished = self.snapshot.select_in_state({JobState.DONE})
        self.capacity = self._compute_capacity()
        order = [*finished, *sort_jobs(self.snapshot.jobs, {job.key for job in finished}, self.priorities)]
        wanted = set() if self.held_back else set(self.wanted) - self.unfit.keys()
        self.held = {}
        if self.canary is not None:
            # a job for which no budget has room cannot go first: it would keep smaller ones of its shape waiting
            room = self.capacity.amounts
            payable = wanted if room is None else {key for key in wanted if not room.find_full(key)}
            self.held = self.canary.find_held(self.snapshot, order, payable)
        return decide(
            order,
            self.snapshot.statuses,
            wanted=wanted - list_held_keys(self.held),
            observed=self.live,
            damaged=self.snapshot.find_damaged_parents(),
            chained=True,
            capacity=self.capacity,
            set_aside=self.snapshot.find_set_aside_inputs(),
        )

    # Why: docs/decisions.md, D106
    @property
    def checker(self) -> FeasibilityChecker:
        """What Slurm said in this round of the requests that were to be sent."""
        if self._checker is None:
            self._checker = FeasibilityChecker(
                client=self.client, site=self.site, exclude=self._select_excluded_nodes(), clock=self.clock
            )
        return self._checker

    def _select_candidates(self) -> list[Job]:
        """Wanted jobs that could be sent now or later."""
        open_jobs = self.snapshot.select_in_state({JobState.READY, JobState.INTERRUPTED, JobState.WAITING})
        return [job for job in open_jobs if job.key in self.wanted and job.key not in self.live]

    def select_taken(self) -> set[str]:
        """Keys of wanted jobs of which Slurm said in this round that it would take them."""
        return self.checker.select_taken(self._select_candidates())

    def _compute_capacity(self) -> QueueCapacity:
        left = compute_queue_capacity(self.site, self.slurm.answers.queue.rows, self.site.user)
        if self.max_queued is not None:
            left[OWN_LIMIT] = self.max_queued - len(self.live)
        return QueueCapacity(
            left,
            lambda job: [*list_limit_names(job, self.site, self.site.user), OWN_LIMIT],
            amounts=self._room.copy() if self._room is not None else None,
        )

    def plan_batches(self, submits: Sequence[Submit]) -> list[SlurmBatch]:
        """The arrays that these jobs go out in."""
        self.site_remarks = list_site_remarks(self.site, [self.snapshot.by_key[submit.key] for submit in submits])
        planner = BatchPlanner(
            sweep=self.launch.sweep,
            jobs=self.snapshot.by_key,
            live=self._find_array_tasks(),
            array_limit=self.site.array_limit,
            memory_gib={
                submit.key: choose_memory_gib(self.snapshot.by_key[submit.key], self.snapshot.runs[submit.key].outcomes)
                for submit in submits
            },
            exclude=(excluded := self._select_excluded_nodes()),
            avoid=self._select_avoided_nodes(submits, excluded),
            gpu_type=lambda job: choose_gpus(job, self.site).kind,
            memory_tracked=lambda job: can_ask_memory(job, self.site),
        )
        return planner.plan_batches(submits)

    def _find_array_tasks(self) -> dict[str, ArrayTask]:
        """Where the live jobs are that others can be queued behind."""
        found = {}
        for key, seen in self.snapshot.observed.items():
            array, _, index = seen.id.partition("_")
            if seen.state in {ClusterState.QUEUED, ClusterState.RUNNING} and (index or array).isdigit():
                found[key] = ArrayTask(batch=array, index=int(index or 0), id=array, is_single=not index)
        return found

    def _select_excluded_nodes(self) -> tuple[str, ...]:
        nodes = max((partition.nodes or 0 for partition in self.site.partitions or ()), default=0)
        now = self.clock.now()
        excluded = select_excluded_nodes(
            self.snapshot.read_node_evidence(now - EXCLUSION_HOURS * 3600),
            now,
            endings=[record for known in self.snapshot.accounting_records.values() for record in known],
            limit=MOST_NODES,
        )
        # sbatch refuses every job that excludes a node which has left the cluster
        known = {node for partition in self.site.partitions or () for node in parse_node_list(partition.node_list)}
        there = [each.node for each in excluded if each.node in known or not known]
        return tuple(there[: compute_exclusion_limit(nodes)])

    def _select_avoided_nodes(
        self, submits: Sequence[Submit], excluded: Collection[str]
    ) -> Mapping[str, tuple[str, ...]]:
        """By key, what a job avoids beside `excluded`; at most half of what its partition has left, and never so much
        that it has too few nodes."""
        found: dict[str, tuple[str, ...]] = {}
        for submit in submits:
            job = self.snapshot.by_key[submit.key]
            avoided = select_avoided_nodes(self.snapshot.runs[job.key].outcomes, self.clock.now())
            if not avoided:
                continue
            partitions = find_job_partitions(job, self.site)
            left = {node for each in partitions for node in parse_node_list(each.node_list)}.difference(excluded)
            room = min(len(left) // 2, len(left) - job.resources.nodes)
            there = [node for node in avoided if node in left][: max(0, room)]
            if there:
                logger.info("%s avoids %s, where it failed", job.key, ", ".join(there))
                found[job.key] = tuple(sorted(there))
        return found

    # Act.

    def run(self, actions: Sequence[Action]) -> RoundReport:
        """Acts; and decides again where something was taken out that is to be sent again, a few times at most.

        Raises StoreRefusedError; what was sent until then is in the ledger.
        """
        try:
            total = report = self._act(actions)
            for _ in range(MOST_PASSES - 1):
                if not (report.withdrawn or report.restored) or report.problem:
                    break
                self.query()
                report = self._act(self.decide())
                total = total.merge_later(report)
        except OSError as error:
            raise StoreRefusedError(describe_storage_error(error)) from error
        return total

    def _act(self, actions: Sequence[Action]) -> RoundReport:
        for action in actions:
            if isinstance(action, Invalidate):
                set_result_aside(self.snapshot.runs[action.key].run)
        # under the submit lock, which every round that acts has: `sweep gc` sets nothing aside meanwhile
        to_restore = [action.key for action in actions if isinstance(action, Restore)]
        for key in to_restore:
            self.snapshot.restore_inputs(key)
        withdrawn = [action.key for action in actions if isinstance(action, Withdraw)]
        orphaned = [key for key, seen in self.orphaned_jobs.items() if seen.state in PENDING]
        self.withdrawal_problem = ""
        gone = self._withdraw(self.select_own_keys([*withdrawn, *orphaned]))
        stopping = self._stop_cancelled()
        submits = [action for action in actions if isinstance(action, Submit)]
        sent = self._send(submits)
        placed = {key: Observation(state=ClusterState.QUEUED, id=job_id) for key, job_id in sent.placed.items()}
        self.snapshot.update({**dict.fromkeys(gone.intersection(withdrawn)), **placed})
        now, choices = self.clock.now(), list_choices(self.site)
        refused = {key: explain_refusal(answer, now, choices) for key, answer in sent.refused.items()}
        return RoundReport(
            sent=len(placed),
            calls=sent.calls,
            withdrawn=len(gone),
            restored=len(to_restore),
            asked_to_stop=stopping,
            limits=(
                *(f"no room for more under {describe_limit(limit)}" for limit in sorted(self.capacity.full)),
                *([sent.full] if sent.full else []),
                *sent.delayed,
                *list_delays(self.unfit),
            ),
            refused={**self.unfit, **refused},
            problem=self.problem or sent.problem or self.withdrawal_problem or self.held_back,
            gpus=self.describe_gpus(placed),
        )

    def describe_gpus(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Which of the site's GPUs these jobs ask for, and why; one line for each choice."""
        texts = (choose_gpus(self.snapshot.by_key[key], self.site).text for key in keys)
        return tuple(dict.fromkeys(filter(None, texts)))

    def _send(self, submits: Sequence[Submit]) -> SendReport:
        if not submits:
            return SendReport()
        # Slurm forgets an ended job after MinJobAge, and never with 0: slurm.conf(5)
        keeps_s = self.site.min_job_age_seconds / 2 or float("inf")
        age_s = self.clock.now() - self.slurm.answers.taken_at
        sender = BatchSender(
            client=self.client,
            ledger=self.ledger,
            launch=self.launch,
            user=self.site.user,
            holds_submit_lock=self.holds_submit_lock,
            parents_known_until=self.clock.monotonic() + keeps_s - age_s,
            parents_known_for=keeps_s,
            clock=self.clock,
        )
        return sender.send(self.plan_batches(submits))

    def cancel(self, keys: Collection[str]) -> str:
        """Queued tasks leave the queue; running ones get SIGTERM, save and stop. Returns a problem or ""."""
        self.withdrawal_problem = ""
        self._withdraw(keys)
        running = self.list_own_ids(keys, {ClusterState.RUNNING})
        logger.info("asks %d running jobs to save and stop", len(running))
        return self.client.cancel(running.values(), signal="TERM", batch=True) or self.withdrawal_problem

    def _stop_cancelled(self) -> int:
        """Carries out cancellations of jobs that run; how many were told.

        Somebody may have asked for them who could not: another person, or while scancel failed.
        """
        asked = [key for key, status in self.snapshot.statuses.items() if status.cancel_pending]
        running = set(self.list_own_ids(self.select_own_keys(asked), {ClusterState.RUNNING}).values())
        running -= self._told_to_stop
        if not running:
            return 0
        logger.info("asks %d running jobs, which are cancelled, to save and stop", len(running))
        self._told_to_stop |= running
        if problem := self.client.cancel(running, signal="TERM", batch=True):
            self.withdrawal_problem = (
                f"{format_counted(len(running), 'cancelled job')} could not be told to stop: {problem}"
            )
            return 0
        return len(running)

    def kill(self, keys: Collection[str]) -> str:
        """Ends running tasks at once; work since the last checkpoint is lost. Returns a problem or ""."""
        running = self.list_own_ids(keys, {ClusterState.RUNNING})
        logger.info("ends %d running jobs", len(running))
        return self.client.cancel(running.values())

    def _withdraw(self, keys: Collection[str]) -> set[str]:
        """Takes out what is still pending at that moment, and nothing that has begun meanwhile; the keys that left."""
        ids = self.list_own_ids(keys, PENDING)
        if not ids:
            return set()
        logger.info("takes %d jobs out of the queue", len(ids))
        logger.debug("takes out %s", ", ".join(ids.values()))
        gone = self._withdraw_ids(self.slurm, list(ids.values()))
        return {key for key, job_id in ids.items() if job_id in gone}

    def _withdraw_ids(self, found: SlurmSnapshot, ids: Sequence[str]) -> Collection[str]:
        # Note it before scancel: sacct will show CANCELLED by our uid, which must not be read as the user's request.
        self.ledger.write_withdrawn(group_keys_by_batch(found, set(ids)))
        report = self.client.withdraw(ids)
        self.ledger.write_kept(group_keys_by_batch(found, set(report.kept)))
        if report.problem:
            what = (
                f"{format_counted(len(report.kept), 'job')} did not leave"
                if report.kept
                else f"it is not known whether {len(ids)} left"
            )
            self.withdrawal_problem = f"{what} the queue as they should: {report.problem}"
            logger.info("%s", self.withdrawal_problem)
        return report.gone

    def list_own_ids(self, keys: Collection[str], states: Collection[ClusterState]) -> dict[str, str]:
        """Ids by key, without those whose live copy another sweep of the store has sent: it is not ours to end."""
        observed = {**self.orphaned_jobs, **self.snapshot.observed}
        ids = {key: observed[key].id for key in keys if key in observed and observed[key].state in states}
        names = {row.id: row.name for row in self.slurm.answers.queue.rows}
        return {key: each for key, each in ids.items() if parse_sweep_name(names.get(each, "")) == self.launch.sweep}

    def select_own_keys(self, keys: Collection[str]) -> list[str]:
        """Those whose job in the queue this user may end."""
        observed = {**self.orphaned_jobs, **self.snapshot.observed}
        return [key for key in keys if key not in observed or self._may_end(observed[key].id)]

    def find_owner(self, job_id: str) -> str:
        """The user whose job it is; empty if the queue does not say."""
        return next((row.user for row in self.slurm.answers.queue.rows if row.id == job_id), "")

    def list_remaining(self, keys: Collection[str]) -> dict[str, str]:
        """Ids by key of the jobs that the last query found in the queue and that Slurm is not ending already."""
        ending = {row.id for row in self.slurm.answers.queue.rows if row.state == "COMPLETING"}
        found = self.list_own_ids(keys, {*PENDING, ClusterState.RUNNING})
        return {key: each for key, each in found.items() if each not in ending}


def list_site_remarks(site: Site, jobs: Sequence[Job]) -> list[str]:
    """What is left out of the jobs' requests, as this cluster does not have it."""
    remarks = []
    if jobs and not site.array_limit:
        remarks.append("this cluster takes no arrays (MaxArraySize 0): each job is sent by an sbatch of its own")
    names = {each.name for job in jobs if not can_ask_memory(job, site) for each in find_job_partitions(job, site)}
    if names:
        remarks.append(
            f"nodes of partition {', '.join(sorted(names))} have no memory in Slurm's configuration (RealMemory): "
            "jobs are sent without --mem, and nothing holds them to memory_gib"
        )
    return remarks


def list_delays(refused: Mapping[str, Refusal]) -> list[str]:
    """A line for each reason that passes by itself."""
    found = Counter(str(each) for each in refused.values() if each.kind is not RefusalKind.INVALID)
    return [
        f"{number} {'job' if number == 1 else 'jobs'} cannot be queued now: {text}" for text, number in found.items()
    ]


def format_counts(counts: Mapping[str, int]) -> str:
    """`3 queued, 1 running`; `nothing` without any."""
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing"


def group_keys_by_batch(found: SlurmSnapshot, ids: set[str]) -> dict[str, list[str]]:
    """Keys of queued tasks by the name of their batch."""
    keys: dict[str, list[str]] = defaultdict(list)
    for row in found.answers.queue.rows:
        if row.id in ids and row.name in found.batch_history.batches:
            key = found.batch_history.batches[row.name].find_key(row.id)
            keys[row.name] += [key] if key is not None else []
    return keys


def find_invisible_results(snapshot: SweepSnapshot, since: float) -> dict[str, Observation]:
    """Jobs that Slurm calls COMPLETED `since` that moment (Unix seconds) and whose result this machine does not show
    yet: NFS caches may hide it."""
    found = {}
    for key, seen in snapshot.observed.items():
        records = snapshot.accounting_records.get(key)
        fresh = records and records[-1].state == "COMPLETED" and records[-1].ended_at > since
        if seen.state is ClusterState.ENDED and fresh and snapshot.statuses[key].state is not JobState.DONE:
            message = "ended well a moment ago; its result is not visible from here yet"
            found[key] = replace(seen, state=ClusterState.UNKNOWN, message=message)
    return found


def find_stale_dependencies(snapshot: SweepSnapshot, before: float) -> dict[str, Observation]:
    """Queued jobs that wait for others although all of their parents were done `before` that moment (Unix seconds).

    Their dependency names an id that was lost in a crash of the controller and given to another job: they could wait
    for ever, even for each other.
    """
    found = {}
    for key, seen in snapshot.observed.items():
        parents = snapshot.by_key[key].parents
        done = all(snapshot.statuses[parent].state is JobState.DONE for parent in parents)
        if seen.waits_for_parents and done and snapshot.are_done_before(parents, before):
            message = "waits for an id that is not its parent's any more"
            found[key] = replace(seen, state=ClusterState.STUCK, message=message, awaited="")
    return found
