"""Shards by the address of a data set: one folder, or several folders and chosen shards of them as one set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from posixpath import dirname, split

from stages.data.addresses import MANIFEST_SUFFIX, expand_address, is_remote, list_near_paths
from stages.data.remote import RemoteFolder, check_address
from stages.data.shards import MANIFEST, LocalFolder, ShardFolder, is_plain_name, read_listed_places
from stages.errors import DataError


class JoinedFolders:
    """Several folders' shards, one folder after the other. Can be pickled.

    A shard's name here is the number of its folder, a slash, and its name there.
    """

    def __init__(self, parts: Sequence[ShardFolder]) -> None:
        self.parts = tuple(parts)

    def __str__(self) -> str:
        return f"{self.parts[0]} and {len(self.parts) - 1} more"

    def load_manifest(self) -> tuple[list[str], list[int]]:
        names, counts = [], []
        for number, part in enumerate(self.parts):
            found, sizes = part.load_manifest()
            names += [f"{number}/{name}" for name in found]
            counts += sizes
        return names, counts

    def fetch_local(self, name: str) -> Path:
        number, _, rest = name.partition("/")
        return self.parts[int(number)].fetch_local(rest)

    def prefetch(self, names: Sequence[str]) -> None:
        wanted: list[list[str]] = [[] for _ in self.parts]
        for name in names:
            number, _, rest = name.partition("/")
            wanted[int(number)].append(rest)
        for part, own in zip(self.parts, wanted, strict=True):
            part.prefetch(own)


# Why: docs/decisions.md, D148
def open_shards(address: str, find_cache: Callable[[], Path]) -> ShardFolder:
    """The shards of an address (`stages.data.addresses`); `find_cache` gives the folder for copies of remote ones.

    DataError for an address that means none, or that is not read.
    """
    parts = list(iter_folders(expand_address(address), find_cache))
    return parts[0] if len(parts) == 1 else JoinedFolders(parts)


def iter_folders(places: Iterable[str], find_cache: Callable[[], Path]) -> Iterator[ShardFolder]:
    """Places as folders: neighbours of one folder together, in the order of the places."""
    for (kind, folder), group in groupby(places, key=classify_place):
        chosen = list(group)
        if kind == "tars":
            yield build_folder(folder, [Path(place).name for place in chosen], {}, find_cache)
            continue
        for place in chosen:
            if kind == "manifest":
                yield from iter_listed_folders(place, find_cache)
            else:
                yield RemoteFolder(place, find_cache()) if is_remote(place) else LocalFolder(Path(place))


def classify_place(place: str) -> tuple[str, str]:
    """(`tars`, their folder) of a tar, (`manifest`, itself) of a manifest, else (`folder`, itself)."""
    folder, name = split(place)
    if name.endswith(".tar") and is_plain_name(name) and (is_remote(place) or not Path(place).is_dir()):
        return "tars", folder
    return ("manifest" if name.endswith(MANIFEST_SUFFIX) else "folder"), place


def build_folder(
    folder: str, names: Sequence[str], counts: Mapping[str, int], find_cache: Callable[[], Path]
) -> ShardFolder:
    """Chosen shards of a local folder, or of one elsewhere."""
    if is_remote(folder):
        return RemoteFolder(folder, find_cache(), names=names, counts=counts)
    return LocalFolder(Path(folder), tuple(names), dict(counts))


def find_remote_shard(address: str) -> str:
    """A shard elsewhere that a manifest of this machine names; empty if none does, or where none can be read."""
    try:
        manifests = [path for path in list_near_paths(address) if path.name.endswith(MANIFEST_SUFFIX)]
        return next((place for path in manifests for place in read_listed_places(path) if is_remote(place)), "")
    except (DataError, OSError):
        return ""  # who reads the data tells it


def iter_listed_folders(manifest: str, find_cache: Callable[[], Path]) -> Iterator[ShardFolder]:
    """The shards that a manifest names. DataError if it cannot be read.

    One of this machine may name shards anywhere; one elsewhere is that of its own folder.
    """
    if is_remote(manifest):
        folder, _, name = check_address(manifest).rpartition("/")
        if name != MANIFEST:
            raise DataError(f"{manifest}: a manifest that is elsewhere is named {MANIFEST}; or copy this one here")
        yield RemoteFolder(folder, find_cache())
        return
    try:
        sizes = read_listed_places(Path(manifest))
    except OSError as error:
        raise DataError(f"{manifest}: not a readable manifest: {error.strerror}") from error
    for folder, group in groupby(sizes, key=dirname):
        own = list(group)
        yield build_folder(
            folder,
            [place.rpartition("/")[2] for place in own],
            {Path(each).name: sizes[each] for each in own},
            find_cache,
        )
