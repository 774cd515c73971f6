"""What two plans of one sweep have in common: which cells and jobs are new, gone, kept, and which field moved a key."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from jobs.job import Job
from stages.config import CONFIGS
from sweep.plan.manifest import Cell, Manifest, chain_keys, job_index

PHASES = ("trunk", "pretrain", "finetune", "evaluate")
ABSENT = "absent"
LISTED = 10
"""Names that a report lists of each kind."""


@dataclass(frozen=True, slots=True, order=True)
class Move:
    """One field of one phase that is not as before; values as they stand in the configuration."""

    phase: str
    field: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.phase} {self.field}: {self.before} -> {self.now}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """Names of cells and keys of jobs, each in its manifest's order."""

    new_cells: tuple[str, ...]
    gone_cells: tuple[str, ...]
    moved_cells: tuple[str, ...]
    """Same name, other keys."""
    same_cells: int
    new_jobs: tuple[Job, ...]
    gone_jobs: tuple[Job, ...]
    same_jobs: int
    asked_anew: int
    """Jobs with the key of before and other resources."""
    moves: Mapping[Move, int]
    """What moved the cells' keys, and how many cells each."""

    @property
    def is_other_experiment(self) -> bool:
        """No cell's name and no job in common."""
        return not (self.same_cells or self.moved_cells or self.same_jobs)

    @property
    def is_empty(self) -> bool:
        return not (self.new_cells or self.gone_cells or self.moved_cells or self.new_jobs or self.gone_jobs)


def compare(before: Manifest, now: Manifest) -> PlanDiff:
    """The way from one plan to the other."""
    old_jobs, new_jobs = job_index(before), job_index(now)
    old_cells = {cell.name: cell for cell in before.cells}
    names = {cell.name for cell in now.cells}
    in_both = [(old_cells[cell.name], cell) for cell in now.cells if cell.name in old_cells]
    moved = [(old, new) for old, new in in_both if tuple(chain_keys(old)) != tuple(chain_keys(new))]
    kept = old_jobs.keys() & new_jobs.keys()
    return PlanDiff(
        new_cells=tuple(cell.name for cell in now.cells if cell.name not in old_cells),
        gone_cells=tuple(name for name in old_cells if name not in names),
        moved_cells=tuple(new.name for _, new in moved),
        same_cells=len(in_both) - len(moved),
        new_jobs=tuple(job for job in now.jobs if job.key not in old_jobs),
        gone_jobs=tuple(job for job in before.jobs if job.key not in new_jobs),
        same_jobs=len(kept),
        asked_anew=sum(old_jobs[key].resources != new_jobs[key].resources for key in kept),
        moves=Counter(move for old, new in moved for move in set(cell_moves(old, old_jobs, new, new_jobs))),
    )


def cell_moves(old: Cell, old_jobs: Mapping[str, Job], new: Cell, new_jobs: Mapping[str, Job]) -> Iterator[Move]:
    """The fields that moved the keys of a cell's chain."""
    before, now = roles(old, old_jobs), roles(new, new_jobs)
    for role, job in now.items():
        if role in before and before[role].key != job.key:
            yield from job_moves(before[role], job)
        elif role not in before:
            yield Move(job.phase, role.removeprefix(job.phase).strip() or "job", "none", "new")
    for role, job in before.items():
        if role not in now:
            yield Move(job.phase, role.removeprefix(job.phase).strip() or "job", "there", "gone")


