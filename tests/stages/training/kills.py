"""The long version of a promise: a run that is killed again and again ends with the bits of one that is not.

    python -m tests.stages.training.kills --kills 30 [--seed 1] [--workers 1] [--device cuda]

Kills `python -m stages` with SIGKILL at random moments of its life (start-up, a step, a checkpoint's writing), starts
it again, and compares the end with an undisturbed run's. Exit code 1 if weights, moments, data position, loss or any
line of the metrics differ.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoint.files import find_newest_checkpoint, list_step_folders, read_checkpoint, read_result_checkpoint
from stages.job_file import JobFile
from tests.stages.training.training_case import STAGES_PROGRAM, image_config, make_world, result_of, same_bits, start

CLOCK = {"time", "tokens_per_second", "data_wait", "peak_memory_gib"}
STEPS_A_KILL = 40
"""Steps of the run for each kill; about a second's."""
LONGEST_WAIT = 1.0
"""Seconds from a checkpoint to the kill."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Kill a run at random moments and compare its end.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="data workers")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = compare_killed_run(
            Path(folder), kills=given.kills, seed=given.seed, workers=given.workers, device=given.device
        )
    print(f"{found.kills} kills, {found.steps} steps: {', '.join(found.differing) or 'equal bits'}")
    return 1 if found.differing or found.kills < given.kills else 0


@dataclass(frozen=True)
class KilledRun:
    kills: int
    """How often it was alive to be killed."""
    steps: int
    differing: list[str]
    """What is not equal to the undisturbed run's; see `differences`."""


def compare_killed_run(
    folder: Path,
    *,
    kills: int,
    seed: int,
    workers: int,
    steps_a_kill: int = STEPS_A_KILL,
    longest_wait: float = LONGEST_WAIT,
    precision: str = "fp32",
    program: Sequence[str] = STAGES_PROGRAM,
    **settings: Any,
) -> KilledRun:
    """An undisturbed run below `folder` and one that is killed so often, both by `program`."""
    world = make_world(folder)
    config = image_config(max(60, steps_a_kill * kills), precision=precision)
    settings = {"data_workers": workers, "checkpoint_steps": 3, "log_steps": 5, "keep_checkpoints": 3, **settings}
    whole = world.job("whole", "pretrain", config, **settings)
    started = time.monotonic()
    finish(whole, program)
    seconds = time.monotonic() - started
    killed = world.job("killed", "pretrain", config, **settings)
    # a start may take most of the time, and a run that has gone on so long has ended
    longest = min(longest_wait, seconds / max(1, kills))
    count = kill(killed, kills, random.Random(seed), longest, program)
    finish(killed, program)
    return KilledRun(count, config["schedule"]["total_steps"], differences(killed, whole))


def finish(job: JobFile, program: Sequence[str] = STAGES_PROGRAM) -> None:
    """Runs the job to its end."""
    process = start(job, program)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{job.key} ended with {process.returncode}: {errors}")


def kill(
    job: JobFile, kills: int, chance: random.Random, longest: float, program: Sequence[str] = STAGES_PROGRAM
) -> int:
    """Starts and kills the job so often; returns how often it was alive to be killed."""
    count = 0
    for number in range(kills):
        before = newest_step(job)
        process = start(job, program)
        if chance.random() < 0.8:  # else perhaps in the middle of its start
            wait_for_progress(job, before, process)
        time.sleep(chance.uniform(0, longest))
        process.kill()
        process.communicate()
        count += process.returncode == -signal.SIGKILL
        broken = [path.name for path in list_step_folders(job.checkpoints) if read_checkpoint(path) is None]
        print(f"kill {number + 1}: at a checkpoint of step {newest_step(job)}, broken {broken or 'none'}", flush=True)
        if broken:
            raise RuntimeError(f"a checkpoint is there and not whole: {broken}")
    return count


def newest_step(job: JobFile) -> int:
    found = find_newest_checkpoint(job.checkpoints)
    return found.step if found else 0


def wait_for_progress(job: JobFile, before: int, process: Any) -> None:
    """Until there is a checkpoint beyond step `before`, or the process has ended."""
    while process.poll() is None and not any(
        int(path.name[5:]) > before for path in list_step_folders(job.checkpoints)
    ):
        time.sleep(0.01)


def differences(one: JobFile, other: JobFile) -> list[str]:
    """What is not equal at the end of two runs."""
    mine, theirs = read_result_checkpoint(one.run), read_result_checkpoint(other.run)
    pairs = {
        "weights": same_bits(mine.read_weights(), theirs.read_weights()),
        "moments": same_bits(mine.read_moments(), theirs.read_moments()),
        "data position": mine.state["data"] == theirs.state["data"],
        "metrics": numbers(one) == numbers(other),
        "result": all(
            result_of(one)[name] == result_of(other)[name] for name in ("steps", "tokens", "loss", "sources")
        ),
    }
    return [name for name, equal in pairs.items() if not equal]


def numbers(job: JobFile) -> list[dict[str, Any]]:
    """The lines of the metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in job.metrics.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
