"""Writing webdataset tars and their manifest, with nothing of this machine or moment in them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from stages.data.manifest import MANIFEST
from stages.files import replacing


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A plain tar of (name, content)."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def write_manifest(folder: Path, shards: Iterable[tuple[str, int]]) -> None:
    """open_lm's manifest.jsonl, whole or absent: each shard's name without `.tar`, and its number of samples.

    It ends in a newline; open_lm passes over a last line that does not.
    """
    lines = (f"{json.dumps({'shard': name, 'num_sequences': count})}\n" for name, count in shards)
    with replacing(folder / MANIFEST) as unfinished:
        unfinished.write_text("".join(lines))
