"""`sweep gc NAME`: says what of a sweep's disk may go, sets it aside, brings it back, removes it."""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.arguments import parse_amount
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.disk.collect import CollectReport
    from sweep.stored_sweep import StoredSweep


@dataclass(frozen=True, kw_only=True)
class GcOptions(CommonOptions):
    """What `sweep gc` was given. Of the four actions at most one is asked for; none is a dry run."""

    name: str
    unplanned: bool
    """Checkpoints of runs that no plan of the store names go too."""
    set_aside: bool
    restore: str | None
    """Id of a folder of the trash."""
    remove: str | None
    remove_older_than: float | None
    """Days."""
    as_json: bool


OPTIONS = GcOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--unplanned", action="store_true", help="take checkpoints of runs, too, that no plan of the store names"
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--set-aside", action="store_true", help="move what may go into the store's trash")
    actions.add_argument("--restore", metavar="ID", help="bring back what was set aside under this id")
    actions.add_argument("--remove", metavar="ID", help="remove for good what was set aside under this id")
    actions.add_argument(
        "--remove-older-than",
        type=parse_amount,
        metavar="DAYS",
        help="remove for good what this sweep set aside so many days ago, or earlier",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep gc paper\n  sweep gc paper --set-aside\n  sweep gc paper --remove 20260131-120000-1f2e\n"
        "Without an action it changes nothing. Only --remove makes room: what is set aside can be brought back.\n"
        "What stays though nothing reads it says `keep` of the sweep file (docs/how-to/disk.md)."
    )


def run(options: GcOptions) -> int:
    from sweep.next_step import NextStep
    from sweep.plan.manifest import pause_gc
    from sweep.stored_sweep import open_sweep

    stored = open_sweep(options.store, options.name)
    step = NextStep(options.store)
    actions = (options.set_aside, options.restore, options.remove, options.remove_older_than is not None)
    if not any(actions):
        with pause_gc():
            print(preview(options, stored), file=sys.stderr)
        return 0
    stored.check_version()
    action, reports = run_action(options, stored)
    from sweep.report.disk import build_done_json, format_done_report

    done = build_done_json(options.name, action, reports)
    print(json.dumps(done, indent=1) if options.as_json else format_done_report(done))
    if options.as_json:
        return 0
    if action == "set_aside" and done["ids"]:
        line = step.suggest(
            "makes the room; until then --restore brings it back", "gc", options.name, "--remove", done["ids"][0]
        )
    else:
        line = step.suggest("shows what the sweep holds", "gc", options.name)
    print(line, file=sys.stderr)
    return 0


def preview(options: GcOptions, stored: "StoredSweep") -> str:
    """Prints the dry run, and returns the next step."""
    from jobs.set_aside import read_trash
    from sweep.disk.survey import load_survey
    from sweep.next_step import NextStep
    from sweep.report.disk import build_gc_json, format_gc_report
    from sweep.terminal import find_table_width

    survey = load_survey(stored)
    report = build_gc_json(survey, survey.decide(unplanned=options.unplanned), read_trash(stored.store))
    print(json.dumps(report, indent=1) if options.as_json else format_gc_report(report, width=find_table_width()))
    step, more = NextStep(options.store), ["--unplanned"] if options.unplanned else []
    if report["goes"]["runs"]:
        return step.suggest("sets it aside; nothing is lost by that", "gc", options.name, *more, "--set-aside")
    if report["trash"]:
        return step.suggest(
            "removes for good what is set aside", "gc", options.name, "--remove", report["trash"][0]["id"]
        )
    return step.suggest("shows how the sweep stands", "status", options.name)


def run_action(options: GcOptions, stored: "StoredSweep") -> "tuple[str, list[CollectReport]]":
    """The action's name, and what it did."""
    from sweep.disk.collect import remove, restore, select_old, set_aside

    if options.set_aside:
        return "set_aside", [set_aside(stored, unplanned=options.unplanned, report_wait=print_wait)]
    if options.restore:
        return "restore", [restore(stored, options.restore, report_wait=print_wait)]
    if options.remove:
        return "remove", [remove(stored, options.remove, report_wait=print_wait)]
    old = select_old(stored.store, options.name, options.remove_older_than or 0.0)
    return "remove", [remove(stored, record.id, report_wait=print_wait) for record in old]


def print_wait(line: str) -> None:
    """On stderr, at once."""
    print(f"sweep gc: {line}", file=sys.stderr, flush=True)
