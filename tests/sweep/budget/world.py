"""A cluster that exists in numbers alone: it starts, ends, requeues and accounts jobs of a store, late, in disorder.

What is decided is decided by the project's own code: the store's files, the snapshot, the budgets and the decisions of
a round are the real ones. Only Slurm and the stages are played.
"""

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.job import Estimate, Job, Resources
from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.decide import QueueCapacity, Submit, Withdraw, decide
from jobs.reconcile.order import sort_jobs
from jobs.reconcile.snapshot import ClusterReport, SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.store.paths import RunPaths, Store
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from sweep.budget.caps import BudgetWatch, Caps
from sweep.budget.prices import Prices
from sweep.budget.tariff import Tariff, find_wall_hours
from tests.jobs import toy
from tests.jobs.fake_clock import FakeClock

STEP_HOURS = 1 / 30
"""Of the world's clock."""
MOST_HOURS = 2_000.0
SWEEP = "toy"
GPUS = {"a100": 1.0, "h100": 2.9, "": 0.0}


@dataclass(slots=True)
class Execution:
    """What the world knows of a job in the cluster. Moments are hours from the beginning."""

    key: str
    job_id: str
    submitted: float
    ready: float
    """From when it may start."""
    began: float | None = None
    ends: float = 0.0
    outcome: str = ""
    """done, limit, fault, killed, preempted."""
    kept: float = 0.0
    """Of its work, as a part of it."""
    attempt: str = ""
    restart: int = 0


@dataclass(slots=True)
class Case:
    """One campaign, drawn by chance."""

    jobs: list[Job]
    truth: Mapping[str, float]
    """Hours of work that each job really needs."""
    unit: str
    cap: float
    slots: int
    tick_hours: float
    row_hours: float
    """By which the accounting is late at most."""
    trouble: float
    """Share of attempts that end badly."""
    self_requeue: bool


def draw_case(dice: random.Random) -> Case:
    """A campaign that would pass its budget."""
    jobs: list[Job] = []
    truth: dict[str, float] = {}
    speeds = {phase: dice.lognormvariate(0.0, 0.25) for phase in ("trunk", "pretrain", "finetune", "evaluate")}

    def add(key: str, phase: str, parents: tuple[str, ...], cells: list[str], hours: float) -> None:
        kind = dice.choice(list(GPUS)) if phase != "evaluate" else dice.choice(["a100", ""])
        gpus = dice.choice([1, 2, 4, 8]) if kind else 0
        restarts = dice.choice([0, 0, 0, 2]) if hours > 4 else 0
        minutes = max(5, round(hours * 60 * 1.25 / (1 + restarts)))
        resources = Resources(
            gpus_per_node=gpus, gpu_type=kind, cpus=dice.choice([4, 16]), time_minutes=minutes, restarts=restarts
        )
        estimate = (
            Estimate(gpu_hours=gpus * hours, a100_hours=gpus * hours * GPUS[kind])
            if gpus
            else Estimate(cpu_hours=resources.cores * hours)
        )
        job = toy.toy_job(key, *parents, phase=phase, cells=cells, resources=resources)
        jobs.append(replace(job, estimate=estimate))
        truth[key] = hours * speeds[phase] * dice.lognormvariate(0.0, 0.15)

    add("trunk", "trunk", (), [], dice.uniform(1, 8))
    for number in range(dice.randint(3, 10)):
        cell = f"c{number}"
        add(f"{cell}-pre", "pretrain", ("trunk",), [cell], dice.uniform(1, 10))
        add(f"{cell}-ft", "finetune", (f"{cell}-pre",), [cell], dice.uniform(0.5, 4))
        add(f"{cell}-ev", "evaluate", (f"{cell}-ft",), [cell], dice.uniform(0.2, 1.5))
    unit = dice.choice(["a100_hours", "core_hours", "money"])
    tariff = make_tariff()
    whole = sum(
        (getattr(tariff.measure_wall_hour(job), unit) or 0.0) * max(truth[job.key], find_wall_hours(job))
        for job in jobs
    )
    return Case(
        jobs=jobs,
        truth=truth,
        unit=unit,
        cap=whole * dice.uniform(0.25, 0.85),
        slots=dice.randint(1, 12),
        tick_hours=dice.choice([1 / 6, 0.5, 1.0]),
        row_hours=dice.choice([0.0, 0.2, 3.0]),
        trouble=dice.choice([0.0, 0.1, 0.3]),
        self_requeue=dice.random() < 0.5,
    )


def make_tariff() -> Tariff:
    return Tariff(Prices(currency="EUR", gpu_hour={"a100": 1.5, "h100": 3.25}, core_hour=0.01, source="test"))


