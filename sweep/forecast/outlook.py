"""What many draws of a campaign say together: dates with their doubt, devices in use over time, and what binds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite
from statistics import median

from sweep.forecast.campaign import Campaign
from sweep.forecast.simulation import Draw, iter_draws

DRAWS = 200
LIFTED_DRAWS = 12
"""With each limit lifted. The same draws are compared with and without it, so that few show what it does."""
BINDS = 0.02
"""Of the time that is left: what lifting a limit has to save before it is named."""
CURVE_POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of draws, in their unit: a tenth are below `low`, half below `middle`, nine tenths below `high`."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Something that holds the campaign up."""

    name: str
    saved_s: float
    """By how much earlier the campaign ends without it, the median of the draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingCap:
    """A budget, as the draws need it."""

    name: str
    left: float
    """What is not spent yet, in the budget's unit."""
    rates: Sequence[float]
    """What a second of each job takes of it, by the job's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """What becomes of a budget if everything that is left runs."""

    name: str
    chance: float
    """Share of the draws that pass it."""
    passed: Quantiles
    """When; infinite where a draw does not pass it."""
    total: Quantiles
    """Of all attempts from now on, in the budget's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds are counted from the moment of the campaign."""

    draws: int
    end: Quantiles
    phases: Mapping[str, Quantiles] = field(default_factory=dict)
    """The end of each phase's last job."""
    cells: Mapping[str, Quantiles] = field(default_factory=dict)
    """The end of each cell's last job."""
    gpu_seconds: Quantiles = Quantiles(low=0.0, middle=0.0, high=0.0)
    """Of all attempts from now on."""
    attempts: float = 0.0
    """The mean number of a draw."""
    gpus_in_use: Sequence[tuple[float, Quantiles]] = ()
    """At moments from now to nearly the latest end."""
    binding: Sequence[Binding] = ()
    """Those that save most come first."""
    endless: int = 0
    """Draws in which some job never ends."""
    overruns: Sequence[Overrun] = ()
    """Of the budgets, in their order."""


def find_quantiles(values: Sequence[float]) -> Quantiles:
    """Of at least one value; between two of them in proportion."""
    ordered = sorted(values)
    return Quantiles(low=_interpolate(ordered, 0.1), middle=_interpolate(ordered, 0.5), high=_interpolate(ordered, 0.9))


def _interpolate(ordered: Sequence[float], part: float) -> float:
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    if not isfinite(ordered[above]):
        return ordered[above] if place > below or not isfinite(ordered[below]) else ordered[below]
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def forecast_campaign(
    campaign: Campaign,
    *,
    draws: int = DRAWS,
    lifted_draws: int = LIFTED_DRAWS,
    seed: int = 1,
    caps: Sequence[SpendingCap] = (),
) -> Forecast:
    """The outlook of a campaign; equal for equal arguments."""
    if not campaign.jobs:
        return Forecast(draws=0, end=Quantiles(low=0.0, middle=0.0, high=0.0))
    sums = _Sums(campaign, caps)
    for draw in iter_draws(campaign, draws, seed):
        sums.add(draw)
    end = find_quantiles(sums.ends)
    return Forecast(
        draws=draws,
        end=end,
        phases={name: find_quantiles(ends) for name, ends in sums.phases.items()},
        cells={name: find_quantiles(ends) for name, ends in sums.cells.items()},
        gpu_seconds=find_quantiles(sums.gpu_seconds),
        attempts=sum(sums.attempts) / draws,
        gpus_in_use=sums.measure_use(),
        binding=find_binding(campaign, sums.ends[:lifted_draws], seed),
        endless=sum(not isfinite(each) for each in sums.ends),
        overruns=[
            Overrun(
                name=cap.name,
                chance=sum(isfinite(moment) for moment in passed) / draws,
                passed=find_quantiles(passed),
                total=find_quantiles(totals),
            )
            for cap, passed, totals in zip(caps, sums.passed, sums.totals, strict=True)
        ],
    )


