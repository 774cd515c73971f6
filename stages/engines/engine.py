"""What an engine is: the contract between the stage's process and one file for each program."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stages.config import Engine, find_engine
from stages.errors import ConfigError, StageError
from stages.job_file import EngineSettings, JobFile
from stages.result import Result
from stages.stop import StopFlag

FOLDER = "engine"
"""Below the job's folder: all that the program is given and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """A program to start."""

    argv: tuple[str, ...]
    """Absolute program, and its arguments."""
    folder: Path
    """Where it works."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What this kind of engine needs; the user's own words go over it."""


class EngineRun(Protocol):
    """One job in the hands of an engine. Its files alone say how it stands, so any process can go on with it."""

    def is_finished(self) -> bool:
        """Whether the program's files hold, whole, all that the job is to give. Its exit code says nothing."""

    def prepare(self) -> EngineCommand:
        """Writes the program's own files, from its last checkpoint on where there is one.

        ConfigError or DataError for what is known to go wrong.
        """

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Lines of metrics.jsonl that are new since the last call; at the first one those of all attempts."""

    def explain_failure(self, code: int) -> StageError:
        """Why the program, which has ended with `code` (negative: by a signal), has not finished."""

    def collect_result(self, seconds: float) -> Result:
        """Turns what the program made into a checkpoint of ours. `seconds` is the time of all attempts.

        ConfigError if its weights are no model of ours.
        """

    def clean_up(self) -> None:
        """Removes what is not needed once result.json is written."""


OpenRun = Callable[[JobFile], EngineRun]


def resolve_engine(job: JobFile) -> tuple[Engine, EngineSettings]:
    """The job's engine and where it lies; ConfigError if that is not said or not there."""
    engine, settings = find_engine(job.config), job.settings.engine
    if engine is None or settings is None:
        raise ConfigError("the job names an engine, and its settings do not say where that lies (settings.engine)")
    if not Path(settings.python).is_file():
        raise ConfigError(
            f"engine {engine.kind}: there is no program {settings.python!r} (python); give its absolute path"
        )
    if settings.checkout and not Path(settings.checkout).is_dir():
        raise ConfigError(f"engine {engine.kind}: there is no folder {settings.checkout!r} (checkout)")
    return engine, settings


def build_exit_error(engine: str, code: int, clue: str = "") -> StageError:
    """The failure of a program that ended without its output files."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return EngineError(f"{engine} {how} and left no finished run{f': {clue}' if clue else ''}; see log.txt", code)


SHELL_SIGNALED = 128
"""A shell ends with so much more than the number of the signal that ended its program."""


class EngineError(StageError):
    """A program ended without what it was to make."""

    cause_in_log = True

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        number = code - SHELL_SIGNALED if code > SHELL_SIGNALED else -code
        if number == signal.SIGKILL:  # which nobody of ours has sent
            self.failure_class = "killed"
        elif number in {signal.SIGBUS, signal.SIGILL}:
            self.failure_class, self.node_unsure = "node_fault", True


# A foreign program as a child of the stage's process: its environment, its stop, its end.

POLL_SECONDS = 0.25
STOP_TIMEOUT_SECONDS = 20.0
"""How long a program that was asked to stop may save."""
OWN_PYTHON_VARIABLES = frozenset(
    {"PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
)
"""What points Python at our own pinned code and environment: another program must not find it."""


def build_environment(settings: EngineSettings, own: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """What the program finds: this process's environment without ours, the engine's and the user's words over it."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in OWN_PYTHON_VARIABLES and not name.startswith("STAGE_")
    }
    if missing := [name for name in settings.environment_from if name not in inherited]:
        raise ConfigError(
            f"the job has no variable {missing[0]} (environment_from): set it in the shell that submits, or in "
            "resources.setup"
        )
    path = {"PYTHONPATH": settings.checkout} if settings.checkout else {}
    return {**kept, "PYTHONUNBUFFERED": "1", **path, **own, **settings.environment}


def run_program(
    command: EngineCommand,
    settings: EngineSettings,
    stop: StopFlag,
    *,
    has_all: Callable[[], bool],
) -> int:
    """Runs the program to its end and returns its exit code, negative for a signal.

    `has_all` is called now and then. Once it is true, or once `stop` is requested, the program is asked to stop; it is
    killed if it does not.
    """
    environment = build_environment(settings, command.environment, os.environ)
    try:
        child = subprocess.Popen(
            command.argv,
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # it and its own children get signals together
            close_fds=False,  # it holds the run's lock too: no other attempt begins while it lives
        )
    except OSError as error:
        raise ConfigError(f"cannot run {command.argv[0]}: {error.strerror}") from None
    try:
        while child.poll() is None and not stop.requested and not has_all():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
        return child.returncode if child.poll() is not None else stop_program(child)
    finally:
        signal_group(child, signal.SIGKILL)
        child.wait()


def stop_program(child: "subprocess.Popen[bytes]") -> int:
    """Asks the program to stop and waits; kills it if it takes too long."""
    signal_group(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_TIMEOUT_SECONDS)
    signal_group(child, signal.SIGKILL)
    return child.wait()


def signal_group(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the program and all that it started; nothing if they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
