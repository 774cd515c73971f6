"""Commands on a toy sweep of counting stages, in this process or in one of their own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.store.paths import Store
from sweep.cli import main
from tests.jobs import toy

IN_A_PROCESS = (
    "import sys, jobs.local.attempts as local, sweep.cli;"
    f"local.STAGE_PROGRAM = {toy.COUNTING_STAGE!r};sys.exit(sweep.cli.main())"
)

PATIENCE_SECONDS = 240


def sweep(store: Store, command: str, *words: str) -> int:
    return main([command, toy.SWEEP, *words, "--store", str(store.root)])


@contextmanager
def beside(store: Store, command: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own."""
    line = [sys.executable, "-c", IN_A_PROCESS, command, toy.SWEEP, *words, "--store", str(store.root)]
    process = subprocess.Popen(line, cwd=toy.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until_it_works(store: Store, job: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not toy.count(store, job, "step"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
