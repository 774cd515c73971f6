"""dataset.json: how a set of token shards was made, beside its manifest."""

import hashlib
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.errors import DataError
from stages.prepare.bad_lines import EXAMPLES
from stages.prepare.pieces import PieceRecord
from stages.prepare.recipe import difference
from stages.prepare.shards import ShardRecord

DATASET = "dataset.json"


def dataset_record(
    settings: Mapping[str, Any], pieces: Sequence[PieceRecord], shards: Sequence[ShardRecord], dropped: int
) -> dict[str, Any]:
    """The record's content: settings, counts, digests, versions."""
    texts = hashlib.sha256("".join(piece.digest for piece in pieces).encode()).hexdigest()
    whole = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
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
        "digest": whole,
        "files": {f"shard-{number:06d}.tar": asdict(shard) for number, shard in enumerate(shards)},
        "made_with": versions(),
    }


def versions() -> dict[str, str]:
    """What decides tokens and compressed bytes besides the settings."""
    return {
        "python": sys.version.split()[0],
        "tokenizers": version("tokenizers"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def matches(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds the whole result of these settings; False if it is absent or empty.

    DataError if something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        record = json.loads((folder / DATASET).read_bytes())
        before, files = dict(record["settings"]), {name: int(f["bytes"]) for name, f in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not empty and no data set of `sweep data text`; give another --out") from error
    if changed := difference(before, settings):
        raise DataError(f"{folder}: made with other settings: {changed}; remove it, or give another --out")
    for name, size in files.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise DataError(f"{folder}: {name} is missing or damaged; remove the folder and start again")
    return True