class _Sums:
    """What is kept of the draws; a draw itself is not."""

    def __init__(self, campaign: Campaign, caps: Sequence[SpendingCap] = ()) -> None:
        self.campaign = campaign
        self.caps = caps
        self.passed: list[list[float]] = [[] for _ in caps]
        self.totals: list[list[float]] = [[] for _ in caps]
        self.gpus = [campaign.shapes[job.shape].gpus for job in campaign.jobs]
        self.by_phase: dict[str, list[int]] = {}
        self.by_cell: dict[str, list[int]] = {}
        for place, job in enumerate(campaign.jobs):
            self.by_phase.setdefault(job.phase, []).append(place)
            for cell in job.cells:
                self.by_cell.setdefault(cell, []).append(place)
        self.ends: list[float] = []
        self.phases: dict[str, list[float]] = {name: [] for name in self.by_phase}
        self.cells: dict[str, list[float]] = {name: [] for name in self.by_cell}
        self.gpu_seconds: list[float] = []
        self.attempts: list[int] = []
        self.changes: list[list[tuple[float, int]]] = []

    def add(self, draw: Draw) -> None:
        ends, gpus = draw.ends, self.gpus
        self.ends.append(draw.end)
        for name, places in self.by_phase.items():
            self.phases[name].append(max([ends[place] for place in places]))
        for name, places in self.by_cell.items():
            self.cells[name].append(max([ends[place] for place in places]))
        self.gpu_seconds.append(sum([(end - start) * gpus[place] for start, end, place in draw.attempts]))
        self.attempts.append(len(draw.attempts))
        changes = [(start, gpus[place]) for start, _, place in draw.attempts if gpus[place]]
        changes += [(end, -gpus[place]) for _, end, place in draw.attempts if gpus[place]]
        changes.sort()
        self.changes.append(changes)
        for number, cap in enumerate(self.caps):
            total = sum([(end - start) * cap.rates[place] for start, end, place in draw.attempts])
            self.totals[number].append(total)
            self.passed[number].append(find_passing(draw, cap) if total > cap.left else inf)

    def measure_use(self) -> list[tuple[float, Quantiles]]:
        """GPUs in use at `CURVE_POINTS` moments."""
        last = max((changes[-1][0] for changes in self.changes if changes), default=0.0)
        moments = [last * (number + 0.5) / CURVE_POINTS for number in range(CURVE_POINTS)] if last else []
        curves = [list(_read_levels(changes, moments)) for changes in self.changes]
        return [(moment, find_quantiles([curve[n] for curve in curves])) for n, moment in enumerate(moments)]


def find_passing(draw: Draw, cap: SpendingCap) -> float:
    """The moment at which the attempts have taken more than is left; infinite if they never do."""
    changes = [(start, cap.rates[place]) for start, _, place in draw.attempts]
    changes += [(end, -cap.rates[place]) for _, end, place in draw.attempts]
    changes.sort()
    left, rate, before = cap.left, 0.0, 0.0
    if left < 0:
        return 0.0
    for moment, change in changes:
        taken = rate * (moment - before)
        if taken > left:
            return before + left / rate
        left, rate, before = left - taken, rate + change, moment
    return inf


def _read_levels(changes: Sequence[tuple[float, int]], moments: Sequence[float]) -> list[float]:
    """The sum of the changes up to each moment."""
    levels, level, place = [], 0, 0
    for moment in moments:
        while place < len(changes) and changes[place][0] <= moment:
            level += changes[place][1]
            place += 1
        levels.append(float(level))
    return levels


