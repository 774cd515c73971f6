"""`sweep explain NAME CELL...`: a cell's chain of jobs: keys, reuse, cost, what changed the keys, what happened."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.arguments import add_cell_arguments
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.plan.manifest import Cell
    from sweep.stored_sweep import StoredSweep


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(CommonOptions):
    """What `sweep explain` was given."""

    name: str | None
    cells: tuple[str, ...]
    """As `sweep.selection` reads them."""
    sweep: str | None
    """The sweep, by the option of before."""
    as_json: bool


OPTIONS = ExplainOptions
MOST_NAMED = 3
"""Cells of the line that says what to do next."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="what to explain")
    parser.add_argument("--sweep", help=argparse.SUPPRESS)
    parser.add_argument("--json", dest="as_json", action="store_true", help="print it as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep explain demo m1m-b50-i20-c0-x1\n  sweep explain paper 'm79m-b20-i10-c20-*' --json"
    )


def run(options: ExplainOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from sweep.next_step import NextStep
    from sweep.report.explain import build_explanation_json, explain_cell, format_explanation
    from sweep.stored_sweep import print_user_errors
    from sweep.terminal import find_table_width

    with print_user_errors():
        stored, cells = find_cells(options)
        snapshot = stored.load_snapshot(recent_answers=True)
        now = SYSTEM_CLOCK.now()
        found = [explain_cell(stored, cell, snapshot, now) for cell in cells]
    if not options.as_json:
        print("\n\n".join(format_explanation(each, find_table_width()) for each in found))
        states = Counter(
            snapshot.statuses[key].state.value for key in {each.job.key for one in found for each in one.chain_jobs}
        )
        step = NextStep(options.store)
        print(
            step.suggest_for_states(stored.manifest.sweep, states, [cell.name for cell in cells[:MOST_NAMED]]),
            file=sys.stderr,
        )
        return 0
    records = [build_explanation_json(explanation) for explanation in found]
    several = {"format": 1, "sweep": stored.manifest.sweep, "explanations": records}
    print(json.dumps(records[0] if len(records) == 1 else several, indent=1))
    return 0


def find_cells(options: ExplainOptions) -> "tuple[StoredSweep, list[Cell]]":
    """The sweep and the cells of it to explain."""
    from jobs.store.paths import Store
    from sweep.errors import UsageError
    from sweep.report.explain import choose_cells, find_sweep_of_cell
    from sweep.stored_sweep import open_sweep, open_sweep_to_read

    words = tuple(filter(None, (options.name, *options.cells)))
    if options.sweep:
        print(
            f"sweep explain: --sweep is not needed any more: `sweep explain {options.sweep} {' '.join(words)}`",
            file=sys.stderr,
        )
        stored = open_sweep(options.store, options.sweep)
    elif options.name and not options.cells and (found := find_sweep_of_cell(Store(options.store), options.name)):
        stored = found
    else:
        stored, words = open_sweep_to_read(options.store, options.name, options.cells)
    if not words:
        name, cells = stored.manifest.sweep, stored.manifest.cells
        some = f", such as {cells[0].name}" if cells else ""
        raise UsageError(f"give the CELL to explain{some}; `sweep list {name}` shows the {len(cells):,}")
    return stored, choose_cells(stored, words)
