"""`sweep tick NAME`: one round on Slurm, for cron: records what ended, retries, fills the queue, writes the tables."""

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.arguments import add_cell_arguments, add_old_cells_option
from sweep.commands.results import refresh_tables
from sweep.commands.submit import (
    SlurmSubmitOptions,
    add_slurm_arguments,
    name_given_cells,
    print_limits,
    submit_to_slurm,
)

if TYPE_CHECKING:
    from sweep.stored_sweep import StoredSweep


@dataclass(frozen=True, kw_only=True)
class TickOptions(SlurmSubmitOptions):
    """What `sweep tick` was given."""

    no_results: bool
    """Do not refresh the tables."""


OPTIONS = TickOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=False, cells="these and what they need (default: as `sweep limits` says)")
    add_old_cells_option(parser, "--only", "only")
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
    from jobs.store.ledger import has_batches
    from sweep.kept_limits import read_limits
    from sweep.preflight.gate import check_gate
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.choices import select_wanted

    stored = open_sweep(options.store, options.name)
    with print_user_errors():
        stored.check_version()
        kept = read_limits(stored.paths.limits, acts=True)
        if (kept.backend or stored.manifest.backend) == "local" and not has_batches(stored.paths.ledger):
            return refresh_local_sweep(options, stored)
        wanted = select_wanted(stored, name_given_cells("tick", options), kept.only)
        print_limits(options.name, kept)
        report = check_gate(stored, wanted, kept.ignored_inputs)
        for line in (*report.remarks, *report.lines):
            print(f"sweep: {line}", file=sys.stderr)
        code = submit_to_slurm(options, stored, wanted, kept, held_back=report.summary)
        if not options.no_results and (remark := refresh_tables(stored)):
            print(f"sweep: {remark}", file=sys.stderr)
        tell(stored)
    return code


def tell(stored: "StoredSweep") -> None:
    """Notices, where somebody wants them. What goes wrong with them is told on stderr, and fails nothing."""
    from sweep.notices.settings import locate_user_file

    if stored.manifest.notices is None and not locate_user_file().exists():
        return
    # imported here: most sweeps tell nobody
    from sweep.notices.tell import tell_events

    if line := tell_events(stored):
        print(f"sweep: {line}", file=sys.stderr)


def refresh_local_sweep(options: TickOptions, stored: "StoredSweep") -> int:
    """Of a sweep that runs on this machine nothing is to be sent: its runner retries by itself. Tables and report are
    made new."""
    from jobs.reconcile.unsettled import list_unread_runs
    from sweep.next_step import NextStep
    from sweep.submit.report import count_states, print_report

    name = stored.manifest.sweep
    snapshot = stored.load_snapshot(trusts_checked=True)
    outcome = count_states(snapshot, snapshot.by_key)
    print_report(outcome, as_json=options.as_json)
    for line in list_unread_runs(snapshot, snapshot.by_key):
        print(f"sweep tick: {line}", file=sys.stderr)
    if not options.no_results and (remark := refresh_tables(stored)):
        print(f"sweep: {remark}", file=sys.stderr)
    tell(stored)
    if not options.as_json:
        print(f"{name} runs on this machine: a round for Slurm has nothing to do", file=sys.stderr)
        print(
            NextStep(options.store).suggest_for_states(name, outcome["states"], jobs=stored.manifest.jobs),
            file=sys.stderr,
        )
    return 0
