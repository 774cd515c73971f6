"""CPU time and memory of `sweep plan`: the paper's grid and a generated one of 100,008 jobs.

    python benchmarks/plan.py [--repeat 5]

Each plan runs as a process of its own, first into an empty store, then over the stored plan, then after an edit of one
learning rate (so that the stored plan is read and compared). CPU seconds are the least of the repetitions, user and
system together, from the interpreter's start to its end; memory is the peak resident set.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "manifests" / "paper.yaml"

LARGE = """\
name: large
backend: slurm
data:
  dclm: {kind: text, path: $STORE/data/dclm}
  datacompdr: {kind: captions, path: $STORE/data/datacompdr}
  llava: {kind: conversations, path: $STORE/data/llava}
  gpt-neox-20b: {kind: tokenizer, path: $STORE/data/gpt-neox-20b/tokenizer.json}
  tasks: {kind: tasks, path: $STORE/data/tasks}
  siglip: {kind: encoder, path: $STORE/encoders/siglip}
defaults:
  model: 79m
  pretrain: {restart_lr: 3.0e-3}
  evaluate: {text_tasks: [arc_easy, piqa], vision_tasks: [vqav2, pope]}
blocks:
  # 10 x 11 x 101 = 11,110 cells of 9 jobs, and 9 trunk segments
  - axes:
      branch: [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
      image_share: [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1]
      seed: [SEEDS]
  # and one more: 100,008 jobs
  - axes: {branch: [90], image_share: [0.1], seed: [9999]}
epochs: [1, 2, 3, 4]
"""


@dataclass(frozen=True)
class Cost:
    """What one process used."""

    cpu_seconds: float
    peak_mib: float


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=5)
    repeat = options.parse_args().repeat
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {cpu_model()}")
    print(f"{'plan':38} {'jobs':>8} {'CPU s':>7} {'MiB':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = folder / "large.yaml"
        large.write_text(LARGE.replace("SEEDS", ", ".join(str(seed) for seed in range(101))))
        for title, file, times in (("paper.yaml", PAPER, repeat), ("generated", large, max(1, repeat // 2))):
            measure(title, file, folder, times)


def measure(title: str, file: Path, folder: Path, times: int) -> None:
    """Three rows for one sweep file."""
    edited = folder / f"edited-{file.name}"
    edited.write_text(file.read_text().replace("blocks:", "blocks: # edited", 1).replace("3.0e-", "3.1e-", 1))
    empty = [planned(file, folder / f"{title}-{run}") for run in range(times)]
    again = [planned(file, folder / f"{title}-0") for _ in range(times)]
    anew = [planned(edited, folder / f"{title}-{run}") for run in range(times)]
    for what, costs in (("into an empty store", empty), ("the same again", again), ("after an edit, compared", anew)):
        best, jobs = min(cost.cpu_seconds for cost, _ in costs), costs[0][1]
        peak = max(cost.peak_mib for cost, _ in costs)
        print(f"{f'{title}, {what}':38} {jobs:8,} {best:7.2f} {peak:6.0f}", flush=True)


def planned(file: Path, store: Path) -> tuple[Cost, int]:
    """Runs one plan; its cost and the number of jobs in the manifest."""
    cost = measure_process([sys.executable, "-m", "sweep", "plan", str(file), "--store", str(store)])
    manifest = next(store.glob("sweeps/*/manifest.jsonl"))
    with manifest.open("rb") as lines:
        jobs = sum(line.startswith(b'{"record":"job"') for line in lines)
    return cost, jobs


def measure_process(command: list[str]) -> Cost:
    """Runs one command, which must succeed."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (output + errors).decode()
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale())


def scale() -> int:
    """Units of ru_maxrss in a MiB: kilobytes on Linux, bytes on macOS."""
    return 2**20 if sys.platform == "darwin" else 2**10


def cpu_model() -> str:
    """As /proc/cpuinfo names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
