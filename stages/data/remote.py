"""Shards of an object store, fetched whole into a folder of the node ahead of their use.

The folder may be shared by all processes of a node and by all its jobs: a shard is written beside its place and
renamed, one process at a time, under a name that holds its version; the oldest beyond a bounded number go. A shard
that goes while it is open can be read on.
"""

import fcntl
import hashlib
import os
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from stages.data.shards import MANIFEST, index_tar, is_plain_name, read_manifest
from stages.errors import DataError, StageError
from stages.files import convert_storage_errors, flush_to_disk, replace_atomically

# Files of an object store or a web server: their size and version, and their content. No shell, no chained addresses.
#
# Web servers are read with the standard library; fsspec's own way there needs aiohttp. The others go through fsspec
# and its back ends, which take their credentials from their own environment variables and files.

BACK_ENDS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": ""}
"""Package that each scheme needs besides fsspec."""
WEB = ("http", "https")
TIMEOUT_SECONDS = 60.0
VERSION_NAMES = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""Where back ends say which version of a file it is; the first that is there counts."""


class FileVersion(NamedTuple):
    """Which content a file has."""

    size: int
    tag: str
    """What the store names the version; empty if it does not say."""


class RemoteStore(Protocol):
    """A folder of files. FileNotFoundError and PermissionError are final; other errors may pass."""

    def query_version(self, name: str) -> FileVersion: ...

    def download(self, name: str, path: Path, most: int) -> None:
        """Writes the file's content, or as much of it as came, to `path`. OSError once more than `most` bytes came."""
        ...


READ_BYTES = 1 << 22


def check_download(size: int, most: int) -> None:
    """OSError if more came than the store promised: a disk is not to be filled by a server that does not stop."""
    if size > most:
        raise OSError(f"more than the {most} bytes came that it promised")


def open_store(address: str) -> RemoteStore:
    """The folder at a checked address; DataError names the package that a scheme lacks."""
    scheme = urlsplit(check_address(address)).scheme
    if scheme in WEB:
        return WebStore(address)
    try:
        import fsspec  # type: ignore[import-untyped]

        return FsspecStore(address, fsspec.filesystem(scheme))
    except ImportError as error:
        package = BACK_ENDS[scheme] or "fsspec"
        raise DataError(f"{address}: {scheme}:// needs {package}; install it beside the stages: {error}") from error


def check_address(address: str) -> str:
    """The address of a folder, or of one tar, without a slash at its end; DataError if it is none that is read."""
    parts = urlsplit(address)
    if parts.scheme not in {*BACK_ENDS, *WEB} or "://" not in address:
        known = ", ".join(f"{scheme}://" for scheme in (*BACK_ENDS, *WEB) if scheme != "memory")
        raise DataError(f"{address!r}: not an address that is read; a local path or one of {known}")
    strange = not address.isprintable() or set(address) & set(" \\?#*[") or "::" in address
    if strange or "@" in parts.netloc or not parts.netloc or {"..", "."} & set(parts.path.split("/")):
        raise DataError(f"{address!r}: a plain SCHEME://PLACE/FOLDER is expected: no password, query, pattern or chain")
    return address.rstrip("/")


@dataclass(frozen=True)
class FsspecStore:
    """A folder behind fsspec."""

    address: str
    files: Any

    def query_version(self, name: str) -> FileVersion:
        info = self.files.info(f"{self.address}/{name}")
        tag = next((str(info[key]) for key in VERSION_NAMES if info.get(key)), "")
        return FileVersion(int(info["size"]), tag)

    def download(self, name: str, path: Path, most: int) -> None:
        with self.files.open(f"{self.address}/{name}", "rb") as source, path.open("wb") as file:
            while chunk := source.read(min(READ_BYTES, most + 1 - file.tell())):
                file.write(chunk)
                check_download(file.tell(), most)


