"""A data set in the making: one process at a time works in a hidden folder beside the result, which appears whole.

Each part of the work is a file that is whole or absent and depends on the settings alone, so that a second start goes
on from there and gives the bytes of an undisturbed run.
"""

import fcntl
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.errors import DataError
from stages.files import flush_to_disk, replace_atomically, write_json
from stages.prepare.recipe import WorkFolder, describe_difference

DATASET = "dataset.json"
"""Says how a data set was made, beside its manifest."""


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A finished shard."""

    sequences: int
    """Its samples."""
    bytes: int
    sha256: str


def compute_set_digest(shards: Iterator[ShardRecord]) -> str:
    """The digest of a data set: of its shards' digests, in their order."""
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


@contextmanager
def open_shard_file(folder: WorkFolder, number: int) -> Iterator[Path]:
    """Gives a path to write shard `number` to; at the end of the block it takes its name."""
    with replace_atomically(folder.build_shard_path(number)) as unfinished:
        yield unfinished


def record_shard(folder: WorkFolder, number: int, sequences: int, **more: Any) -> ShardRecord:
    """Writes the record of a shard that has been written, and `more` beside it. One without samples has no file."""
    path = folder.build_shard_path(number)
    record = ShardRecord(0, 0, "")
    if sequences:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = ShardRecord(sequences, path.stat().st_size, digest)
    write_json(folder.build_shard_record_path(number), {**asdict(record), **more})
    return record


def read_finished_shard(folder: WorkFolder, number: int) -> dict[str, Any] | None:
    """The record of a finished shard and what stands beside it, if the shard is whole."""
    try:
        record: dict[str, Any] = json.loads(folder.build_shard_record_path(number).read_bytes())
        size = folder.build_shard_path(number).stat().st_size if record["sequences"] else 0
        return record if size == record["bytes"] else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def is_complete(folder: Path, settings: Mapping[str, Any], command: str = "sweep data text") -> bool:
    """Whether a folder holds the whole result of these settings; False if it is absent or empty.

    DataError if something else is there. `command`: which makes such a folder, for messages.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        record = json.loads((folder / DATASET).read_bytes())
        before, files = dict(record["settings"]), {name: int(f["bytes"]) for name, f in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not empty and no data set of `{command}`; give another --out") from error
    if changed := describe_difference(before, settings):
        raise DataError(f"{folder}: made with other settings: {changed}; remove it, or give another --out")
    for name, size in files.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise DataError(f"{folder}: {name} is missing or damaged; remove the folder and start again")
    return True


@contextmanager
def make_data_set(
    out: Path, settings: Mapping[str, Any], begun: Mapping[str, Any], command: str
) -> Iterator[WorkFolder | None]:
    """Gives a folder to work in, whose `result` becomes `out` at the end of the block; None if `out` is there already.

    `settings` are those of `is_complete`; `begun` are those that must be the same for an interrupted run to go on.
    DataError: something else is there or in the making, or another process makes it. What is unfinished stays.
    """
    folder = WorkFolder(out.with_name(f".{out.name}.unfinished"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(out):
        if is_complete(out, settings, command):
            shutil.rmtree(folder.root, ignore_errors=True)
            yield None
            return
        prepare_folder(folder, begun)
        yield folder
        flush_to_disk(folder.result)
        folder.result.rename(out)
        flush_to_disk(out.parent)
        shutil.rmtree(folder.root)


@contextmanager
def hold_lock(out: Path) -> Iterator[None]:
    """DataError if another process makes `out`."""
    lock = out.with_name(f".{out.name}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another process is making it; wait for that, or end it") from None
        yield
        lock.unlink()


def prepare_folder(folder: WorkFolder, settings: Mapping[str, Any]) -> None:
    """A folder to work in: what an interrupted run with the same settings left, or a new one.

    DataError: a run with other settings has made a part of it. What a run left that made nothing is removed.
    """
    if folder.plan.exists():
        before = json.loads(folder.plan.read_bytes())
        if changed := describe_difference(before, settings):
            if has_work(folder):
                remove = f"rm -r {shlex.quote(str(folder.root))}"
                raise DataError(
                    f"{folder.root}: begun with other settings: {changed}; part of it is made: to go on give those "
                    f"settings again; to start anew `{remove}` and give this command again; or give another --out"
                )
            shutil.rmtree(folder.root)
    for name in ("pieces", "shards", "result"):
        (folder.root / name).mkdir(parents=True, exist_ok=True)
    for leftover in folder.root.rglob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    if not folder.plan.exists():
        write_json(folder.plan, settings)


# Why: docs/decisions.md, D215
def has_work(folder: WorkFolder) -> bool:
    """Whether a piece of text with tokens, or a shard with samples, has been made."""
    for name, key in (("pieces", "tokens"), ("shards", "sequences")):
        for path in (folder.root / name).glob("*.json"):
            try:
                record = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue  # torn, and so made again
            if isinstance(record, dict) and record.get(key):
                return True
    return False


def format_sweep_lines(name: str, kind: str, path: Path, **more: str) -> str:
    """The lines with which a sweep file names a data set: `data:` and one entry."""
    known = "".join(letter if letter in PLAIN - {"/"} else "-" for letter in name)[:60]
    name = known if known[:1].isalnum() else f"data{known}"[:60]
    fields = {"kind": kind, "path": str(path), **{key: value for key, value in more.items() if value}}
    entry = ", ".join(f"{key}: {quote_yaml(value)}" for key, value in fields.items())
    return f"in the sweep file:\n  data:\n    {quote_yaml(name)}: {{{entry}}}"


def format_count(count: int, what: str) -> str:
    """`1 shard`, `1,280 shards`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-+")


def quote_yaml(text: str) -> str:
    """A string in a flow mapping; with quotes where YAML could take it for anything else."""
    plain = set(text) <= PLAIN and text[:1].isalpha() | (text[:1] == "/") and text.lower() not in YAML_WORDS
    return text if plain else json.dumps(text)


YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
