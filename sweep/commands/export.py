"""`sweep export NAME CELL`: a model as a folder for transformers; with --index a list of all models of a sweep."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.counted import format_counted
from sweep.arguments import add_cell_arguments, parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sweep.plan.manifest import Cell
    from sweep.stored_sweep import StoredSweep

NEEDED = {"torch": "torch", "safetensors": "safetensors", "tokenizers": "tokenizers", "PIL": "pillow"}
EPILOG = """example:
  sweep export demo m1m-b50-i20-c0-x1 --epochs 2 --out exports/demo-b50-i20
  sweep export demo m1m-b50-i20-c0-x1 --stage pretrain --out exports/demo-b50-i20-base
  sweep export demo --index --out exports

docs/export.md says what is in the folder and how it is loaded."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CommonOptions):
    """What `sweep export` was given."""

    name: str | None
    cells: tuple[str, ...]
    """One, as `sweep.selection` reads it; none with `index`."""
    out: Path
    epochs: int | None
    """Of the fine-tune, where the cell has several."""
    stage: str
    """`finetune`, or `pretrain` for the model before its fine-tunes."""
    dtype: str
    """Of the weights: `float32` or `bfloat16`."""
    index: bool
    """An index of all models instead of one model."""


OPTIONS = ExportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="the one to export")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--epochs", type=parse_positive_int, metavar="N", help="which fine-tune, where the cell has several"
    )
    parser.add_argument(
        "--stage",
        choices=("finetune", "pretrain"),
        default="finetune",
        help="pretrain: the model before its fine-tunes (default: finetune)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="numbers of the weights; they were trained in float32 (default: float32)",
    )
    parser.add_argument("--index", action="store_true", help="write an index of all models of the sweep instead")
    parser.epilog = EPILOG


def run(options: ExportOptions) -> int:
    """Prints the folder once it is complete."""
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    with print_user_errors():
        stored, words = open_sweep_to_read(options.store, options.name, options.cells)
        check_options(options, words)
        if options.index:
            return write_model_index(options.out, stored)
        return export_model(options, choose_cell(stored, words), stored)


def check_options(options: ExportOptions, words: "Sequence[str]") -> None:
    """UsageError for options that do not go together."""
    from sweep.errors import UsageError

    if options.index and words:
        raise UsageError("--index covers the whole sweep: leave out CELL")
    if not options.index and not words:
        raise UsageError("give the CELL to export, or --index for a list of all models")
    if options.stage == "pretrain" and options.epochs:
        raise UsageError(
            "--epochs chooses among fine-tunes, and --stage pretrain exports the model before them: leave out one"
        )


def choose_cell(stored: "StoredSweep", words: "Sequence[str]") -> "Cell":
    """The one cell that the words mean; UsageError where they mean several."""
    from sweep.errors import UsageError
    from sweep.report.explain import choose_cells

    cells = choose_cells(stored, words)
    if len(cells) > 1:
        raise UsageError(
            f"{' '.join(words)} means {len(cells):,} cells, such as {cells[0].name} and {cells[1].name}; "
            "one is exported at a time"
        )
    return cells[0]


def export_model(options: ExportOptions, cell: "Cell", stored: "StoredSweep") -> int:
    """Writes the model of a cell, in a process of its own."""
    from sweep.commands.data.process import check_installed, run_module
    from sweep.export.request import build_export_request, select_chain
    from sweep.results.evidence import load_job_evidence

    check_installed("an export", NEEDED)
    chain = select_chain(cell, options.epochs) if options.stage == "finetune" else None
    evidence = load_job_evidence(stored.load_snapshot(whole_account=True))
    out = str(options.out.absolute())
    request = build_export_request(stored.store, stored.manifest, cell, chain, evidence, out=out, dtype=options.dtype)
    finished = run_module("stages.export", [], given=json.dumps(request), speaker="sweep export")
    if finished.returncode:
        return 1
    print(options.out)
    print("next: load it with transformers; docs/export.md shows how", file=sys.stderr)
    return 0


def write_model_index(folder: Path, stored: "StoredSweep") -> int:
    """Writes the index of all models of the sweep."""
    from sweep.commands.data.process import check_installed
    from sweep.export.index import write_index

    check_installed("an index", {"pyarrow": "pyarrow"}, extra="report")
    made = write_index(stored, folder)
    print(folder)
    for remark in made.uncounted.list_remarks():
        print(f"sweep: {remark}", file=sys.stderr)
    print(
        f"{format_counted(made.models, 'model')}, {made.finished} finished, {made.exported} exported below {folder}",
        file=sys.stderr,
    )
    return 1 if made.uncounted.is_partial else 0
