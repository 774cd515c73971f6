"""`sweep data check`: finds what a job would skip or refuse (`python -m stages.prepare check`)."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.arguments import parse_count, parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.preflight.readings import PlannedReading

HELP = "check training data for what a job would skip or refuse"
NEEDED = {
    "PIL": "pillow", "tokenizers": "tokenizers", "numpy": "numpy", "safetensors": "safetensors", "torch": "torch",
}  # fmt: skip
EPILOG = """example:
  sweep data check manifests/paper.yaml --samples 5000
  sweep data check data/dclm --context 2048 --vocabulary 50432
  sweep data check data/datacomp --field caption --decode all --json

Exit code 1 if anything would be skipped or refused."""


@dataclass(frozen=True, kw_only=True)
class DataCheckOptions(CommonOptions):
    """What `sweep data check` was given. Settings of the data hold for paths, not for sweep files."""

    paths: tuple[str, ...]
    """Files, folders or addresses of data, or sweep files."""
    kind: str | None
    """`text`, `captions` or `conversations`; None: by the files."""
    field: str
    """Where captions stand; empty: as a job would choose."""
    context: int | None
    """Tokens of a sequence."""
    vocabulary: int | None
    """Ids of the model."""
    tokenizer: Path | None
    decode: str
    """Which images are decoded: `all`, `sample` or `none`."""
    samples: int
    """Of each data set, read as a sweep's jobs read them; 0: all."""
    seed: int
    """Of their choice."""
    workers: int | None
    """Processes; None: one for each core."""
    write_manifest: bool
    as_json: bool


OPTIONS = DataCheckOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder of tars, a tar, a conversations file, or a sweep file (.yaml)",
    )
    parser.add_argument("--kind", choices=("text", "captions", "conversations"), help="(default: by the files)")
    parser.add_argument("--field", default="", metavar="NAME", help="where captions stand: txt, or a key of the JSON")
    parser.add_argument(
        "--context", type=parse_positive_int, metavar="N", help="tokens of a sequence that a job will ask for"
    )
    parser.add_argument("--vocabulary", type=parse_positive_int, metavar="N", help="of the model: ids lie below it")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="to count the tokens of captions and conversations"
    )
    parser.add_argument(
        "--decode",
        choices=("all", "sample", "none"),
        default="sample",
        help="which images are decoded; sample: one in 16 (default: sample)",
    )
    parser.add_argument(
        "--samples",
        type=parse_sample_number,
        default=1_000,
        metavar="N|all",
        help="of a sweep file's data sets: samples that are read as its jobs read them (default: 1,000 of each)",
    )
    parser.add_argument("--seed", type=parse_count, default=0, metavar="N", help="of their choice (default: 0)")
    parser.add_argument(
        "--workers", type=parse_positive_int, metavar="N", help="processes (default: one for each core)"
    )
    parser.add_argument(
        "--write-manifest", action="store_true", help="write manifest.jsonl for a folder of whole tars that has none"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/data.md)")
    parser.epilog = EPILOG


def parse_sample_number(text: str) -> int:
    """A number above 0, or `all`."""
    return 0 if text == "all" else parse_positive_int(text)


def run(options: DataCheckOptions) -> int:
    from sweep.commands.data.process import check_installed
    from sweep.report.data_check import PathSettings, build_requests

    check_installed("checking", NEEDED)
    settings = PathSettings(
        kind=options.kind or "",
        field=options.field,
        context=options.context or 0,
        vocabulary=options.vocabulary or 0,
        tokenizer=str(options.tokenizer.absolute()) if options.tokenizer else "",
    )
    checked = [build_requests(path, options.store, settings) for path in options.paths]
    requests = [request for each in checked for request in each.requests]
    readings = [reading for each in checked for reading in each.readings]
    processes = [f"--workers={options.workers}"] if options.workers else []
    words = ["check", f"--decode={options.decode}", *processes]
    words += ["--write-manifest"] if options.write_manifest else []
    reports, code = query_prepare(words, requests)
    read: list[dict[str, Any]] = []
    if readings:
        words = ["read", f"--samples={options.samples}", f"--seed={options.seed}", *processes]
        read, read_code = query_prepare(words, [reading.request for reading in readings])
        code = code or read_code
    print_reports(options, reports, readings, read)
    return 1 if code else 0


def query_prepare(words: list[str], requests: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The reports of the program, and its exit code. SweepError if it ends without them."""
    from sweep.commands.data.process import run_prepare
    from sweep.errors import SweepError

    finished = run_prepare(words, given=json.dumps(requests))
    try:
        reports: list[dict[str, Any]] = json.loads(finished.stdout)
    except ValueError:
        raise SweepError("the check ended without a report: its error is printed above") from None
    return reports, finished.returncode


def print_reports(
    options: DataCheckOptions,
    reports: list[dict[str, Any]],
    readings: "list[PlannedReading]",
    read: list[dict[str, Any]],
) -> None:
    """The reports on stdout, a summary on stderr. `read`: of the samples that were read as jobs read them."""
    from sweep.preflight.readings import build_cell_records, format_cell_lines
    from sweep.report.data_check import format_report_table, format_verdict

    cells = build_cell_records(readings, read)
    if options.as_json:
        content = {"format": 1, "data": reports, **({"read": read, "cells": cells} if readings else {})}
        print(json.dumps(content, indent=1))
    else:
        print("\n".join(format_report_table(reports)))
        if readings:
            print("\nread as the jobs read it\n")
            print("\n".join([*format_report_table(read), "", *format_cell_lines(cells)]))
    print(format_verdict(reports, read), file=sys.stderr)
