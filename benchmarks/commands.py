"""CPU time of the commands that people run again and again, on the paper's 2,710 jobs.

    python benchmarks/commands.py [--repeat 5]

Each command is a process of its own; CPU seconds are the least of the repetitions, user and system together. The store
is simulated: its plan is real, its results are written by the tests' synthetic store, half of them and then all.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jobs.store.paths import Store  # noqa: E402 - the tests' package is found from the root
from tests.sweep.synthetic_store import Written, finish  # noqa: E402


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=5)
    repeat = options.parse_args().repeat
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'command':44} {'CPU s':>7}")
    with tempfile.TemporaryDirectory() as folder:
        row("sweep --help", repeat, "--help")
        store = ("--store", folder)
        run("plan", str(ROOT / "manifests" / "paper.yaml"), *store)
        row("sweep status, nothing done", repeat, "status", "paper", *store)
        written = planned(Path(folder))
        keys = list(written.jobs)
        finish(written, keys[: len(keys) // 2])
        row("sweep status, half done", repeat, "status", "paper", *store)
        finish(written, keys[len(keys) // 2 :])
        row("sweep status, all done", repeat, "status", "paper", *store)
        row(
            "sweep submit --dry-run, all done",
            repeat,
            "submit",
            "paper",
            "--backend",
            "local",
            "--dry-run",
            "--ignore-data",
            *store,
        )
        row("sweep results --no-figures, all done", max(1, repeat // 2), "results", "paper", "--no-figures", *store)


def planned(folder: Path) -> Written:
    """The stored plan as the synthetic store knows one."""
    store = Store(folder)
    records = [json.loads(line) for line in store.locate_sweep("paper").manifest.read_text().splitlines()]
    jobs = {record["key"]: record for record in records if record["record"] == "job"}
    return Written(store, "paper", cells=[record for record in records if record["record"] == "cell"], jobs=jobs)


def row(title: str, repeat: int, *arguments: str) -> None:
    """One line of the table."""
    print(f"{title:44} {min(run(*arguments) for _ in range(repeat)):7.2f}", flush=True)


def run(*arguments: str) -> float:
    """CPU seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sweep", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
