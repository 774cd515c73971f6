"""The shards that vla_foundry is given, so that its checkpoint windows end where the job's do.

A window is trained on whole shards, to their last sample, whatever the manifest says. So the last shard of a window is
a copy of its beginning, with just the samples that the window still needs; all others are links. What is left of a
shard that was cut is not read in this pass over the data.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.data.manifest import MANIFEST
from stages.data.shards import LocalFolder, OpenShard
from stages.data.tar_index import split_member_name
from stages.data.text import token_ids
from stages.engines.open_lm.data import Shards, pieces, shuffled
from stages.errors import ConfigError, DataError
from stages.files import replacing


def open_folder(name: str, path: Path) -> Shards:
    """A data set's shards with samples, by its manifest or, without one, by the tars' headers. DataError for none."""
    folder = LocalFolder(path)
    names, sizes = folder.manifest()
    kept = [(each, size) for each, size in zip(names, sizes, strict=True) if size]
    if not kept:
        raise DataError(f"data set {name!r}: {path} has no shard with samples")
    if absent := [each for each, _ in kept if not folder.local(each).is_file()]:
        raise DataError(f"data set {name!r}: {absent[0]} is not in {path}")
    return Shards(path if path.is_dir() else path.parent, [each for each, _ in kept], [size for _, size in kept])


def check_text(shards: Shards, context: int) -> None:
    """ConfigError unless the first sample is a json.gz of `context` + 1 tokens.

    vla_foundry reads no other member. Of longer samples it takes windows by chance, which would depend on where a
    trunk is cut; batches of unequal samples it cannot make.
    """
    first = OpenShard(shards.folder / shards.names[0]).sample(0)
    if "json.gz" not in first.extensions:
        raise ConfigError(
            f"{first.where}: it has {', '.join(first.extensions)}; vla_foundry reads json.gz members only"
        )
    if (length := len(token_ids(first))) != context + 1:
        raise ConfigError(
            f"{first.where}: {length} tokens; vla_foundry needs context + 1 = {context + 1} in each sample"
        )


def windows_of(sizes: Sequence[int], *, windows: int, samples: int, seed: int) -> list[list[tuple[int, int]]]:
    """For each of `windows` windows of `samples` samples: (shard, samples to read of it), in the order of training."""
    rows = pieces(sizes, epochs=windows, sequences=samples, seed=seed)
    return [list(until(rows, samples)) for _ in range(windows)]


def until(rows: Iterator[tuple[int, int]], samples: int) -> Iterator[tuple[int, int]]:
    """As many rows as make `samples`; `pieces` ends one there."""
    while samples:
        shard, taken = next(rows)
        samples -= taken
        yield shard, taken


def write_windows(
    shards: Shards, folder: Path, windows: Sequence[Sequence[tuple[int, int]]], *, first: int, last: int, seed: int
) -> None:
    """`folder` with a manifest that vla_foundry, shuffling it by `seed`, reads as `windows`, and with the shards of
    those from `first` to before `last`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, window in enumerate(windows):
        for shard, taken in window if first <= number < last else ():
            target = folder / f"{shard_name(shards, shard, taken)}.tar"
            if taken < shards.sizes[shard]:
                write_beginning(shards.folder / shards.names[shard], target, taken)
            else:
                target.unlink(missing_ok=True)
                target.symlink_to(shards.folder / shards.names[shard])
    rows = [row for window in windows for row in window]
    lines = [""] * len(rows)
    for (shard, taken), place in zip(rows, shuffled(len(rows), seed), strict=True):
        lines[place] = json.dumps({"shard": shard_name(shards, shard, taken), "num_sequences": taken})
    with replacing(folder / MANIFEST) as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in lines))


def shard_name(shards: Shards, shard: int, taken: int) -> str:
    """Plain, as vla_foundry expands braces and commas in a shard's name."""
    return f"{shard:08d}" if taken == shards.sizes[shard] else f"{shard:08d}-{taken}"


def write_beginning(source: Path, target: Path, samples: int) -> None:
    """A tar with the first `samples` samples of another. DataError if it has fewer, or is no whole tar."""
    if target.is_file():
        return
    try:
        with tarfile.open(source) as tar, replacing(target) as unfinished, tarfile.open(unfinished, "w") as out:
            for entry in beginning(source, tar, samples):
                out.addfile(entry, tar.extractfile(entry))
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{source}: not a whole tar: {error}") from error


def beginning(source: Path, tar: tarfile.TarFile, samples: int) -> Iterator[tarfile.TarInfo]:
    """The members of the first `samples` samples: neighbours whose names differ in the extension are one sample."""
    seen, last = 0, ""
    for entry in tar:
        key = split_member_name(entry.name)[0]
        if not entry.isfile():
            continue
        if key != last:
            seen, last = seen + 1, key
        if seen > samples:
            return
        yield entry
    if seen < samples:
        raise DataError(f"{source}: {seen} samples; its {MANIFEST} says more; run `sweep data check` on the data set")
