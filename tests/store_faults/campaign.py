"""Faults drawn by chance: a command, the number of a file-system call, an error or SIGKILL; then the checks."""

import errno
import gc
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from jobs.attempt.__main__ import main as run_attempt
from jobs.processes import kill_attempt_processes
from sweep.cli import COMMANDS as COMMAND_NAMES
from sweep.cli import import_command, main
from tests.store_faults.commands import CASES, CommandCase, find_key
from tests.store_faults.injector import Injector, Struck
from tests.store_faults.study import (
    CELL,
    NAME,
    STAGE,
    UNEXPLAINED,
    WORDS,
    Study,
    build_study,
    copy_study,
    find_changes,
    find_store_problems,
    wait_until_running,
)

KILL = 0
ERRORS = (*WORDS, KILL)
LASTING_SHARE = 0.3
"""Of the faults: the disk stays as it is from that call on."""
LONGEST_SECONDS = 200.0
"""A claim that could be made and neither signed nor removed is waited for until it is old, for two minutes."""
UNCAUGHT = 99
DATA = "STORE_FAULTS_DATA"
"""Environment variable with the folder of the study's data, which all copies share."""


@dataclass(frozen=True)
class Fault:
    """What is to happen."""

    case: CommandCase
    call: int
    error: int
    lasting: bool

    def __str__(self) -> str:
        what = errno.errorcode[self.error] if self.error else "SIGKILL"
        return f"{self.case.name}: {what} at call {self.call}{' and from there on' if self.lasting else ''}"


@dataclass(frozen=True)
class CommandEnd:
    """How a command ended. `code` is negative for a signal."""

    code: int
    out: str
    err: str
    struck: Struck | None


@dataclass
class Outcome:
    """What a campaign found."""

    faults: Counter[str] = field(default_factory=Counter)
    """By command."""
    kinds: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    """By the call that failed."""
    endings: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def format(self) -> str:
        """For a reader."""
        lines = [
            f"{self.faults.total():,} faults: {format_counts(self.kinds)}",
            f"by command: {format_counts(self.faults)}",
            f"by call: {format_counts(self.struck)}",
            f"endings: {format_counts(self.endings)}",
            f"{len(self.violations)} violations",
        ]
        return "\n".join([*lines, *self.violations])

    def add(self, other: "Outcome") -> None:
        for name in ("faults", "kinds", "struck", "endings"):
            getattr(self, name).update(getattr(other, name))
        self.violations += other.violations


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.most_common())


def run_campaign(
    faults: int, seed: int, folder: Path, *, workers: int = 1, only: str = "", minutes: float = 1e9
) -> Outcome:
    """Needs the library below this process (`restart_with_library`). Ends early after so many minutes."""
    end = time.monotonic() + 60 * minutes
    original = build_study(folder)
    os.environ[DATA] = str(folder / "data")
    warm_up(original)
    cases = [case for case in CASES if only in case.name]
    clean = {case.name: run_clean(case, original, folder / "clean") for case in cases}
    draws = random.Random(seed)
    plan = [draw_fault(draws, cases, clean) for _ in range(faults)]
    if workers == 1:
        return strike_all(plan, clean, original, folder / "faults", end)
    outcome = Outcome()
    for part in fork_parts([plan[number::workers] for number in range(workers)], clean, original, folder, end):
        outcome.add(part)
    return outcome


def warm_up(study: Study) -> None:
    """What every command would import, and what it would build of classes: done once, and not in every fork."""
    for name in COMMAND_NAMES:
        import_command(name)
    import sweep.export.index
    import sweep.plan.new_plan
    import sweep.report.doctor
    import sweep.report.plan
    import sweep.report.status
    import sweep.results.figures.gallery
    import sweep.results.write
    import sweep.submit.local
    import sweep.submit.slurm  # noqa: F401

    os.environ.update(study.variables)
    for words in (["plan", str(study.folder / "edited.yaml"), "--diff"], ["status", NAME, "--json"], ["explain", CELL]):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            main([*words, "--store", str(study.store.root)])
    gc.collect()
    gc.freeze()


