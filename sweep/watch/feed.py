"""What the live view shows: a snapshot of the sweep that is kept up to date at little cost.

The whole sweep is read again once a minute (a large one more seldom), and Slurm is asked then at most. In between, jobs
that run are looked at by the times of their files, and folders of stages by theirs, so that a job that begins or ends
is seen within seconds. Two files tell of what a person did meanwhile, here or elsewhere: the plan, and the kept answers
of Slurm, which every round drops (docs/decisions.md, D217). Then all is read again at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import JobsError
from jobs.job import Job
from jobs.local.runner_lock import read_runner_queue
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.ledger import has_batches, list_ledger_files
from jobs.store.results import list_names
from sweep.canary.rule import build_held_rows, read_held_jobs
from sweep.errors import SweepError
from sweep.kept_limits import build_limits_json, read_limits
from sweep.report.status import add_held_jobs, build_status_json
from sweep.report.time_left import TimeLeft, read_time_left
from sweep.results.evidence import build_job_evidence
from sweep.stored_sweep import StoredSweep, open_sweep
from sweep.watch.curves import MetricsCurve

FULL_S = 60.0
"""Between two readings of the whole sweep."""
SHARE = 1 / 300
"""Of the time, at most, that a costly reading may take on average."""
EARLY_S = 10.0
"""Between a reading of the whole sweep and one that a person's act brings about: a round drops the answers twice."""
EARLY_TIMES = 20
"""So many times as long as the reading took, at least."""
RUNNING_EACH_LOOK = 50
"""Running jobs that are looked at in one look; of more, the others come next."""
COUNTED_EACH_LOOK = 100
"""Jobs whose hours are read in one look."""

Mark = tuple[int, int]


@dataclass
class HoursSum:
    """Hours of ended executions, counted job by job."""

    gpu: float = 0.0
    cpu: float = 0.0
    a100: float | None = 0.0
    """None: the catalog has no factor for a GPU that was used."""
    wasted_gpu: float = 0.0
    wasted_cpu: float = 0.0
    counted: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """Jobs that are in the sums, with what was added."""


