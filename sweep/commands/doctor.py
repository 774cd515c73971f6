"""`sweep doctor [NAME]`: checks the cluster and the store before anything is submitted."""

import argparse
import json
import sys
from dataclasses import dataclass

from jobs.counted import format_counted
from sweep.arguments import parse_positive_int
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(CommonOptions):
    """What `sweep doctor` was given."""

    name: str | None
    """Of a planned sweep; None: only what holds for every sweep is checked."""
    node_test: bool
    """Run a short job that checks the store from a node."""
    wait_seconds: int
    """For that job, at most."""
    as_json: bool


OPTIONS = DoctorOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a planned sweep, to check its jobs against the cluster"
    )
    parser.add_argument(
        "--node-test",
        action="store_true",
        help="also run a short job (a minute at most) that checks the store from a node",
    )
    parser.add_argument(
        "--wait",
        dest="wait_seconds",
        type=parse_positive_int,
        default=120,
        metavar="SECONDS",
        help="how long to wait for that job (default: 120)",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the findings as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep doctor\n  sweep doctor paper --node-test\n"
        "exit code: 1 if something would stop a sweep (`problem`)"
    )


def run(options: DoctorOptions) -> int:
    from sweep.report.doctor import DoctorRun, build_doctor_json, count_problems, format_doctor_report
    from sweep.stored_sweep import open_sweep, print_user_errors

    with print_user_errors():
        examination = DoctorRun(
            store=options.store,
            planned=open_sweep(options.store, options.name) if options.name else None,
            node_test=options.node_test,
            wait_seconds=options.wait_seconds,
        )
        checks = list(examination.iter_checks())
    if options.as_json:
        print(json.dumps(build_doctor_json(examination, checks), indent=1))
    else:
        print(format_doctor_report(checks))
        problems = count_problems(checks)
        print(
            f"{format_counted(len(checks), 'finding')}, "
            f"{format_counted(problems, 'of them a problem', 'of them problems')}",
            file=sys.stderr,
        )
        print(suggest_next(options, problems), file=sys.stderr)
    return 1 if count_problems(checks) else 0


def suggest_next(options: DoctorOptions, problems: int) -> str:
    """Again where there are problems, else the sweep itself."""
    from sweep.next_step import NextStep

    step, name = NextStep(options.store), [options.name] if options.name else []
    if problems:
        return f"next: put right what is marked `problem`, then {step.format_command('doctor', *name)} again"
    if name:
        return step.suggest("runs it", "submit", *name)
    return step.suggest("makes a plan; `sweep doctor NAME` then checks its jobs", "plan", "FILE")
