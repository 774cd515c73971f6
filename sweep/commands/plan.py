"""`sweep plan FILE`: makes cells and jobs of a sweep file, reports their cost, and stores the manifest."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.arguments import parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.plan.new_plan import NewPlan


@dataclass(frozen=True, kw_only=True)
class PlanOptions(CommonOptions):
    """What `sweep plan` was given."""

    file: Path
    diff: bool
    """Compare with the stored plan and write nothing."""
    replace: bool
    """Store the plan even where that drops begun work or replaces the plan of another experiment."""
    gpus: int | None
    """At once, over all jobs, for the estimate of the time."""
    cpus: int | None
    """Cores at once, over all jobs, for the same."""
    as_json: bool


OPTIONS = PlanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the sweep file")
    parser.add_argument("--diff", action="store_true", help="show what differs from the stored plan; write nothing")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace the stored plan though work that has begun leaves it, or though it is of another experiment",
    )
    parser.add_argument(
        "--gpus", type=parse_positive_int, metavar="N", help="GPUs that may be used at once, for the time it takes"
    )
    parser.add_argument("--cpus", type=parse_positive_int, metavar="N", help="CPU cores that may be used at once")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep plan manifests/paper.yaml\n  sweep plan manifests/paper.yaml --diff"


def run(options: PlanOptions) -> int:
    from sweep.plan.manifest import pause_gc

    with pause_gc():
        return plan_sweep(options)


def plan_sweep(options: PlanOptions) -> int:
    from jobs.store.paths import Store
    from jobs.store.results import list_finished_keys
    from jobs.store.sharing import find_sharing_problem
    from sweep.errors import PlanConflictError
    from sweep.plan.new_plan import check_nothing_lost, make_plan, store_plan

    store = Store(options.store)
    planned = make_plan(options.file, store, announce=print_progress)
    if options.diff:
        if planned.damage:
            raise PlanConflictError(f"{planned.damage} with --replace")
        print_diff(planned, as_json=options.as_json)
        return 0
    if not options.replace:
        check_nothing_lost(planned, store)
    store_plan(planned, store)
    print_report(planned, list_finished_keys(store, planned.manifest.jobs), options)
    name = planned.manifest.sweep
    problem, advice = find_sharing_problem(store.root)
    for line in [
        *planned.remarks,
        *([f"{problem}: {advice}"] if problem else []),
        format_changes_line(planned),
        f"plan: {store.locate_sweep(name).manifest}; run it with `sweep submit {name}`",
    ]:
        print(line, file=sys.stderr)
    return 0


def print_report(planned: "NewPlan", done: frozenset[str], options: PlanOptions) -> None:
    from sweep.report.plan import build_plan_json, format_plan_report

    how: dict[str, Any] = {
        "gpus": options.gpus, "cpus": options.cpus, "speeds": planned.speeds, "losses": planned.losses,
        "figures": planned.figures, "placements": planned.placements,
    }  # fmt: skip
    if options.as_json:
        report = build_plan_json(planned.manifest, done, **how)
        print(json.dumps({**report, "changes": build_changes_json(planned)}, indent=1))
    else:
        print(format_plan_report(planned.manifest, done, **how))


def print_diff(planned: "NewPlan", *, as_json: bool) -> None:
    from sweep.plan.diff import format_diff_report

    if as_json:
        print(json.dumps({"format": 1, "sweep": planned.manifest.sweep, **build_changes_json(planned)}, indent=1))
    elif planned.diff is None:
        print(f"{planned.manifest.sweep}: {format_changes_line(planned)}")
    else:
        print(format_diff_report(planned.manifest.sweep, planned.diff))


def print_progress(line: str) -> None:
    """At once: the command goes on for a while."""
    print(f"{line} ...", file=sys.stderr, flush=True)


def build_changes_json(planned: "NewPlan") -> dict[str, Any]:
    from sweep.plan.diff import build_diff_json

    return build_diff_json(planned.diff) if planned.diff else {"stored": planned.is_stored}


def format_changes_line(planned: "NewPlan") -> str:
    """What the plan changes, in one line."""
    from sweep.plan.diff import format_diff_line

    if planned.diff is not None:
        return format_diff_line(planned.diff)
    return "the same as the stored plan" if planned.is_stored else "no plan was stored before"
