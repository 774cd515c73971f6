"""`python -m stages.prepare NAME`: the program behind `sweep data NAME`, and behind what `sweep plan` reads of data.

Options come from the command line, reports go to stdout as JSON, progress and remarks to stderr. Exit code: 0 done, 1
not possible, 130 interrupted.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from stages.errors import DataError, StageError, StorageError
from stages.prepare.inputs import TextRule, find_inputs
from stages.prepare.making import DATASET, format_count, format_sweep_lines
from stages.prepare.pool import count_cores, exit_with_parent
from stages.printable import print_error, render_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands; a StageError becomes one line on stderr."""
    options = build_parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    if options.parent:
        exit_with_parent(options.parent)
    try:
        return COMMANDS[options.command](options)
    except StorageError as error:
        print_error(f"{error}; make room, and the same command goes on where it stopped")
    except (StageError, OSError) as error:
        print_error(str(error))
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
    add_reading_options(make)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--shard-sequences", type=int, default=2_048)
    make.add_argument("--vocabulary", type=int, default=0, help="0: the tokenizer's own")
    make.add_argument("--end-of-text", default="")
    check = commands.add_parser("check", help="check data sets; the request is JSON on stdin")
    check.add_argument("--workers", type=int, default=0, help="0: one for each core")
    check.add_argument("--decode", choices=("all", "sample", "none"), default="sample")
    check.add_argument("--write-manifest", action="store_true")
    read = commands.add_parser("read", help="read samples as jobs read them; the request is JSON on stdin")
    read.add_argument("--workers", type=int, default=0, help="0: one for each core")
    read.add_argument("--samples", type=int, default=0, help="of each data set; 0: all")
    read.add_argument("--seed", type=int, default=0, help="of the choice")
    tokenizer = commands.add_parser("tokenizer", help="train a byte-level BPE on text")
    tokenizer.add_argument("inputs", type=Path, nargs="+")
    tokenizer.add_argument("--out", type=Path, required=True)
    tokenizer.add_argument("--vocabulary", type=int, default=4_096)
    tokenizer.add_argument("--special", default="", help="special tokens, several with commas between")
    add_reading_options(tokenizer)
    captions = commands.add_parser("captions", help="images and captions to shards")
    captions.add_argument("inputs", type=Path, nargs="+")
    captions.add_argument("--out", type=Path, required=True)
    captions.add_argument("--images", type=Path)
    captions.add_argument("--image", default="")
    captions.add_argument("--caption", default="", help="several with commas between")
    captions.add_argument("--shard-samples", type=int, default=5_000)
    captions.add_argument("--decode", choices=("all", "none"), default="all")
    captions.add_argument("--workers", type=int, default=0, help="0: one for each core")
    captions.add_argument("--bad-limit", type=int, default=100)
    manifest = commands.add_parser("manifest", help="count the samples of shards and write their manifest")
    manifest.add_argument("places", nargs="+")
    manifest.add_argument("--out", type=Path)
    manifest.add_argument("--workers", type=int, default=0, help="0: one for each core")
    manifest.add_argument("--replace", action="store_true")
    for name, what in {
        "count": "count data sets for an estimate",
        "inspect": "look at jobs' inputs before they are sent",
        "look": "find data in folders",
    }.items():
        commands.add_parser(name, help=f"{what}; the request is JSON on stdin")
    return parser


READING_DEFAULTS = {"field": "text", "txt": "file", "bad_limit": 100}
"""How texts are read, unless something else is said."""


def add_reading_options(command: argparse.ArgumentParser) -> None:
    """Of the commands that read texts."""
    command.add_argument("--field", default=READING_DEFAULTS["field"])
    command.add_argument("--txt", choices=get_args(TextRule), default=READING_DEFAULTS["txt"])
    command.add_argument("--bad-limit", type=int, default=READING_DEFAULTS["bad_limit"])


