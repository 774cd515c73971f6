"""Sets aside what may go, brings it back, removes it for good: each under the submit lock, and safe to be killed.

The plans are read again once the marks are there. A job that was planned before then is seen, and what it reads stays;
one that is planned later finds the marks, and has it brought back (`jobs.set_aside`).
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from jobs.claims.submit_lock import hold_submit_lock
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.processes import read_user_name
from jobs.set_aside import (
    OPTIMIZER_NAME,
    TrashItem,
    TrashRecord,
    drop_unmoved,
    list_moved,
    mark_item,
    move_item,
    read_trash,
    remove_leftovers,
    remove_trash,
    restore_run,
)
from jobs.store.paths import Store
from jobs.store.results import SetAsidePath
from sweep.disk.inventory import FileKind
from sweep.disk.rules import Holding, KeptReasons, find_reasons
from sweep.disk.survey import DiskSurvey, load_survey
from sweep.errors import StoreError, UsageError
from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)

LOCK_SECONDS = 300.0
SECONDS_OF_A_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectReport:
    """What was done with a folder of the trash."""

    id: str = ""
    moved: tuple[TrashItem, ...] = ()
    """What was set aside, brought back or removed, run by run."""
    kept: tuple[TrashItem, ...] = ()
    """What stayed, or was brought back, although it was meant to go: something needs it now."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.moved)

    @property
    def inodes(self) -> int:
        return sum(item.inodes for item in self.moved)


