"""A foreign program as a child of the stage's process: its environment, its stop, its end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

from stages.engines.engine import Command
from stages.errors import ConfigError
from stages.job_file import EngineSettings
from stages.stop import StopFlag

POLL_SECONDS = 0.25
STOP_PATIENCE_SECONDS = 20.0
"""How long a program that was asked to stop may save."""
OURS = frozenset({"PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})
"""What points Python at our own pinned code and environment: another program must not find it."""


def environment_of(settings: EngineSettings, own: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """What the program finds: this process's environment without ours, the engine's and the user's words over it."""
    kept = {name: value for name, value in inherited.items() if name not in OURS and not name.startswith("STAGE_")}
    path = {"PYTHONPATH": settings.checkout} if settings.checkout else {}
    return {**kept, "PYTHONUNBUFFERED": "1", **path, **own, **settings.environment}


def run_program(
    command: Command,
    settings: EngineSettings,
    stop: StopFlag,
    *,
    look: Callable[[], bool],
) -> int:
    """Runs the program to its end and returns its exit code, negative for a signal.

    `look` is called now and then; once it says that all is there, or `stop` asks, the program is asked to stop, and
    killed if it does not.
    """
    environment = environment_of(settings, command.environment, os.environ)
    try:
        child = subprocess.Popen(
            command.words,
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # it and its own children get signals together
            close_fds=False,  # it holds the run's lock too: no other attempt begins while it lives
        )
    except OSError as error:
        raise ConfigError(f"cannot run {command.words[0]}: {error.strerror}") from None
    try:
        while child.poll() is None and not stop.requested and not look():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
        return child.returncode if child.poll() is not None else end(child)
    finally:
        signal_group(child, signal.SIGKILL)
        child.wait()


def end(child: "subprocess.Popen[bytes]") -> int:
    """Asks the program to stop and waits; kills it if it takes too long."""
    signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 5)
    signal_group(child, signal.SIGKILL)
    return child.wait()


def signal_group(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the program and all that it started; nothing if they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
