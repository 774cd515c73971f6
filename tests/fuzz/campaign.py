"""Runs the cases of a program, each watched: a traceback, a hang, much memory or a silent loss is a fault.

A case is a function of (program, seed, number), so each can be run again alone. Cases run one after the other in a
process of their own, which is ended and replaced where a case hangs or takes the process down.
"""

import ctypes
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HANG_SECONDS = 5.0
"""Of processor time, for one case: other work on the machine does not count."""
IDLE_SECONDS = 40.0
"""For a case that waits and computes nothing. Waiting for a processor is no idling: other work may have them all."""
MOST_GROWTH_MIB = 256
"""Resident memory that a case, whose input has some kilobytes, may take."""
ADDRESS_BYTES = 2 << 30
"""Address space that a case may take: what wants more fails before the machine does."""


class Outcome(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    """Read, and nothing was wrong with it."""
    TOLD = "told"
    """Read in part, and told what of it cannot be used."""
    REFUSED = "refused"
    """Told that it cannot be used."""
    TRACEBACK = "traceback"
    VIOLATION = "violation"
    """What was read is not what was written, and nothing was said."""
    HANG = "hang"
    MEMORY = "memory"
    CRASH = "crash"


SOUND = (Outcome.PASSED, Outcome.TOLD, Outcome.REFUSED)


class ViolationError(AssertionError):
    """A case broke a promise: the message says which."""


class Verdict(NamedTuple):
    """How a case ended, as its program sees it."""

    outcome: Outcome
    detail: str = ""


class Program(Protocol):
    """One kind of input and its readers."""

    name: str

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        """Makes an input in the empty `folder` and reads it. Raises ViolationError; any other error is a traceback."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A case that is over."""

    number: int
    outcome: Outcome
    detail: str = ""
    place: str = ""
    """Of a traceback: the innermost line of ours, by which equal faults are told."""
    seconds: float = 0.0
    """Of processor time."""
    growth_mib: float = 0.0


@dataclass
class Report:
    """What a campaign found."""

    program: str
    seed: int
    counts: Counter[Outcome] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    """Of sound cases, by what was changed or said; for a reader who asks whether all was tried."""
    faults: dict[str, list[Ended]] = field(default_factory=dict)
    """Equal faults together."""
    slowest: Ended | None = None
    largest: Ended | None = None

    def add(self, case: Ended) -> None:
        self.counts[case.outcome] += 1
        if case.outcome in SOUND:
            self.details[f"{case.outcome}: {case.detail}"] += 1
        else:
            self.faults.setdefault(f"{case.outcome}: {case.place or case.detail[:80]}", []).append(case)
        if self.slowest is None or case.seconds > self.slowest.seconds:
            self.slowest = case
        if self.largest is None or case.growth_mib > self.largest.growth_mib:
            self.largest = case

    def format(self) -> str:
        """As lines: the figures, then each fault once with the command that runs it again."""
        total = sum(self.counts.values())
        sound = ", ".join(f"{self.counts[each]:,} {each}" for each in SOUND)
        bad = total - sum(self.counts[each] for each in SOUND)
        lines = [f"{self.program}: {total:,} cases (seed {self.seed}): {sound}, {bad:,} faults"]
        if self.slowest and self.largest:
            lines.append(
                f"slowest {self.slowest.seconds:.2f} s (case {self.slowest.number}),"
                f" largest {self.largest.growth_mib:.0f} MiB (case {self.largest.number})"
            )
        for kind, cases in sorted(self.faults.items(), key=lambda item: -len(item[1])):
            again = f"python -m tests.fuzz {self.program} --seed {self.seed} --case {cases[0].number}"
            lines += [f"{len(cases)} x {kind}", f"    {again}", *(f"    {line}" for line in _shorten(cases[0].detail))]
        return "\n".join(lines)


def _shorten(detail: str) -> list[str]:
    return [line[:200] for line in detail.splitlines()[-6:]]


# Why: docs/decisions.md, D158
def run_campaign(
    program: Program, folder: Path, *, seed: int, numbers: Sequence[int], jobs: int = 1, quiet: bool = False
) -> Report:
    """Runs the cases `numbers` in `jobs` processes. `folder`: each case has one of its own there, removed after it."""
    report = Report(program.name, seed)
    streams = [_iter_ended(program, folder, seed, numbers[part::jobs]) for part in range(jobs)]
    while streams:
        for stream in list(streams):
            case = next(stream, None)
            if case is None:
                streams.remove(stream)
                continue
            report.add(case)
            done = sum(report.counts.values())
            if not quiet and case.outcome not in SOUND:
                print(f"case {case.number}: {case.outcome} {case.place}", file=sys.stderr, flush=True)
            if not quiet and done % 500 == 0:
                print(f"{program.name}: {done} of {len(numbers)}", file=sys.stderr, flush=True)
    return report


def make_dice(program: str, seed: int, number: int) -> random.Random:
    """The chance of one case."""
    return random.Random(f"{program} {seed} {number}")


class Worker(NamedTuple):
    """A process that runs cases, and where it tells of them."""

    pid: int
    pipe: int


def _iter_ended(program: Program, folder: Path, seed: int, numbers: Sequence[int]) -> Iterator[Ended]:
    left = list(numbers)
    while left:
        worker = _start_worker(program, folder, seed, left)
        try:
            for case in _watch(worker, left):
                left.remove(case.number)
                yield case
        finally:
            _end_worker(worker)


def _start_worker(program: Program, folder: Path, seed: int, numbers: Sequence[int]) -> Worker:
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return Worker(pid, read)
    try:
        os.close(read)
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: an ended campaign leaves no process behind
        _run_cases(program, folder, seed, numbers, write)
    finally:
        os._exit(0)  # nothing of the campaign's own process is done twice


def _end_worker(worker: Worker) -> None:
    os.close(worker.pipe)
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    os.waitpid(worker.pid, 0)


def _run_cases(program: Program, folder: Path, seed: int, numbers: Sequence[int], pipe: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # readers print remarks, and Rust its panics
        os.dup2(null, descriptor)
    soft = _read_status("VmSize") * 1024 + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        os.write(pipe, json.dumps({"begin": number}).encode() + b"\n")
        place = folder / f"{program.name}-{number}"
        place.mkdir(parents=True)
        case = run_one(program, place, seed, number)
        shutil.rmtree(place, ignore_errors=True)
        os.write(pipe, json.dumps(_encode(case)).encode() + b"\n")


def _encode(case: Ended) -> dict[str, Any]:
    return {
        "number": case.number,
        "outcome": case.outcome,
        "detail": case.detail[-2000:],
        "place": case.place,
        "seconds": case.seconds,
        "growth_mib": case.growth_mib,
    }


def run_one(program: Program, folder: Path, seed: int, number: int) -> Ended:
    """One case in this process, in an empty folder; what hangs is not ended."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, start = _read_status("VmRSS"), time.process_time()
    place = ""
    try:
        outcome, detail = program.run_case(make_dice(program.name, seed, number), folder)
    except ViolationError as error:
        outcome, detail = Outcome.VIOLATION, str(error)
    except MemoryError as error:
        outcome, detail, place = Outcome.MEMORY, traceback.format_exc(), _find_place(error)
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception, and SystemExit is a fault as well
        outcome, detail, place = Outcome.TRACEBACK, traceback.format_exc(), _find_place(error)
    seconds, growth = time.process_time() - start, (_read_status("VmHWM") - before) / 1024
    if outcome in SOUND and growth > MOST_GROWTH_MIB:
        outcome = Outcome.MEMORY
    if outcome in SOUND and seconds > HANG_SECONDS:
        outcome = Outcome.HANG
    return Ended(number, outcome, detail, place, seconds, growth)


def _find_place(error: BaseException) -> str:
    """The kind of error and the innermost line of the product."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if any(f"/{part}/" in frame.filename for part in ("stages", "sweep", "jobs"))
        and "/tests/" not in frame.filename
    ]  # fmt: skip
    where = f"{'/'.join(frames[-1].filename.rsplit('/', 3)[1:])}:{frames[-1].lineno}" if frames else "tests"
    return f"{type(error).__name__} at {where}"


def _read_status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"\n{name}:")[2].split(None, 1)[0])


