"""Whether a store's file system does what the framework relies on, tried in a temporary folder of the store."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import describe_storage_error
from jobs.store.flock import acquire_lock
from jobs.store.paths import open_replacement
from jobs.store.sharing import find_sharing_problem, is_shared, name_group

# Findings of `sweep doctor`: one line each, with what to do about it.


class Severity(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; everything works."""
    PROBLEM = "problem"
    """Jobs cannot run, or may lose work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    severity: Severity
    text: str
    advice: str = ""
    """What to do; empty if there is nothing to do."""


def report_ok(name: str, text: str) -> Check:
    """All is well."""
    return Check(name=name, severity=Severity.OK, text=text)


def report_note(name: str, text: str, advice: str = "") -> Check:
    """Worth knowing."""
    return Check(name=name, severity=Severity.NOTE, text=text, advice=advice)


def report_problem(name: str, text: str, advice: str) -> Check:
    """Has to be put right."""
    return Check(name=name, severity=Severity.PROBLEM, text=text, advice=advice)


OWN_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "vfat"}
"""File systems of one machine's own disks or memory."""

SMALL_SKEW_SECONDS = 2.0
LARGE_SKEW_SECONDS = 60.0


def check_store(root: Path, *, needed_bytes: int = 0, shared: bool = False) -> list[Check]:
    """`needed_bytes`: what the plan still writes and keeps. `shared`: the nodes of a cluster must see the store."""
    folder = find_nearest_folder(root)
    where = f"store {root}" if folder == root.absolute() else f"store {root} (not there yet: tried in {folder})"
    try:
        trial = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
    except OSError as error:
        return [
            report_problem(
                "store", f"{where} cannot be written: {describe_storage_error(error)}", "choose another with --store"
            )
        ]
    try:
        tried = [
            run_check(check, trial) for check in (check_renaming, check_exclusive_creation, check_locking, check_clock)
        ]
    finally:
        with contextlib.suppress(OSError):  # the folder's closing, too, may fail
            shutil.rmtree(trial, ignore_errors=True)
    found = [report_ok("store", f"{where} can be written"), *tried, check_space(folder, needed_bytes)]
    found += check_sharing(root) if folder == root.absolute() else ()
    return [*found, *(check_file_system(folder) if shared else ())]


def find_nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def run_check(check: Callable[[Path], Check], folder: Path) -> Check:
    """The check's finding; an OSError becomes a finding too."""
    try:
        return check(folder)
    except OSError as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return report_problem(
            name, f"fails: {describe_storage_error(error)}", "keep the store on a file system that can do it"
        )


def check_renaming(folder: Path) -> Check:
    """Whether a file replaces another at once, and a reader of the old one still reads it whole."""
    path = folder / "file"
    path.write_text("old")
    with path.open() as reader:
        with open_replacement(path) as unfinished:
            unfinished.write_text("new")
        if path.read_text() == "new" and reader.read() == "old":
            return report_ok("renaming", "a file replaces another whole")
    advice = "keep the store on a file system with POSIX renames (NFS, Lustre, GPFS, BeeGFS, a local disk)"
    return report_problem("renaming", "a replaced file is not whole", advice)


def check_exclusive_creation(folder: Path) -> Check:
    """Whether the second creation of the same file or folder fails."""
    for make in (create_exclusive_file, Path.mkdir):
        path = folder / make.__name__
        make(path)
        try:
            make(path)
        except FileExistsError:
            continue
        return report_problem(
            "exclusive creation", "the same name can be made twice", "keep the store on another file system"
        )
    return report_ok("exclusive creation", "only one of two makes a name (O_EXCL, mkdir)")


def create_exclusive_file(path: Path) -> None:
    """Raises FileExistsError if it exists."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def check_locking(folder: Path) -> Check:
    """Whether a lock that is held cannot be taken again."""
    first = acquire_lock(folder / "lock")
    second = acquire_lock(folder / "lock")
    for descriptor in (first, second):
        with contextlib.suppress(TypeError):
            os.close(descriptor)  # type: ignore[arg-type]  # None is the answer that is hoped for
    if first is not None and second is None:
        return report_ok("locking", "locks hold (flock)")
    return report_problem("locking", "a lock can be had twice", "mount the store with locks (NFS: without `nolock`)")


def check_clock(folder: Path, clock: Clock = SYSTEM_CLOCK) -> Check:
    """How far this machine's clock and the file server's differ."""
    skew = measure_clock_skew(folder, clock)
    text = f"this machine's clock and the file server's differ by {abs(skew):.1f} s"
    if abs(skew) > LARGE_SKEW_SECONDS:
        return report_problem("clock", text, "have both set by NTP: ages of files decide what is alive")
    return report_note("clock", text) if abs(skew) > SMALL_SKEW_SECONDS else report_ok("clock", text)


def measure_clock_skew(folder: Path, clock: Clock = SYSTEM_CLOCK) -> float:
    """Seconds by which this machine is ahead of the file server."""
    path = folder / "clock"
    before = clock.now()
    path.write_text("now")
    stamp = path.stat().st_mtime
    after = clock.now()
    return 0.0 if before - 0.1 <= stamp <= after + 0.1 else (before + after) / 2 - stamp


def check_sharing(root: Path) -> Iterator[Check]:
    """Of a store whose group may write: whether all of it can be used by two people."""
    problem, advice = find_sharing_problem(root)
    if problem:
        yield report_problem("sharing", problem, advice)
    elif is_shared(root):
        group = name_group(root.stat().st_gid)
        yield report_ok("sharing", f"what is made in the store is the group's ({group}) to write")


def check_space(folder: Path, needed_bytes: int) -> Check:
    """Whether the disk has room. A quota does not show here."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:,.1f} GiB are free; a quota does not show here"
    if not needed_bytes:
        return report_ok("space", text)
    text = f"{text}; the plan still keeps {needed_bytes / 2**30:,.1f} GiB of checkpoints"
    if needed_bytes > free:
        return report_problem("space", text, "make room, or take a store on a larger disk")
    return report_ok("space", text)


def check_file_system(folder: Path) -> Iterator[Check]:
    """A note if perhaps only this machine sees the store."""
    kind = read_file_system_type(folder)
    if kind in OWN_DISKS:
        advice = "keep the store on a shared file system; --node-test tries it from a node"
        yield report_note("file system", f"the store lies on {kind}, which seems to be this machine's own", advice)
    elif kind:
        yield report_ok("file system", f"the store lies on {kind}")


def read_file_system_type(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Type of the file system that holds the folder; empty if it is unknown."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    place = folder.resolve()
    points = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    holding = [(len(point.parts), kind) for point, kind in points if place.is_relative_to(point)]
    return max(holding, key=lambda each: each[0], default=(0, ""))[1]