class WebStore:
    """A folder on a web server that gives its files' lengths."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = OpenerDirector()  # its own, as the usual one would follow a redirection to ftp:// and file://
        for handler in (
            ProxyHandler(), HTTPHandler(), HTTPSHandler(),
            HTTPDefaultErrorHandler(), HTTPRedirectHandler(), HTTPErrorProcessor(),
        ):  # fmt: skip
            self._opener.add_handler(handler)

    def query_version(self, name: str) -> FileVersion:
        with self._request("HEAD", name) as response:
            headers = response.headers
        if not headers.get("Content-Length", "").isdecimal():
            raise DataError(f"{self.address}/{name}: the server does not give its length")
        return FileVersion(int(headers["Content-Length"]), headers.get("ETag") or headers.get("Last-Modified") or "")

    def download(self, name: str, path: Path, most: int) -> None:
        with self._request("GET", name) as response, path.open("wb") as file:
            while chunk := response.read(min(READ_BYTES, most + 1 - file.tell())):
                file.write(chunk)
                check_download(file.tell(), most)

    def _request(self, method: str, name: str) -> Any:
        url = f"{self.address}/{name}"
        try:
            return self._opener.open(Request(url, method=method), timeout=TIMEOUT_SECONDS)  # noqa: S310 - http(s) alone
        except HTTPError as error:
            error.close()
            if error.code in {404, 410}:
                raise FileNotFoundError(f"{url}: {error.reason}") from error
            if error.code in {401, 403}:
                raise PermissionError(f"{url}: {error.reason}") from error
            raise
        except HTTPException as error:  # a server that breaks off, or speaks another language
            raise OSError(f"{url}: {type(error).__name__}: {error}") from error


T = TypeVar("T")
RETRY_DELAYS = (1.0, 4.0, 15.0, 60.0)
"""Seconds between the tries of something that the network may have broken."""
SHARDS_KEPT = 64
"""Of each data set, in the node's folder; more if more are wanted at once."""
COUNTED_AT_ONCE = 8
LOCKS = 64
STALE_SECONDS = 86_400.0
"""An unfinished download of that age has nobody who writes it."""


