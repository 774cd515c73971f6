"""open_lm's manifest.jsonl: a line for each shard, `{"shard": "00000000", "num_sequences": 100}`."""

import json

from stages.errors import DataError

MANIFEST = "manifest.jsonl"


def read_manifest(where: str, content: bytes) -> tuple[list[str], list[int]]:
    """File names of the shards and their sizes. DataError names the line that is wrong.

    Older manifests say `num_chunks`. A name is that of a file in the manifest's own folder, with or without `.tar`.
    """
    names, counts = [], []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, count = record["shard"], record["num_sequences" if "num_sequences" in record else "num_chunks"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f'{where}:{number}: a line like {{"shard": "00000000", "num_sequences": 100}}') from error
        if not is_plain_name(name) or type(count) is not int or count < 0:
            raise DataError(f"{where}:{number}: shard {name!r} with {count!r} samples: a plain name and a number")
        names.append(name if name.endswith(".tar") else f"{name}.tar")
        counts.append(count)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: shard {twice!r} is named twice")
    return names, counts


def is_plain_name(name: object) -> bool:
    """Whether `name` is that of a file in a folder: no path, nothing hidden, nothing that an address could mean."""
    return isinstance(name, str) and name.isprintable() and name[:1] not in {"", "."} and not set(name) & set("/\\:*?[")
