"""Seasons of faults, one after another, until enough were injected."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm_lab import Lab
from tests.slurm_lab.chaos import daemons, submitters, tasks
from tests.slurm_lab.chaos.checks import violations
from tests.slurm_lab.chaos.hours import Hours, compare
from tests.slurm_lab.chaos.world import World

FAULTS = {**submitters.FAULTS, **daemons.FAULTS, **tasks.FAULTS}
OFTEN = (submitters.AT_A_SIDE_EFFECT,) * 3
"""There are many moments at which a command can be killed."""
UNACCOUNTABLE = frozenset({*daemons.CRASHES, *daemons.OUTAGES, submitters.LEDGERS_DELETED})
"""Left out in every third season, in which sacct and our accounting must agree to the second."""
STRICT_SEASONS = 3
RAISED = "stage raises once"
"""Not struck from outside: the plan says which stages do."""
MOST_PAUSE_SECONDS = 1.2
HEALING_SECONDS = 240.0
STOPPED = ("failed", "cancelled")
UNFINISHED = "PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING"


@dataclass(slots=True)
class Outcome:
    """A campaign's."""

    injected: Counter[str] = field(default_factory=Counter)
    """By kind."""
    moments: Counter[str] = field(default_factory=Counter)
    """Side effects at which commands were killed."""
    violations: list[str] = field(default_factory=list)
    hours: list[Hours] = field(default_factory=list)
    seasons: int = 0
    jobs: int = 0
    resumed: list[str] = field(default_factory=list)
    """Jobs that needed `sweep resume` at the end, and why they had stopped."""
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        return sum(self.injected.values())


class Deck:
    """Deals kinds of faults in random order: first each once, then again and again, some more often. A kind
    that found nothing to strike waits."""

    def __init__(self, chance: random.Random, without: Collection[str] = ()) -> None:
        """`without`: kinds that cannot strike on this machine."""
        self.chance = chance
        self._kinds = [kind for kind in FAULTS if kind not in without]
        self._left: list[str] = self._shuffled(self._kinds)

    def draw(self) -> str:
        if not self._left:
            self._left = self._shuffled([*self._kinds, *OFTEN])
        return self._left.pop()

    def _shuffled(self, kinds: Iterable[str]) -> list[str]:
        found = list(kinds)
        self.chance.shuffle(found)
        return found

    def put_back(self, kind: str) -> None:
        """Its turn comes after some others."""
        self._left.insert(self.chance.randint(0, len(self._left)), kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked of a campaign."""

    faults: int
    seed: int
    season_faults: int = 50
    cells: int = 12
    minutes: float = float("inf")
    """No new season is begun after that."""


def campaign(lab: Lab, folder: Path, plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Runs it on a cluster that is up (`world.OPTIONS`), in a folder of its own."""
    chance = random.Random(plan.seed)
    world, outcome = World(lab, folder, chance), Outcome()
    deck = Deck(chance, unavailable := list_unavailable(world))
    for kind, words in unavailable.items():
        say(f"left out: {kind}: {words}")
    began = time.monotonic()
    while outcome.faults < plan.faults and time.monotonic() - began < plan.minutes * 60:
        outcome.seasons += 1
        world.begin(outcome.seasons, plan.cells)
        _season(world, deck, outcome, min(plan.season_faults, plan.faults - outcome.faults), say)
        outcome.seconds = time.monotonic() - began
    return outcome


def list_unavailable(world: World) -> dict[str, str]:
    """Kinds of faults that this machine cannot have, and why."""
    found: dict[str, str] = {}
    if len(world.people) < 2:
        alone = "processes of two other users cannot be started"
        found |= dict.fromkeys((daemons.HIDDEN, submitters.SECOND_PERSON), alone)
    if not submitters.find_faketime():
        found[submitters.CLOCK_OFF] = "Debian's package faketime is not installed"
    return found


def _season(world: World, deck: Deck, outcome: Outcome, faults: int, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    outcome.jobs += len(world.jobs)
    strict = outcome.seasons % STRICT_SEASONS == 0
    world.run("submit")
    _strike(world, deck, outcome, faults=faults, without=UNACCOUNTABLE if strict else (), say=say)
    struck = time.monotonic()
    outcome.resumed += heal(world)
    outcome.injected[RAISED] += _raised(world)
    hours = compare(world, strict=strict)
    found = [*violations(world), *hours.problems]
    outcome.violations += found
    outcome.hours.append(hours)
    say(
        f"{world.sweep}: {len(world.jobs)} jobs, struck for {struck - began:.0f} s, healed in "
        f"{time.monotonic() - struck:.0f} s, {len(found)} violations, {outcome.faults} faults so far"
    )
    for violation in found:
        say(violation)


def _strike(
    world: World, deck: Deck, outcome: Outcome, *, faults: int, without: Collection[str], say: Callable[[str], None]
) -> None:
    """Until so many faults are injected, or all work is done."""
    injected = 0
    while injected < faults and not world.is_done():
        world.rest(world.chance.uniform(0.0, MOST_PAUSE_SECONDS))
        kind = deck.draw()
        if kind in without:
            continue
        words = FAULTS[kind](world)
        if words is None:
            deck.put_back(kind)
            continue
        injected += 1
        outcome.injected[kind] += 1
        if FAULTS[kind] is submitters.killed_at_a_side_effect:
            outcome.moments[words] += 1
        _note(world, f"{kind}: {words}", say)


def _note(world: World, words: str, say: Callable[[str], None]) -> None:
    line = f"{time.time():.1f} {words}"
    with (world.root / "faults.log").open("a") as log:
        log.write(line + "\n")
    say(f"    {line}")


def heal(world: World) -> list[str]:
    """All daemons up, then tick to the end, with a resume where jobs have stopped; which ones that were, and why."""
    world.settle()
    resumed: list[str] = []
    until = time.monotonic() + HEALING_SECONDS
    while time.monotonic() < until:
        done = world.run("tick", "--json", who=world.next_person())
        states = json.loads(done.stdout)["states"] if done.stdout.startswith("{") else {}
        if world.is_done() and not world.tasks(UNFINISHED):
            break
        if any(states.get(state) for state in STOPPED):
            resumed += _stopped(world)
            world.run("resume")
        time.sleep(0.5)
    return resumed


def _stopped(world: World) -> list[str]:
    done = world.run("status", "--json", "--fresh")
    rows = json.loads(done.stdout)["trouble"] if done.stdout.startswith("{") else []
    return [f"{world.sweep} {row['key']}: {row}" for row in rows]


def _raised(world: World) -> int:
    text = [path.read_text() for path in world.store.runs.glob("*/*/executions.jsonl")]
    return sum(each.count('"event": "failing"') for each in text)
