"""What `sweep gc` takes out of run folders: into the trash, back again, or away for good.

The order makes every step safe to be killed at. The trash's record comes first, then each run's mark (set-aside.json),
then the files are renamed. Who finds a mark knows where to look, and takes neither a file in its place nor one in the
trash for lost. All of it happens under the submit lock (`jobs.claims.submit_lock`).

A stage may read what a mark names at any moment until the mark is there: an attempt looks for marks of its parents once
it owns its run (`has_set_aside_input`), and who moves files looks for attempts and plans once the marks are there.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.claims.claims import list_claims, refresh_folder
from jobs.job import Job
from jobs.store.flock import acquire_lock, is_held
from jobs.store.paths import SAFE_NAME, RunPaths, Store, flush_folder, make_folder, write_json
from jobs.store.records import build_record, read_record
from jobs.store.results import (
    SAFE_PART,
    SET_ASIDE_FORMAT,
    SetAsideMark,
    SetAsidePath,
    identify_result,
    list_names,
    read_set_aside_mark,
    set_result_aside,
)

logger = logging.getLogger(__name__)

OPTIMIZER_NAME = "optimizer.safetensors"
"""The stages' own name of AdamW's moments in a checkpoint (stages/checkpoint/files.py)."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
RECORD, RUNS = "record.json", "runs"
REMOVING = ".removing-"
"""Before the name of a folder of the trash that is on its way out: nothing in it can be restored any more."""

