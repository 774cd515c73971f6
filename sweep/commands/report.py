"""`sweep report NAME`: writes the report of a sweep as one HTML file."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.counted import format_counted
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ReportOptions(CommonOptions):
    """What `sweep report` was given."""

    name: str
    out: Path | None
    """Where the page goes; None: beside the tables."""


OPTIONS = ReportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it there (default: STORE/sweeps/NAME/results/report.html)"
    )
    parser.epilog = (
        "example:\n  sweep report demo\n  sweep report paper --out paper.html\n"
        "The file needs nothing else: open it in a browser, send it, keep it with a paper. It also brings the tables\n"
        "of `sweep results` up to date."
    )


def run(options: ReportOptions) -> int:
    from sweep.commands.results import describe_missing_packages
    from sweep.errors import SweepError, UsageError
    from sweep.stored_sweep import open_sweep, print_user_errors

    stored = open_sweep(options.store, options.name)
    if missing := describe_missing_packages():
        raise SweepError(missing)
    if options.out is not None and options.out.is_dir():
        raise UsageError(f"--out {options.out}: is a folder; give a file, such as {options.out / 'report.html'}")
    with print_user_errors():
        from sweep.page.write import write_page
        from sweep.results.write import format_results_summary, write_summary, write_tables

        tables = write_tables(stored)
        write_summary(stored.paths.results, format_results_summary(tables))
        page = write_page(stored, tables, options.out)
    print(page)
    for remark in tables.uncounted.list_remarks():
        print(f"sweep report: {remark}", file=sys.stderr)
    print(
        f"report of {format_counted(len(tables.rows), 'model')} in {page.stat().st_size / 2**20:.1f} MiB; "
        f"next: open {page} in a browser, or send it: it needs no other file",
        file=sys.stderr,
    )
    return 1 if tables.uncounted.is_partial else 0
