"""A folder in which the commands of the pages run, and the comparison of what they print with what a page shows."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from sweep.cli import main
from tests.docs.pages import ROOT, PageCommand, PageFile, Step
from tests.stages.demo.small_demo import make_small_demo

SHOWN = "/home/me/study"
"""What pages write for the folder."""
SHELL = set("|&;<>$`*?~(){}'\"\\\n#")
WITH_CHILDREN = ("sweep data ", "sweep export ", "sweep demo")
"""Commands whose child processes print."""
SECONDS = 280


class DocumentError(Exception):
    """A page shows something else than what happens."""


@dataclass(frozen=True, slots=True)
class Happened:
    """What a command did."""

    code: int
    printed: tuple[str, ...]
    """stdout and stderr as a terminal shows them."""


def prepare_world(folder: Path) -> None:
    """What a reader has: the checkout's sweep files; the demo's data, smaller, so that `sweep data demo` is done."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifests").symlink_to(ROOT / "manifests")
    make_small_demo(folder / "store" / "data" / "demo")


@contextlib.contextmanager
def enter_world(folder: Path) -> Iterator[None]:
    """The folder is the current one, and its programs are those of the tests."""
    changed = {"PATH": f"{make_program(folder)}:{os.environ['PATH']}", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in (*changed, "SWEEP_STORE")}
    os.environ.update(changed)
    os.environ.pop("SWEEP_STORE", None)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def make_program(folder: Path) -> Path:
    """A folder with `sweep` and `python`, which are those that run the tests, installed or not."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    for name, module in (("sweep", " -m sweep"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable}{module} "$@"\n')
        program.chmod(0o755)
    return programs


def take_step(step: Step, folder: Path) -> Happened | None:
    """Saves a file or runs a command; None for a file."""
    if isinstance(step, PageFile):
        (folder / step.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / step.name).write_text(step.content)
        return None
    code, text = run_line(step.text)
    lines = (line.rstrip().replace(str(folder.resolve()), SHOWN) for line in text.splitlines())
    return Happened(code, tuple(line for line in lines if not PROGRESS.fullmatch(line)))


def run_line(text: str) -> tuple[int, str]:
    """Exit code and output. A plain line of `sweep` runs in this process, which spares its start; others in bash."""
    plain = text.split("  #", maxsplit=1)[0].strip()
    if plain.startswith("sweep ") and not plain.startswith(WITH_CHILDREN) and not SHELL & set(plain):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                code = main(shlex.split(plain)[1:])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        return code, out.getvalue()
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash", "-c", text],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout


def check_step(command: PageCommand, happened: Happened) -> None:
    """DocumentError where the exit code or the output is not the page's."""
    if happened.code != command.mark.code:
        said = "\n".join(happened.printed)
        raise DocumentError(f"{command.name}\nended with {happened.code}, and {command.mark.code} is told:\n{said}")
    if command.printed is not None and not is_as_shown(command.printed, happened.printed):
        shown, said = "\n".join(command.printed), "\n".join(happened.printed)
        raise DocumentError(f"{command.name}\nprints\n{said}\n\nand the page shows\n{shown}")


def is_as_shown(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether lines are those of a page, in which one that begins with `...` stands for any number of lines."""
    if not shown:
        return not printed
    if shown[0].strip().startswith("..."):
        return any(is_as_shown(shown[1:], printed[start:]) for start in range(len(printed) + 1))
    return bool(printed) and is_line_as_shown(shown[0], printed[0]) and is_as_shown(shown[1:], printed[1:])


FREE = (
    (re.compile(r'"?\b[0-9a-f]{12,64}\b"?'), "DIGEST"),
    (re.compile(r"\d+(\.\d+)? (ms|s|min|h|hours?|days?)\b"), "TIME"),
    (re.compile(r"\d[\d,.]*(e-?\d+)? (core-hours|tokens/s|images/s|[KMGT]iB|[kMG]B)\b"), "AMOUNT"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "CLOCK"),
    (re.compile(r"\blocal-\d+\b"), "ATTEMPT"),
    (re.compile(r" on \S+ ATTEMPT"), " on MACHINE ATTEMPT"),
    (re.compile(r"±\d+\.\d+\*?|\[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]\*?"), "ERROR"),
    (re.compile(r"-{3,}"), "---"),
)
"""What differs between two machines, or two days: an error is symmetric, or an interval where a score is at its end."""
PROGRESS = re.compile(r"[a-z ]+: \d+ %")
"""A line that slow machines alone print."""
NUMBER = re.compile(r"[-+~<(]*(\d[\d,]*\.\d+)[)%,;:.]*")


def is_line_as_shown(shown: str, printed: str) -> bool:
    """Word for word; times, digests and sizes are free, and numbers with a decimal point may differ by a third."""
    for pattern, name in FREE:
        shown, printed = pattern.sub(name, shown), pattern.sub(name, printed)
    return all(is_word_as_shown(*pair) for pair in zip_longest(shown.split(), printed.split(), fillvalue=""))


def is_word_as_shown(shown: str, printed: str) -> bool:
    if shown == printed:
        return True
    one, other = NUMBER.fullmatch(shown), NUMBER.fullmatch(printed)
    if not one or not other:
        return False
    first, second = (float(each[1].replace(",", "")) for each in (one, other))
    return abs(first - second) <= max(0.35, 0.35 * first)
