"""Features of images on disk, for all jobs with the same frozen encoder and transform, at once and later.

    FEATURE_STORE/ENCODER-HASH/about.json             which encoder, weights and transform
    FEATURE_STORE/ENCODER-HASH/NAME.{index,features}  packs (`stages.vision.feature_store`)

An entry is found by the digest of its image file. Nothing is locked or removed, and a reader sees other writers' new
entries within a minute. Each entry is checked when it is read: what does not hold is as if it had never been stored.
A store is a help and no more: if it cannot be written, as on a full disk, the job goes on without.

`python -m stages.vision.feature_store FEATURE_STORE` says what a store holds, and checks all of it. With `--merge`
behind it, each encoder's packs become one (best when no job runs: what one adds meanwhile is lost, and encoded again).
"""

import hashlib
import json
import os
import re
import secrets
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.config import Vision
from stages.errors import StorageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.vision.specs import resolve_encoder_spec

# Packs: what one process adds to a feature store. A data file, and an index with a line for each of its entries.
#
# NAME.features entries of equal size, one after the other: the raw numbers of an image's features NAME.index
# {"image": SHA-256 of the image file, "offset": BYTES, "crc32": NUMBER}, one a line, in ASCII
#
# Both only grow, and have one writer. A line follows its data, so that a writer may be killed at any moment: a torn
# last line is no line, and data without a line are no entry. A machine that lost power may have a line and not its
# data; then the checksum does not hold.

INDEX, FEATURES = ".index", ".features"
DIGEST = re.compile(r"[0-9a-f]{64}")


class DamagedEntryError(Exception):
    """An entry's data are not those that were written."""


@dataclass(frozen=True, slots=True)
class PackEntry:
    """Where an image's features lie in a pack."""

    digest: str
    offset: int
    crc32: int