def fork_parts(
    parts: Sequence[Sequence[Fault]], clean: dict[str, CommandEnd], original: Study, folder: Path, end: float
) -> Iterable[Outcome]:
    """Each part of the plan in a process of its own."""
    children = []
    for number, part in enumerate(parts):
        report = folder / f"outcome-{number}.json"
        pid = os.fork()
        if pid == 0:
            outcome = strike_all(part, clean, original, folder / f"faults-{number}", end)
            report.write_text(json.dumps(vars(outcome)))
            os._exit(0)
        children.append((pid, report))
    for pid, report in children:
        os.waitpid(pid, 0)
        found = json.loads(report.read_bytes())
        violations = found.pop("violations")
        yield Outcome(**{name: Counter(counts) for name, counts in found.items()}, violations=violations)


def draw_fault(draws: random.Random, cases: Sequence[CommandCase], clean: dict[str, CommandEnd]) -> Fault:
    """One fault, at one of the calls that the command makes without any."""
    case = draws.choices(cases, [case.weight for case in cases])[0]
    struck = clean[case.name].struck
    assert struck is not None
    error = draws.choice(ERRORS)
    return Fault(case, draws.randint(1, max(1, struck.calls)), error, draws.random() < LASTING_SHARE and error != KILL)


@dataclass
class Copies:
    """Makes a copy of the original for each fault."""

    original: Study
    folder: Path
    keys: dict[str, set[str]]
    """Keys of the plan: of the original, and by command of what it plans anew."""
    made: int = 0

    def make(self) -> Study:
        self.made += 1
        return copy_study(self.original, self.folder / str(self.made))


def strike_all(
    plan: Sequence[Fault], clean: dict[str, CommandEnd], original: Study, folder: Path, end: float
) -> Outcome:
    """Each fault on a copy of its own, until the moment `end`."""
    outcome = Outcome()
    copies = Copies(original, folder, {"": {job.key for job in original.read_plan().jobs}})
    for number, fault in enumerate(plan):
        if time.monotonic() > end:
            break
        try:
            strike(fault, clean[fault.case.name], copies, outcome)
        except (OSError, TimeoutError) as error:  # of the campaign itself
            outcome.violations.append(f"{fault}: the campaign: {type(error).__name__}: {error}")
        if number % 50 == 49:
            print(f"{number + 1} of {len(plan)}, {len(outcome.violations)} violations", file=sys.stderr, flush=True)
    return outcome


def run_clean(case: CommandCase, original: Study, folder: Path) -> CommandEnd:
    """The command without a fault, which also counts its calls."""
    study = copy_study(original, folder)
    case.prepare(study)
    attempt = start_attempt(study) if case.running else 0
    began = time.monotonic()
    ended = run_command(study, case, 0, KILL, lasting=False)
    took = time.monotonic() - began
    stop_attempt(study, attempt)
    shutil.rmtree(folder)
    calls = ended.struck.calls if ended.struck else 0
    print(f"{case.name}: {took:.2f} s, {calls} calls", file=sys.stderr, flush=True)
    assert ended.code == case.code, f"{case.name}: {ended.code}\n{ended.out}{ended.err}"
    assert ended.struck is not None
    assert ended.struck.calls > 0, case.name
    return ended


def strike(fault: Fault, clean: CommandEnd, copies: Copies, outcome: Outcome) -> None:
    """One fault, the command again without one, and the checks."""
    case, original, keys = fault.case, copies.original, copies.keys
    study = copies.make()
    case.prepare(study)
    attempt = start_attempt(study) if case.running else 0
    ended = run_command(study, case, fault.call, fault.error, lasting=fault.lasting)
    problems = find_end_problems(fault, ended, clean)
    again = ended if case.reads_only else run_command(study, case, 0, KILL, lasting=False)
    stop_attempt(study, attempt)
    if case.reads_only:
        problems += find_changes(study, original, find_key(original, "trunk"))
    elif again.code != case.code:
        problems.append(f"again without a fault: exit code {again.code}\n{again.out}{again.err}")
    elif not case.replans:
        problems += find_store_problems(study, original, keys[""])
        problems += case.check(study)
    else:
        planned = keys.setdefault(case.name, {job.key for job in study.read_plan().jobs})
        problems += find_store_problems(study, original, planned)
        problems += ["the plan was not replaced"] if planned == keys[""] else []
    outcome.faults[case.name] += 1
    outcome.kinds[errno.errorcode[fault.error] if fault.error else "SIGKILL"] += 1
    if ended.struck is not None and ended.struck.name:
        outcome.struck[ended.struck.name] += 1
    outcome.endings[describe_end(ended, clean)] += 1
    where = f" ({ended.struck.name} {ended.struck.path})" if ended.struck else ""
    for problem in problems:
        outcome.violations.append(f"{fault}{where}: {problem}")
        print(f"violation: {outcome.violations[-1]}", file=sys.stderr, flush=True)
    shutil.rmtree(study.folder, ignore_errors=True)


