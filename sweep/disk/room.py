"""Whether the disk holds what a plan still writes, when it will be full, and what `sweep gc` would free."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.counted import format_counted
from jobs.job import Job
from jobs.set_aside import read_trash
from jobs.store.checks import find_nearest_folder
from sweep.errors import SweepError
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRoom:
    """What is free, and what the unfinished jobs of a plan leave behind."""

    free: int
    """Bytes, of the file system; a quota of its own shows only where the system reports it as the disk's size."""
    needed: int
    fitting: int
    """Jobs after which the disk is full, in the plan's order."""
    jobs: int
    """Those that leave anything."""

    @property
    def is_short(self) -> bool:
        return self.needed > self.free


def measure_room(root: Path, unfinished: Sequence[Job]) -> DiskRoom | None:
    """None where the free space is not known."""
    try:
        free = shutil.disk_usage(find_nearest_folder(root)).free
    except OSError as error:
        logger.info("%s: free space is not known: %s", root, error)
        return None
    sizes = [size for job in unfinished if (size := job.estimate.checkpoint_bytes + job.estimate.feature_bytes)]
    filled = fitting = 0
    for size in sizes:
        filled += size
        if filled > free:
            break
        fitting += 1
    return DiskRoom(free=free, needed=sum(sizes), fitting=fitting, jobs=len(sizes))


def sum_reclaimable(stored: StoredSweep) -> tuple[int, int]:
    """Bytes that `sweep gc` would set aside now, and bytes of this sweep that are set aside already."""
    # imported here: it loads what computes scores, and every plan would wait for it
    from sweep.disk.survey import load_survey

    holdings = load_survey(stored).decide(unplanned=False)
    aside = [item for each in read_trash(stored.store) if each.sweep == stored.manifest.sweep for item in each.items]
    return sum(each.files.bytes for each in holdings if each.goes), sum(item.bytes for item in aside)


# Why: docs/decisions.md, D243
def describe_shortage(stored: StoredSweep, unfinished: Sequence[Job]) -> str:
    """When the disk will be full and what would make room, in a line; empty while there is room enough.

    What the folders hold is looked at only then: of thousands of runs it takes seconds.
    """
    room = measure_room(stored.store.root, unfinished)
    if room is None or not room.is_short:
        return ""
    name = stored.manifest.sweep
    full = (
        f"the disk will be full after about {room.fitting:,} of {format_counted(room.jobs, 'job')}: "
        f"{format_bytes(room.free) if room.free else 'nothing'} free, {format_bytes(room.needed)} to come"
    )
    try:
        freed, aside = sum_reclaimable(stored)
    except (SweepError, OSError) as error:
        return f"{full}; what `sweep gc {name}` would free is not known: {error}"
    ways = [f"`sweep gc {name}` would free {format_bytes(freed)}"] if freed else []
    ways += [f"{format_bytes(aside)} are set aside and go with `sweep gc {name} --remove ID`"] if aside else []
    return "; ".join([full, *(ways or [f"`sweep gc {name}` finds nothing to free"])])
