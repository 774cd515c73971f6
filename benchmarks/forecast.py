"""CPU time and memory of `sweep forecast` of plans of which nothing has run: the paper's, and one of 19,809 jobs.

    python benchmarks/forecast.py [--repeat 3] [--draws 200]

Each forecast is a process of its own with 200 draws, and as many more with each thing lifted that may hold it up: first
as things are found without a cluster, then under limits, waits and trouble. CPU seconds are the least of the
repetitions, user and system together, from the interpreter's start to its end; memory is the peak resident set. For the
machine's speed, `sweep plan` of the paper's file is timed in the same run.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.plan import LARGE, PAPER, Cost, cpu_model, measure_process, planned  # noqa: E402 - found from the root

SEEDS = 20
LIMITS = ("--gpus", "256", "--max-queued", "500", "--wait-minutes", "60")
TROUBLE = ("--failures", "2", "--preemptions", "0.2")


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--draws", type=int, default=200)
    given = options.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {cpu_model()}")
    print(f"{'forecast':44} {'jobs':>8} {'CPU s':>7} {'MiB':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = folder / "large.yaml"
        text = LARGE.replace("SEEDS", ", ".join(str(seed) for seed in range(SEEDS)))
        large.write_text(text.replace("  # and one more: 100,008 jobs\n", "").replace(ONE_MORE, ""))
        plan, _ = planned(PAPER, folder / "paper")
        print(f"{'sweep plan of paper.yaml, for comparison':44} {'':8} {plan.cpu_seconds:7.2f} {plan.peak_mib:6.0f}")
        for title, file in (("paper", PAPER), ("large", large)):
            _, jobs = planned(file, folder / title)
            for what, words in (("", ()), (", limits and waits", LIMITS), (", trouble too", (*LIMITS, *TROUBLE))):
                costs = [forecast(folder / title, title, given.draws, *words) for _ in range(given.repeat)]
                best = min(costs, key=lambda cost: cost.cpu_seconds)
                print(f"{title + what:44} {jobs:8,} {best.cpu_seconds:7.2f} {best.peak_mib:6.0f}", flush=True)


ONE_MORE = "  - axes: {branch: [90], image_share: [0.1], seed: [9999]}\n"
"""Of the large file of the plans' benchmark."""


def forecast(store: Path, name: str, draws: int, *words: str) -> Cost:
    """Runs one."""
    command = [sys.executable, "-m", "sweep", "forecast", name, "--draws", str(draws), *words, "--store", str(store)]
    return measure_process(command)


if __name__ == "__main__":
    main()
