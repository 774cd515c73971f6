"""Faults on machines that share a folder: what is claimed, published and handed over there happens once.

The driver plays Slurm: it starts attempts of jobs on either machine, restarts what has ended without a result, and at
times starts a second one while the first still lives, as Slurm does when a node does not answer.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.claims.takeover import TAKEOVER_VARIABLE
from jobs.job import Job
from jobs.slurm.batch_ledger import read_batch_history
from jobs.store.paths import Store
from jobs.store.results import check_result
from tests.jobs import toy
from tests.nfs import submitter
from tests.nfs.guards import REMOVED_VARIABLE, Guard
from tests.nfs.machines import ROOT, Machine, SharedFolder
from tests.nfs.stage import compute_expected

NAMES = ("node-a", "node-b")
CACHE_SECONDS, TAKEOVER_SECONDS = 3.0, 4.0
"""A twentieth of the usual ones: NFS believes attributes for a minute, and a claim is silent after 75 s."""
STEPS, STEP_SECONDS = 40, 0.3
SEASON_FAULTS = 25
JOBS = 6
HEALING_SECONDS = 180.0
PICK_SECONDS = 15.0
BATCH = "sw-aaaaaabbbbbb-pretrain-toy"


@dataclass(slots=True)
class Outcome:
    """A campaign's."""

    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    jobs: int = 0
    handed_over: int = 0
    executions: int = 0
    fenced: int = 0
    reads: int = 0
    seconds: float = 0.0

    def format(self) -> str:
        kinds = [f"  {number:3} {kind}" for kind, number in sorted(self.faults.items())]
        return "\n".join(
            [
                f"{self.faults.total()} faults in {self.seconds:.0f} s, {len(self.violations)} violations",
                *kinds,
                f"{self.jobs} jobs in {self.executions} executions, {self.fenced} of them fenced; "
                f"{self.handed_over} keys handed over; {self.reads} reads of a file that is replaced",
                *self.violations,
            ]
        )


