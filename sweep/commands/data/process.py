"""Runs programs of the stages in processes of their own: the command line itself never loads torch."""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK
from jobs.environment import build_child_environment
from jobs.store.job_file import find_own_code
from stages.printable import SPEAKER_VARIABLE
from sweep.errors import SweepError
from sweep.options import CommonOptions

logger = logging.getLogger(__name__)


def run_module(
    module: str, arguments: Sequence[str], *, given: str | None = None, speaker: str = "sweep data"
) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m MODULE ARGUMENTS`, which shares our stderr.

    With `given` on its stdin, its stdout is captured; else that is ours too. `speaker`: how its errors begin.
    """
    command = [sys.executable, "-m", module, *arguments]
    logger.info("runs %s", shlex.join(command))
    logger.debug("on its stdin: %s", given)
    began = SYSTEM_CLOCK.monotonic()
    finished = subprocess.run(
        command,
        check=False,
        input=given,
        stdout=subprocess.PIPE if given is not None else None,
        text=True,
        env=build_child_environment(os.environ, find_own_code()) | {SPEAKER_VARIABLE: speaker},
    )
    logger.info("%s: exit code %d after %.1f s", module, finished.returncode, SYSTEM_CLOCK.monotonic() - began)
    return finished


def run_prepare(arguments: Sequence[str], *, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    """`python -m stages.prepare`, which ends when this process does."""
    return run_module("stages.prepare", ["--parent", str(os.getpid()), *arguments], given=given)


def make_output(
    command: str, what: str, needed: Mapping[str, str], options: CommonOptions, *, inputs: Sequence[Path], out: Path
) -> int:
    """Runs the command of `stages.prepare` that makes `out` of `inputs`; prints `out` once it is whole. The exit code.

    `what`: what the command does, for the message if packages of `needed` are missing.
    """
    check_installed(what, needed)
    words = build_words(options, without={"store", "inputs"})
    finished = run_prepare([command, *words, "--", *map(str, inputs)])
    if finished.returncode == 0:
        print(out)
    return 1 if finished.returncode else 0


def build_words(options: CommonOptions, *, without: Collection[str]) -> list[str]:
    """The options as `python -m stages.prepare NAME` takes them; what was not given keeps its default there."""
    given = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in without}
    # With an equals sign a value may begin with a dash.
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def check_installed(what: str, needed: Mapping[str, str], *, extra: str = "train") -> None:
    """SweepError if modules are missing. `needed`: module to its package; `extra` of the project installs them all."""
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        packages = ", ".join(missing)
        raise SweepError(f"{what} needs packages that are not installed ({packages}): pip install 'sweep-vlm[{extra}]'")
