"""A program that stands before sbatch on PATH: the real one, with a fault now and then.

An order is a file in the folder `orders`, named for what is to go wrong; the first call that takes it (by removing it)
obeys it. Without an order it is the real `sbatch`. Copied to a folder of its own, where `settings.json` names both;
imports nothing of ours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LATE_SECONDS = 2.0
CRASH_SECONDS = 10.0
HANG_SECONDS = 120.0
"""Longer than anybody waits."""


def main() -> int:
    for name in ("LD_PRELOAD", "FAKETIME"):  # of the submitter's machine alone, and not of the jobs
        os.environ.pop(name, None)
    settings = json.loads(Path(__file__).with_name("settings.json").read_text())
    real = [settings["sbatch"], *sys.argv[1:]]
    # a question sends nothing, and takes no order
    order, content = ("", "") if "--test-only" in sys.argv else take_order(Path(settings["orders"]))
    if order == "":
        os.execv(real[0], real)  # noqa: S606 - it is a program, and no shell is wanted
    if order == "late":
        time.sleep(LATE_SECONDS)
        os.execv(real[0], real)  # noqa: S606 - it is a program, and no shell is wanted
    if order == "hangs_before":
        time.sleep(HANG_SECONDS)
        return 1
    done = subprocess.run(real, stdout=subprocess.PIPE, check=False)  # the script comes by standard input
    return after(order, content, done)


def after(order: str, content: str, done: "subprocess.CompletedProcess[bytes]") -> int:
    """The controller has the job; what the caller hears of it."""
    if order == "hangs_after":
        time.sleep(HANG_SECONDS)
    elif order == "garbage_after":
        print("sbatch: lua: Welcome to the cluster; your job is on its way")
        return 0
    elif order == "fails_after":
        print("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", file=sys.stderr)
        return 1
    elif order == "killed_after":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "crash_after":  # the controller forgets what it has just acknowledged
        wait_for_crash(Path(content))
    sys.stdout.buffer.write(done.stdout)
    return done.returncode


def wait_for_crash(answered: Path) -> None:
    """Has the controller killed by who may, and returns when it is dead."""
    answered.touch()
    until = time.monotonic() + CRASH_SECONDS
    while answered.exists() and time.monotonic() < until:
        time.sleep(0.01)


def take_order(folder: Path) -> tuple[str, str]:
    """Name and content of an order that this call alone has taken; empty if there is none."""
    for path in sorted(folder.iterdir()):
        taken = folder.parent / f"taken-{path.name}-{os.getpid()}"
        try:
            path.rename(taken)
        except FileNotFoundError:
            continue
        return path.name, taken.read_text()
    return "", ""


if __name__ == "__main__":
    sys.exit(main())