def run_text(options: argparse.Namespace) -> int:
    """Makes a set of token shards."""
    from stages.data.tokenizer import TextTokenizer
    from stages.prepare.inputs import LARGEST_ID, resolve_tokenizer_file, resolve_vocabulary
    from stages.prepare.recipe import Recipe, compute_file_digest
    from stages.prepare.tokenize import prepare_text
    from stages.prepare.tokenizer_probe import check_tokenizer_speed

    started = time.monotonic()
    file = resolve_tokenizer_file(options.tokenizer)
    check_tokenizer_speed(file, options.end_of_text)
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
        joined_parts=TextTokenizer(file, LARGEST_ID, options.end_of_text).marks_beginnings,
    )
    workers = options.workers or count_cores()
    made = prepare_text(options.out, recipe, find_inputs(options.inputs), workers=workers, bad_limit=options.bad_limit)
    done = f"made in {time.monotonic() - started:.1f} s" if made else "is there already"
    print(f"{options.out}: {done}", file=sys.stderr)
    record = json.loads((options.out / DATASET).read_bytes())
    counts = record["counts"]
    documents, shards = format_count(counts["documents"], "document"), format_count(counts["shards"], "shard")
    print(
        f"{counts['tokens']:,} tokens of {documents}: {counts['sequences']:,} sequences of {options.context + 1:,} in "
        f"{shards}, {counts['dropped_tokens']:,} tokens dropped",
        file=sys.stderr,
    )
    print(render_ending(options.out, "text", record), file=sys.stderr)
    return 0


def run_tokenizer(options: argparse.Namespace) -> int:
    """Trains a tokenizer."""
    from stages.prepare.recipe import compute_file_digest
    from stages.prepare.train_tokenizer import TokenizerRecipe, train_tokenizer

    started = time.monotonic()
    recipe = TokenizerRecipe(
        vocabulary=options.vocabulary,
        special=tuple(filter(None, options.special.split(","))),
        field=options.field,
        txt=options.txt,
    )
    made = train_tokenizer(options.out, recipe, find_inputs(options.inputs), bad_limit=options.bad_limit)
    done = f"trained in {time.monotonic() - started:.1f} s" if made.is_new else "is there already"
    short = (
        f" of {options.vocabulary:,} asked for: the text gives no more" if made.vocabulary < options.vocabulary else ""
    )
    print(f"{options.out}: {done}: {made.vocabulary:,} tokens{short}", file=sys.stderr)
    print(
        f"{format_count(made.documents, 'document')}, {made.text_bytes:,} bytes; {made.bad:,} lines left out",
        file=sys.stderr,
    )
    path = options.out.resolve()
    print(
        format_sweep_lines(path.stem, "tokenizer", path, revision=compute_file_digest(path)[:12]),
        f"a model that uses it needs `vocabulary: {made.vocabulary}` or more",
        f"next: {render_text_command(options, made.vocabulary)}",
        sep="\n",
        file=sys.stderr,
    )
    return 0


