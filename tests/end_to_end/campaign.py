"""Kills a sweep's processes at random moments and compares what comes out with an undisturbed run.

    python -m tests.end_to_end.campaign manifests/demo.yaml --data store/data --kills 10 --scratch /tmp/campaign

Everything is real: the `sweep` command, the stages, SIGKILL. Prints what was killed and what differs; exit code 1 if
anything does.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from jobs.processes import is_supervisor_alive, list_attempt_pids
from jobs.store.paths import RunPaths, Store
from jobs.store.records import AttemptExit, AttemptStart, read_record
from sweep.plan.manifest import Manifest, read_manifest

SWEEP = (sys.executable, "-m", "sweep")
VICTIMS = ("runner", "stage", "supervisor")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What must be equal however often a job was killed: weights, scores, counts. Times and costs are not in it."""

    weights: str
    numbers: dict[str, object] = field(default_factory=dict)


def sweep(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    command = [*SWEEP, *arguments, "--store", str(store)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def runs(store: Path, manifest: Manifest) -> Iterator[tuple[str, RunPaths]]:
    """Every job of the plan with its folder."""
    return ((job.key, Store(store).locate_run(job.stage, job.key)) for job in manifest.jobs)


def outcome(run: RunPaths) -> Outcome | None:
    """None for a job that is not done."""
    result = read_record(run.result)
    if result is None:
        return None
    record = read_record(run.root / result["checkpoint"] / "record.json") if result.get("checkpoint") else None
    weights = record["files"]["model.safetensors"]["sha256"] if record else ""
    compared = ("steps", "tokens", "image_tokens", "images", "loss", "scores", "bad_samples")
    return Outcome(weights=weights, numbers={name: result.get(name) for name in compared})


def outcomes(store: Path, manifest: Manifest) -> dict[str, Outcome | None]:
    """By key."""
    return {key: outcome(run) for key, run in runs(store, manifest)}


def attempts(run: RunPaths) -> list[tuple[AttemptStart, AttemptExit | None]]:
    """Oldest first; those that began."""
    folders = [run.locate_attempt(path.name) for path in run.attempts.iterdir()] if run.attempts.exists() else []
    found = [(start, AttemptExit.read(each.exit)) for each in folders if (start := AttemptStart.read(each.start))]
    return sorted(found, key=lambda pair: pair[0].started_at)


def broken_promises(store: Path, manifest: Manifest) -> list[str]:
    """Jobs that ran twice to completion, or had two attempts at one time."""
    broken = []
    for key, run in runs(store, manifest):
        known = attempts(run)
        if sum(end is not None and end.failure is None for _, end in known) > 1:
            broken.append(f"{key} ran twice to completion")
        for (_, end), (following, _) in pairwise(known):
            if end is not None and end.ended_at > following.started_at:
                broken.append(f"{key}: attempt {following.attempt} began before the one before had ended")
    return broken


class Killer:
    """Starts `sweep submit` and kills it, its supervisors or its stages."""

    def __init__(self, store: Path, name: str, chance: random.Random) -> None:
        self.store = store
        self.name = name
        self.chance = chance
        self.runner = self._submit()
        self.killed: list[str] = []

    def _submit(self) -> "subprocess.Popen[bytes]":
        command = [*SWEEP, "submit", self.name, "--store", str(self.store)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def strike(self, victim: str) -> bool:
        """One kill; False if there was nothing of that kind to kill."""
        if self.runner.poll() is not None:
            self.runner = self._submit()
            time.sleep(1)
        if victim == "runner":
            self.runner.kill()
            self.runner.wait()
            self.runner = self._submit()
            pid = self.runner.pid
        else:
            candidates = list(self._supervisors() if victim == "supervisor" else self._stages())
            if not candidates:
                return False
            pid = self.chance.choice(candidates)
            os.kill(pid, signal.SIGKILL)
        self.killed.append(f"{victim} (pid {pid})")
        return True

    def finish(self) -> None:
        """Submits until nothing is left to do; three rounds must be enough."""
        self.runner.wait()
        for _ in range(3):
            if sweep(self.store, "submit", self.name).returncode == 0:
                return

    def _live(self) -> Iterator[tuple[Path, AttemptStart]]:
        for start_file in self.store.glob("runs/*/*/attempts/*/start.json"):
            start = AttemptStart.read(start_file)
            if start is not None and not start_file.with_name("exit.json").exists():
                yield start_file.parent, start

    def _supervisors(self) -> Iterator[int]:
        return (start.pid for _, start in self._live() if is_supervisor_alive(start))

    def _stages(self) -> Iterator[int]:
        return (pid for folder, _ in self._live() for pid in list_attempt_pids(folder))


def differences(undisturbed: Path, disturbed: Path, name: str) -> list[str]:
    """Everything that the kills changed, in words; empty if nothing."""
    manifest = read_manifest(Store(undisturbed).locate_sweep(name).manifest)
    expected, got = outcomes(undisturbed, manifest), outcomes(disturbed, manifest)
    missing = [f"{key} has no result in the undisturbed run" for key, what in expected.items() if what is None]
    changed = [f"{key}: {expected[key]} became {got[key]}" for key in expected if expected[key] != got[key]]
    return missing + changed + broken_promises(disturbed, manifest)


def campaign(
    sweep_file: Path, name: str, scratch: Path, *, data: Path, kills: int, seed: int, seconds: float
) -> list[str]:
    """Runs the sweep in `scratch`, with kills spread over `seconds`; says what was killed.

    `data` is what the sweep file calls `$STORE/data`.
    """
    prepare(sweep_file, scratch, data)
    chance = random.Random(seed)
    killer = Killer(scratch, name, chance)
    pause = seconds / kills
    for number in range(kills):
        time.sleep(chance.uniform(0.2, 1.0) * pause)
        deadline = time.monotonic() + pause
        while not killer.strike(VICTIMS[number % len(VICTIMS)]) and time.monotonic() < deadline:
            time.sleep(0.05)
    killer.finish()
    return killer.killed


def undisturbed(sweep_file: Path, name: str, scratch: Path, *, data: Path) -> float:
    """Runs the sweep in `scratch` and lets it be; the seconds that it took."""
    prepare(sweep_file, scratch, data)
    began = time.monotonic()
    done = sweep(scratch, "submit", name)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def prepare(sweep_file: Path, store: Path, data: Path) -> None:
    """Makes the store with its data and its plan."""
    store.mkdir(parents=True)
    (store / "data").symlink_to(data.absolute())
    planned = sweep(store, "plan", str(sweep_file))
    assert planned.returncode == 0, planned.stderr


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_file", type=Path)
    parser.add_argument("--name", help="the sweep's name (default: the file's)")
    parser.add_argument("--data", type=Path, required=True, help="folder that the sweep file calls $STORE/data")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder for the stores")
    parser.add_argument("--calm", type=Path, help="a store in which the sweep is done already (default: run it)")
    parser.add_argument("--seconds", type=float, default=300.0, help="over which kills are spread, with --calm")
    options = parser.parse_args()
    name = options.name or options.sweep_file.stem
    calm, stormy, seconds = options.calm, options.scratch / "stormy", options.seconds
    if calm is None:
        calm = options.scratch / "calm"
        seconds = undisturbed(options.sweep_file, name, calm, data=options.data)
    killed = campaign(
        options.sweep_file,
        name,
        stormy,
        data=options.data,
        kills=options.kills,
        seed=options.seed,
        seconds=seconds,
    )
    changed = differences(calm, stormy, name)
    print(f"killed: {', '.join(killed)}")
    print("\n".join(changed) or "nothing differs: weights, scores and counts are equal, no job ran twice")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