@dataclass(slots=True)
class World:
    """One case in a store of its own."""

    case: Case
    store: Store
    dice: random.Random
    clock: FakeClock = field(default_factory=lambda: FakeClock(time=1_790_000_000.0))
    hours: float = 0.0
    in_cluster: dict[str, Execution] = field(default_factory=dict)
    rows: list[tuple[float, AccountingRecord]] = field(default_factory=list)
    """With the moment from which sacct shows them."""
    spent: float = 0.0
    """In the unit of the budget: the truth."""
    left_work: dict[str, float] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ids: int = 0
    sent: int = 0
    withdrawn: int = 0
    held: int = 0

    def __post_init__(self) -> None:
        toy.plan(self.store, self.case.jobs, backend="slurm")
        self.left_work = dict(self.case.truth)
        self.by_key = {job.key: job for job in self.case.jobs}

    by_key: dict[str, Job] = field(default_factory=dict)

    # What is played.

    def advance(self) -> None:
        """One step of the clock."""
        self.hours += STEP_HOURS
        self.clock.time += STEP_HOURS * 3600
        for each in list(self.in_cluster.values()):
            if each.began is not None and each.ends <= self.hours:
                self._end(each)
        for each in list(self.in_cluster.values()):
            running = sum(other.began is not None for other in self.in_cluster.values())
            if each.began is None and each.ready <= self.hours and running < self.case.slots and self._is_free(each):
                self._begin(each)

    def _is_free(self, each: Execution) -> bool:
        return all(self._run(parent).result.exists() for parent in self.by_key[each.key].parents)

    def _run(self, key: str) -> RunPaths:
        return self.store.locate_run(self.by_key[key].stage, key)

    def _moment(self, hours: float) -> float:
        return self.clock.time - (self.hours - hours) * 3600

    def _begin(self, each: Execution) -> None:
        job, dice = self.by_key[each.key], self.dice
        limit, need = job.resources.time_minutes / 60, self.left_work[each.key]
        each.began, length = self.hours, min(limit, need)
        each.outcome, each.kept = ("done", 1.0) if need <= limit else ("limit", 1.0)
        if dice.random() < self.case.trouble:
            each.outcome = dice.choice(["fault", "killed", "preempted"])
            length *= dice.random()
            each.kept = dice.choice([0.0, dice.random()])
        each.ends = self.hours + length
        self.attempts[each.key] += 1
        each.attempt = f"slurm-{self.attempts[each.key]:04}"
        AttemptStart(
            attempt=each.attempt, key=each.key, stage=job.stage, backend="slurm", host="n1", pid=1, pid_started=1.0,
            boot_id="b", started_at=self._moment(self.hours), cpus=job.resources.cpus, gpus=job.resources.gpus,
            gpu_type=job.resources.gpu_type, job_id=each.job_id, batch=f"sw-{each.job_id}-{SWEEP}",
            restart=each.restart, node="n1", cluster_started_at=self._moment(self.hours), order=self.attempts[each.key],
            checkpoint_step=self.attempts[each.key] * 10,
        ).write(self._run(each.key).locate_attempt(each.attempt).start)  # fmt: skip

    def _end(self, each: Execution) -> None:
        job = self.by_key[each.key]
        assert each.began is not None
        length = each.ends - each.began
        self.spent += length * self.measure_hour(job)
        self.left_work[each.key] -= length * each.kept
        self._write_end(each, length)
        del self.in_cluster[each.key]
        if each.outcome == "preempted" or (each.outcome == "limit" and self.case.self_requeue):
            again = Execution(
                key=each.key, job_id=each.job_id, submitted=self.hours, restart=each.restart + 1,
                ready=self.hours + self.dice.uniform(0.03, 1.0),
            )  # fmt: skip
            self.in_cluster[each.key] = again

    def _write_end(self, each: Execution, length: float) -> None:
        job, run, began = self.by_key[each.key], self._run(each.key), each.began or 0.0
        failure = {
            "done": None, "limit": FailureClass("wall_clock"), "fault": FailureClass("node_fault"),
            "killed": FailureClass("killed"), "preempted": FailureClass("preempted"),
        }[each.outcome]  # fmt: skip
        if each.outcome != "killed":  # whose supervisor was killed, too
            AttemptExit(
                attempt=each.attempt, key=each.key, ended_at=self._moment(each.ends), returncode=0, failure=failure,
                checkpoint_step=self.attempts[each.key] * 10 + (10 if each.kept else 0),
                checkpoint_at=self._moment(began + length * each.kept) if each.kept else 0.0,
            ).write(run.locate_attempt(each.attempt).exit)  # fmt: skip
        state = {
            "done": "COMPLETED", "limit": "TIMEOUT", "fault": "NODE_FAIL", "killed": "FAILED", "preempted": "PREEMPTED",
        }[each.outcome]  # fmt: skip
        if each.outcome == "done":
            content = {"format": 1, "key": each.key, "files": {}, "finished_at": self._moment(each.ends)}
            run.result.write_text(json.dumps(content))
        row = AccountingRecord(
            id=each.job_id, batch=f"sw-{each.job_id}-{SWEEP}", key=each.key, state=state, failure=failure,
            submitted_at=self._moment(each.submitted), started_at=self._moment(began), ended_at=self._moment(each.ends),
            elapsed_seconds=round(length * 3600), gpus=job.resources.gpus, cpus=job.resources.cores, nodes="n1",
            gpu_kinds=f"{job.resources.gpu_type}={job.resources.gpus}" if job.resources.gpus else "",
        )  # fmt: skip
        self.rows.append((self.hours + self.dice.uniform(0, self.case.row_hours), row))

    def measure_hour(self, job: Job) -> float:
        """What an hour of the job takes of the budget."""
        return float(getattr(make_tariff().measure_wall_hour(job), self.case.unit) or 0.0)

    @property
    def spent_now(self) -> float:
        """With what runs."""
        running = [each for each in self.in_cluster.values() if each.began is not None]
        return self.spent + sum(
            (self.hours - (each.began or 0.0)) * self.measure_hour(self.by_key[each.key]) for each in running
        )

    # What is decided.

    def watch(self) -> BudgetWatch:
        return BudgetWatch(SWEEP, Caps(amounts={self.case.unit: self.case.cap}, tariff=make_tariff()), self.clock)

    def report(self) -> ClusterReport:
        """What squeue and sacct show now."""
        seen: dict[str, Observation] = {}
        for each in self.in_cluster.values():
            parents = self.by_key[each.key].parents
            lost = any(parent not in self.in_cluster and not self._run(parent).result.exists() for parent in parents)
            waiting = ClusterState.STUCK if lost else ClusterState.QUEUED
            state = ClusterState.RUNNING if each.began is not None else waiting
            seen[each.key] = Observation(state=state, id=each.job_id)
        records: dict[str, list[AccountingRecord]] = defaultdict(list)
        shown = set()
        for visible, row in self.rows:
            if visible <= self.hours:
                records[row.key].append(row)
                shown.add((row.id, row.submitted_at))
        for _, row in self.rows:
            if (row.id, row.submitted_at) not in shown and row.key not in seen and row.state != "COMPLETED":
                seen[row.key] = Observation(state=ClusterState.UNKNOWN, id=row.id)  # gone, and no row of it yet
        return ClusterReport(observations=seen, accounting_records=records)

    def snapshot(self) -> SweepSnapshot:
        found = SweepSnapshot(self.case.jobs, self.store, SWEEP)
        found.reload(self.report())
        return found

    def tick(self) -> int:
        """A round; how many jobs it sent."""
        snapshot, watch = self.snapshot(), self.watch()
        room = watch.measure_room(snapshot)
        assert watch.standing is not None
        if watch.find_problem(watch.standing):
            raise AssertionError(watch.find_problem(watch.standing))
        capacity = QueueCapacity(amounts=room.copy())
        finished = snapshot.select_in_state({JobState.DONE})
        actions = decide(
            [*finished, *sort_jobs(snapshot.jobs, {job.key for job in finished})],
            snapshot.statuses,
            wanted=set(self.by_key),
            observed={key: seen for key, seen in snapshot.observed.items() if seen.state is not ClusterState.ENDED},
            damaged={},
            chained=True,
            capacity=capacity,
        )
        sent = 0
        for action in actions:
            if isinstance(action, Withdraw) and self.in_cluster[action.key].began is None:
                del self.in_cluster[action.key]
                self.withdrawn += 1
            elif isinstance(action, Submit):
                self.ids += 1
                self.in_cluster[action.key] = Execution(
                    key=action.key, job_id=f"{100 + self.ids}", submitted=self.hours, ready=self.hours
                )
                sent += 1
        assert capacity.amounts is not None
        self.held = sum(len(keys) for keys in capacity.amounts.held.values())
        self.sent += sent
        return sent

    def run(self) -> None:
        """Ticks until nothing is in flight, everything is accounted, and nothing more is sent."""
        next_tick = quiet = 0.0
        while quiet < 3 and self.hours < MOST_HOURS:
            if self.hours >= next_tick:
                next_tick += self.case.tick_hours
                late = any(visible > self.hours for visible, _ in self.rows)
                quiet = 0 if self.tick() or self.in_cluster or late else quiet + 1
            self.advance()


def run_case(seed: int, number: int, folder: Path) -> World:
    """One campaign to its end."""
    dice = random.Random(f"{seed}:{number}")
    world = World(draw_case(dice), Store(folder / "store"), dice)
    world.run()
    return world
