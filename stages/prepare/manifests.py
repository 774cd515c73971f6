"""Counts the samples of shards in parallel, and writes the manifest that spares every start from counting them.

Counts are webdataset's (`stages.data.shards.index_tar`). What is counted is kept beside the manifest to be, a line a
shard, so that a second start goes on from there.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from stages.data.addresses import expand_address, is_remote
from stages.data.remote import RemoteFolder
from stages.data.shard_sets import classify_place
from stages.data.shards import MANIFEST, TarIndex, index_tar, list_compressed_tars, list_tars, read_manifest
from stages.errors import DataError
from stages.files import convert_storage_errors, replace_atomically
from stages.prepare.findings import guess_sample_kind
from stages.prepare.pool import iter_results, show_progress

EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class ListedShard:
    """One shard that is to be counted."""

    place: str
    """Absolute path or address."""
    known: Mapping[str, int] = field(default_factory=dict)
    """What an interrupted run has counted: samples by state. A state tells one content from another."""

    def query_state(self) -> str:
        """Size and time of a local file, the version of a remote one. DataError if it is not there."""
        if is_remote(self.place):
            folder, _, name = self.place.rpartition("/")
            return " ".join(map(str, RemoteFolder(folder, Path(tempfile.gettempdir())).query_version(name)))
        try:
            facts = Path(self.place).stat()
        except OSError as error:
            raise DataError(f"{self.place}: {error.strerror}") from error
        return f"{facts.st_size} {facts.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class ShardCount:
    """What was found in one."""

    samples: int = 0
    state: str = ""
    kind: str = ""
    """Kind of data set, by the first sample; empty where it was not read now."""
    problem: str = ""
    """Why it is no whole shard."""


@dataclass(frozen=True, slots=True)
class WrittenManifest:
    """What the command did."""

    path: Path
    shards: int
    samples: int
    kind: str
    is_new: bool
    """False: it was there, and is right."""


def write_shard_manifest(address: str, out: Path | None, *, workers: int, overwrite: bool = False) -> WrittenManifest:
    """Counts the shards of an address and writes their manifest: beside them, or at `out` with whole names.

    DataError: the address means no shards; a shard is damaged (each is named on stderr, and nothing is written); a
    manifest is there that says something else, and `overwrite` is not given; there is no one place beside them.
    """
    shards = list_shards(address)
    target = out.absolute() if out is not None else find_place_beside(shards)
    counts = count_shards(shards, target.with_name(f".{target.name}.counted"), workers)
    damaged = [(shard, count) for shard, count in zip(shards, counts, strict=True) if count.problem]
    for _, count in damaged[:EXAMPLES]:
        print(f"damaged: {count.problem}", file=sys.stderr)
    if damaged:
        raise DataError(
            f"{len(damaged):,} of {len(shards):,} shards are damaged; no manifest is written; copy them again or move "
            "them away, and give the same command again: what is counted is kept"
        )
    content = render_manifest(target, shards, counts)
    is_new = check_earlier_manifest(target, content, overwrite)
    if is_new:
        with replace_atomically(target) as unfinished:
            unfinished.write_text(content)
    target.with_name(f".{target.name}.counted").unlink(missing_ok=True)
    kind = next((count.kind for count in counts if count.kind), "")
    return WrittenManifest(target, len(shards), sum(count.samples for count in counts), kind, is_new)


def list_shards(address: str) -> list[ListedShard]:
    """The shards of an address, in its order. DataError if it means something else, or none."""
    found: list[ListedShard] = []
    for place in expand_address(address):
        kind, _ = classify_place(place)
        if kind == "tars":
            found.append(ListedShard(place if is_remote(place) else str(Path(place).absolute())))
        elif is_remote(place) or not Path(place).is_dir():
            raise DataError(
                f"{place}: neither a .tar nor a folder of this machine; name the shards: {place}/{{0..9}}.tar"
            )
        else:
            if unread := list_compressed_tars(Path(place)):
                raise DataError(
                    f"{place}/{unread[0]}: compressed; shards are plain tars: decompress it, or move it away"
                )
            found += [ListedShard(str(tar.absolute())) for tar in list_tars(Path(place))]
    if not found:
        raise DataError(f"{address}: no shards; a folder of .tar files, or names of some, are expected")
    return found


def find_place_beside(shards: Sequence[ListedShard]) -> Path:
    """Where the manifest of all tars of one local folder belongs; DataError if these are not that."""
    folders = {shard.place.rpartition("/")[0] for shard in shards}
    if any(map(is_remote, folders)) or len(folders) > 1:
        where = "lie elsewhere" if any(map(is_remote, folders)) else f"lie in {len(folders)} folders"
        raise DataError(f"the shards {where}: say with --out FILE.jsonl where their manifest goes")
    folder = Path(folders.pop())
    if left := {tar.name for tar in list_tars(folder)} - {Path(shard.place).name for shard in shards}:
        raise DataError(
            f"{folder}: {len(left)} tars are not among the shards ({min(left)}); a manifest there would leave them out "
            "of the folder's data: name the whole folder, or say with --out FILE.jsonl where this one goes"
        )
    return folder / MANIFEST


def count_shards(shards: Sequence[ListedShard], kept: Path, workers: int) -> list[ShardCount]:
    """The counts, in the order of the shards. `kept` is a file of those that an interrupted run has counted."""
    known = read_kept_counts(kept)
    tasks = [(number, replace(shard, known=known.get(shard.place, {}))) for number, shard in enumerate(shards)]
    counts: dict[int, ShardCount] = {}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (
        convert_storage_errors(kept),
        kept.open("a") as file,
        show_progress("counting", len(shards)) as listener,
    ):
        for (number, shard), count in iter_results(count_shard, tasks, workers):
            counts[number] = count
            if not count.problem and count.state not in shard.known:
                file.write(json.dumps([shard.place, count.state, count.samples]) + "\n")
                file.flush()
            listener.advance(1)
    return [counts[number] for number in range(len(shards))]


def read_kept_counts(kept: Path) -> dict[str, dict[str, int]]:
    """Samples by place and state, as an interrupted run has counted them; nothing of a line that is cut off."""
    known: dict[str, dict[str, int]] = {}
    with suppress(FileNotFoundError):
        for line in kept.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                place, state, samples = json.loads(line)
                known.setdefault(str(place), {})[str(state)] = int(samples)
    return known


def count_shard(task: tuple[int, ListedShard]) -> ShardCount:
    """Of one shard; what is damaged, empty or not to be had has a problem. Only headers of a local tar are read."""
    shard = task[1]
    try:
        state = shard.query_state()
        if state in shard.known:
            return ShardCount(shard.known[state], state)
        index = index_remote_tar(shard.place) if is_remote(shard.place) else index_tar(Path(shard.place))
    except DataError as error:
        return ShardCount(problem=str(error))
    if not len(index):
        return ShardCount(problem=f"{shard.place}: no samples")
    return ShardCount(len(index), state, guess_sample_kind(index.list_extensions(0)))


def index_remote_tar(place: str) -> TarIndex:
    """Fetches a shard into the temporary folder, indexes it, and takes it away."""
    folder, _, name = place.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="sweep-manifest-") as copies:
        return index_tar(RemoteFolder(folder, Path(copies)).fetch_local(name))


def render_manifest(target: Path, shards: Sequence[ListedShard], counts: Sequence[ShardCount]) -> str:
    """The manifest's lines: plain names of shards in its own folder, whole ones of others."""
    lines = []
    for shard, count in zip(shards, counts, strict=True):
        path = None if is_remote(shard.place) else Path(shard.place)
        name = path.stem if path is not None and path.parent == target.parent else shard.place
        lines.append(json.dumps({"shard": name, "num_sequences": count.samples}) + "\n")
    return "".join(lines)


def check_earlier_manifest(target: Path, content: str, overwrite: bool) -> bool:
    """Whether the manifest is still to be written; DataError if another is there that is not to be replaced."""
    try:
        before = target.read_bytes()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise DataError(f"{target}: not a readable file: {error.strerror}") from error
    if before == content.encode():
        return False
    if not overwrite:
        raise DataError(f"{target}: is there and says something else ({describe_change(target, before, content)}); "
                        "take it over with --replace")  # fmt: skip
    return True


def describe_change(target: Path, before: bytes, content: str) -> str:
    """The first shard whose count differs."""
    try:
        old = dict(zip(*read_manifest(str(target), before, places=True), strict=True))
    except DataError as error:
        return str(error)
    new = dict(zip(*read_manifest(str(target), content.encode(), places=True), strict=True))
    for name in [*new, *old]:
        if old.get(name) != new.get(name):
            return f"{name}: {old.get(name, 'not named')}, and is {new.get(name, 'not there')}"
    return "in another order or form"