def render_text_command(options: argparse.Namespace, vocabulary: int) -> str:
    """The command that tokenizes the very texts that the tokenizer was trained on, read in the same way."""
    inputs = [str(path) for path in options.inputs]
    first = options.inputs[0].resolve()
    names = (f"{first.name.partition('.')[0] or 'text'}{more}" for more in ("", "-tokens", "-tokens-2"))
    out = next((place for name in names if not (place := options.out.with_name(name)).exists()), Path("DIR"))
    words = ["sweep", "data", "text", *(inputs if len(inputs) <= MOST_REPEATED else ["INPUT..."])]
    for name, usual in READING_DEFAULTS.items():
        value = getattr(options, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value != usual else []
    words += ["--tokenizer", str(options.out), "--out", str(out), "--vocabulary", str(vocabulary)]
    return render_line(shlex.join(words))


MOST_REPEATED = 20
"""Inputs that the next command names; a line of more is not read."""


def run_captions(options: argparse.Namespace) -> int:
    """Makes a set of captioned images."""
    from stages.prepare.captions import CaptionsRecipe, find_caption_inputs, prepare_captions

    started = time.monotonic()
    if options.images is not None and not options.images.is_dir():
        raise DataError(f"{options.images}: there is no such folder of images")
    recipe = CaptionsRecipe(
        images=str(options.images.resolve()) if options.images is not None else "",
        image=options.image,
        captions=tuple(filter(None, (name.strip() for name in options.caption.split(",")))),
        shard_samples=options.shard_samples,
        decode=options.decode == "all",
    )
    workers = options.workers or count_cores()
    inputs = find_caption_inputs(options.inputs)
    made = prepare_captions(options.out, recipe, inputs, workers=workers, bad_limit=options.bad_limit)
    done = f"made in {time.monotonic() - started:.1f} s" if made else "is there already"
    print(f"{options.out}: {done}", file=sys.stderr)
    record = json.loads((options.out / DATASET).read_bytes())
    counts = record["counts"]
    samples, shards = format_count(counts["samples"], "sample"), format_count(counts["shards"], "shard")
    print(
        f"{samples} in {shards}, {counts['image_bytes'] / 1e6:,.1f} MB of images; {counts['bad_rows']:,} of "
        f"{counts['rows']:,} rows left out",
        file=sys.stderr,
    )
    print(render_ending(options.out, "captions", record, field=record["field"]), file=sys.stderr)
    return 0


def render_ending(out: Path, kind: str, record: Mapping[str, Any], **more: str) -> str:
    """The lines for a sweep file, and the next step."""
    path = out.resolve()
    lines = format_sweep_lines(path.name, kind, path, revision=record["digest"][:12], **more)
    return f"{lines}\nnext: add `{path.name}` to a sweep file and check it as its jobs will: sweep data check YOUR.yaml"


def run_manifest(options: argparse.Namespace) -> int:
    """Writes the manifest of shards and prints its path."""
    from stages.data.addresses import join_places
    from stages.data.shards import MANIFEST
    from stages.prepare.manifests import write_shard_manifest

    made = write_shard_manifest(
        join_places(options.places), options.out, workers=options.workers or count_cores(), overwrite=options.replace
    )
    beside = made.path.name == MANIFEST
    place = made.path.parent if beside else made.path
    done = "written" if made.is_new else "is there already, and is right"
    print(
        f"{made.path}: {done}: {format_count(made.samples, 'sample')} in {format_count(made.shards, 'shard')}",
        file=sys.stderr,
    )
    print(format_sweep_lines(place.stem, made.kind or "captions", place), file=sys.stderr)
    check = f"sweep data check {shlex.quote(str(place))}"
    print(render_line(f"next: {check}") if beside else "next: sweep plan YOUR.yaml", file=sys.stderr)
    print(made.path)
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Prints the report as JSON; 1 if a stage would skip or refuse anything."""
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


def run_read(options: argparse.Namespace) -> int:
    """Prints the reports as JSON; 1 if a job would skip or refuse anything."""
    from stages.prepare.check_readers import check_readings, read_readings

    reports = check_readings(
        read_readings(sys.stdin.read()),
        most=options.samples,
        seed=options.seed,
        workers=options.workers or count_cores(),
    )
    print(json.dumps([report.render_json() for report in reports]))
    return 0 if all(report.findings.is_clean for report in reports) else 1


def run_count(_options: argparse.Namespace) -> int:
    """Prints the counts as JSON, in the order of the requests."""
    from stages.prepare.count import count_data_sets, read_count_requests

    print(json.dumps(count_data_sets(read_count_requests(sys.stdin.read()))))
    return 0


def run_inspect(_options: argparse.Namespace) -> int:
    """Prints what is wrong with each input as JSON, in the order of the requests."""
    from stages.prepare.check_inputs import inspect_inputs, read_input_requests

    print(json.dumps(inspect_inputs(read_input_requests(sys.stdin.read()))))
    return 0


def run_look(_options: argparse.Namespace) -> int:
    """Prints what was found at each place as JSON, in the order of the requests."""
    from stages.prepare.look import look_at_places, read_look_requests

    print(json.dumps(look_at_places(read_look_requests(sys.stdin.read()))))
    return 0


COMMANDS = {
    "text": run_text,
    "tokenizer": run_tokenizer,
    "captions": run_captions,
    "manifest": run_manifest,
    "check": run_check,
    "read": run_read,
    "count": run_count,
    "inspect": run_inspect,
    "look": run_look,
}

if __name__ == "__main__":
    sys.exit(main())
