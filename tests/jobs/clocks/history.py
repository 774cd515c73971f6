"""One random history of a small sweep: commands of two people on machines with wrong clocks, attempts on other ones.

Every command is the real one, in a process whose `time.time` is off by up to some hours; so is each attempt's, by an
offset of its own (site/sitecustomize.py). Times of files are the kernel's, as a file server's are its own. Jobs are
counting stages that fail in known ways; they leave a log of what ran.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from sweep import cli
from tests.jobs import toy

HERE = Path(__file__).parent
STAGE = f"{sys.executable} {toy.COUNTING_STAGE[-1]}"
ROUNDS = 12
"""Resumptions after which every job must be done: no job fails more often."""
PEOPLE = 2
MOST_SECONDS = 180.0
"""Of one command: a sweep that never ends is a broken promise."""


class BrokenPromiseError(AssertionError):
    """What a history must not show."""


def build_jobs(chance: random.Random) -> list[Job]:
    """Seven jobs in three generations, of which some fail a few times, each in its own way."""

    def choose_fault(*, is_child: bool) -> dict[str, Any]:
        kinds = ["", "", "code", "kill", "unknown", *(["damaged_input"] * 2 if is_child else [])]
        kind = chance.choice(kinds)
        times = 1 if kind == "damaged_input" else chance.randint(1, 3)
        return {"fail": kind, "fail_at": chance.randint(0, 2), "fail_times": times} if kind else {}

    def make(key: str, *parents: str, phase: str = "pretrain") -> Job:
        return toy.toy_job(key, *parents, phase=phase, cells=[key[0]] if phase != "trunk" else [],
                           step_seconds=0.02, **choose_fault(is_child=bool(parents)))  # fmt: skip

    return [
        make("trunk1", phase="trunk"),
        make("trunk2", "trunk1", phase="trunk"),
        make("a-pre", "trunk1"),
        make("a-ft", "a-pre", phase="finetune"),
        make("a-ev", "a-ft", phase="evaluate"),
        make("b-pre", "trunk2"),
        make("b-ft", "b-pre", phase="finetune"),
    ]


@dataclass(slots=True)
class History:
    """A store, its people's clocks, and what was done."""

    folder: Path
    seed: int
    most_seconds: float
    said: list[str] = field(default_factory=list)
    runner: int = 0
    """Process of a `sweep submit` that nobody waits for; 0: there is none."""
    chance: random.Random = field(init=False)
    jobs: list[Job] = field(init=False)
    store: Store = field(init=False)
    offsets: list[float] = field(init=False)
    """Seconds by which each person's clock is ahead."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.jobs = build_jobs(self.chance)
        self.store = Store(self.folder / "store")
        self.offsets = [self.chance.uniform(-self.most_seconds, self.most_seconds) for _ in range(PEOPLE)]
        toy.plan(self.store, self.jobs)

    def run(self, steps: int) -> None:
        """A history of so many steps, and then the sweep to its end. Raises BrokenPromiseError."""
        try:
            for _ in range(steps):
                self.chance.choice(
                    [self.submit, self.submit, self.submit_and_kill, self.cancel, self.resume, self.disturb]
                )()
            self.finish()
        finally:
            self.end_runner()

    # What people do.

    def submit(self) -> None:
        """To its end. Failed and cancelled jobs stay as they are."""
        self.end_runner()
        stopped = self.list_in({JobState.FAILED, JobState.CANCELLED})
        before = self.count_begun()
        self.command("submit", toy.SWEEP, "--cpus", "2")
        again = [key for key in stopped if self.count_begun()[key] > before[key]]
        self.demand(not again, f"{again} were failed or cancelled, and ran without a `resume`")
        left = self.list_in(set(JobState) - {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.BLOCKED})
        self.demand(not left, f"{left} could have run")

    def submit_and_kill(self) -> None:
        """The runner is killed; what it started goes on."""
        self.end_runner()
        self.runner = self.start("submit", toy.SWEEP, "--cpus", "2")
        time.sleep(self.chance.uniform(0.1, 1.5))
        os.kill(self.runner, signal.SIGKILL)
        self.end_runner()

    def disturb(self) -> None:
        """While one person's runner is at work, another cancels, or cancels and resumes."""
        self.end_runner()
        self.runner = self.start("submit", toy.SWEEP, "--cpus", "2")
        time.sleep(self.chance.uniform(0.2, 1.0))
        self.cancel()
        if self.chance.random() < 0.5:
            self.resume()

    def cancel(self) -> None:
        cells = self.chance.choice([[], ["a"], ["b"]])
        code = self.command("cancel", toy.SWEEP, *cells, "--grace", "20")
        self.demand(code == 0, f"`cancel` ended with {code}")
        named = {job.key for job in self.jobs if not cells or job.cells == tuple(cells)}
        wrong, deadline = named, time.monotonic() + 10
        while wrong and time.monotonic() < deadline:  # one that was starting sees the wish and ends
            wrong = named.intersection(self.list_in(set(JobState) - {JobState.DONE, JobState.CANCELLED}))
        self.demand(not wrong, f"{sorted(wrong)} are not cancelled after `cancel`: {self.states()}")

    def resume(self) -> None:
        """Gives a new budget, which the next submission uses."""
        failed = self.list_in({JobState.FAILED})
        self.command("resume", toy.SWEEP, "--no-submit")
        if self.runner:
            return  # the runner may have tried again, and failed again, by now
        still = self.list_in({JobState.FAILED, JobState.CANCELLED})
        self.demand(not still, f"{still} have no new budget after `resume`")
        before = self.count_begun()
        self.command("submit", toy.SWEEP, "--cpus", "2")
        done = self.list_in({JobState.DONE})
        idle = [job.key for job in self.jobs if job.key in failed and self.count_begun()[job.key] == before[job.key]
                and set(job.parents) <= set(done)]  # fmt: skip
        self.demand(not idle, f"{idle} had failed, were resumed, and did not run")

    def finish(self) -> None:
        """Whatever happened, nothing is lost, and nothing ran twice."""
        for _ in range(ROUNDS):
            if len(self.list_in({JobState.DONE})) == len(self.jobs):
                break
            self.end_runner()
            self.command("resume", toy.SWEEP, "--no-submit")
            self.submit()
        undone = self.list_in(set(JobState) - {JobState.DONE})
        self.demand(not undone, f"{undone} are not done after {ROUNDS} resumptions")
        for job in self.jobs:
            children = [child for child in self.jobs if job.key in child.parents]
            damaged = sum(
                line.get("kind") == "damaged_input" for child in children for line in toy.executions(self.store, child)
            )
            completed = toy.count(self.store, job, "completed")
            self.demand(completed <= 1 + damaged, f"{job.key} ran {completed} times to completion")
            self.demand(not toy.count(self.store, job, "overlap"), f"{job.key} ran twice at once")

    # How a command is run, and what the store shows. What judges it has the kernel's clock.

    def command(self, *words: str) -> int:
        """Runs it on one person's machine; the exit code."""
        process, deadline = self.start(*words), time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        counts = {job.key: toy.count(self.store, job, "completed") for job in self.jobs}
        self.demand(False, f"`{words[0]}` did not end within {MOST_SECONDS:g} s; completed: {counts}")
        return -signal.SIGKILL

    def start(self, *words: str) -> int:
        """The same, and waits for nothing; the process."""
        offset = self.chance.choice(self.offsets)
        self.said.append(f"{' '.join(words)}  ({offset:+.0f} s)")
        process = os.fork()
        if process:
            return process
        try:
            code = self.run_by_clock(offset, words)
        except BaseException as error:  # noqa: BLE001 - the parent's stack must not go on in this process
            with (self.folder / "commands.log").open("a") as log:
                log.write(f"{type(error).__name__}: {error}\n")
            code = 70
        os._exit(code)

    def run_by_clock(self, offset: float, words: Sequence[str]) -> int:
        """In a process of its own: one command of `sweep`, by a clock that is `offset` seconds ahead."""
        log = os.open(self.folder / "commands.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        system_time = time.time
        time.time = lambda: system_time() + offset
        os.environ |= {
            "SWEEP_TEST_CLOCKS": f"{self.seed} {self.most_seconds}",
            "SWEEP_STAGE_PROGRAM": STAGE,
            "PYTHONPATH": str(HERE / "site"),
        }
        return cli.main([words[0], "--store", str(self.store.root), *words[1:]])

    def end_runner(self) -> None:
        """Waits for the runner that is at work, and for attempts that outlived theirs."""
        if self.runner:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.runner, 0)
            self.runner = 0

    def states(self) -> dict[str, JobState]:
        return toy.states(self.store, self.jobs)

    def list_in(self, states: set[JobState]) -> list[str]:
        return [key for key, state in self.states().items() if state in states]

    def count_begun(self) -> dict[str, int]:
        return {job.key: toy.count(self.store, job, "begin") for job in self.jobs}

    def demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            steps = "\n  ".join(self.said)
            raise BrokenPromiseError(f"history {self.seed}: {otherwise}\n  {steps}\n  in {self.folder}")


def run_histories(folder: Path, seeds: Sequence[int], *, hours: float, steps: int) -> list[str]:
    """Runs each, and returns what was broken."""
    broken = []
    for seed in seeds:
        place = folder / f"history-{seed}"
        place.mkdir(parents=True)
        try:
            History(place, seed, hours * 3600).run(steps)
        except BrokenPromiseError as error:
            broken.append(str(error))
            print(error, flush=True)
        else:
            shutil.rmtree(place)
    return broken
