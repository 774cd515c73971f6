"""The report of `sweep list`: as a mapping for `--json` (docs/json.md, section `list`), and as text from that."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.reconcile.state import JobState
from jobs.store.ledger import list_ledger_files
from jobs.store.paths import Store
from sweep.errors import ManifestError, NotPlannedError, StoreError
from sweep.plan.manifest import index_jobs
from sweep.report.explain import list_cell_jobs
from sweep.report.history import format_time
from sweep.report.status import find_shown_state
from sweep.stored_sweep import StoredSweep, list_planned_sweeps, read_own_manifest
from sweep.text_format import format_columns

TELLING = (
    JobState.FAILED, JobState.UNKNOWN, JobState.RUNNING, JobState.QUEUED, JobState.INTERRUPTED, JobState.CANCELLED,
    JobState.BLOCKED, JobState.READY, JobState.WAITING, JobState.DONE,
)  # fmt: skip
"""States by how much they say of a sweep or a cell that has jobs in several: what needs a person comes first."""


def choose_state(counts: Mapping[str, int]) -> str:
    """The state that stands for all."""
    return next((state.value for state in TELLING if counts.get(state.value)), JobState.DONE.value)


def build_sweeps_json(store: Store) -> dict[str, Any]:
    """The sweeps of the store, by name; NotPlannedError if there is none. A plan that cannot be read is a problem."""
    names = list_planned_sweeps(store) if store.root.exists() else []
    if not names:
        raise NotPlannedError(f"{store.root} holds no planned sweep; plan one with `sweep plan FILE`")
    rows, problems = [], []
    for name in names:
        try:
            rows.append(build_sweep_row(StoredSweep(store, read_own_manifest(store, name))))
        except (ManifestError, StoreError) as error:
            problems.append(str(error))
    return {"format": 1, "store": str(store.root), "sweeps": rows, "problems": problems}


def build_sweep_row(stored: StoredSweep) -> dict[str, Any]:
    """One sweep's."""
    snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
    counts = Counter(find_shown_state(status).value for status in snapshot.statuses.values())
    finished = [evidence.finished_at for evidence in snapshot.runs.values()]
    written = [path.stat().st_mtime for path in (stored.paths.manifest, *list_ledger_files(stored.paths.ledger))]
    return {
        "sweep": stored.manifest.sweep,
        "state": choose_state(counts),
        "cells": len(stored.manifest.cells),
        "jobs": len(stored.manifest.jobs),
        "states": {state.value: counts[state.value] for state in JobState},
        "changed": max([*written, *finished]),
    }


def build_cells_json(stored: StoredSweep, words: Sequence[str]) -> dict[str, Any]:
    """The named cells of one sweep, or all of them."""
    wanted = stored.name_cells(words)
    snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
    jobs = index_jobs(stored.manifest)
    rows = []
    for cell in stored.manifest.cells:
        if cell.name not in wanted:
            continue
        counts = Counter(find_shown_state(snapshot.statuses[key]).value for key in set(list_cell_jobs(cell, jobs)))
        rows.append(
            {
                "cell": cell.name,
                "block": cell.block,
                "state": choose_state(counts),
                "jobs": sum(counts.values()),
                "states": {state.value: counts[state.value] for state in JobState},
                "axes": dict(cell.axes),
            }
        )
    return {"format": 1, "sweep": stored.manifest.sweep, "cells": rows}


def format_sweeps(report: Mapping[str, Any], width: int | None = None) -> str:
    """A row a sweep."""
    rows = [
        [row["sweep"], row["state"], format_share(row), f"{row['cells']:,}", format_time(row["changed"])]
        for row in report["sweeps"]
    ]
    return format_table(["sweep", "state", "jobs done", "cells", "last change"], rows, width)


def format_cells(report: Mapping[str, Any], width: int | None = None) -> str:
    """A row a cell."""
    rows = [[row["cell"], row["state"], format_share(row), row["block"]] for row in report["cells"]]
    return format_table(["cell", "state", "jobs done", "block"], rows, width)


def format_share(row: Mapping[str, Any]) -> str:
    """`3 of 8`."""
    return f"{row['states']['done']:,} of {row['jobs']:,}"


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None) -> str:
    """Words to the left, a rule below the head."""
    lines = [head, *rows]
    return "\n".join(format_columns(lines, left=len(head), rules=(1,), width=width))