class RemoteFolder:
    """A folder of shards with a manifest at an address, or one tar there. Can be pickled."""

    def __init__(
        self,
        address: str,
        cache: Path,
        waits: Sequence[float] = RETRY_DELAYS,
        sleep: Callable[[float], None] = time.sleep,
        *,
        names: Sequence[str] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """`cache`: folder for the copies. `names`: the shards that are meant, in their order; empty: the manifest's.
        `counts`: their samples, as far as they are known. DataError if the address is none that can be read.
        """
        self.names, self.counts = tuple(names), dict(counts or {})
        self.address = check_address(address)
        parent, _, name = self.address.rpartition("/")
        self._single = name if name.endswith(".tar") and is_plain_name(name) else ""
        self._parent = parent if self._single else self.address
        self._store = open_store(self._parent)
        self._waits = waits
        self._sleep = sleep
        self.copies = cache / hashlib.sha256(self._parent.encode()).hexdigest()[:16]
        self._kept = SHARDS_KEPT
        self._versions: dict[str, FileVersion] = {}
        self._ahead: ShardPrefetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens connections and a thread of its own."""
        return {**self.__dict__, "_store": None, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._store = open_store(self._parent)

    def __str__(self) -> str:
        return self.address

    def load_manifest(self) -> tuple[list[str], list[int]]:
        """What the manifest says; of a single tar, which is fetched, its headers.

        Where the shards are named, no manifest is needed: those that it does not name are fetched once and counted.
        """
        if self._single:
            return [self._single], [len(index_tar(self.fetch_local(self._single)))]
        if not self.names:
            return read_manifest(f"{self.address}/{MANIFEST}", self._fetch_manifest().read_bytes())
        known = dict(self.counts)
        if set(self.names) - known.keys():
            known = self._read_present_manifest() | known
        if uncounted := [name for name in self.names if name not in known]:
            print(
                f"{self.address}: counting {len(uncounted):,} shards, each of which is fetched for it; "
                "`sweep data manifest` does that once and for all",
                file=sys.stderr,
            )
            with ThreadPoolExecutor(COUNTED_AT_ONCE) as pool:
                known |= zip(uncounted, pool.map(self.count_samples, uncounted), strict=True)
        return list(self.names), [known[name] for name in self.names]

    def _fetch_manifest(self) -> Path:
        """DataError, which says what to do where there is none."""
        try:
            return self.fetch_local(MANIFEST)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError | PermissionError):
                raise DataError(
                    f"{error}; shards of an object store need a {MANIFEST} (`sweep data manifest` writes one), "
                    f"or their names in the address: {self.address}/{{00000..01279}}.tar"
                ) from error.__cause__
            raise

    def _read_present_manifest(self) -> dict[str, int]:
        """Counts by the manifest beside the shards; none where there is no manifest, or it may not be read."""
        try:
            content = self.fetch_local(MANIFEST).read_bytes()
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError | PermissionError):
                return {}
            raise
        return dict(zip(*read_manifest(f"{self.address}/{MANIFEST}", content), strict=True))

    def count_samples(self, name: str) -> int:
        """Samples of a shard, which is fetched for it unless this version of it was counted on this node before."""
        version = self.query_version(name)
        kept = self.copies / f"{render_copy_name(name, version)}.count"
        with suppress(OSError, ValueError):
            return int(kept.read_bytes())
        count = len(index_tar(self.fetch_local(name)))
        with replace_atomically(kept) as unfinished:
            unfinished.write_text(f"{count}\n")
        return count

    def query_version(self, name: str) -> FileVersion:
        """Which content a file there has now; DataError if it cannot be asked for."""
        return self._retry(name, lambda: self._store.query_version(name))

    def fetch_local(self, name: str, *, wait: bool = True) -> Path:
        """The copy of a shard, fetched if it is not there; DataError if it cannot be had, or is not what it was.

        Without `wait` a BlockingIOError says that another process or thread of the node fetches it.
        """
        version = self.query_version(name)
        if self._versions.setdefault(name, version) != version:
            raise DataError(f"{self._parent}/{name}: it has changed since this job read it; start the job again")
        path = self.copies / render_copy_name(name, version)
        if not path.exists():
            with convert_storage_errors(self.copies):
                self.copies.mkdir(parents=True, exist_ok=True)
            with hold_lock(self.copies, name, wait=wait):
                if not path.exists():
                    self._retry(name, lambda: self._fetch(name, version, path))
                    self._remove_oldest()
        with suppress(FileNotFoundError):
            os.utime(path)
        return path

    def prefetch(self, names: Sequence[str]) -> None:
        """Fetches these shards in a thread, one after the other but for those that others of the node fetch."""
        self._kept = max(SHARDS_KEPT, 2 * len(names))
        if self._ahead is None:
            self._ahead = ShardPrefetcher(partial(self.fetch_local, wait=False))
        self._ahead.set_wanted(names)

    def _fetch(self, name: str, version: FileVersion, path: Path) -> None:
        """One try to fetch a shard to `path`."""
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        with convert_storage_errors(path):
            try:
                self._store.download(name, unfinished, version.size)
                if (size := unfinished.stat().st_size) != version.size:
                    raise OSError(f"{size} bytes of {version.size} came")
                if (now := self._store.query_version(name)) != version:
                    raise DataError(f"{self._parent}/{name}: it changed while it was fetched, from {version} to {now}")
                flush_to_disk(unfinished)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def _remove_oldest(self) -> None:
        """Keeps the number of copies bounded."""
        found = sorted((compute_age(path), path) for path in self.copies.glob("*.tar"))
        for _, path in found[self._kept :]:
            path.unlink(missing_ok=True)
        for path in self.copies.glob(".*.part"):
            if compute_age(path) > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _retry(self, name: str, action: Callable[[], T]) -> T:
        """Does something over the network, again after a while if it fails; DataError with the last reason."""
        for wait in (*self._waits, None):
            try:
                return action()
            except (FileNotFoundError, PermissionError) as error:
                raise DataError(f"{self._parent}/{name}: {format_reason(error)}") from error
            except StageError:
                raise
            except Exception as error:  # each back end has errors of its own kind
                if wait is None:
                    tries = len(self._waits) + 1
                    raise DataError(f"{self._parent}/{name}: {tries} tries: {format_reason(error)}") from error
                self._sleep(wait)
        raise AssertionError  # the last wait is None


# Why: docs/decisions.md, D14
class ShardPrefetcher:
    """A thread that fetches what was asked for last."""

    def __init__(self, fetch: Callable[[str], Path]) -> None:
        """`fetch`: BlockingIOError if another does it, StageError if it cannot be done."""
        self._fetch = fetch
        self._wanted: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="shards ahead", daemon=True).start()

    def set_wanted(self, names: Sequence[str]) -> None:
        """In place of what was wanted before, and has not been begun."""
        with self._changed:
            self._wanted = list(names)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                name = self._wanted.pop(0)
            try:
                with suppress(BlockingIOError):
                    self._fetch(name)
            except StageError as error:  # who needs the shard will meet it again
                print(f"fetching ahead: {error}", file=sys.stderr)


def render_copy_name(name: str, version: FileVersion) -> str:
    """Name of the copy of a shard: another version has another one."""
    stem, dot, extension = name.rpartition(".")
    digest = hashlib.sha256(f"{version.size} {version.tag}".encode()).hexdigest()[:16]
    return f"{stem}-{digest}{dot}{extension}"


@contextmanager
def hold_lock(folder: Path, name: str, *, wait: bool) -> Iterator[None]:
    """One process of the node, and one thread of it, at a time for each name; BlockingIOError rather than `wait`."""
    path = folder / f".lock-{zlib.crc32(name.encode()) % LOCKS}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def compute_age(path: Path) -> float:
    """Seconds since a copy was last opened; of one that another process has just removed, none."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def format_reason(error: Exception) -> str:
    """An error of a back end on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def resolve_cache_folder(given: str, run: Path) -> Path:
    """`settings.local_cache`, relative to the job's folder; else a folder of this user's own in the temporary one.

    DataError if somebody else has made that: the shards in it would be theirs.
    """
    if given:
        return (run / given).resolve()
    folder = Path(tempfile.gettempdir()) / f"sweep-shards-{os.getuid()}"
    with convert_storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise DataError(f"{folder}: not a folder that only you can write; set local_cache to one that is")
    return folder
