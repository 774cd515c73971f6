"""`python -m stages.prepare text|check|count`: behind `sweep data text`, `sweep data check` and `sweep plan`.

Options come from the command line, reports go to stdout as JSON, progress and remarks to stderr. Exit code: 0 done, 1
not possible, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from stages.errors import StageError, StorageError
from stages.prepare.inputs import TextRule, find_inputs
from stages.prepare.pool import count_cores, exit_with_parent
from stages.printable import escape_unprintable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the three; a StageError becomes one line on stderr."""
    options = build_parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    if options.parent:
        exit_with_parent(options.parent)
    try:
        return {"text": run_text, "check": run_check, "count": run_count}[options.command](options)
    except StorageError as error:
        print(
            escape_unprintable(f"error: {error}; make room, and the same command goes on where it stopped"),
            file=sys.stderr,
        )
    except (StageError, OSError) as error:
        print(escape_unprintable(f"error: {error}"), file=sys.stderr)
    return 1


def exit_on_signal(number: int, _frame: object) -> None:
    """Ends at once: what is finished is on the disk, and the next start goes on from there."""
    if sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr, flush=True)  # the bar hides the cursor
    os._exit(128 + number)


def build_parser() -> argparse.ArgumentParser:
    """Options of all commands."""
    parser = argparse.ArgumentParser(prog="python -m stages.prepare", description=__doc__)
    parser.add_argument("--parent", type=int, default=0, help="end when this process, which began us, has ended")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("text", help="text files to token shards")
    make.add_argument("inputs", type=Path, nargs="+")
    make.add_argument("--tokenizer", type=Path, required=True)
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--context", type=int, default=2_048)
    make.add_argument("--workers", type=int, default=0, help="0: one for each core")
    make.add_argument("--field", default="text")
    make.add_argument("--txt", choices=get_args(TextRule), default="file")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--shard-sequences", type=int, default=2_048)
    make.add_argument("--vocabulary", type=int, default=0, help="0: the tokenizer's own")
    make.add_argument("--end-of-text", default="")
    make.add_argument("--bad-limit", type=int, default=100)
    check = commands.add_parser("check", help="check data sets; the request is JSON on stdin")
    check.add_argument("--workers", type=int, default=0, help="0: one for each core")
    check.add_argument("--decode", choices=("all", "sample", "none"), default="sample")
    check.add_argument("--write-manifest", action="store_true")
    commands.add_parser("count", help="count data sets for an estimate; the request is JSON on stdin")
    return parser


def run_text(options: argparse.Namespace) -> int:
    """Makes a set of token shards."""
    from stages.prepare.inputs import resolve_tokenizer_file, resolve_vocabulary
    from stages.prepare.recipe import Recipe, compute_file_digest
    from stages.prepare.tokenize import prepare_text

    started = time.monotonic()
    file = resolve_tokenizer_file(options.tokenizer)
    recipe = Recipe(
        tokenizer=str(file),
        tokenizer_digest=compute_file_digest(file),
        end_of_text=options.end_of_text,
        vocabulary=resolve_vocabulary(file, options.vocabulary, options.end_of_text),
        field=options.field,
        txt=options.txt,
        context=options.context,
        seed=options.seed,
        shard_sequences=options.shard_sequences,
    )
    workers = options.workers or count_cores()
    made = prepare_text(options.out, recipe, find_inputs(options.inputs), workers=workers, bad_limit=options.bad_limit)
    done = f"made in {time.monotonic() - started:.1f} s" if made else "is there already"
    print(f"{options.out}: {done}", file=sys.stderr)
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Prints the report as JSON; 1 if a stage would skip or refuse anything."""
    import json

    from stages.prepare.check import check_data_sets
    from stages.prepare.findings import read_requests

    requests = read_requests(sys.stdin.read())
    reports = check_data_sets(
        requests,
        workers=options.workers or count_cores(),
        decode=options.decode,
        write_manifests=options.write_manifest,
    )
    print(json.dumps([report.render_json() for report in reports]))
    return 0 if all(report.findings.is_clean for report in reports) else 1


def run_count(_options: argparse.Namespace) -> int:
    """Prints the counts as JSON, in the order of the requests."""
    import json

    from stages.prepare.count import count_data_sets, read_count_requests

    print(json.dumps(count_data_sets(read_count_requests(sys.stdin.read()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
