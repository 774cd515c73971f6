"""`sweep forecast NAME`: when it ends, phase by phase and cell by cell, and what holds it up."""

import argparse
import json
import sys
from dataclasses import dataclass

from sweep.arguments import add_cell_arguments, parse_amount, parse_count, parse_percent, parse_positive_int
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(CommonOptions):
    """What `sweep forecast` was given. None: as it is found."""

    name: str | None
    cells: tuple[str, ...]
    """As `sweep.selection` reads them; empty: what the sweep is limited to, or all of it."""
    gpus: int | None
    cores: int | None
    max_queued: int | None
    wait_minutes: float | None
    tick_minutes: float | None
    failures: float | None
    """Per cent of attempts."""
    preemptions: float | None
    """A day of a running job."""
    without: tuple[str, ...]
    first: tuple[str, ...]
    draws: int
    seed: int
    as_json: bool


OPTIONS = ForecastOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="what if these were all (default: all of the sweep)")
    parser.add_argument("--gpus", type=parse_positive_int, metavar="N", help="what if it had so many GPUs at once")
    parser.add_argument("--cores", type=parse_positive_int, metavar="N", help="what if it had so many cores at once")
    parser.add_argument(
        "--max-queued", type=parse_positive_int, metavar="N", help="what if so many of its jobs could be in the queue"
    )
    parser.add_argument(
        "--wait-minutes", type=parse_amount, metavar="M", help="what if a job waited so long in the queue, the median"
    )
    parser.add_argument(
        "--tick-minutes", type=parse_amount, metavar="M", help="between two runs of `sweep tick` (default: 10)"
    )
    parser.add_argument(
        "--failures", type=parse_percent, metavar="PERCENT", help="what if so many of the attempts failed"
    )
    parser.add_argument(
        "--preemptions", type=parse_amount, metavar="N", help="what if a running job were preempted so often a day"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="CELL",
        help="what if this cell, pattern of cells or job were not; may be repeated",
    )
    parser.add_argument(
        "--first",
        action="append",
        default=[],
        metavar="CELL",
        help="what if this cell, pattern of cells or job went before all others; may be repeated",
    )
    parser.add_argument(
        "--draws", type=parse_positive_int, default=200, metavar="N", help="courses that are drawn (default: 200)"
    )
    parser.add_argument("--seed", type=parse_count, default=1, metavar="N", help="of the draws (default: 1)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the forecast as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep forecast paper\n  sweep forecast paper --gpus 256 --max-queued 1000 --wait-minutes 60\n"
        "  sweep forecast paper --without 'm1.4b-*'"
    )


def run(options: ForecastOptions) -> int:
    from jobs.store.results import list_finished_keys
    from sweep.disk.room import describe_shortage
    from sweep.forecast.conditions import ForecastQuestion
    from sweep.next_step import NextStep
    from sweep.plan.manifest import pause_gc
    from sweep.report.forecast import ForecastRequest, format_forecast, load_forecast
    from sweep.stored_sweep import open_sweep_to_read

    request = ForecastRequest(
        without=options.without,
        first=options.first,
        question=ForecastQuestion(
            gpus=options.gpus,
            cores=options.cores,
            max_queued=options.max_queued,
            wait_minutes=options.wait_minutes,
            tick_minutes=options.tick_minutes,
            fail_percent=options.failures,
            preempted_per_day=options.preemptions,
        ),
        draws=options.draws,
        seed=options.seed,
    )
    with pause_gc():
        stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
        report = load_forecast(stored, request.choose(cells))
    if options.as_json:
        print(json.dumps(report, indent=1))
        return 0
    print(format_forecast(report))
    name, step = stored.manifest.sweep, NextStep(options.store)
    done = list_finished_keys(stored.store, stored.manifest.jobs)
    if shortage := describe_shortage(stored, [job for job in stored.manifest.jobs if job.key not in done]):
        print(f"sweep forecast: {shortage}", file=sys.stderr)
    print(step.suggest("shows how it stands", "status", name, *cells), file=sys.stderr)
    return 0
