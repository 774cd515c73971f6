"""What was chosen for a sweep and lasts until it is changed: back end, caps, cells. STORE/sweeps/NAME/limits.json.

`sweep submit` and `sweep resume` keep what they are given, every round obeys it, `sweep status` shows it, and
`sweep limits` changes or lifts it. A store without the file has none.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.job import add_ancestors
from jobs.processes import read_user_name
from jobs.reconcile.order import extend_priorities
from jobs.store.paths import write_json
from jobs.store.reading import is_number, is_time, parse_object, read_file
from jobs.store.results import is_known_format
from sweep.errors import NotPlannedError, StoreError, UsageError
from sweep.stored_sweep import StoredSweep

FORMAT = 2
FIRST_FORMAT = 1
"""Of a file without the fields of `SECOND_FORMAT`, so that earlier versions go on obeying it."""


@dataclass(frozen=True, slots=True)
class LimitChange:
    """Who set a limit last, and when."""

    by: str
    at: float
    """Unix seconds."""

    def __str__(self) -> str:
        return f"{self.by}, {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLimits:
    """The limits of one sweep. A field that is None or empty is not limited."""

    backend: str | None = None
    """local or slurm; None: that of the sweep file."""
    max_queued: int | None = None
    """Jobs of this sweep in Slurm's queue at once."""
    budget_a100_hours: float | None = None
    """Nothing is sent by which what is spent and in flight could come to more."""
    budget_core_hours: float | None = None
    """Likewise, of all cores of all jobs."""
    budget_money: float | None = None
    """Likewise, at the plan's prices."""
    budget_currency: str | None = None
    """Of `budget_money`."""
    only: tuple[str, ...] = ()
    """Names of cells or keys of jobs: these, and what they need."""
    first: tuple[str, ...] = ()
    """Names of cells, patterns or keys of jobs that go before all others, with what they need."""
    canary: str | None = None
    """on or off: whether of each shape of job one goes first; None: as the sweep file says."""
    released: tuple[str, ...] = ()
    """Names of shapes, of cells or keys of jobs that no longer wait for the first of their shape."""
    pace_seconds: float | None = None
    """Between two sbatch calls."""
    ignored_inputs: tuple[str, ...] = ()
    """Problems of inputs that a user has accepted, by name (`sweep.preflight`): others still hold back every job."""
    changes: Mapping[str, LimitChange] = field(default_factory=dict)
    """By the names of the fields above."""

    def list_set(self) -> dict[str, Any]:
        """The limits that there are, by field."""
        return {name: value for name in NAMES if (value := getattr(self, name)) not in (None, ())}


NAMES = tuple(each.name for each in fields(KeptLimits) if each.name != "changes")
SECOND_FORMAT = ("budget_core_hours", "budget_money", "budget_currency", "first", "canary", "released")
"""Fields that programs of the first format do not know, and would pass over."""
OPTIONS = {
    "backend": "--backend",
    "max_queued": "--max-queued",
    "budget_a100_hours": "--budget-a100-hours",
    "budget_core_hours": "--budget-core-hours",
    "budget_money": "--budget-money",
    "only": "--only",
    "first": "--first",
    "canary": "--canary",
    "released": "--release",
    "pace_seconds": "--pace",
    "ignored_inputs": "--ignore-data",
}
"""The command line's name of each."""
TYPES: Mapping[str, tuple[type, ...]] = {
    "backend": (str,),
    "max_queued": (int,),
    "budget_a100_hours": (int, float),
    "budget_core_hours": (int, float),
    "budget_money": (int, float),
    "budget_currency": (str,),
    "only": (list,),
    "first": (list,),
    "canary": (str,),
    "released": (list,),
    "pace_seconds": (int, float),
    "ignored_inputs": (list,),
}
WORDS: Mapping[str, tuple[str, ...]] = {"backend": ("local", "slurm"), "canary": ("on", "off")}
"""The values that these may have."""
BUDGETS = ("budget_a100_hours", "budget_core_hours", "budget_money")
LISTS = ("only", "first", "released", "ignored_inputs")
"""As JSON has them."""


