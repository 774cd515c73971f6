"""Forecasts beside the truth: random small campaigns on a real Slurm cluster, each forecast as it goes.

    python -m tests.sweep.forecast.validate --campaigns 30 --seed 1

Each campaign runs by ticks alone, with its failures and requeues. Before it, and when a quarter, half and three
quarters of its jobs are done, it is forecast; the table says how far the median was off, in parts of the whole time,
and how often the end lay within the 80 % interval. With `--lift` each campaign runs a second time without the first
thing that was named as binding, where that can be taken away.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from sweep.forecast.conditions import OWN_LIMIT
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.slurm_toy import ToySweep
from tests.sweep.forecast.campaigns import CampaignSpec, draw_campaign

PARTS = (0.0, 0.25, 0.5, 0.75)
"""Of the jobs done, when a forecast is made."""
LOOK_SECONDS = 0.3
WAIT_SECONDS = 0.3
"""What a job waits on the test cluster that has room for it, the median: its scheduler looks once a second."""
MOST_SECONDS = 300.0
"""Of a campaign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One campaign and its forecasts. Seconds are counted from its first submission."""

    spec: CampaignSpec
    took: float
    forecasts: Mapping[float, tuple[float, float, float]]
    """By part done: low, middle and high of the end."""
    binding: Sequence[tuple[str, float]]
    """As named before the first submission, with seconds."""
    load: float
    """Of the machine, at its end."""

    def measure_error(self, part: float) -> float:
        """Of the median, in parts of the whole time."""
        return self.forecasts[part][1] / self.took - 1

    def is_covered(self, part: float) -> bool:
        """Whether the end lay between a tenth and nine tenths."""
        low, _, high = self.forecasts[part]
        return low <= self.took <= high


@dataclass(slots=True)
class Drive:
    """A campaign while it runs."""

    toys: ToySweep
    spec: CampaignSpec
    chance: random.Random
    asked: dict[float, "subprocess.Popen[str]"] = field(default_factory=dict)
    """Forecasts by part done, each a process of its own: the ticks do not wait for it."""

    def ask(self, part: float) -> None:
        """Begins a forecast, with what a user would say of ticks and, before anything has run, of trouble and waits."""
        obstacles = self.spec.obstacles
        words = ["--json", "--tick-minutes", str(obstacles.tick_s / 60)]
        if obstacles.max_queued is not None:
            words += ["--max-queued", str(obstacles.max_queued)]
        if not part:
            words += ["--failures", str(100 * obstacles.fail), "--wait-minutes", str(WAIT_SECONDS / 60)]
            words += ["--preemptions", str(1440 * obstacles.requeues_per_minute)]
        self.asked[part] = self.toys.start("forecast", *words)

    def read(self, part: float) -> Mapping[str, Any]:
        """What it says, when it has ended."""
        process = self.asked[part]
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        report: Mapping[str, Any] = json.loads(out)
        return report

    def count_done(self) -> int:
        return len(list(self.toys.store.root.glob("runs/*/*/result.json")))

    def requeue_some(self, seconds: float) -> None:
        """Running jobs, each by its chance within so many seconds."""
        chance = self.spec.obstacles.requeues_per_minute * seconds / 60
        for task, (state, _) in self.toys.queue().items() if chance else ():
            if state == "RUNNING" and self.chance.random() < chance:
                self.toys.lab.run("scontrol", "requeue", task)

    def run(self) -> float:
        """Until all jobs are done; returns the moment of the first submission."""
        obstacles = self.spec.obstacles
        cap = [] if obstacles.max_queued is None else ["--max-queued", str(obstacles.max_queued)]
        started = looked = time.time()
        self.toys.sent("submit", *cap)
        ticks = 1
        while (done := self.count_done()) < len(self.spec.jobs):
            now = time.time()
            if now - started > MOST_SECONDS:
                raise TimeoutError(f"campaign {self.spec.seed}: {done} of {len(self.spec.jobs)} jobs are done")
            self.requeue_some(now - looked)
            looked = now
            for part in PARTS:
                if part not in self.asked and done >= part * len(self.spec.jobs):
                    self.ask(part)
            if now - started >= ticks * obstacles.tick_s:
                ticks = int((now - started) / obstacles.tick_s) + 1
                self.toys.tick()
            time.sleep(LOOK_SECONDS)
        return started


def try_campaign(lab: Lab, folder: Path, spec: CampaignSpec) -> Trial:
    """Runs it on the cluster, which is reset first."""
    lab.reset()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in lab.env.items():
            patch.setenv(variable, value)
        drive = Drive(ToySweep(lab, folder, spec.jobs, patch), spec, random.Random(spec.seed))
        drive.ask(0.0)
        first = drive.read(0.0)
        started = drive.run()
        reports = {0.0: first, **{part: drive.read(part) for part in drive.asked if part}}
    results = drive.toys.store.root.glob("runs/*/*/result.json")
    return Trial(
        spec=spec,
        took=max(path.stat().st_mtime for path in results) - started,
        forecasts={part: find_ends(report, started if part else first["now"]) for part, report in reports.items()},
        binding=[(each["name"], each["saved_seconds"]) for each in first["binding"]],
        load=os.getloadavg()[0],
    )


def find_ends(report: Mapping[str, Any], begun: float) -> tuple[float, float, float]:
    """Low, middle and high of the end in seconds from a moment; infinite where it never comes."""
    ends = [report["end"][name] for name in ("low", "middle", "high")]
    low, middle, high = (float("inf") if each is None else each - begun for each in ends)
    return low, middle, high


def lift_obstacle(spec: CampaignSpec, name: str) -> CampaignSpec | None:
    """The same campaign without what was named; None where it cannot be taken away."""
    obstacles, jobs = spec.obstacles, spec.jobs
    if name == OWN_LIMIT:
        obstacles = replace(obstacles, max_queued=None)
    elif name.startswith("the limit of QOS"):
        obstacles = replace(obstacles, qos="")
        jobs = [replace(job, resources=replace(job.resources, options={})) for job in jobs]
    elif name.startswith("cores of partition"):
        jobs = [replace(job, resources=replace(job.resources, cpus=2)) for job in jobs]
        obstacles = replace(obstacles, at_once=128)
    elif name == "the time between two ticks":
        obstacles = replace(obstacles, tick_s=1.0)
    elif name == "failures and preemptions":
        obstacles = replace(obstacles, fail=0.0, requeues_per_minute=0.0)
        kept = [{word: value for word, value in job.config.items() if not word.startswith("fail")} for job in jobs]
        jobs = [replace(job, config=config) for job, config in zip(jobs, kept, strict=True)]
    else:
        return None
    return replace(spec, obstacles=obstacles, jobs=jobs)


def format_table(trials: Sequence[Trial], lifted: Mapping[str, tuple[str, float, float]]) -> str:
    """A line for each campaign, then what they say together. `lifted`: by seed what was taken away, the seconds that
    this was to save, and that it saved."""
    lines = []
    for trial in trials:
        ends = " ".join(
            f"{part:.0%} {found[0]:.0f}/{found[1]:.0f}/{found[2]:.0f}{'' if trial.is_covered(part) else '!'}"
            for part, found in trial.forecasts.items()
        )
        bound = ", ".join(f"{name} ({seconds:.0f} s)" for name, seconds in trial.binding) or "nothing"
        lines.append(
            f"{trial.spec.seed}: {len(trial.spec.jobs)} jobs, {trial.spec.obstacles.describe()}: "
            f"took {trial.took:.0f} s (load {trial.load:.1f}); forecast {ends}; binds: {bound}"
        )
    for seed, (name, promised, saved) in lifted.items():
        lines.append(f"{seed}: without {name} it took {saved:.0f} s less; {promised:.0f} s were forecast")
    lines.append("done  campaigns  median error  median |error|  within 80 % interval")
    for part in PARTS:
        known = [trial for trial in trials if part in trial.forecasts]
        errors = [trial.measure_error(part) for trial in known]
        if errors:
            inside = sum(trial.is_covered(part) for trial in known) / len(known)
            size = median(map(abs, errors))
            lines.append(f"{part:4.0%}  {len(known):9}  {median(errors):+12.1%}  {size:14.1%}  {inside:20.0%}")
    return "\n".join(lines)


def run_trials(
    lab: Lab, folder: Path, specs: Sequence[CampaignSpec], *, lift: bool, say: Callable[[str], object]
) -> str:
    """All campaigns one after the other, and their table."""
    trials: list[Trial] = []
    lifted: dict[str, tuple[str, float, float]] = {}
    for number, spec in enumerate(specs):
        trial = try_campaign(lab, folder / str(number), spec)
        trials.append(trial)
        say(format_table([trial], {}).splitlines()[0])
        freed = lift_obstacle(spec, trial.binding[0][0]) if lift and trial.binding else None
        if freed is not None:
            name, promised = trial.binding[0]
            again = try_campaign(lab, folder / f"{number}-lifted", freed)
            lifted[spec.seed] = name, promised, trial.took - again.took
    return format_table(trials, lifted)


@contextmanager
def own_cluster() -> Iterator[Lab]:
    """A cluster for this process, which ends with it, whatever happens."""
    lab = Lab(Path(tempfile.gettempdir()) / f"sw-forecast-{random.SystemRandom().randrange(10**6)}", Options())
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep.forecast.validate", description=__doc__)
    parser.add_argument("--campaigns", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--lift", action="store_true", help="run again without the first thing that binds")
    options = parser.parse_args()
    specs = [draw_campaign(f"{options.seed}-{number}") for number in range(options.campaigns)]
    with tempfile.TemporaryDirectory(prefix="sweep-forecast-") as folder, own_cluster() as lab:
        print(
            run_trials(
                lab, Path(folder), specs, lift=options.lift, say=lambda line: print(line, file=sys.stderr, flush=True)
            )
        )
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster's processes end too
    sys.exit(main())
