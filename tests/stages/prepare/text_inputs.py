"""Files of text in every format that `sweep data text` reads, a tokenizer, and what was made of them."""

import gzip
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import zstandard
from pyarrow import parquet

from stages.data.text import gunzip
from stages.prepare.inputs import find_inputs, resolve_vocabulary
from stages.prepare.recipe import Recipe, compute_file_digest
from stages.prepare.tokenize import prepare_text
from tests.stages.training.training_case import write_tokenizer

DOCUMENTS = [f"Document {n}: {'a red square, ' * (n % 7)}ünïcode\nand a second line {n * 17}." for n in range(60)]


def lines_of(documents: Sequence[str]) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(documents)).encode()


def write_inputs(folder: Path, documents: Sequence[str] = DOCUMENTS) -> list[Path]:
    """The documents, a sixth of them in each of six files of different formats."""
    folder.mkdir(parents=True, exist_ok=True)
    size = len(documents) // 6
    parts = [documents[start : start + size] for start in range(0, 6 * size, size)]
    (folder / "0.jsonl").write_bytes(lines_of(parts[0]))
    (folder / "1.jsonl.gz").write_bytes(gzip.compress(lines_of(parts[1])))
    (folder / "2.json.gz").write_bytes(gzip.compress(lines_of(parts[2][:3])) + gzip.compress(lines_of(parts[2][3:])))
    frames = [zstandard.ZstdCompressor().compress(lines_of(half)) for half in (parts[3][:5], parts[3][5:])]
    (folder / "3.jsonl.zst").write_bytes(b"".join(frames))
    table = pa.table({"text": parts[4], "id": list(range(size))})
    parquet.write_table(table, folder / "4.parquet", row_group_size=4)
    (folder / "5.txt").write_text("\n\n".join(parts[5]) + "\n")
    return sorted(folder.iterdir())


def write_lines(path: Path, documents: Sequence[str] = DOCUMENTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines_of(documents))
    return path


def recipe_in(folder: Path, **changes: object) -> Recipe:
    """A recipe for small shards of many small pieces, with a tokenizer of 300 ids."""
    file = folder / "tokenizer.json"
    if not file.exists():
        write_tokenizer(file)
    settings: dict[str, object] = {"context": 15, "shard_sequences": 16, "piece_bytes": 700, "txt": "blank-line"}
    settings |= {"vocabulary": resolve_vocabulary(file, 0, ""), "tokenizer_digest": compute_file_digest(file)}
    return Recipe(tokenizer=str(file), **{**settings, **changes})  # type: ignore[arg-type]


def make(out: Path, recipe: Recipe, *inputs: Path, workers: int = 1, bad_limit: int = 0) -> bool:
    return prepare_text(out, recipe, find_inputs(inputs), workers=workers, bad_limit=bad_limit)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sequences_of(out: Path) -> list[list[int]]:
    """All sequences, shard by shard."""
    found = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.append(json.loads(gunzip(file.read(), 1 << 20)))
    return found