# Why: docs/decisions.md, D210
def find_binding(campaign: Campaign, ends: Sequence[float], seed: int) -> list[Binding]:
    """What ends the campaign later than it could, each by lifting it alone: `ends` are those of its first draws.

    Where none saves anything alone but all do together, those that each alone would hold it up are one entry.
    """
    least = BINDS * median(ends)
    liftings = list_liftings(campaign)
    found = [Binding(name=each.name, saved_s=_measure_saved(each.lift(campaign), ends, seed)) for each in liftings]
    alone = sorted([each for each in found if each.saved_s > least], key=lambda each: -each.saved_s)
    if alone or len(liftings) < 2:
        return alone
    free = _lift_all(campaign, liftings)
    if _measure_saved(free, ends, seed) <= least:
        return []
    free_ends = [draw.end for draw in iter_draws(free, len(ends), seed)]
    holding = []
    for each in liftings:
        with_it = _lift_all(campaign, [other for other in liftings if other is not each])
        if -_measure_saved(with_it, free_ends, seed) > least:
            holding.append(each)
    if not holding:
        return []
    saved = _measure_saved(_lift_all(campaign, holding), ends, seed)
    name = " and ".join(each.name for each in holding)
    return [Binding(name=name, saved_s=saved)] if saved > least else []


def _measure_saved(other: Campaign, ends: Sequence[float], seed: int) -> float:
    """By how much another campaign's first draws end before these ends, the median."""
    others = [draw.end for draw in iter_draws(other, len(ends), seed)]
    return median([_subtract(end, each) for end, each in zip(ends, others, strict=True)])


def _subtract(end: float, other: float) -> float:
    return end - other if isfinite(other) else (0.0 if not isfinite(end) else -inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifting:
    """A campaign without one of the things that may hold it up."""

    name: str
    lift: Callable[[Campaign], Campaign]


def _lift_all(campaign: Campaign, liftings: Sequence[Lifting]) -> Campaign:
    for each in liftings:
        campaign = each.lift(campaign)
    return campaign


def list_liftings(campaign: Campaign) -> list[Lifting]:
    """All that may hold it up; a limit that even all jobs at once would not reach is none."""
    numbers = Counter(job.shape for job in campaign.jobs)
    counted: Counter[int] = Counter()
    taken: dict[int, float] = {}
    for place, number in numbers.items():
        shape = campaign.shapes[place]
        counted.update(dict.fromkeys(shape.submit_limits, number))
        for pool, amount in shape.takes:
            taken[pool] = taken.get(pool, 0.0) + number * amount
    found = [
        Lifting(name=limit.name, lift=partial(Campaign.lift_submit_limit, place=place))
        for place, limit in enumerate(campaign.submit_limits)
        if counted[place] > limit.most - limit.used
    ]
    found += [
        Lifting(name=pool.name, lift=partial(Campaign.lift_pool, place=place))
        for place, pool in enumerate(campaign.pools)
        if taken.get(place, 0.0) > pool.most
    ]
    shapes = [campaign.shapes[place] for place in numbers]
    if campaign.tick_s and (found or any(shape.fail for shape in shapes)):  # else the first round sends everything
        found.append(Lifting(name="the time between two ticks", lift=Campaign.lift_ticks))
    if any(shape.wait.median for shape in shapes):
        found.append(Lifting(name="waits in the site's queue", lift=Campaign.lift_waits))
    if any(job.steps.median > campaign.shapes[job.shape].limit_s / 2 for job in campaign.jobs):
        found.append(Lifting(name="time limits of attempts", lift=Campaign.lift_time_limits))
    if any(shape.fail or shape.preempted_per_hour for shape in shapes):
        found.append(Lifting(name="failures and preemptions", lift=Campaign.lift_trouble))
    return found


def find_longest_chain(campaign: Campaign) -> tuple[float, tuple[int, ...]]:
    """Seconds and places of the chain of jobs that takes longest by itself, at the medians: no limit shortens it."""
    best: list[float] = []
    before: list[int] = []
    for job in campaign.jobs:
        shape = campaign.shapes[job.shape]
        parent = max(job.parents, key=lambda place: best[place], default=-1)
        best.append(shape.startup.median + job.steps.median + (best[parent] if parent >= 0 else 0.0))
        before.append(parent)
    if not best:
        return 0.0, ()
    place = max(range(len(best)), key=best.__getitem__)
    seconds, chain = best[place], [place]
    while (place := before[place]) >= 0:
        chain.append(place)
    return seconds, tuple(reversed(chain))