class PackReader:
    """A pack of any writer, perhaps still growing."""

    def __init__(self, index: Path, entry_bytes: int) -> None:
        self.index, self.entry_bytes = index, entry_bytes
        self._read_to = 0
        self._descriptor = -1

    def read_new_entries(self) -> Iterator[PackEntry]:
        """Those since the last call. OSError if the file cannot be read."""
        with self.index.open("rb") as file:
            file.seek(self._read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            if entry := parse_entry(line):
                yield entry

    def read(self, entry: PackEntry) -> bytearray:
        """An entry's data. DamagedEntryError if they are cut off or changed; OSError."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.index.with_suffix(FEATURES), os.O_RDONLY)
        content = bytearray(self.entry_bytes)
        count = os.preadv(self._descriptor, [content], entry.offset)
        if count != self.entry_bytes or zlib.crc32(content) != entry.crc32:
            raise DamagedEntryError(f"{self.index.with_suffix(FEATURES)}: damaged at byte {entry.offset}")
        return content


def parse_entry(line: bytes) -> PackEntry | None:
    """A line of an index; None if it is none."""
    try:
        record = json.loads(line)
        digest, offset, crc32 = record["image"], record["offset"], record["crc32"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (
        isinstance(digest, str) and DIGEST.fullmatch(digest) and type(offset) is type(crc32) is int and offset >= 0
    ):
        return None
    return PackEntry(digest, offset, crc32)


class PackWriter:
    """A new pack in a folder, under a name that no other process has. Each method raises OSError."""

    def __init__(self, folder: Path) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
        self.index = folder / f"{host}-{os.getpid()}-{secrets.token_hex(4)}{INDEX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._features = os.open(self.index.with_suffix(FEATURES), flags, 0o666)
        self._index = os.open(self.index, flags, 0o666)
        self._size = 0

    def add(self, digest: str, content: memoryview) -> None:
        """Appends an entry. After an OSError the pack must not be written any more: its end may be torn."""
        write_all(self._features, content)
        record = {"image": digest, "offset": self._size, "crc32": zlib.crc32(content)}
        self._size += len(content)
        write_all(self._index, memoryview(json.dumps(record).encode() + b"\n"))

    def close(self) -> None:
        """Waits until all is on the disk."""
        for descriptor in (self._features, self._index):
            os.fsync(descriptor)
            os.close(descriptor)


def write_all(descriptor: int, content: memoryview) -> None:
    """os.write may take less than it is given, as it does when a disk fills up."""
    while content:
        content = content[os.write(descriptor, content) :]


# Telling one folder of encoder weights from another without reading gigabytes.

SAMPLE_BYTES = 1 << 20
"""Read of each end of a weights file."""


def compute_weights_fingerprint(folders: Sequence[Path]) -> str:
    """Hexadecimal digits that change with the weights: of each safetensors file the size, the beginning and the end."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(SAMPLE_BYTES))
                file.seek(max(0, size - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


ABOUT = "about.json"
REFRESH_SECONDS = 60.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_PACKS = 64
"""A store with so many gets no new ones: number of files and of open files stay small."""


class FeatureStore:
    """Features (I, F) of one encoder behind one transform, by image digest."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        dtype: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder`: that of the encoder and transform; what is in it is found at once."""
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.damaged = 0
        """Entries that did not hold."""
        self._torch_dtype = DTYPES[dtype]
        self._clock = clock
        self._places: dict[str, list[tuple[PackReader, PackEntry]]] = {}
        self._packs: dict[str, PackReader] = {}
        self._writer: PackWriter | None = None
        self._writable = True
        self._refreshed = float("-inf")
        self._refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which opens the folder itself."""
        return FeatureStore, (self.folder, self.shape, self.dtype)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def entry_bytes(self) -> int:
        """Of one image."""
        return self.shape[0] * self.shape[1] * self._torch_dtype.itemsize

    @property
    def digests(self) -> list[str]:
        """Of all images in the store."""
        return list(self._places)

    def get(self, digest: str) -> Tensor | None:
        """The features of an image, as they were added; None if the store has none that hold."""
        if digest not in self._places:
            self._refresh()
        while places := self._places.get(digest):
            pack, entry = places[-1]
            try:
                content = pack.read(entry)
            except (DamagedEntryError, OSError) as error:
                self._drop(digest, error)
                continue
            return torch.frombuffer(content, dtype=self._torch_dtype).view(self.shape)
        return None

    def add(self, digest: str, features: Tensor) -> None:
        """Keeps the features (I, F) of an image on a CPU, in the store's type, unless they are there already."""
        if not self._writable or digest in self._places:
            return
        if features.shape != self.shape or features.dtype != self._torch_dtype:
            raise ValueError(f"{tuple(features.shape)} {features.dtype}; the store has {self.shape} {self.dtype}")
        try:
            if self._writer is None:
                self._writer = self._new_pack()
            self._writer.add(digest, view_as_bytes(features))
        except (OSError, StorageError) as error:
            self._writable = False
            print(f"feature store {self.folder}: nothing more is stored: {error}", file=sys.stderr)
        else:
            self._find_new(self._writer.index)

    def _new_pack(self) -> PackWriter:
        """A pack of this process's own. StorageError if there are too many; OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(list(self.folder.glob(f"*{INDEX}"))) >= MAX_PACKS:
            raise StorageError(f"{MAX_PACKS} packs are there; `python -m stages.vision.feature_store` merges them")
        return PackWriter(self.folder)

    def _refresh(self) -> None:
        """Picks up what other processes have added, from time to time."""
        if self._clock() - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = self._clock()
        for index in sorted(self.folder.glob(f"*{INDEX}")):
            self._find_new(index)

    def _find_new(self, index: Path) -> None:
        """Takes up the new entries of one pack; one that cannot be read has none."""
        pack = self._packs.setdefault(index.name, PackReader(index, self.entry_bytes))
        try:
            for entry in pack.read_new_entries():
                self._places.setdefault(entry.digest, []).append((pack, entry))
        except OSError as error:
            print(f"feature store: {index}: cannot be read: {error}", file=sys.stderr)

    def _drop(self, digest: str, error: Exception) -> None:
        """Forgets the newest entry of an image, which did not hold."""
        if not self.damaged:
            print(f"feature store: {error}; such images are encoded again", file=sys.stderr)
        self.damaged += 1
        self._places[digest].pop()
        if not self._places[digest]:
            del self._places[digest]


def view_as_bytes(features: Tensor) -> memoryview:
    """The raw numbers of a tensor on a CPU."""
    return features.contiguous().flatten().view(torch.uint8).numpy().data


def open_feature_store(job: JobFile, vision: Vision) -> FeatureStore | None:
    """The job's store for the encoder and transform of `vision`.

    None where the job has none, or where there is nothing to gain: an encoder that is trained, or that costs nothing.
    """
    spec = resolve_encoder_spec(vision.encoder)
    if not job.settings.feature_store or not vision.frozen or not spec.flops:
        return None
    about = {
        "format": 1,
        "encoder": spec.name,
        "revision": vision.revision,
        "weights": compute_weights_fingerprint([job.resolve_data_path(name) for name in vision.weights]),
        "transform": vision.transform,
        "image_tokens": spec.image_tokens,
        "feature_width": spec.feature_width,
        "dtype": spec.feature_dtype,
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = (job.run / job.settings.feature_store).resolve() / f"{spec.name}-{name}"
    if not (folder / ABOUT).exists():
        try:
            write_json(folder / ABOUT, about)
        except (OSError, StorageError) as error:
            print(f"feature store {folder}: {error}; features are not stored", file=sys.stderr)
            return None
    return FeatureStore(folder, (spec.image_tokens, spec.feature_width), spec.feature_dtype)


def main(arguments: list[str]) -> int:
    """Prints what each encoder's folder holds; 1 if an entry is damaged or a folder is none, 2 for wrong usage."""
    names = [argument for argument in arguments if argument != "--merge"]
    if len(names) != 1 or names[0].startswith("-"):
        print("usage: python -m stages.vision.feature_store FEATURE_STORE [--merge]", file=sys.stderr)
        return 0 if names in (["-h"], ["--help"]) else 2
    folders = sorted(path.parent for path in Path(names[0]).glob(f"*/{ABOUT}"))
    if not folders:
        print(f"{names[0]}: no feature store; it has folders with {ABOUT}", file=sys.stderr)
    sound = [print_report(folder, merged="--merge" in arguments) for folder in folders]
    return 0 if sound and all(sound) else 1


def print_report(folder: Path, *, merged: bool) -> bool:
    """Prints a line about one encoder's folder after reading all of it; whether all entries hold."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        shape, dtype = (int(about["image_tokens"]), int(about["feature_width"])), str(about["dtype"])
        store = FeatureStore(folder, shape, dtype)
        images = merge_packs(store) if merged else sum(store.get(digest) is not None for digest in store.digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        print(f"{folder}: not readable, or not to be merged: {error}", file=sys.stderr)
        return False
    gib = images * store.entry_bytes / 2**30
    revision = about.get("revision") or "-"
    print(
        f"{about.get('encoder')}  revision {revision}  {about.get('transform')}  "
        f"{images} images  {gib:.3f} GiB  {store.damaged} damaged"
    )
    return store.damaged == 0


def merge_packs(store: FeatureStore) -> int:
    """Makes one pack of all that a store holds, and returns the number of its images. OSError, and nothing is lost."""
    old = sorted(store.folder.glob(f"*{INDEX}"))
    pack, images = PackWriter(store.folder), 0
    for digest in store.digests:
        if (features := store.get(digest)) is not None:
            pack.add(digest, view_as_bytes(features))
            images += 1
    pack.close()
    for index in old:
        index.unlink()  # first: an index without data would count as damage
        index.with_suffix(FEATURES).unlink(missing_ok=True)
    return images


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
