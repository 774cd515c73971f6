"""`sweep forecast NAME`: when it ends, phase by phase and cell by cell, and what holds it up."""

import argparse
import json
import sys
from dataclasses import dataclass

from sweep.arguments import parse_amount, parse_count, parse_positive_int
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(CommonOptions):
    """What `sweep forecast` was given. None: as it is found."""

    name: str
    gpus: int | None
    cores: int | None
    max_queued: int | None
    wait_minutes: float | None
    tick_minutes: float | None
    without: tuple[str, ...]
    draws: int
    seed: int
    as_json: bool


OPTIONS = ForecastOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("--gpus", type=parse_positive_int, metavar="N", help="what if it had so many GPUs at once")
    parser.add_argument("--cores", type=parse_positive_int, metavar="N", help="what if it had so many cores at once")
    parser.add_argument("--max-queued", type=parse_positive_int, metavar="N", help="what if so many jobs were queued")
    parser.add_argument(
        "--wait-minutes", type=parse_amount, metavar="M", help="what if jobs waited so long, the median"
    )
    parser.add_argument("--tick-minutes", type=parse_amount, metavar="M", help="between two ticks (default: 10)")
    parser.add_argument("--without", nargs="+", default=[], metavar="CELL", help="what if these cells or jobs were not")
    parser.add_argument("--draws", type=parse_positive_int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=parse_count, default=1, metavar="N", help="of the draws (default: %(default)s)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the forecast as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep forecast paper\n  sweep forecast paper --gpus 256 --max-queued 1000"


def run(options: ForecastOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from sweep.forecast.conditions import ForecastQuestion, find_conditions
    from sweep.forecast.outlook import forecast_campaign
    from sweep.forecast.reading import build_campaign, select_open
    from sweep.kept_limits import read_limits
    from sweep.plan.manifest import map_jobs_to_models
    from sweep.report.forecast import build_forecast_json, format_forecast
    from sweep.report.time_left import read_progress
    from sweep.stored_sweep import open_sweep

    stored = open_sweep(options.store, options.name)
    snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
    now = SYSTEM_CLOCK.now()
    kept = read_limits(stored.paths.limits)
    progress = read_progress(snapshot, map_jobs_to_models(stored.manifest), now)
    question = ForecastQuestion(
        gpus=options.gpus,
        cores=options.cores,
        max_queued=options.max_queued,
        wait_minutes=options.wait_minutes,
        tick_minutes=options.tick_minutes,
    )
    found = find_conditions(stored, progress, kept, question)
    keys = select_open(stored, kept.only, options.without)
    campaign, basis = build_campaign(snapshot, progress, found.conditions, keys)
    if not campaign.jobs:
        nothing = {"format": 1, "sweep": options.name, "now": now, "jobs_left": 0}
        print(json.dumps(nothing, indent=1) if options.as_json else "nothing is left to run")
        print(f"sweep: see `sweep results {options.name}`", file=sys.stderr)
        return 0
    outlook = forecast_campaign(campaign, draws=options.draws, seed=options.seed)
    report = build_forecast_json(options.name, campaign, outlook, now=now, basis=(*basis, *found.basis))
    print(json.dumps(report, indent=1) if options.as_json else format_forecast(report))
    return 0