# What is in the trash, and since when.


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashItem:
    """What one run gives."""

    stage: str
    key: str
    phase: str = ""
    paths: Mapping[str, SetAsidePath] = field(default_factory=dict)

    def locate_run(self, store: Store) -> RunPaths:
        return store.locate_run(self.stage, self.key)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.paths.values())

    @property
    def inodes(self) -> int:
        return sum(each.inodes for each in self.paths.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashRecord:
    """A folder of the trash, as its record.json has it."""

    id: str
    sweep: str
    by: str
    set_aside_at: float
    """Unix seconds."""
    items: tuple[TrashItem, ...]

    def write(self, store: Store) -> None:
        content = {
            "format": SET_ASIDE_FORMAT,
            "id": self.id,
            "sweep": self.sweep,
            "by": self.by,
            "set_aside_at": self.set_aside_at,
            "items": [
                {**asdict(item), "paths": {name: _render_path(each) for name, each in item.paths.items()}}
                for item in self.items
            ],
        }
        write_json(store.locate_trash(self.id) / RECORD, content)


def _render_path(path: SetAsidePath) -> dict[str, Any]:
    return {"id": path.trash_id, "bytes": path.bytes, "inodes": path.inodes, "read": path.read}


def read_trash(store: Store) -> list[TrashRecord]:
    """All records, the oldest first. One that is damaged, or of a name that is not ours, is passed over."""
    names = [name for name in list_names(store.trash) if SAFE_NAME.fullmatch(name)]
    found = [record for name in names if (record := _read_trash_record(store, name)) is not None]
    return sorted(found, key=lambda record: (record.set_aside_at, record.id))


def _read_trash_record(store: Store, trash_id: str) -> TrashRecord | None:
    content = read_record(store.locate_trash(trash_id) / RECORD) or {}
    items = content.get("items")
    if content.get("id") != trash_id or not isinstance(items, list):
        return None
    try:
        content["items"] = tuple(_read_item(each, trash_id) for each in items)
        content["set_aside_at"] = float(content["set_aside_at"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return build_record(TrashRecord, content)


def _read_item(given: Mapping[str, Any], trash_id: str) -> TrashItem:
    """ValueError for what could lead out of the store."""
    words = {name: str(given[name]) for name in ("stage", "key", "phase")}
    if not (SAFE_NAME.fullmatch(words["stage"]) and SAFE_NAME.fullmatch(words["key"])):
        raise ValueError("no name of a run")
    if not all(SAFE_PART.fullmatch(part) for name in given["paths"] for part in name.split("/")):
        raise ValueError("no file of a run")
    paths = {
        str(name): SetAsidePath(
            trash_id=trash_id, bytes=int(each["bytes"]), inodes=int(each["inodes"]), read=each["read"] is True
        )
        for name, each in given["paths"].items()
    }
    return TrashItem(**words, paths=paths)


def _locate_in_trash(store: Store, item_run: RunPaths, path: SetAsidePath, name: str) -> Path:
    stage, key = item_run.root.parent.name, item_run.root.name
    return store.locate_trash(path.trash_id) / RUNS / stage / key / name


# Into the trash.


def mark_item(store: Store, item: TrashItem) -> None:
    """Says in the run's folder what may be absent from now on; what an earlier mark says of other files stays."""
    run = item.locate_run(store)
    result = identify_result(run.result)
    before = _read_valid_mark(run, result)
    _write_mark(run, SetAsideMark(result=result, paths={**(before.paths if before else {}), **item.paths}))


def _read_valid_mark(run: RunPaths, result: str) -> SetAsideMark | None:
    """The mark if it is of the run's present result. One of a result that was made anew says nothing any more."""
    try:
        mark = read_set_aside_mark(run)
    except ValueError as error:
        logger.warning("%s", error)
        return None
    return mark if mark is not None and mark.result == result else None


def _write_mark(run: RunPaths, mark: SetAsideMark) -> None:
    if mark.paths:
        paths = {name: _render_path(each) for name, each in mark.paths.items()}
        write_json(run.set_aside, {"format": SET_ASIDE_FORMAT, "result": mark.result, "paths": paths})
    else:
        run.set_aside.unlink(missing_ok=True)
        flush_folder(run.root)


@contextlib.contextmanager
def _hold_run(run: RunPaths) -> Iterator[bool]:
    """Whether no attempt lives, and none begins while the block lasts."""
    try:
        lock = acquire_lock(run.lock, wait_seconds=0.2)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield True
        return
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def move_item(store: Store, item: TrashItem) -> TrashItem:
    """Renames what the mark names into the trash. Returns what went: nothing of a run that an attempt works on, or
    whose result has changed since it was marked."""
    run, moved = item.locate_run(store), {}
    with _hold_run(run) as is_free:
        mark = _read_valid_mark(run, identify_result(run.result))
        if not is_free or mark is None:
            return TrashItem(stage=item.stage, key=item.key, phase=item.phase)
        for name, path in item.paths.items():
            if mark.paths.get(name) != path:
                continue
            source, target = run.root / name, _locate_in_trash(store, run, path, name)
            make_folder(target.parent)
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
                flush_folder(target.parent)
                flush_folder(source.parent)
                moved[name] = path
    return TrashItem(stage=item.stage, key=item.key, phase=item.phase, paths=moved)


# Back again.


def restore_run(
    store: Store, run: RunPaths, *, only: str = "", names: Collection[str] | None = None
) -> Mapping[str, SetAsidePath]:
    """Moves back what the run's mark names, and takes the mark away.

    Returns what is gone for good, by name; the mark goes on naming it. `only`: from that folder of the trash;
    `names`: these alone.
    """
    mark = read_set_aside_mark(run)
    if mark is None:
        return {}
    if mark.result != identify_result(run.result):  # the job has run anew: what the trash has is of no use
        _write_mark(run, SetAsideMark(result="", paths={}))
        return {}
    left: dict[str, SetAsidePath] = {}
    gone: dict[str, SetAsidePath] = {}
    for name, path in mark.paths.items():
        target = run.root / name
        if (only and path.trash_id != only) or (names is not None and name not in names):
            left[name] = path
        elif not os.path.lexists(target) and not _move_back(_locate_in_trash(store, run, path, name), target):
            left[name] = gone[name] = path
    if left != mark.paths:
        _write_mark(run, SetAsideMark(result=mark.result, paths=left))
    return gone


def _move_back(source: Path, target: Path) -> bool:
    """False if it is not there."""
    try:
        make_folder(target.parent)
        source.rename(target)
    except FileNotFoundError:
        return False
    flush_folder(target.parent)
    return True


def restore_inputs(store: Store, job: Job, parents: Sequence[Job]) -> frozenset[str]:
    """Makes the runs whole again that a job needs, its own and its parents', as far as the trash has their files.

    Call it under the submit lock. A parent of which something is gone that the job reads is to run again: its result is
    set aside, unless an attempt of it lives. Returns the keys of the runs that were changed. Raises OSError.
    """
    changed = set()
    for each in (job, *parents):
        run = store.locate_run(each.stage, each.key)
        if not run.set_aside.exists():
            continue
        try:
            gone = restore_run(store, run)
        except ValueError as error:  # nobody knows any more what it was: as if all were gone
            logger.warning("%s", error)
            gone = {"": SetAsidePath(trash_id="")}
        changed.add(each.key)
        if not is_read(gone, job.stage, job.config):
            continue
        if run.result.exists():
            set_result_aside(run)
        else:
            run.set_aside.unlink(missing_ok=True)  # its work is lost, and it begins anew
    return frozenset(changed)


# Away for good.


def list_moved(store: Store, item: TrashItem) -> TrashItem:
    """The part of an item that is in the trash now."""
    run = item.locate_run(store)
    paths = {
        name: path for name, path in item.paths.items() if os.path.lexists(_locate_in_trash(store, run, path, name))
    }
    return TrashItem(stage=item.stage, key=item.key, phase=item.phase, paths=paths)


def drop_unmoved(store: Store, record: TrashRecord) -> None:
    """Takes files out of marks that are in their place all the same: who set them aside was killed before."""
    for item in record.items:
        run = item.locate_run(store)
        mark = _read_valid_mark(run, identify_result(run.result))
        if mark is None:
            continue
        left = {
            name: path
            for name, path in mark.paths.items()
            if path.trash_id != record.id or not os.path.lexists(run.root / name)
        }
        if left != mark.paths:
            _write_mark(run, SetAsideMark(result=mark.result, paths=left))


def remove_trash(store: Store, trash_id: str) -> None:
    """Removes a folder of the trash. Its name goes first, so that nobody restores a half of it."""
    folder = store.locate_trash(trash_id)
    doomed = folder.with_name(f"{REMOVING}{trash_id}")
    folder.rename(doomed)
    flush_folder(store.trash)
    shutil.rmtree(doomed)


def remove_leftovers(store: Store) -> None:
    """Removes what a `remove_trash` left that was killed."""
    for name in list_names(store.trash):
        if name.startswith(REMOVING):
            shutil.rmtree(store.trash / name, ignore_errors=True)


def measure_tree(folder: Path) -> tuple[int, int]:
    """Bytes and inodes of a file, or of a folder with all that is in it. A file that has another name elsewhere has no
    bytes: they stay when this name goes. Links are not followed."""
    found = os.lstat(folder)
    if not folder.is_dir() or folder.is_symlink():
        return (found.st_size if found.st_nlink == 1 else 0), 1
    total, inodes = 0, 1
    for name in list_names(folder):
        with contextlib.suppress(FileNotFoundError):
            size, number = measure_tree(folder / name)
            total, inodes = total + size, inodes + number
    return total, inodes


# Who reads what.


def needs_optimizer(stage: str, config: Mapping[str, Any]) -> bool:
    """Whether a job may go on from the optimizer's state of its parents.

    A fine-tune and an evaluation take weights alone, as does an image-text run that is told to start afresh. Of a stage
    of another package nothing is known.
    """
    if stage in {"finetune", "evaluate"}:
        return False
    return stage != "pretrain" or config.get("optimizer_state", "carried") == "carried"


def is_read(paths: Mapping[str, SetAsidePath], stage: str, config: Mapping[str, Any]) -> bool:
    """Whether a job of that stage reads one of these files of a parent, by name."""
    return any(
        path.read and (needs_optimizer(stage, config) or Path(name).name != OPTIMIZER_NAME)
        for name, path in paths.items()
    )


# Why: docs/decisions.md, D239
def has_set_aside_input(run: RunPaths, stage: str, config: Mapping[str, Any]) -> bool:
    """Whether something of `run` is set aside, or about to be, that a job of that stage reads.

    An attempt asks once it owns its own run: who sets files aside looks for that afterwards.
    """
    refresh_folder(run.root)
    try:
        mark = read_set_aside_mark(run)
    except ValueError:
        return True
    return mark is not None and is_read(mark.paths, stage, config)


def can_be_at_work(run: RunPaths) -> bool:
    """Whether an attempt owns the run, or may: on another machine it may live without an end that can be seen."""
    with contextlib.suppress(OSError):  # a file system without locks
        if is_held(run.lock):
            return True
    refresh_folder(run.claims)
    for claim in list_claims(run.claims)[-1:]:
        owner = claim.owner
        ended = bool(owner.attempt) and run.locate_attempt(owner.attempt).exit.exists()
        return not (claim.released or ended or owner.process_is_gone)
    return False