@dataclass(slots=True)
class Execution:
    """A process that the driver started for a job."""

    machine: Machine
    process: "subprocess.Popen[str]"
    job_id: str
    restart: int
    attempt: str

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class Season:
    """One store on the shared folder, with jobs that run while faults strike."""

    def __init__(self, shared: SharedFolder, number: int, chance: random.Random, without: Guard | None = None) -> None:
        self.shared = shared
        self.without = without
        self.chance = chance
        self.name = f"season-{number}"
        self.seen = Store(shared.path / self.name)
        """As the machines see it."""
        self.true = Store(shared.server / self.name)
        """As the server has it."""
        self.jobs = [toy.toy_job(f"j{each}", steps=STEPS, step_seconds=STEP_SECONDS) for each in range(JOBS)]
        toy.plan(self.true, self.jobs, backend="slurm")
        self.witness = shared.base / f"witness-{number}"
        self.witness.touch()
        self.log = (shared.base / f"log-{number}").open("w")
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        self.submitters: list[subprocess.Popen[str]] = []
        self.replacing: dict[str, subprocess.Popen[str]] = {}
        """A writer of a file that is replaced again and again, and a reader of it."""
        self.stale_times: list[tuple[float, float]] = []
        """When a server's answers were ESTALE without a reason: then a reader may hear of it, and at no other time."""
        self.ids = 0
        self.env = {
            "NFS_WITNESS": str(self.witness),
            TAKEOVER_VARIABLE: str(TAKEOVER_SECONDS),
            "PYTHONPATH": str(ROOT),
            "PATH": "/nowhere",
            **({REMOVED_VARIABLE: without.value} if without else {}),
        }

    # Slurm.

    def start(self, job: Job, machine: Machine, *, again: bool) -> None:
        """`again`: Slurm restarts the newest job of this key; else the key was sent once more."""
        known = self.executions[job.key]
        if again and known:
            job_id, restart = known[-1].job_id, max(each.restart for each in known) + 1
        else:
            self.ids += 1
            job_id, restart = f"{self.ids}_0", 0
        attempt = f"slurm-{job_id}-r{restart}-{self.chance.randrange(16**6):06x}"
        words = ["--store", str(self.seen.root), "--sweep", toy.SWEEP, "--key", job.key, "--attempt", attempt]
        words += ["--backend", "slurm", "--job-id", job_id, "--batch", BATCH, "--restart", str(restart)]
        words += ["--revision", "r1", "--", sys.executable, "-m", "tests.nfs.stage"]
        process = machine.start([sys.executable, "-m", "tests.nfs.attempt", *words], env=self.env, stderr=self.log)
        known.append(Execution(machine, process, job_id, restart, attempt))

    def done(self, job: Job) -> bool:
        return check_result(toy.run_of(self.true, job), job.key).valid

    def keep_going(self) -> bool:
        """Restarts what has ended without a result; whether anything is unfinished."""
        for machine, role in zip(self.machines, ("write", "read"), strict=True):
            if role not in self.replacing or self.replacing[role].poll() is not None:
                words = [sys.executable, "-m", "tests.nfs.replaced_file", role, str(self.seen.root)]
                self.replacing[role] = machine.start(words, env=self.env, stderr=self.log)
        unfinished = [job for job in self.jobs if not self.done(job)]
        for job in unfinished:
            if not any(each.alive for each in self.executions[job.key]):
                self.start(job, self.chance.choice(self.machines), again=self.chance.random() < 0.5)
        return bool(unfinished) or any(each.alive for known in self.executions.values() for each in known)

    @property
    def machines(self) -> list[Machine]:
        return [self.shared.boot(name) for name in NAMES]

    def pick(self) -> tuple[Job, Execution] | None:
        """A job that is at work, with the execution that publishes; waits some seconds for one."""
        until = time.monotonic() + PICK_SECONDS
        while time.monotonic() < until and self.keep_going():
            notes = [json.loads(line) for line in self.witness.read_text().splitlines()]
            publish = {note["who"].partition("-slurm-")[2] for note in notes if note["event"] == "saved"}
            found = [
                (job, each)
                for job in self.jobs
                for each in self.executions[job.key]
                if each.alive and each.attempt.removeprefix("slurm-") in publish and not self.done(job)
            ]
            if found:
                return self.chance.choice(found)
            time.sleep(0.2)
        return None

    def other_than(self, machine: Machine) -> Machine:
        return next(each for each in self.machines if each is not machine)

    # Faults. Each says whether it found something to strike.

    def second_copy(self, *, again: bool) -> bool:
        if (found := self.pick()) is None:
            return False
        self.start(found[0], self.other_than(found[1].machine), again=again)
        return True

    def two_at_once(self) -> bool:
        """Both machines start a job that runs nowhere; where every job runs, one is ended for it."""
        job = next((job for job in self.jobs if not any(each.alive for each in self.executions[job.key])), None)
        if job is None:
            if (found := self.pick()) is None:
                return False
            job = found[0]
            self.end(job)
        if self.done(job):
            return False
        for machine in self.machines:
            self.start(job, machine, again=False)
        return True

    def end(self, job: Job) -> None:
        """No process of that job is left."""
        for each in self.executions[job.key]:
            supervisors = list_children(each.process.pid)
            for pid in [*supervisors, *(pid for parent in supervisors for pid in list_children(parent))]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            each.process.wait(timeout=600)

    def kill(self, *, stage: bool) -> bool:
        if (found := self.pick()) is None:
            return False
        supervisors = list_children(found[1].process.pid)
        victims = [pid for each in supervisors for pid in list_children(each)] if stage else supervisors
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def crash(self) -> bool:
        self.chance.choice(self.machines).crash()
        return True

    def server_away(self, seconds: float) -> bool:
        machine = self.chance.choice(self.machines)
        machine.set_fault("away", on=True)
        time.sleep(seconds)
        machine.set_fault("away", on=False)
        return True

    def cut_off(self, *, again: bool) -> bool:
        """The machine of a running job loses the server, and a copy starts elsewhere; then it is there again."""
        if (found := self.pick()) is None:
            return False
        found[1].machine.set_fault("away", on=True)
        self.start(found[0], self.other_than(found[1].machine), again=again)
        time.sleep(TAKEOVER_SECONDS + self.chance.uniform(-1, 4))
        found[1].machine.set_fault("away", on=False)
        return True

    def suspend(self, *, again: bool) -> bool:
        """All processes of a running job stand still while a copy of it starts elsewhere; then they go on."""
        if (found := self.pick()) is None:
            return False
        supervisors = list_children(found[1].process.pid)
        pids = [*supervisors, *(pid for each in supervisors for pid in list_children(each))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        self.start(found[0], self.other_than(found[1].machine), again=again)
        time.sleep(TAKEOVER_SECONDS + self.chance.uniform(-1, 4))
        for pid in [*pids, found[1].process.pid]:  # nsenter stops with what it has started
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return bool(pids)

    def orphan(self, *, suspended: bool) -> bool:
        """The supervisor is killed and the stage lives on, while a copy starts elsewhere: only its own look at the
        claims keeps the stage from publishing. `suspended`: it stands still until the copy is at work."""
        if (found := self.pick()) is None:
            return False
        supervisors = list_children(found[1].process.pid)
        stages = [pid for each in supervisors for pid in list_children(each)]
        for pid in stages if suspended else []:
            os.kill(pid, signal.SIGSTOP)
        for pid in supervisors:
            os.kill(pid, signal.SIGKILL)
        self.start(found[0], self.other_than(found[1].machine), again=self.chance.random() < 0.5)
        if suspended:
            time.sleep(TAKEOVER_SECONDS + self.chance.uniform(1, 5))
            for pid in stages:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return bool(stages)

    def stale_answers(self) -> bool:
        machine = self.chance.choice(self.machines)
        began = time.monotonic()
        machine.set_fault("stale", on=True)
        time.sleep(self.chance.uniform(0.3, 1.5))
        machine.set_fault("stale", on=False)
        self.stale_times.append((began, time.monotonic() + 1.0))
        return True

    def submit_on_both(self, *, killed: bool) -> bool:
        words = [sys.executable, "-m", "tests.nfs.submitter", str(self.seen.root), "3"]
        begun = [machine.start(words, env=self.env, stderr=self.log) for machine in self.machines]
        self.submitters += begun
        if killed:
            time.sleep(self.chance.uniform(0.2, 1.2))
            for pid in list_children(self.chance.choice(begun).pid):
                os.kill(pid, signal.SIGKILL)
        return True

    @property
    def faults(self) -> dict[str, Callable[[], bool]]:
        return {
            "Slurm restarts a job that still lives elsewhere": lambda: self.second_copy(again=True),
            "a key is sent once more while it lives elsewhere": lambda: self.second_copy(again=False),
            "a key starts on both machines at once": self.two_at_once,
            "supervisor killed": lambda: self.kill(stage=False),
            "stage killed": lambda: self.kill(stage=True),
            "machine loses power": self.crash,
            "supervisor killed, its stage lives, restarted elsewhere": lambda: self.orphan(suspended=False),
            "supervisor killed, its stage suspended, restarted elsewhere": lambda: self.orphan(suspended=True),
            "server away for a moment": lambda: self.server_away(self.chance.uniform(0.3, 1.5)),
            "machine cut off, its job restarted elsewhere": lambda: self.cut_off(again=True),
            "machine cut off, its key sent once more": lambda: self.cut_off(again=False),
            "processes suspended, their job restarted elsewhere": lambda: self.suspend(again=True),
            "processes suspended, their key sent once more": lambda: self.suspend(again=False),
            "ESTALE": self.stale_answers,
            "two submitters at once": lambda: self.submit_on_both(killed=False),
            "a submitter of two is killed": lambda: self.submit_on_both(killed=True),
        }

    # The whole.

    def run(self, faults: int, outcome: Outcome) -> None:
        """Strikes so often, or until every job is done; heals, and checks what is left."""
        deck: list[str] = []
        while faults > 0 and self.keep_going():
            time.sleep(self.chance.uniform(0.1, 0.9))
            kinds = self.without.prevents if self.without else sorted(self.faults)
            deck = deck or self.chance.sample(kinds, len(kinds))
            kind = deck.pop()
            if self.faults[kind]():
                outcome.faults[kind] += 1
                faults -= 1
        self.heal()
        for machine in self.machines:
            machine.crash()
        for process in self.replacing.values():
            process.wait()
        self.log.close()
        self.check(outcome)

    def heal(self) -> None:
        until = time.monotonic() + HEALING_SECONDS
        while self.keep_going() and time.monotonic() < until:
            time.sleep(0.2)
        for process in self.submitters:
            process.wait(timeout=600)

    def check(self, outcome: Outcome) -> None:
        notes = [json.loads(line) for line in self.witness.read_text().splitlines()]
        for job in self.jobs:
            mine = [note for note in notes if note["key"] == job.key]
            found = list(find_job_problems(job, mine, check_result(toy.run_of(self.true, job), job.key).content))
            outcome.violations += [f"{self.name} {job.key}: {each}" for each in found]
            outcome.executions += sum(note["event"] == "begin" for note in mine)
            outcome.fenced += sum(note["event"] == "fenced" for note in mine)
        outcome.jobs += len(self.jobs)
        sent = Counter(note["key"] for note in notes if note["event"] == "sent")
        outcome.handed_over += len(sent)
        outcome.violations += [f"{self.name}: {key} was handed over {n} times" for key, n in sent.items() if n > 1]
        outcome.violations += self.find_ledger_problems(notes)
        torn = [note for note in notes if note["event"] == "torn"]
        torn += [
            note
            for note in notes
            if note["event"] == "refused" and not any(begin <= note["at"] <= end for begin, end in self.stale_times)
        ]
        outcome.reads += sum(note["step"] for note in notes if note["event"] == "read")
        outcome.violations += [f"{self.name}: a reader saw {note['who']}" for note in torn]
        text = Path(self.log.name).read_text()
        if "Traceback" in text:
            outcome.violations.append(f"{self.name}: {text[text.index('Traceback') :][:3_000]}")

    def find_ledger_problems(self, notes: Sequence[dict[str, Any]]) -> Iterator[str]:
        """Every line that a writer was told is on disk must be there."""
        known = read_batch_history(self.true.locate_sweep(submitter.SWEEP).ledger).batches.values()
        there = {key for batch in known for key in batch.tasks.values()}
        for note in notes:
            if note["event"] == "noted" and note["key"] not in there:
                yield f"{self.name}: the ledger of {note['who']} lost {note['key']}"


def find_job_problems(job: Job, notes: Sequence[dict[str, Any]], result: dict[str, Any] | None) -> Iterator[str]:
    """What the witness says against the rule that one execution at a time publishes, and one completes."""
    if result is None:
        yield "lost: it has no result"
    elif result["value"] != compute_expected(job.key, STEPS):
        yield f"its value is {result['value']}"
    completed = sum(note["event"] == "completed" for note in notes)
    if completed > 1:
        yield f"completed {completed} times"
    begins = [note for note in notes if note["event"] == "begin"]
    for note in notes:
        if note["event"] not in {"saved", "completed"}:
            continue
        # A look at the claims and the renaming behind it are two steps: what counts is what the look must have seen.
        for other in begins:
            if other["who"] != note["who"] and other["claim"] >= note["claim"] and other["at"] < note["checked"]:
                yield f"{note['who']} looked at {note['checked']:.2f} and published, {other['who']} had begun before"
                return


def list_children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def run_campaign(
    faults: int, seed: int, say: Callable[[str], object] = print, *, without: Guard | None = None
) -> Outcome:
    """Seasons until so many faults have struck; `without` a guard, only faults against which it is there."""
    chance, outcome, began = random.Random(seed), Outcome(), time.monotonic()
    with SharedFolder.make(cache_seconds=CACHE_SECONDS) as shared:
        number = 0
        while outcome.faults.total() < faults:
            number += 1
            # by turns claims have the help of locks, and must do without: many sites mount with `nolock`
            shared.local_locks = number % 2 == 1
            Season(shared, number, chance, without).run(min(SEASON_FAULTS, faults - outcome.faults.total()), outcome)
            outcome.seconds = time.monotonic() - began
            say(f"{outcome.faults.total()} faults, {len(outcome.violations)} violations, {outcome.seconds:.0f} s")
    return outcome