class SweepFeed:
    """One sweep's. The whole is read in a thread, so that keys are answered while Slurm is not."""

    def __init__(self, stored: StoredSweep, clock: Clock = SYSTEM_CLOCK) -> None:
        self.stored = stored
        self.report: Mapping[str, Any] = {}
        """As `sweep status --json` has it."""
        self.curves: dict[str, MetricsCurve] = {}
        """Of running jobs, by key."""
        self.hours = HoursSum()
        self.read_at = 0.0
        """When the whole sweep was read last, in Unix seconds."""
        self.problem = ""
        """Why the last reading failed; what is shown is older then."""
        self.snapshot: SweepSnapshot
        self.version = 0
        """Changes with what is shown."""
        self.planned_left = (0.0, 0.0)
        """A100-hours and core-hours that jobs which are not done are planned to take, whole."""
        self._reading: _Reading | None = None
        self.running: list[str] = []
        """Keys of the jobs that run."""
        self._clock = clock
        self.longest_name = find_longest_name(stored)
        """Letters of a cell's."""
        self._left = TimeLeft(None, "")
        self._next_full = self._next_early = self._next_left = self._next_report = 0.0
        self._plan: Mark | None = read_mark(stored.paths.manifest)
        self._answers: Mark | None = read_mark(stored.paths.slurm_answers)
        self._stale = True
        self._marks: dict[str, tuple[object, ...]] = {}
        self._stages: dict[str, tuple[Mark | None, frozenset[str]]] = {}
        self._ledger: object = None
        self._turn = 0
        self._uncounted: list[str] = []

    def read_all(self) -> None:
        """Reads everything again, and waits for it. Raises what a reading of the store or Slurm's client raises."""
        reading = self._start_reading()
        reading.run()
        self._take_in(reading)

    def _start_reading(self) -> "_Reading":
        """One that knows the plan that is shown, to be run or started."""
        return _Reading(self.stored, self._plan, self._clock)

    def _take_in(self, reading: "_Reading") -> None:
        began = self._clock.monotonic()
        self._next_early = began + max(EARLY_S, EARLY_TIMES * reading.seconds)
        if reading.error is not None or reading.snapshot is None:
            self._next_full = began + FULL_S / 2
            raise reading.error or SweepError("the sweep could not be read")
        self._plan, self._answers = reading.plan, reading.answers
        if reading.stored is not self.stored:
            self.stored = reading.stored
            self.longest_name = find_longest_name(self.stored)
            planned = {job.key for job in self.stored.manifest.jobs}
            self.hours.counted = {key: row for key, row in self.hours.counted.items() if key in planned}
            self._sum_hours()
        self.snapshot = reading.snapshot
        self._ledger, self._stages = reading.ledger, reading.stages
        self.read_at = reading.began_at
        self.running = self._list_running()
        self._marks = dict.fromkeys(self.running, ())  # what has changed since is seen at the next look
        self._build_report(force=True)
        self._uncounted = [
            job.key
            for job in self.snapshot.jobs
            if (run := self.snapshot.runs[job.key]).done or run.outcomes
            if self.hours.counted.get(job.key, (None,))[0] != self._identify_run(job.key)
        ]
        ended = self._clock.monotonic()
        self._next_full = ended + max(FULL_S, (ended - began + reading.seconds) / SHARE)

    def refresh(self, *, force: bool = False) -> bool:
        """Takes in what is new; whether anything is."""
        now = self._clock.monotonic()
        if self._reading is None and (force or now >= self._next_full or (now >= self._next_early and self._is_old())):
            self._reading = self._start_reading()
            self._reading.start()
        if self._reading is not None and not self._reading.is_alive():
            reading, self._reading = self._reading, None
            self._take_in(reading)
            return True
        changed = self._look_at_runs()
        changed = self._look_at_ledger() or changed
        self._stale = self._stale or changed
        built = self._build_report() if self._stale else False
        return self._count_hours() or built

    def _is_old(self) -> bool:
        """Whether somebody has planned again, or has changed the queue, since all was read."""
        if read_mark(self.stored.paths.manifest) != self._plan:
            return True
        answers = read_mark(self.stored.paths.slurm_answers)
        if answers == self._answers:
            return False
        self._answers = answers  # answers that another reader has kept are no news
        from jobs.slurm.query import is_dropped  # here: a sweep that never went to Slurm is shown without its client

        return is_dropped(self.stored.paths.slurm_answers)

    def update_curves(self, keys: Iterable[str]) -> bool:
        """Reads the metrics of running jobs that are on the screen; whether one has grown."""
        grown = False
        for key in keys:
            if key not in self.curves:
                self.curves[key] = MetricsCurve(self.snapshot.runs[key].run.metrics)
            grown = self.curves[key].update() or grown
        self.version += grown
        return grown

    def _list_running(self) -> list[str]:
        return [job.key for job in self.snapshot.select_in_state({JobState.RUNNING})]

    def _look_at_runs(self) -> bool:
        """Reads again the folders of jobs that changed, and of jobs whose folder is new."""
        running, known = self.running, set(self.running)
        first = self._turn % max(1, len(running))
        part = [*running[first:], *running[:first]][:RUNNING_EACH_LOOK]
        self._turn = first + len(part)
        changed = {key for key in part if self._marks.get(key) != self._read_marks(key)}
        for stage, (mark, names) in list(self._stages.items()):
            if read_mark(self.stored.store.runs / stage) != mark:
                self._stages[stage] = read_stage(self.stored, stage)
                found = self._stages[stage][1]
                changed |= {key for key in found - names if key in self.snapshot.by_key}
        # a job that has just begun may have no attempt yet: it is looked at until it runs
        changed |= {key for key in self._marks if key not in known and self._marks[key] != self._read_marks(key)}
        if changed:
            before = {key: self._read_marks(key) for key in changed}  # a change while they are read is seen once more
            self.snapshot.update({}, reread=changed)
            self.running = self._list_running()
            self._marks = {
                key: before[key] if key in before else self._marks.get(key, ())
                for key in {*self.running, *changed}
                if not self.snapshot.runs[key].done
            }
        return bool(changed)

    def _look_at_ledger(self) -> bool:
        """People's requests, and the queue of a runner of this machine."""
        sizes = read_ledger_sizes(self.stored)
        if sizes == self._ledger:
            return False
        self._ledger = sizes
        self.snapshot.reload_user_requests(but_not_of="")
        if not has_batches(self.stored.paths.ledger):
            queue = read_runner_queue(self.stored.store, self.stored.manifest.sweep)
            known = {key for key in self.snapshot.by_key if key in self.snapshot.observed}
            self.snapshot.update({**dict.fromkeys(known - queue.keys()), **queue})
        return True

    def _read_marks(self, key: str) -> tuple[object, ...]:
        """What changes when a job goes on, ends or is killed."""
        known = self.snapshot.runs[key]
        folders = [known.run.root, known.run.attempts, *([known.last.paths.root] if known.last else [])]
        return (*map(read_mark, folders), known.live and is_held(known.run.lock))

    def _build_report(self, *, force: bool = False) -> bool:
        """The report of `sweep status`, no oftener than its cost allows."""
        began, now = self._clock.monotonic(), self._clock.now()
        if not force and began < self._next_report:
            return False
        if force or began >= self._next_left:
            self._left = read_time_left(self.stored, self.snapshot, now)
            took = self._clock.monotonic() - began
            self._next_left = began + max(10.0, took / SHARE)
        report = build_status_json(self.stored.manifest.sweep, self.snapshot, self._left, now)
        kept = read_limits(self.stored.paths.limits)
        held = read_held_jobs(self.stored, self.snapshot, kept)
        add_held_jobs(report, build_held_rows(self.snapshot, held.shapes), held)
        report["limits"] = build_limits_json(kept)
        self.report, self._stale = report, False
        self.version += 1
        self.planned_left = self._sum_planned_left()
        running = set(self.running)
        self.curves = {key: curve for key, curve in self.curves.items() if key in running}
        ended = self._clock.monotonic()
        self._next_report = ended + 30 * (ended - began)
        return True

    def _identify_run(self, key: str) -> object:
        run = self.snapshot.runs[key]
        return run.done, run.finished_at, len(run.outcomes), len(self.snapshot.accounting_records.get(key, ()))

    def _count_hours(self) -> bool:
        """Adds the hours of some more jobs."""
        part, self._uncounted = self._uncounted[:COUNTED_EACH_LOOK], self._uncounted[COUNTED_EACH_LOOK:]
        for key in part:
            run = self.snapshot.runs[key]
            records = self.snapshot.accounting_records.get(key, ())
            job = self.snapshot.by_key[key]
            costs = build_job_evidence(
                job, self.snapshot.statuses[key].state, run, records, self.snapshot.explain_hours(key)
            ).costs
            new = (costs.total.gpu_hours, costs.total.cpu_hours, costs.total.a100_hours,
                   costs.wasted.gpu_hours, costs.wasted.cpu_hours)  # fmt: skip
            self.hours.counted[key] = (self._identify_run(key), *new)
        if part:
            self.version += 1
            self._sum_hours()
        return bool(part)

    def _sum_hours(self) -> None:
        rows: list[Any] = [row[1:] for row in self.hours.counted.values()]
        self.hours.gpu, self.hours.cpu = sum(row[0] for row in rows), sum(row[1] for row in rows)
        self.hours.a100 = None if any(row[2] is None for row in rows) else sum(row[2] for row in rows)
        self.hours.wasted_gpu, self.hours.wasted_cpu = sum(row[3] for row in rows), sum(row[4] for row in rows)

    @property
    def uncounted(self) -> int:
        """Jobs whose hours are not in the sum yet."""
        return len(self._uncounted)

    def _sum_planned_left(self) -> tuple[float, float]:
        left: list[Job] = [
            job for job in self.snapshot.jobs if self.snapshot.statuses[job.key].state is not JobState.DONE
        ]
        return sum(job.estimate.a100_hours for job in left), sum(job.estimate.cpu_hours for job in left)


