"""The report of `sweep forecast`: as JSON types (docs/json.md, section `forecast`) and as text."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import STOPPED, JobState
from sweep.budget.caps import BudgetWatch, format_amount, read_caps
from sweep.budget.standing import add_amounts
from sweep.canary.rule import read_held_jobs
from sweep.forecast.campaign import Campaign
from sweep.forecast.conditions import ForecastQuestion, find_conditions
from sweep.forecast.outlook import (
    DRAWS,
    Forecast,
    Overrun,
    Quantiles,
    SpendingCap,
    find_longest_chain,
    forecast_campaign,
)
from sweep.forecast.reading import build_campaign, select_open
from sweep.kept_limits import compute_priorities, read_limits
from sweep.phases import PHASES
from sweep.plan.manifest import map_jobs_to_models
from sweep.report.time_left import Progress, read_progress
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_columns, format_duration, format_hours, format_labelled_lines

BARS = " ▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60
CELL_PARTS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the cells: by when so many are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRequest:
    """What is to be forecast, and how."""

    cells: tuple[str, ...] = ()
    """As `sweep.selection` reads them; empty: what the sweep is limited to, or all of it."""
    without: tuple[str, ...] = ()
    """Likewise: taken out, with what only they need."""
    first: tuple[str, ...] = ()
    """Likewise: what if these went before all others."""
    question: ForecastQuestion = field(default_factory=ForecastQuestion)
    draws: int = DRAWS
    seed: int = 1

    def choose(self, cells: tuple[str, ...]) -> "ForecastRequest":
        """The same of these cells."""
        return replace(self, cells=cells)


def load_forecast(stored: StoredSweep, request: ForecastRequest, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """The forecast of what is left as things stand now, as `build_forecast_json` has it."""
    kept = read_limits(stored.paths.limits)
    keys = select_open(stored, kept.only, request.cells, request.without)
    snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
    now = clock.now()
    progress = read_progress(snapshot, map_jobs_to_models(stored.manifest), now)
    others = frozenset(job.key for job in snapshot.jobs if job.key not in keys)
    priorities = compute_priorities(stored, (*kept.first, *request.first))
    held = read_held_jobs(stored, snapshot, kept).stopped & keys
    progress = replace(progress, stopped=progress.stopped | others | held, priorities=priorities)
    left_out = list_left_out(snapshot, keys, held)
    if not progress.open:
        nothing = Campaign(jobs=(), shapes=())
        outlook, basis = forecast_campaign(nothing), ()
        return build_forecast_json(stored.manifest.sweep, nothing, outlook, now=now, basis=basis, left_out=left_out)
    conditions = find_conditions(stored, snapshot, progress, kept, request.question)
    campaign, found = build_campaign(snapshot, progress, conditions)
    watch = BudgetWatch(stored.manifest.sweep, read_caps(stored.manifest, kept), clock)
    caps = list_spending_caps(snapshot, campaign, watch) if watch.caps.amounts else []
    outlook = forecast_campaign(campaign, draws=request.draws, seed=request.seed, caps=caps)
    report = build_forecast_json(
        stored.manifest.sweep,
        campaign,
        outlook,
        now=now,
        basis=(*found, *describe_order(progress, (*kept.first, *request.first)), *conditions.basis),
        left_out=left_out,
    )
    return {**report, "overruns": [build_overrun_row(each, watch, now) for each in outlook.overruns]}


def list_spending_caps(snapshot: SweepSnapshot, campaign: Campaign, watch: BudgetWatch) -> list[SpendingCap]:
    """The budgets of which it is known what is spent, with what running attempts have used so far."""
    standing, found = watch.measure(snapshot), []
    gone = standing.spent + add_amounts(each.running for each in standing.jobs.values())
    hours = [watch.caps.tariff.measure_wall_hour(standing.jobs[job.key].job) for job in campaign.jobs]
    for unit, cap in watch.caps.amounts.items():
        rates, spent = [getattr(each, unit) for each in hours], getattr(gone, unit)
        if spent is not None and None not in rates and not (watch.caps.problem and unit == "money"):
            found.append(SpendingCap(name=unit, left=cap - spent, rates=[rate / 3600 for rate in rates]))
    return found


def build_overrun_row(found: Overrun, watch: BudgetWatch, now: float) -> dict[str, Any]:
    """One budget as JSON types. `total` counts what is spent already."""
    cap = watch.caps.amounts[found.name]
    standing = watch.standing
    gone = (
        standing.spent + add_amounts(each.running for each in standing.jobs.values()) if standing is not None else None
    )
    spent = getattr(gone, found.name) if gone is not None else 0.0
    return {
        "unit": found.name,
        "word": watch.caps.name_unit(found.name),
        "budget": cap,
        "chance": found.chance,
        "passed": _date(found.passed, now),
        "total": {name: spent + value for name, value in asdict(found.total).items()},
    }


def describe_order(progress: Progress, first: Collection[str]) -> list[str]:
    """Which open jobs go first, where that is not left to the depth alone."""
    numbers = Counter(progress.priorities.get(job.key, 0) for job in progress.open)
    if not any(numbers):
        return []
    groups = [f"{format_counted(numbers[each], 'job')} of priority {each}" for each in sorted(numbers, reverse=True)]
    return [f"order: {', then '.join(groups)}" + (f" (first: {' '.join(first)})" if first else "")]


def list_left_out(snapshot: SweepSnapshot, keys: Collection[str], waiting: Collection[str] = ()) -> list[str]:
    """What the forecast leaves out of jobs that are not done, one line each. `waiting`: keys of jobs of broken
    shapes."""
    states = Counter(status.state for key, status in snapshot.statuses.items() if key in keys)
    stopped = [f"{states[state]:,} {state.value}" for state in sorted(STOPPED) if states[state]]
    held = sum(
        snapshot.statuses[key].state is JobState.QUEUED and seen.message.startswith(("held", "never"))
        for key, seen in snapshot.observed.items()
        if key in keys
    )
    return [
        *([f"{', '.join(stopped)}: nothing of them runs until `sweep resume {snapshot.sweep}`"] if stopped else []),
        *([f"{format_counted(len(waiting), 'job')} of broken shapes, held until they are released"] if waiting else []),
        *([f"the time until {format_counted(held, 'held job')} in the queue may start"] if held else []),
    ]


def build_forecast_json(
    sweep: str, campaign: Campaign, outlook: Forecast, *, now: float, basis: Sequence[str], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """The forecast as JSON types. Moments are Unix seconds, durations seconds. `now`: the campaign's moment, which is
    also the end of one without jobs."""
    chain_s, chain = find_longest_chain(campaign)
    return {
        "format": 1,
        "sweep": sweep,
        "now": now,
        "jobs_left": len(campaign.jobs),
        "draws": outlook.draws,
        "endless_draws": outlook.endless,
        "end": _date(outlook.end, now),
        "phases": {name: _date(found, now) for name, found in _sort_phases(outlook.phases).items()},
        "cells": {name: _date(found, now) for name, found in outlook.cells.items()},
        "gpu_hours": {name: value / 3600 for name, value in asdict(outlook.gpu_seconds).items()},
        "attempts": outlook.attempts,
        "gpus_in_use": [{"at": now + moment, **asdict(found)} for moment, found in outlook.gpus_in_use],
        "binding": [{"name": each.name, "saved_seconds": each.saved_s} for each in outlook.binding],
        "longest_chain": {"seconds": chain_s, "keys": [campaign.jobs[place].key for place in chain]},
        "basis": list(basis),
        "left_out": list(left_out),
    }


def _date(found: Quantiles, now: float) -> dict[str, float | None]:
    return {
        name: now + value if value < float("inf") else None  # JSON knows no infinity
        for name, value in asdict(found).items()
    }


def _sort_phases(phases: Mapping[str, Quantiles]) -> dict[str, Quantiles]:
    order = [*PHASES, *sorted(phases.keys() - PHASES.keys())]
    return {name: phases[name] for name in order if name in phases}


def format_forecast(report: Mapping[str, Any]) -> str:
    """The report for people, without a newline at its end."""
    now = report["now"]
    if not report["jobs_left"]:
        labelled = [("left out", line) for line in report["left_out"]]
        return "\n".join([f"{report['sweep']}: nothing is left to run", *format_labelled_lines(labelled)])
    rows = [["", "10 %", "50 %", "90 %", "left"]]
    rows += [[name, *_format_dates(found, now)] for name, found in report["phases"].items()]
    rows.append(["all", *_format_dates(report["end"], now)])
    lines = [
        f"{report['sweep']}: {format_counted(report['jobs_left'], 'job')} left, {report['draws']} draws of how they go",
        "",
        *format_columns(rows, rules=[1, len(rows) - 1]),
        "",
    ]
    labelled = [("cells done", _describe_cells(list(report["cells"].values()), now))] if report["cells"] else []
    hours = report["gpu_hours"]
    if hours["high"]:
        words = [format_hours(hours[name]) for name in ("low", "middle", "high")]
        labelled.append(("GPU-hours", f"{words[1]} ({words[0]} to {words[2]}), trouble included"))
        labelled.append(("GPUs in use", _draw_use(report["gpus_in_use"])))
    labelled += [("budget", describe_overrun(each, now)) for each in report.get("overruns", ())]
    labelled += [("holds it up", _describe_binding(each)) for each in report["binding"]]
    chain = report["longest_chain"]
    labelled.append(
        (
            "least time",
            f"{format_duration(chain['seconds'] / 3600)} for the longest chain, of "
            f"{format_counted(len(chain['keys']), 'job')}, whatever is lifted",
        )
    )
    labelled += [("rests on", line) for line in report["basis"]]
    labelled += [("left out", line) for line in report["left_out"]]
    if report["endless_draws"]:
        labelled.append(("never ends", f"in {report['endless_draws']} draws: some job gets nothing done in its limit"))
    return "\n".join([*lines, *format_labelled_lines(labelled)])


def _format_dates(found: Mapping[str, float | None], now: float) -> list[str]:
    middle = found["middle"]
    left = "-" if middle is None else format_duration((middle - now) / 3600)
    return [*(_format_moment(found[name], now) for name in ("low", "middle", "high")), left]


def _format_moment(moment: float | None, now: float) -> str:
    if moment is None:
        return "never"
    pattern = "%Y-%m-%d" if moment - now > 14 * 86_400 else "%Y-%m-%d %H:%M"
    return f"{datetime.fromtimestamp(moment, UTC).astimezone():{pattern}}"


def _describe_cells(cells: Sequence[Mapping[str, float | None]], now: float) -> str:
    """By when parts of the cells are done, at the medians."""
    ends = sorted(each["middle"] if each["middle"] is not None else float("inf") for each in cells)
    words = []
    for part in CELL_PARTS:
        number = max(1, round(part * len(ends)))
        end = ends[number - 1]
        words.append(f"{number:,} by {_format_moment(end if end < float('inf') else None, now)}")
    return ", ".join(dict.fromkeys(words))


def _draw_use(curve: Sequence[Mapping[str, float]]) -> str:
    """The median over time as bars, from now to the latest end of the draws."""
    most = max((each["middle"] for each in curve), default=0.0)
    if not most:
        return "none"
    step = len(curve) / CURVE_WIDTH
    levels = [curve[int(step * number)]["middle"] for number in range(CURVE_WIDTH)]
    return "".join(BARS[round(level / most * (len(BARS) - 1))] for level in levels).rstrip() + f"  at most {most:.0f}"


def describe_overrun(row: Mapping[str, Any], now: float) -> str:
    """Whether and when a budget would be passed if everything that is left ran, and by how much."""
    total, budget, word = row["total"], row["budget"], row["word"]
    in_all = (
        f"{format_amount(total['middle'])} {word} in all ({format_amount(total['low'])} to "
        f"{format_amount(total['high'])}), of {format_amount(budget)}"
    )
    if not row["chance"]:
        return f"{in_all}: it is kept in every draw"
    over = max(0.0, total["middle"] - budget)
    when = _format_moment(row["passed"]["middle"], now)
    moment = f"passed on {when}" if row["passed"]["middle"] is not None else "kept in most draws"
    more = f", by {format_amount(over)} in the end" if over else ""
    return f"{in_all}: {moment}{more} ({row['chance']:.0%} of the draws pass it); rounds stop sending before that"


def _describe_binding(found: Mapping[str, Any]) -> str:
    return f"{found['name']}: without it {format_duration(found['saved_seconds'] / 3600)} earlier"
