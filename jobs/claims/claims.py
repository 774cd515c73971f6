"""Claims: numbered files, of which only the newest entitles its owner to write. They work across nodes.

A claim is a file with the next number, created with O_EXCL: the server of a network file system lets one creator
succeed (open(2); RFC 1813, section 3.3.8; RFC 7530, section 16.16). No lock is taken. The owner's heartbeat is the
file's modification time, which the server sets (utimensat(2) without a time). Ages are differences between such times;
the local clock never enters. A claim ends when its owner releases it or when a newer one exists, so an owner must check
for a newer one before each write that others see.

Each check opens the folder again. Otherwise NFS answers from its cache for up to a minute, while an open asks the
server (close-to-open consistency, nfs(5)).
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from jobs.processes import read_boot_id, read_own_start, read_process_stat
from jobs.store.paths import SAFE_NAME, flush_folder, make_folder
from jobs.store.reading import open_regular, read_anew

CLAIM_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,17})\.json")
KEPT = 2
"""Claims that stay in the folder: the owner's, and the one before for people who ask what happened."""
CONTENT_BYTES = 1_024
"""Claims are padded to this size: a rewrite is one write of the same length, and nobody reads half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOwner:
    """Who made a claim."""

    host: str = ""
    boot_id: str = ""
    pid: int = 0
    pid_started: float = 0.0
    """As in `AttemptStart`."""
    attempt: str = ""
    """Empty for an owner that is no attempt."""
    job_id: str = ""
    batch: str = ""
    restart: int = 0

    @classmethod
    def from_this_process(cls, *, attempt: str = "", job_id: str = "", batch: str = "", restart: int = 0) -> Self:
        """This process."""
        return cls(
            host=os.uname().nodename,
            boot_id=read_boot_id(),
            pid=os.getpid(),
            pid_started=read_own_start(),
            attempt=attempt,
            job_id=job_id,
            batch=batch,
            restart=restart,
        )

    @property
    def on_this_machine(self) -> bool:
        return bool(self.boot_id) and self.boot_id == read_boot_id()

    @property
    def process_is_gone(self) -> bool:
        """Whether the process has surely ended. Of a process on another machine nothing is known."""
        stat = read_process_stat(self.pid) if self.on_this_machine and self.pid else None
        return self.on_this_machine and not (stat and stat.alive and stat.started == self.pid_started)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A numbered claim on a run. The one with the highest number holds; the others may write no more."""

    path: Path
    number: int
    owner: ClaimOwner = ClaimOwner()
    """All fields are empty if the file was read before its content was written."""
    released: bool = False
    heartbeat_at: float = 0.0
    """Modification time by the server's clock. Compare it only with other such times."""

    def is_newest(self) -> bool:
        """Whether this claim still entitles its owner to write. Raises OSError if the folder cannot be read."""
        with contextlib.suppress(FileNotFoundError):
            numbers = _numbers(self.path.parent)
            return self.number in numbers and max(numbers) == self.number
        return False

    def send_heartbeat(self) -> bool:
        """Renews the claim. False if it was removed, which means that newer ones exist."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Marks the claim as released. One that was removed stays removed."""
        content = _content(self.owner, released=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = open_regular(self.path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, content, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def list_claims(folder: Path) -> list[Claim]:
    """All claims, oldest first."""
    found = (read_claim(_path(folder, number)) for number in _numbers_if_any(folder))
    return [claim for claim in found if claim is not None]


def find_newest_claim(folder: Path) -> Claim | None:
    """The newest claim; None if there never was one."""
    return next(reversed(list_claims(folder)), None)


# Why: docs/decisions.md, D34
def create_claim(folder: Path, holder: ClaimOwner, *, after: Claim | None) -> Claim | None:
    """Creates the claim that follows `after`, the newest that the caller knows.

    None if another process was faster; then the caller has decided on old facts.
    """
    make_folder(folder)
    number = after.number + 1 if after else 1
    path = _path(folder, number)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    try:
        os.write(descriptor, _content(holder, released=False))
        os.fsync(descriptor)
        beaten_at = os.fstat(descriptor).st_mtime
    except OSError:
        path.unlink(missing_ok=True)  # an empty claim has no owner, and the next process would wait until it is old
        raise
    finally:
        os.close(descriptor)
    flush_folder(folder)
    made = Claim(path=path, number=number, owner=holder, heartbeat_at=beaten_at)
    if made.is_newest():
        return made
    path.unlink(missing_ok=True)  # the number was used and removed since the caller read the folder
    return None


def remove_old_claims(folder: Path, newest_claim: Claim) -> None:
    """Removes old claims. Call it only when all earlier owners have released theirs or can write no more."""
    for number in _numbers_if_any(folder):
        if number <= newest_claim.number - KEPT:
            _path(folder, number).unlink(missing_ok=True)


def read_claim(path: Path) -> Claim | None:
    """Reads a claim from the server, not from a cache; None if it does not exist."""
    try:
        content, beaten_at = read_anew(lambda: _read_open(path))
    except FileNotFoundError:
        return None
    holder, released = _parse_claim(content)
    return Claim(path=path, number=int(path.stem), owner=holder, released=released, heartbeat_at=beaten_at)


def _read_open(path: Path) -> tuple[bytes, float]:
    """Content and modification time by one descriptor."""
    descriptor = open_regular(path)
    try:
        return os.read(descriptor, 4 * CONTENT_BYTES), os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def measure_claim_age(claim: Claim) -> float:
    """Seconds since the last heartbeat, by the clock that sets the folder's modification times.

    On NFS that is the server's clock. Where clients set the times (Lustre), the difference of two nodes' clocks enters.
    """
    probe = claim.path.parent / f".now-{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(descriptor).st_mtime - claim.heartbeat_at
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def refresh_folder(folder: Path) -> None:
    """Makes this node see what other nodes did in `folder`. Does nothing if it does not exist."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _numbers_if_any(folder: Path) -> list[int]:
    try:
        return sorted(_numbers(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _numbers(folder: Path) -> set[int]:
    return set(_parse_claim_numbers(read_anew(lambda: _list_open(folder))))


def _list_open(folder: Path) -> list[str]:
    """Opens the folder and lists it by that descriptor, so that NFS asks the server."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.listdir(descriptor)  # noqa: PTH208 - pathlib lists no open folders
    finally:
        os.close(descriptor)


def _parse_claim_numbers(names: list[str]) -> Iterator[int]:
    return (int(match[1]) for name in names if (match := CLAIM_FILE.fullmatch(name)))


def _content(holder: ClaimOwner, *, released: bool) -> bytes:
    return json.dumps({"format": 1, "released": released, **asdict(holder)}).ljust(CONTENT_BYTES - 1).encode() + b"\n"


def _parse_claim(content: bytes) -> tuple[ClaimOwner, bool]:
    """Owner and released flag. The owner is empty if the content is no claim."""
    try:
        record: Any = json.loads(content)
        holder = ClaimOwner(
            host=str(record["host"]),
            boot_id=str(record["boot_id"]),
            pid=int(record["pid"]),
            pid_started=float(record["pid_started"]),
            attempt=str(record["attempt"]),
            job_id=str(record["job_id"]),
            batch=str(record["batch"]),
            restart=int(record["restart"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return ClaimOwner(), False
    if holder.attempt and not SAFE_NAME.fullmatch(holder.attempt):
        return ClaimOwner(), False
    return holder, record.get("released") is True