def _watch(worker: Worker, left: Sequence[int]) -> Iterator[Ended]:
    """The cases of a worker as they end. The last may be one that hung or took the process down."""
    pending, running = b"", -1
    began, used, starved = time.monotonic(), _measure_seconds(worker.pid), measure_wait(worker.pid)
    while True:
        ready, _, _ = select.select([worker.pipe], [], [], 0.25)
        if ready:
            chunk = os.read(worker.pipe, 1 << 16)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                content = json.loads(line)
                if "begin" in content:
                    running, began = content["begin"], time.monotonic()
                    used, starved = _measure_seconds(worker.pid), measure_wait(worker.pid)
                else:
                    running = -1
                    yield _decode(content)
            if not chunk:  # the process is over
                if running >= 0:
                    yield Ended(running, Outcome.CRASH, _describe_end(worker.pid))
                return
        elif running >= 0:
            seconds = _measure_seconds(worker.pid) - used
            idle = time.monotonic() - began - (measure_wait(worker.pid) - starved)
            if seconds > HANG_SECONDS or idle > IDLE_SECONDS:
                detail = f"{seconds:.1f} s of processor time, {idle:.1f} s without waiting for one"
                yield Ended(running, Outcome.HANG, detail, seconds=seconds)
                return


def _decode(content: Mapping[str, Any]) -> Ended:
    return Ended(**{**content, "outcome": Outcome(content["outcome"])})


def _measure_seconds(pid: int) -> float:
    """Processor time of a process and of its children that are over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measure_wait(pid: int) -> float:
    """Seconds in which a process could have run and had no processor."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def _describe_end(pid: int) -> str:
    """How a process ended that told nothing of it."""
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return f"the process ended with {status.si_status}" if status else "the process ended"