@contextmanager
def hold_store(stored: StoredSweep, report_wait: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Nobody submits from this store, and nobody else collects, while the block lasts."""
    with hold_submit_lock(stored.store.submitters, wait_seconds=LOCK_SECONDS, report_wait=report_wait) as holds:
        remove_leftovers(stored.store)
        yield holds


def group_items(holdings: Sequence[Holding], trash_id: str = "") -> list[TrashItem]:
    """What goes, run by run. A checkpoint whose weights go goes whole."""
    items: dict[str, TrashItem] = {}
    for holding in holdings:
        if not holding.goes:
            continue
        item = items.get(holding.key) or TrashItem(stage=holding.stage, key=holding.key, phase=holding.phase)
        files = holding.files
        is_read = files.kind in {FileKind.WEIGHTS, FileKind.OPTIMIZER}
        size = SetAsidePath(trash_id=trash_id, bytes=files.bytes, inodes=files.inodes, read=is_read)
        name, paths = files.path, dict(item.paths)
        folder = name.rpartition("/")[0]
        if files.kind is FileKind.OPTIMIZER and folder in paths:  # its folder comes before it
            whole = paths[folder]
            name = folder
            size = replace(size, bytes=whole.bytes + size.bytes, inodes=whole.inodes + size.inodes)
        items[holding.key] = replace(item, paths={**paths, name: size})
    return list(items.values())


# Why: docs/decisions.md, D239
def set_aside(
    stored: StoredSweep,
    *,
    unplanned: bool,
    report_wait: Callable[[str], None] = logger.info,
    clock: Clock = SYSTEM_CLOCK,
) -> CollectReport:
    """Moves what may go into a new folder of the trash. An empty report if nothing may."""
    with hold_store(stored, report_wait) as holds:
        survey = load_survey(stored)
        check_clear(survey)
        moment = datetime.fromtimestamp(clock.now(), UTC)
        trash_id = f"{moment:%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        items = group_items(survey.decide(unplanned=unplanned), trash_id)
        if not items:
            return CollectReport()
        record = TrashRecord(
            id=trash_id,
            sweep=stored.manifest.sweep,
            by=read_user_name(),
            set_aside_at=clock.now(),
            items=tuple(items),
        )
        record.write(stored.store)
        for item in items:
            mark_item(stored.store, item)
        # Now every attempt that begins sees the marks. What was planned or began before is seen here.
        parts = split_items(load_survey(stored, measures=False), items)
        for _, stays in parts:
            restore_run(stored.store, stays.locate_run(stored.store), only=trash_id, names=stays.paths)
        moved = []
        for goes, _ in parts:
            if not holds():
                raise StoreError(f"another process took the store over: {describe_way_out(record)}")
            moved.append(move_item(stored.store, goes))
        drop_unmoved(stored.store, record)
        gone = tuple(item for item in moved if item.paths)
        if gone:
            replace(record, items=gone).write(stored.store)
        else:
            remove_trash(stored.store, trash_id)
    return CollectReport(id=trash_id if gone else "", moved=gone, kept=select_items(stays for _, stays in parts))


def check_clear(survey: DiskSurvey) -> None:
    """StoreError while it is not known what an attempt reads."""
    if survey.unclear:
        raise StoreError(
            f"{survey.unclear[0]}: no plan names it, an attempt of it has just begun, and what it reads is not known "
            "yet; try again in a minute"
        )


def describe_way_out(record: TrashRecord) -> str:
    """What to do with a folder of the trash that was made half."""
    return f"`sweep gc {record.sweep} --restore {record.id}` brings back what was set aside until then"


def select_items(items: Iterable[TrashItem]) -> tuple[TrashItem, ...]:
    """Those that hold anything."""
    return tuple(item for item in items if item.paths)


def split_items(survey: DiskSurvey, items: Sequence[TrashItem]) -> list[tuple[TrashItem, TrashItem]]:
    """Of each item what may go by what the store says now, and what is needed."""
    reasons, planned = find_reasons(survey.plans, survey.runs), survey.index_jobs()
    parts = []
    for item in items:
        run, kept = survey.runs.get(item.key), reasons.get(item.key)
        all_stays = bool(survey.unclear) or (
            run is not None and (run.at_work or (item.key in planned and not run.done))
        )
        stays = {
            name: path
            for name, path in item.paths.items()
            if all_stays or (path.read and run is not None and kept is not None and is_kept(name, kept))
        }
        goes = {name: path for name, path in item.paths.items() if name not in stays}
        parts.append((replace(item, paths=goes), replace(item, paths=stays)))
    return parts


def is_kept(name: str, kept: KeptReasons) -> bool:
    """Whether what jobs may read of a finished run stays for one of these reasons."""
    return bool(kept.optimizer if name.endswith(f"/{OPTIMIZER_NAME}") else kept.weights)


def find_record(stored: StoredSweep, trash_id: str) -> TrashRecord:
    """UsageError for an id that the trash does not have."""
    records = {record.id: record for record in read_trash(stored.store)}
    if trash_id in records:
        return records[trash_id]
    there = f"it has {', '.join(records)}" if records else "it is empty"
    raise UsageError(f"the trash of {stored.store.root} has no {trash_id!r}: {there}")


def restore(stored: StoredSweep, trash_id: str, *, report_wait: Callable[[str], None] = logger.info) -> CollectReport:
    """Brings everything back that a folder of the trash has, and removes the folder."""
    with hold_store(stored, report_wait):
        record = find_record(stored, trash_id)
        moved = select_items(list_moved(stored.store, item) for item in record.items)
        for item in record.items:
            restore_run(stored.store, item.locate_run(stored.store), only=trash_id)
        left = select_items(list_moved(stored.store, item) for item in record.items)
        back = tuple(_subtract_item(item, left) for item in moved)
        if not left:
            remove_trash(stored.store, trash_id)
    return CollectReport(id=trash_id, moved=select_items(back), kept=left)


def _subtract_item(item: TrashItem, others: Sequence[TrashItem]) -> TrashItem:
    names = {name for other in others if (other.stage, other.key) == (item.stage, item.key) for name in other.paths}
    return replace(item, paths={name: path for name, path in item.paths.items() if name not in names})


def remove(stored: StoredSweep, trash_id: str, *, report_wait: Callable[[str], None] = logger.info) -> CollectReport:
    """Removes a folder of the trash for good, but for what is needed by now: that is brought back."""
    with hold_store(stored, report_wait):
        record = find_record(stored, trash_id)
        parts = split_items(load_survey(stored, measures=False), record.items)
        for _, stays in parts:
            restore_run(stored.store, stays.locate_run(stored.store), only=trash_id, names=stays.paths)
        drop_unmoved(stored.store, record)
        gone = select_items(list_moved(stored.store, item) for item in record.items)
        remove_trash(stored.store, trash_id)
    return CollectReport(id=trash_id, moved=gone, kept=select_items(stays for _, stays in parts))


def select_old(store: Store, sweep: str, days: float, clock: Clock = SYSTEM_CLOCK) -> list[TrashRecord]:
    """What the sweep set aside at least so many days ago."""
    before = clock.now() - days * SECONDS_OF_A_DAY
    return [record for record in read_trash(store) if record.sweep == sweep and record.set_aside_at <= before]
