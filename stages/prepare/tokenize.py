"""Text files to open_lm's token shards: deterministic, in parallel, resumable after a kill at any moment.

All work is done in a hidden folder beside the result, which takes its name when all is there. Each piece and each shard
is a file that is whole or absent and depends on the inputs and the recipe alone; a second start makes what is missing.
"""

import hashlib
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.errors import DataError
from stages.files import write_json
from stages.prepare.documents import EXAMPLES, check_bad_lines
from stages.prepare.inputs import Input, divide_inputs
from stages.prepare.making import DATASET, ShardRecord, compute_set_digest, make_data_set, read_finished_shard
from stages.prepare.pieces import PieceRecord, PieceTask, join_ends, make_piece, read_piece_record
from stages.prepare.pool import iter_results, show_progress
from stages.prepare.recipe import Recipe, WorkFolder
from stages.prepare.shards import ShardTask, make_shard, write_manifest
from stages.printable import render_line


def build_dataset_record(
    settings: Mapping[str, Any], pieces: Sequence[PieceRecord], shards: Sequence[ShardRecord], dropped: int
) -> dict[str, Any]:
    """The record's content: settings, counts, digests, versions."""
    texts = hashlib.sha256("".join(piece.digest for piece in pieces).encode()).hexdigest()
    counts = {
        "documents": sum(piece.documents for piece in pieces),
        "empty_documents": sum(piece.empty for piece in pieces),
        "bad_lines": sum(piece.bad for piece in pieces),
        "text_bytes": sum(piece.text_bytes for piece in pieces),
        "tokens": sum(piece.tokens for piece in pieces),
        "sequences": sum(shard.sequences for shard in shards),
        "shards": len(shards),
        "dropped_tokens": dropped,
        "largest_token": max(piece.largest for piece in pieces),
    }
    return {
        "settings": dict(settings),
        "counts": counts,
        "bad_lines": [example for piece in pieces for example in piece.bad_examples][:EXAMPLES],
        "texts_sha256": texts,
        "digest": compute_set_digest(iter(shards)),
        "files": {f"shard-{number:06d}.tar": asdict(shard) for number, shard in enumerate(shards)},
        "made_with": collect_versions(),
    }


def collect_versions() -> dict[str, str]:
    """What decides tokens and compressed bytes besides the settings."""
    return {
        "python": sys.version.split()[0],
        "tokenizers": version("tokenizers"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def prepare_text(out: Path, recipe: Recipe, inputs: Sequence[Input], *, workers: int, bad_limit: int) -> bool:
    """Makes the data set `out`; False if it is there already.

    DataError: something else is there or in the making, another process makes it, an input is damaged, changes, or has
    too many bad lines, or all of it is less than one sequence. StorageError: the disk is full.
    """
    out = out.resolve()
    settings = recipe.build_settings(inputs)
    begun = {**settings, "made_with": collect_versions()}
    with make_data_set(out, settings, begun, "sweep data text") as folder:
        if folder is None:
            return False
        records = _first_pass(recipe, folder, inputs, workers, bad_limit)
        counts, dropped = join_ends(recipe, folder, records)
        if not sum(counts):
            raise DataError(f"the whole input is {dropped} tokens; one sequence is {recipe.sequence_tokens}")
        shards = _second_pass(recipe, folder, sum(counts), workers)
        write_manifest(folder.result, ((f"shard-{number:06d}", shard.sequences) for number, shard in enumerate(shards)))
        write_json(folder.result / DATASET, build_dataset_record(settings, records, shards, dropped))
    return True


def _first_pass(
    recipe: Recipe, folder: WorkFolder, inputs: Sequence[Input], workers: int, bad_limit: int
) -> list[PieceRecord]:
    """Tokens of all pieces; reports bad lines."""
    pieces = divide_inputs(inputs, recipe.txt, recipe.piece_bytes)
    records: dict[int, PieceRecord] = {}
    for number in range(len(pieces)):
        if record := read_piece_record(folder, number, recipe):
            records[number] = record
    sizes = [sum(span.size for span in piece) for piece in pieces]
    tasks = [
        PieceTask(recipe, folder, number, piece, bad_limit)
        for number, piece in enumerate(pieces)
        if number not in records
    ]
    with show_progress("tokenizing", sum(sizes), done=sum(sizes[number] for number in records)) as listener:
        for task, record in iter_results(make_piece, tasks, workers):
            records[task.number] = record
            listener.advance(sizes[task.number], record.tokens)
            _check_bad_lines(records, bad_limit)
    ordered = [records[number] for number in range(len(pieces))]
    _print_bad_lines(ordered)
    return ordered


def _check_bad_lines(records: dict[int, PieceRecord], limit: int) -> None:
    examples = [example for record in records.values() for example in record.bad_examples]
    check_bad_lines(sum(record.bad for record in records.values()), limit, examples)


def _print_bad_lines(records: Sequence[PieceRecord]) -> None:
    examples = [example for record in records for example in record.bad_examples][:EXAMPLES]
    for example in examples:
        print(render_line(f"left out: {example}"), file=sys.stderr)
    if (more := sum(record.bad for record in records) - len(examples)) > 0:
        print(f"left out: {more} more bad lines", file=sys.stderr)


def _second_pass(recipe: Recipe, folder: WorkFolder, sequences: int, workers: int) -> list[ShardRecord]:
    """All shards."""
    count = -(-sequences // recipe.shard_sequences)
    records: dict[int, ShardRecord] = {}
    for number in range(count):
        if finished := read_finished_shard(folder, number):
            records[number] = ShardRecord(**finished)
    tasks = [ShardTask(recipe, folder, number, sequences) for number in range(count) if number not in records]
    with show_progress("writing shards", count, done=len(records)) as listener:
        for task, record in iter_results(make_shard, tasks, workers):
            records[task.number] = record
            listener.advance(1)
    return [records[number] for number in range(count)]