def roles(cell: Cell, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs of a chain by what they are for: `trunk`, `pretrain`, `finetune 2`, `evaluate 2`."""
    found = {"pretrain": jobs[cell.pretrain]}
    for chain in cell.chains:
        found[f"finetune {chain.epochs}"] = jobs[chain.finetune]
        found[f"evaluate {chain.epochs}"] = jobs[chain.evaluate]
    parents = jobs[cell.pretrain].parents
    # the last segment stands for the trunk: where it was cut before moves nothing
    return {"trunk": jobs[parents[0]], **found} if parents else found


def job_moves(before: Job, now: Job) -> list[Move]:
    """The fields in which two jobs of one role differ; none where only the parent moved."""
    old, new = flattened(before.config), flattened(now.config)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    moves = [Move(now.phase, name, value_of(before, old, name), value_of(now, new, name)) for name in names]
    if before.version != now.version:
        moves.append(Move(now.phase, "stage format", str(before.version), str(now.version)))
    return moves


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"schedule": {"peak_lr": 1}}` as `{"schedule.peak_lr": 1}`; entries with a name go by it."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(part, dict) and "name" in part for part in value):
            flat |= flattened({part["name"]: {**part, "name": part["name"]} for part in value}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def value_of(job: Job, config: Mapping[str, Any], name: str) -> str:
    """The field's value, or the default that the configuration leaves out."""
    return str(config[name] if name in config else default_of(job.stage, name))


def default_of(stage: str, name: str) -> Any:
    """The stage's default of a nested field; `absent` where there is none (an entry of a list, an older field)."""
    kind: Any = CONFIGS.get(stage)
    value: Any = ABSENT
    for step in name.split("."):
        if isinstance(value, BaseModel):
            value = getattr(value, step, ABSENT)
            continue
        fields = getattr(kind, "model_fields", {})
        if step not in fields:
            return ABSENT
        kind, value = fields[step].annotation, fields[step].default
    return ABSENT if value is PydanticUndefined else value


def by_phase(jobs: tuple[Job, ...]) -> str:
    """`3 trunk, 48 pretrain`."""
    counts = Counter(job.phase for job in jobs)
    return ", ".join(f"{counts[phase]:,} {phase}" for phase in PHASES if counts[phase])


def diff_line(diff: PlanDiff) -> str:
    """The difference in one line."""
    if diff.is_empty:
        changed = f"resources of {diff.asked_anew:,} jobs" if diff.asked_anew else "paths, estimates or order"
        return f"against the stored plan: the same cells and jobs; {changed} changed"
    return (
        f"against the stored plan: cells {len(diff.new_cells):,} new, {len(diff.gone_cells):,} gone, "
        f"{len(diff.moved_cells):,} changed, {diff.same_cells:,} as before; "
        f"jobs {len(diff.new_jobs):,} new, {len(diff.gone_jobs):,} gone, {diff.same_jobs:,} as before"
    )


def diff_report(sweep: str, diff: PlanDiff) -> str:
    """The difference for a reader: counts, then what moved keys, then names."""
    lines = [f"{sweep}: {diff_line(diff)}"]
    for title, jobs in (("new jobs", diff.new_jobs), ("gone jobs", diff.gone_jobs)):
        lines += [f"  {title}: {by_phase(jobs)}"] if jobs else []
    if diff.asked_anew and not diff.is_empty:
        lines.append(f"  other resources for {diff.asked_anew:,} jobs, with the keys of before")
    lines += [f"  {move} ({count:,} cells)" for move, count in sorted(diff.moves.items())[:LISTED]]
    for sign, names in (("+", diff.new_cells), ("-", diff.gone_cells), ("~", diff.moved_cells)):
        lines += [f"  {sign} {name}" for name in names[:LISTED]]
        lines += [f"  {sign} ... and {len(names) - LISTED:,} more"] if len(names) > LISTED else []
    return "\n".join(lines)


def diff_json(diff: PlanDiff) -> dict[str, Any]:
    """The difference as JSON types (docs/json.md)."""
    return {
        "stored": diff.is_empty and not diff.asked_anew,
        "cells": {
            "new": list(diff.new_cells),
            "gone": list(diff.gone_cells),
            "changed": list(diff.moved_cells),
            "same": diff.same_cells,
        },
        "jobs": {
            "new": [job.key for job in diff.new_jobs],
            "gone": [job.key for job in diff.gone_jobs],
            "same": diff.same_jobs,
            "other_resources": diff.asked_anew,
        },
        "moves": [
            {"phase": move.phase, "field": move.field, "before": move.before, "now": move.now, "cells": cells}
            for move, cells in sorted(diff.moves.items())
        ],
    }
