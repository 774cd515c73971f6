"""`sweep plan FILE`: makes cells and jobs of a sweep file, reports their cost, and stores the manifest."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.counted import format_counted
from sweep.arguments import parse_positive_int
from sweep.next_step import NextStep
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from jobs.store.paths import Store
    from sweep.plan.new_plan import NewPlan
    from sweep.preflight.check import Preflight


@dataclass(frozen=True, kw_only=True)
class PlanOptions(CommonOptions):
    """What `sweep plan` was given."""

    file: Path
    diff: bool
    """Compare with the stored plan and write nothing."""
    replace: bool
    """Store the plan even where that drops begun work, its data have other content than before, or it replaces the plan
    of another experiment."""
    overrides: tuple[str, ...]
    """`PATH=VALUE` of the sweep file, laid over what it says."""
    same_data: tuple[str, ...]
    """Data sets whose changed content leaves the keys as they are."""
    gpus: int | None
    """At once, over all jobs, for the estimate of the time."""
    cpus: int | None
    """Cores at once, over all jobs, for the same."""
    forecast: bool
    """Say when it would end, too."""
    as_json: bool


OPTIONS = PlanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the sweep file, or the name of a shipped one: paper")
    parser.add_argument("--diff", action="store_true", help="show what differs from the stored plan; write nothing")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace the stored plan though work that has begun leaves it, though data have other content, "
        "or though it is of another experiment",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="plan as if the file said so: `pretrain.seed=7` (a default), `blocks.0.axes.branch=[0, 50]`, "
        "`name=demo-7`; may be repeated",
    )
    parser.add_argument(
        "--same-data",
        action="append",
        default=[],
        metavar="NAME",
        help="this data set has other bytes and the same samples (packed anew, say): keep all keys; may be repeated",
    )
    parser.add_argument(
        "--gpus", type=parse_positive_int, metavar="N", help="GPUs that may be used at once, for the time it takes"
    )
    parser.add_argument("--cpus", type=parse_positive_int, metavar="N", help="CPU cores that may be used at once")
    parser.add_argument(
        "--forecast",
        action="store_true",
        help="say when it would end and what would hold it up, with --gpus and --cpus; more by `sweep forecast`",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep plan manifests/paper.yaml\n  sweep plan manifests/paper.yaml --diff\n"
        "  sweep plan manifests/demo.yaml --set name=demo-7 --set pretrain.seed=7"
    )


def run(options: PlanOptions) -> int:
    from sweep.plan.manifest import pause_gc
    from sweep.spec.shipped import locate_sweep_file

    with pause_gc():
        return plan_sweep(replace(options, file=locate_sweep_file(options.file)))


def plan_sweep(options: PlanOptions) -> int:
    from jobs.store.paths import Store
    from jobs.store.results import list_finished_keys
    from jobs.store.sharing import find_sharing_problem
    from sweep.errors import PlanConflictError, UsageError
    from sweep.plan.new_plan import check_nothing_lost, make_plan, store_plan
    from sweep.preflight.planned import inspect_planned_inputs, list_input_remarks

    store = Store(options.store)
    is_new = not store.sweeps.exists()
    planned = make_plan(
        options.file, store, announce=print_progress, same_data=options.same_data, overrides=options.overrides
    )
    if options.diff and options.forecast:
        raise UsageError("--forecast is of a stored plan, and --diff stores none: leave one of them out")
    if options.diff:
        if planned.damage:
            raise PlanConflictError(f"{planned.damage} with --replace")
        print_diff(planned, store, as_json=options.as_json)
        for line in () if options.as_json else (*planned.remarks, format_diff_step(planned, options)):
            print(line, file=sys.stderr)
        return 0
    if not options.replace:
        check_nothing_lost(planned, store)
    store_plan(planned, store)
    done = list_finished_keys(store, planned.manifest.jobs)
    found = inspect_planned_inputs(planned, store, done)
    print_report(planned, done, found, options)
    name = planned.manifest.sweep
    problem, advice = find_sharing_problem(store.root)
    for line in [
        *map(str, planned.changes),
        *planned.remarks,
        *list_input_remarks(planned, found, options.file),
        *([f"{problem}: {advice}"] if problem else []),
        *([shortage] if (shortage := find_shortage(planned, store, done)) else []),
        format_changes_line(planned),
        *([f"new store: {store.root.absolute()}"] if is_new else []),
        f"plan: {store.locate_sweep(name).manifest}",
        *(
            []
            if options.as_json
            else [format_next_step(name, found, NextStep(options.store), count_failed(planned, store))]
        ),
    ]:
        print(line, file=sys.stderr)
    return 0


def find_shortage(planned: "NewPlan", store: "Store", done: frozenset[str]) -> str:
    """When the disk will be full, and what `sweep gc` would free; empty while there is room."""
    from sweep.disk.room import describe_shortage
    from sweep.stored_sweep import StoredSweep

    unfinished = [job for job in planned.manifest.jobs if job.key not in done]
    return describe_shortage(StoredSweep(store, planned.manifest), unfinished)


def count_failed(planned: "NewPlan", store: "Store") -> int:
    """How many jobs of the plan have failed for good, as far as the store shows; no cluster is asked."""
    from jobs.reconcile.snapshot import load_snapshot
    from jobs.reconcile.state import JobState

    name = planned.manifest.sweep
    if not store.locate_sweep(name).ledger.exists():
        return 0  # nobody has sent anything yet
    snapshot = load_snapshot(planned.manifest.jobs, store, name, trusts_checked=True)
    return len(snapshot.select_in_state({JobState.FAILED}))


def format_next_step(name: str, found: "Preflight", step: NextStep, failed: int = 0) -> str:
    """What to do with the plan."""
    if failed and not found.problems:
        jobs = format_counted(failed, "job that has", "jobs that have")
        return step.suggest(f"runs it, with a new budget for {jobs} failed", "resume", name)
    if not found.problems:
        return step.suggest("runs it", "submit", name)
    command = step.format_command("submit", name)
    return f"next: correct what is told above; {command} refuses the plan until then, or takes it with --ignore-data"


def print_report(planned: "NewPlan", done: frozenset[str], found: "Preflight", options: PlanOptions) -> None:
    from sweep.preflight.problems import SweepFileLines
    from sweep.report.plan import build_plan_json, format_plan_report
    from sweep.spec.yaml_source import parse_yaml
    from sweep.terminal import find_table_width

    how: dict[str, Any] = {
        "gpus": options.gpus, "cpus": options.cpus, "speeds": planned.speeds, "losses": planned.losses,
        "figures": planned.figures, "placements": planned.placements,
    }  # fmt: skip
    forecast = load_plan_forecast(planned, options) if options.forecast else None
    if options.as_json:
        report = build_plan_json(planned.manifest, done, **how)
        places = SweepFileLines(parse_yaml(planned.source_text, options.file) if found.problems else None)
        inputs = [
            problem.convert_to_dict(places.find_line(problem)) for problem in places.sort_problems(found.problems)
        ]
        data = {label: asdict(each) for label, each in planned.manifest.identities.items()}
        more = {} if forecast is None else {"forecast": forecast}
        changes = build_changes_json(planned)
        print(json.dumps({**report, "inputs": inputs, "data": data, "changes": changes, **more}, indent=1))
    else:
        print(format_plan_report(planned.manifest, done, **how, width=find_table_width()))
        if forecast is not None:
            from sweep.report.forecast import format_forecast

            print(f"\nforecast\n\n{format_forecast(forecast)}")


def load_plan_forecast(planned: "NewPlan", options: PlanOptions) -> dict[str, Any]:
    """What `sweep forecast` says of the plan, which is stored by now."""
    from jobs.store.paths import Store
    from sweep.forecast.conditions import ForecastQuestion
    from sweep.report.forecast import ForecastRequest, load_forecast
    from sweep.stored_sweep import StoredSweep

    question = ForecastQuestion(gpus=options.gpus, cores=options.cpus)
    return load_forecast(StoredSweep(Store(options.store), planned.manifest), ForecastRequest(question=question))


def print_diff(planned: "NewPlan", store: "Store", *, as_json: bool) -> None:
    from sweep.plan.diff import build_hours_json, format_diff_cost, format_diff_report
    from sweep.plan.new_plan import count_done_removed

    if as_json:
        data = [asdict(change) for change in planned.changes]
        done = {"jobs_gone_done": count_done_removed(planned, store), "data": data}
        hours = build_hours_json(planned.diff) if planned.diff else {}
        record = {"format": 1, "sweep": planned.manifest.sweep, **build_changes_json(planned), **done, **hours}
        print(json.dumps(record, indent=1))
    elif planned.diff is None:
        print(f"{planned.manifest.sweep}: {format_changes_line(planned)}")
    else:
        done_gone = count_done_removed(planned, store)
        lines = [format_diff_report(planned.manifest.sweep, planned.diff), *(f"  {each}" for each in planned.changes)]
        cost = [f"  {format_diff_cost(planned.diff)}"] if planned.diff.new_jobs or planned.diff.removed_jobs else []
        gone = (
            f"  done jobs that leave the plan: {done_gone:,}{'; their results stay in the store' if done_gone else ''}"
        )
        print("\n".join([*lines, *cost, *([gone] if planned.diff.removed_jobs else [])]))


def format_diff_step(planned: "NewPlan", options: PlanOptions) -> str:
    """What stores the plan that was compared; nothing is to do where it is stored already."""
    step, name = NextStep(options.store), planned.manifest.sweep
    if planned.is_stored:
        return step.suggest("shows how it stands", "status", name)
    words = ["plan", str(options.file), *(word for given in options.overrides for word in ("--set", given))]
    return step.suggest("stores this plan", *words)


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
