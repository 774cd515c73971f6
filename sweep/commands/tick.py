"""`sweep tick NAME`: one round on Slurm, for cron: records what ended, retries, fills the queue, writes the tables."""

import argparse
import sys
from dataclasses import dataclass

from sweep.commands.results import refresh_tables
from sweep.commands.submit import (
    SlurmSubmitOptions,
    add_slurm_arguments,
    fill_from_limits,
    print_limits,
    select_wanted,
    submit_to_slurm,
)


@dataclass(frozen=True, kw_only=True)
class TickOptions(SlurmSubmitOptions):
    """What `sweep tick` was given."""

    no_results: bool
    """Do not refresh the tables."""


OPTIONS = TickOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="these cells or jobs, and what they need")
    parser.add_argument("--no-results", action="store_true", help="leave the tables as they are")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the outcome as JSON (docs/json.md)")
    add_slurm_arguments(parser)
    parser.epilog = (
        "example, a line for crontab(5) or scrontab(1):\n"
        "  */10 * * * * /home/me/.venv/bin/sweep tick paper --store /shared/store >> /shared/tick.log 2>&1\n"
        "Repeating it changes nothing; two at a time wait for one another. It obeys what `sweep submit` was told\n"
        "(`sweep limits NAME`); an option given here holds for this round alone."
    )


def run(options: TickOptions) -> int:
    from sweep.kept_limits import read_limits
    from sweep.preflight.gate import check_gate
    from sweep.stored_sweep import open_sweep, print_user_errors

    stored = open_sweep(options.store, options.name)
    with print_user_errors():
        stored.check_version()
        kept = read_limits(stored.paths.limits, acts=True)
        wanted = select_wanted(stored, options.only, kept.only)
        print_limits(options.name, kept)
        report = check_gate(stored, wanted, kept.ignored_inputs)
        for line in (*report.remarks, *report.lines):
            print(f"sweep: {line}", file=sys.stderr)
        code = submit_to_slurm(fill_from_limits(options, kept), stored, wanted, held_back=report.summary)
        if not options.no_results and (remark := refresh_tables(stored)):
            print(f"sweep: {remark}", file=sys.stderr)
    return code
