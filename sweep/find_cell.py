"""Finds a cell in the stored plans by its name, the beginning of one, or the key of one of its jobs."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.job import Job
from jobs.store.paths import Store
from sweep.errors import NotPlannedError, UsageError
from sweep.plan.manifest import Cell, Manifest, chain_keys, job_index, read_manifest

KEY_PREFIX = 6
"""Digits of a key that a user must give."""


@dataclass(frozen=True, slots=True)
class Found:
    """A cell in a stored plan."""

    manifest: Manifest
    cell: Cell


def find(store: Store, wanted: str, sweep: str | None) -> Found:
    """The cell of that name, unique beginning of a name, or job key; NotPlannedError or UsageError."""
    names = [sweep] if sweep else planned_sweeps(store)
    plans = [read_manifest(store.sweep(name).manifest) for name in names]
    if not plans:
        raise NotPlannedError(f"{store.sweeps}: holds no plan; make one with `sweep plan FILE`")
    for matches in (exact, by_beginning, by_key):
        found = [Found(plan, cell) for plan in plans for cell in matches(plan, wanted)]
        if len({each.manifest.sweep for each in found}) > 1:
            sweeps = ", ".join(sorted({each.manifest.sweep for each in found}))
            raise UsageError(f"{wanted!r} is in several sweeps: {sweeps}; choose one with --sweep")
        if len(found) > 1 and matches is by_beginning:
            some = ", ".join(each.cell.name for each in found[:5])
            raise UsageError(
                f"{wanted!r} begins the names of {len(found)} cells, such as {some}; give more of the name"
            )
        if found:
            return found[0]
    near = difflib.get_close_matches(wanted, [cell.name for plan in plans for cell in plan.cells], n=3, cutoff=0.5)
    hint = f"; near are {', '.join(near)}" if near else ""
    raise NotPlannedError(f"no cell or job {wanted!r} in {', '.join(plan.sweep for plan in plans)}{hint}")


def planned_sweeps(store: Store) -> list[str]:
    """Names of the sweeps that have a plan in the store."""
    return sorted(path.parent.name for path in store.sweeps.glob("*/manifest.jsonl"))


def exact(plan: Manifest, wanted: str) -> list[Cell]:
    """The cell of that name."""
    return [cell for cell in plan.cells if cell.name == wanted]


def by_beginning(plan: Manifest, wanted: str) -> list[Cell]:
    """The cells whose names begin so."""
    return [cell for cell in plan.cells if cell.name.startswith(wanted)]


def by_key(plan: Manifest, wanted: str) -> list[Cell]:
    """The cells that need the job whose key begins so, the first one standing for all."""
    if len(wanted) < KEY_PREFIX:
        return []
    keys = {job.key for job in plan.jobs if job.key.startswith(wanted)}
    jobs = job_index(plan)
    return [cell for cell in plan.cells if keys.intersection(lineage(cell, jobs))]


def lineage(cell: Cell, jobs: Mapping[str, Job]) -> list[str]:
    """Keys of all jobs that a cell needs, parents before children."""
    keys: list[str] = []
    parents = jobs[cell.pretrain].parents
    while parents:
        keys.append(parents[0])
        parents = jobs[parents[0]].parents
    return [*reversed(keys), *chain_keys(cell)]