def describe_end(ended: CommandEnd, clean: CommandEnd) -> str:
    if ended.code < 0:
        return "killed"
    return "as without a fault" if ended.code == clean.code else "told"


def find_end_problems(fault: Fault, ended: CommandEnd, clean: CommandEnd) -> list[str]:
    """What is wrong with how the command ended under the fault."""
    said = ended.out + ended.err
    if "Traceback" in said or ended.code == UNCAUGHT:
        return [f"traceback\n{said[-3000:]}"]
    if ended.code == -signal.SIGALRM:
        return ["hangs"]
    if fault.error == KILL:
        return []
    told = any(word in said for word in (*WORDS[fault.error], UNEXPLAINED))
    problems = []
    if ended.code != clean.code and not told:
        problems.append(f"exit code {ended.code} without the reason: {said[-600:]}")
    if ended.code == clean.code and fault.case.said and not told and simplify(ended.out) != simplify(clean.out):
        problems.append(f"says something else without a reason\n{ended.out[-1500:]}\n--- not\n{clean.out[-1500:]}")
    return problems


def simplify(text: str) -> str:
    """Without what differs from run to run: numbers, paths of copies, spaces."""
    return re.sub(r"\s+", " ", re.sub(r"/\S+", "PATH", re.sub(r"[0-9][0-9.,:]*", "#", text)))


def run_command(study: Study, case: CommandCase, number: int, error: int, *, lasting: bool) -> CommandEnd:
    """The command in a fork of this process, with the fault armed. Number 0: without a fault."""
    out, err, report = (study.folder.with_name(f"{study.folder.name}.{name}") for name in ("out", "err", "report"))
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        be_command(study, case, (number, error, lasting), (out, err, report))
    code = wait_for(pid)
    struck = read_report(report)
    texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    for path in (out, err, report):
        path.unlink(missing_ok=True)
    return CommandEnd(code, texts[0], texts[1], struck)


def read_report(report: Path) -> Struck | None:
    if not report.exists():
        return None
    calls, name, path = report.read_text().split("\n")[:3]
    return Struck(int(calls), name, path)


def be_command(study: Study, case: CommandCase, fault: tuple[int, int, bool], files: tuple[Path, Path, Path]) -> None:
    """In the fork; does not return."""
    number, error, lasting = fault
    out, err, report = files
    data = Path(os.environ[DATA])
    words = [str(word) for word in case.words(study)]
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = (open(each, "w", closefd=False) for each in (1, 2))  # noqa: SIM115 - until the end
    os.environ.update(study.variables)
    os.chdir("/")
    injector = Injector()
    injector.watch(study.folder)
    injector.watch(data)
    injector.arm(number, error, lasting=lasting)
    try:
        code = main([*words, "--store", str(study.store.root)])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 2
    except BaseException:  # noqa: BLE001 - what escapes a command is what is looked for
        injector.disarm()
        traceback.print_exc()
        code = UNCAUGHT
    struck = injector.disarm()
    report.write_text(f"{struck.calls}\n{struck.name}\n{struck.path}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for(pid: int) -> int:
    """The exit code; a process that takes too long is ended, and told by SIGALRM."""
    end = time.monotonic() + LONGEST_SECONDS
    pause = 0.001
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGALRM
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def start_attempt(study: Study) -> int:
    """An attempt at the trunk, which goes on until it is stopped; its supervisor's pid."""
    key = find_key(study, "trunk")
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.environ.update(study.variables)
        given = ["--store", str(study.store.root), "--sweep", NAME, "--key", key, "--attempt", "local-0001", "--"]
        os._exit(run_attempt([*given, sys.executable, "-I", "-S", str(STAGE), str(study.notes)]))
    wait_until_running(study, "pretrain", key)
    return pid


def stop_attempt(study: Study, pid: int) -> None:
    """Ends it, if a command has not."""
    if pid:
        kill_attempt_processes(
            study.store.locate_run("pretrain", find_key(study, "trunk")).locate_attempt("local-0001").root
        )
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
