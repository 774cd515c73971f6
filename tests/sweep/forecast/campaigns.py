"""Random small campaigns, by a seed: a graph of counting jobs, what holds it up, and how far its plan is off."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

from jobs.job import Estimate, Job, Resources
from tests.jobs.toy import toy_job

STEP_SECONDS = 0.25
STARTUP_SECONDS = 1.5
"""What the plan says an attempt takes beside its steps."""
NODES, NODE_CORES = 4, 64
"""The test cluster's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """What holds a campaign up besides its chains."""

    max_queued: int | None = None
    qos: str = ""
    """`capped` lets five jobs into the queue, and two run."""
    at_once: int = 16
    """Jobs that the cluster's cores hold."""
    tick_s: float = 4.0
    fail: float = 0.0
    """Chance that a job fails once."""
    requeues_per_minute: float = 0.0
    """Of a running job."""

    def describe(self) -> str:
        """In the words of the table."""
        words = [
            f"{self.at_once} at once",
            *([f"{self.max_queued} queued"] if self.max_queued else []),
            *([f"QOS {self.qos}"] if self.qos else []),
            f"tick {self.tick_s:.0f} s",
            *([f"fail {100 * self.fail:.0f} %"] if self.fail else []),
            *([f"requeue {self.requeues_per_minute:.1f}/min"] if self.requeues_per_minute else []),
        ]
        return ", ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSpec:
    """One campaign."""

    seed: str
    obstacles: Obstacles
    jobs: Sequence[Job]


def draw_campaign(seed: str, *, cells: int | None = None) -> CampaignSpec:
    """Equal for equal arguments. `cells`: None leaves their number to chance."""
    chance = random.Random(seed)
    obstacles = Obstacles(
        max_queued=chance.choice([None, None, 4, 7]),
        qos=chance.choice(["", "", "", "capped"]),
        at_once=chance.choice([4, 4, 8, 16]),
        tick_s=chance.choice([3.0, 5.0, 8.0]),
        fail=chance.choice([0.0, 0.0, 0.15]),
        requeues_per_minute=chance.choice([0.0, 0.0, 0.8]),
    )
    draw = JobDrawer(chance, obstacles, off=exp(chance.gauss(0, 0.2)))
    segments = chance.randint(1, 3)
    jobs = [draw.draw_trunk(number) for number in range(segments)]
    for number in range(cells or chance.randint(3, 8)):
        jobs += draw.draw_cell(f"c{number}", f"trunk{chance.randrange(segments)}", epochs=chance.randint(1, 2))
    return CampaignSpec(seed=seed, obstacles=obstacles, jobs=jobs)


@dataclass(frozen=True, slots=True)
class JobDrawer:
    """Draws the jobs of one campaign."""

    chance: random.Random
    obstacles: Obstacles
    off: float
    """What the plan makes of a second of steps, for all jobs."""

    def draw_trunk(self, number: int) -> Job:
        """A segment behind the one before."""
        return self.draw_job(f"trunk{number}", "trunk", 3.0, f"trunk{number - 1}" if number else "")

    def draw_cell(self, cell: str, trunk: str, *, epochs: int) -> list[Job]:
        """A run, and as many fine-tunes with an evaluation each."""
        jobs = [self.draw_job(f"{cell}-pre", "pretrain", 4.0, trunk, cell)]
        for number in range(1, epochs + 1):
            jobs.append(self.draw_job(f"{cell}-ft{number}", "finetune", 2.0, f"{cell}-pre", cell))
            jobs.append(self.draw_job(f"{cell}-ev{number}", "evaluate", 1.0, f"{cell}-ft{number}", cell))
        return jobs

    def draw_job(self, key: str, phase: str, seconds: float, parent: str = "", cell: str = "") -> Job:
        """One that takes about `seconds` of steps; its plan says so much times `off`."""
        chance, obstacles = self.chance, self.obstacles
        steps = max(2, round(seconds * exp(chance.gauss(0, 0.3)) / STEP_SECONDS))
        cores = NODES * NODE_CORES // obstacles.at_once
        fails = chance.random() < obstacles.fail
        trouble = {"fail": "kill", "fail_at": chance.randrange(steps), "fail_times": 1} if fails else {}
        options = {"qos": obstacles.qos} if obstacles.qos else {}
        core_hours = cores * self.off * STEP_SECONDS * steps / 3600
        startup = cores * STARTUP_SECONDS / 3600
        job = toy_job(
            key,
            *([parent] if parent else []),
            phase=phase,
            cells=[cell] if cell else [],
            resources=Resources(cpus=cores, memory_gib=0.5, time_minutes=5, options=options),
            steps=steps,
            step_seconds=STEP_SECONDS,
            tells_seconds=True,
            **trouble,
        )
        estimate = Estimate(cpu_hours=core_hours + startup, startup_hours=startup)
        return replace(job, settings={"checkpoint_minutes": 0}, estimate=estimate)