def read_limits(path: Path, *, acts: bool = False) -> KeptLimits:
    """The limits that a file holds; none if there is no file. `acts`: they are obeyed or changed, not only shown, so
    that a file of a later version, which may have limits that are unknown here, is refused.

    Raises:
        StoreError: a file that cannot be understood. It is not taken for no limit at all.
    """
    try:
        content = parse_object(read_file(path))
    except FileNotFoundError:
        return KeptLimits()
    except ValueError as error:
        raise StoreError(f"{path}: is damaged ({error}); remove it, and set the limits again") from None
    written = content.get("format")
    later = isinstance(written, int) and written > FORMAT
    if not is_known_format(written, FIRST_FORMAT) or (acts and later):
        given = str(written)[:60]
        raise StoreError(
            f"{path}: has format {given}, not {FIRST_FORMAT} or {FORMAT}; use the version of sweep that wrote it"
        )
    for name, words in WORDS.items():
        if content.get(name) not in (None, *words):
            raise StoreError(f"{path}: {name} is {repr(content[name])[:60]}; remove the file, and set the limits again")
    for name in NAMES:
        value = content.get(name)
        wrong = isinstance(value, bool) or not isinstance(value, TYPES[name])
        wrong = wrong or (isinstance(value, int | float) and not (is_number(value) and value >= 0))
        if value is not None and wrong:
            raise StoreError(f"{path}: {name} is {repr(value)[:60]}; remove the file, and set the limits again")
    changes = content.get("changes")
    values: dict[str, Any] = {name: content.get(name) for name in NAMES}
    return KeptLimits(
        **{**values, **{name: tuple(map(str, values[name] or ())) for name in LISTS}},
        changes={
            name: LimitChange(str(each.get("by", "")), float(each["at"]))
            for name, each in (changes if isinstance(changes, dict) else {}).items()
            if name in NAMES and isinstance(each, dict) and is_time(each.get("at"))
        },
    )


# Why: docs/decisions.md, D102
def update_limits(path: Path, given: Mapping[str, Any], clock: Clock = SYSTEM_CLOCK) -> KeptLimits:
    """Sets the fields in `given` (None or empty: lifts them), and returns what holds now.

    The file is whole or as before, and is written only where something is different from before.
    """
    before = read_limits(path, acts=True)
    different = {name: value for name, value in given.items() if getattr(before, name) != value}
    if not different:
        return before
    change = LimitChange(read_user_name(), clock.now())
    after = KeptLimits(
        **{name: different.get(name, getattr(before, name)) for name in NAMES},
        changes={**before.changes, **dict.fromkeys(different, change)},
    )
    content = asdict(after)
    if all(content[name] in (None, ()) for name in SECOND_FORMAT):
        content = {name: value for name, value in content.items() if name not in SECOND_FORMAT}
        write_json(path, {"format": FIRST_FORMAT, **content})
    else:
        write_json(path, {"format": FORMAT, **content})
    return after


def select_kept_jobs(stored: StoredSweep, only: Collection[str]) -> set[str]:
    """Keys of the jobs that a kept `--only` names, without names that a later plan dropped. Raises NotPlannedError if
    none is left."""
    found: set[str] = set()
    for word in only:
        try:
            found |= {job.key for job in stored.select_jobs([word])}
        except (NotPlannedError, UsageError):
            continue
    if not found:
        name = stored.manifest.sweep
        raise NotPlannedError(
            f"sweep {name} is limited to {', '.join(only)}, and its plan has none of them any more; "
            f"lift it: `sweep limits {name} --only all`"
        )
    return found


def find_wanted_keys(stored: StoredSweep, kept: KeptLimits) -> set[str]:
    """Keys of the jobs that rounds may send, with what they need: all without a kept `--only`, none where a later plan
    has nothing of it any more (the round says so)."""
    try:
        named = select_kept_jobs(stored, kept.only) if kept.only else {job.key for job in stored.manifest.jobs}
    except NotPlannedError:
        return set()
    return add_ancestors(stored.manifest.jobs, named)


# Why: docs/decisions.md, D225
def compute_priorities(stored: StoredSweep, first: Collection[str]) -> dict[str, int]:
    """Of each job by key, where any is not 0: that of its cells' blocks; jobs that `first` names, and what they need,
    are above all others. Names that a later plan dropped are passed over."""
    own = {cell.name: cell.priority for cell in stored.manifest.cells if cell.priority}
    highest = max(own.values(), default=0) + 1
    for word in first:
        try:
            chosen = stored.select_cells([word])
        except (NotPlannedError, UsageError):  # a later plan has none such, or several cells that begin so
            continue
        own |= dict.fromkeys([*chosen.cells, *chosen.keys], max(1, highest))
    return extend_priorities(stored.manifest.jobs, own)


def build_limits_json(kept: KeptLimits) -> dict[str, Any]:
    """Section `limits` of docs/json.md."""
    changed = {name: asdict(kept.changes[name]) for name in kept.list_set() if name in kept.changes}
    plain = {name: getattr(kept, name) for name in NAMES if name not in LISTS}
    return {**plain, **{name: list(getattr(kept, name)) for name in LISTS}, "set": changed}


def format_limit_lines(limits: Mapping[str, Any]) -> list[str]:
    """`--max-queued 2 (ann, 2026-01-31 12:00 UTC)`, one line a limit, of what `build_limits_json` built."""
    lines = []
    for name in NAMES:
        value = limits.get(name)
        if value in (None, []) or name not in OPTIONS:
            continue
        if name == "ignored_inputs":
            value = f"({format_counted(len(value), 'problem')})"
        words = " ".join(value) if isinstance(value, list) else f"{value:.15g}" if isinstance(value, float) else value
        if name == "budget_money":
            words = f"{words} {limits['budget_currency']}"
        by_whom = f"  ({LimitChange(**limits['set'][name])})" if name in limits["set"] else ""
        lines.append(f"{OPTIONS[name]} {words}{by_whom}")
    return lines