class _Reading(Thread):
    """One reading of a whole sweep."""

    def __init__(self, stored: StoredSweep, plan: Mark | None, clock: Clock) -> None:
        super().__init__(name="reading", daemon=True)  # a client of Slurm that hangs holds up no quit
        self._clock = clock
        self.stored = stored
        """The plan as it is now."""
        self.plan = plan
        self.answers: Mark | None = None
        self.snapshot: SweepSnapshot | None = None
        self.error: OSError | JobsError | SweepError | None = None
        self.began_at = clock.now()
        """Unix seconds."""
        self.ledger: object = None
        self.stages: dict[str, tuple[Mark | None, frozenset[str]]] = {}
        self.seconds = 0.0

    def run(self) -> None:
        """Leaves the snapshot, or the error."""
        began = self._clock.monotonic()
        try:
            # before the runs are read: what changes meanwhile is news
            plan = read_mark(self.stored.paths.manifest)
            if plan != self.plan:
                self.stored, self.plan = open_sweep(self.stored.store.root, self.stored.manifest.sweep), plan
            self.answers = read_mark(self.stored.paths.slurm_answers)
            self.ledger = read_ledger_sizes(self.stored)
            self.stages = {
                stage: read_stage(self.stored, stage) for stage in {job.stage for job in self.stored.manifest.jobs}
            }
            self.snapshot = self.stored.load_snapshot(recent_answers=True, trusts_checked=True)
        except (OSError, JobsError, SweepError) as error:
            self.error = error
        self.seconds = self._clock.monotonic() - began


def find_longest_name(stored: StoredSweep) -> int:
    """Letters of the longest name of a cell."""
    return max((len(cell.name) for cell in stored.manifest.cells), default=0)


def read_ledger_sizes(stored: StoredSweep) -> object:
    """What changes when anybody asks for something, or a runner of this machine starts a job."""
    return [(path.name, path.stat().st_size) for path in list_ledger_files(stored.paths.ledger)]


def read_stage(stored: StoredSweep, stage: str) -> tuple[Mark | None, frozenset[str]]:
    """The time of change of a stage's folder, and the names in it."""
    folder = stored.store.runs / stage
    mark = read_mark(folder)  # before the names: what comes later changes it
    return mark, list_names(folder)


def read_mark(path: Path) -> Mark | None:
    """What changes with a folder's or a file's content; None if it is not there."""
    try:
        known = path.stat()
    except OSError:
        return None
    return known.st_mtime_ns, known.st_size
