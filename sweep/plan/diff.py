"""What two plans of one sweep have in common: which cells and jobs are new, gone, kept, and which field moved a key."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from jobs.counted import format_counted
from jobs.job import Job
from stages.config import STAGES
from sweep.phases import PHASES
from sweep.plan.manifest import Cell, Manifest, index_jobs, iter_chain_keys
from sweep.text_format import format_hours

ABSENT = "absent"
MAX_LISTED = 10
"""Names that a report lists of each kind."""


@dataclass(frozen=True, slots=True, order=True)
class FieldChange:
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
    removed_cells: tuple[str, ...]
    rekeyed_cells: tuple[str, ...]
    """Same name, other keys."""
    same_cells: int
    new_jobs: tuple[Job, ...]
    removed_jobs: tuple[Job, ...]
    same_jobs: int
    jobs_with_new_resources: int
    """Jobs with the key of before and other resources."""
    field_changes: Mapping[FieldChange, int]
    """What moved the cells' keys, and how many cells each."""

    @property
    def is_other_experiment(self) -> bool:
        """No cell's name and no job in common."""
        return not (self.same_cells or self.rekeyed_cells or self.same_jobs)

    @property
    def is_empty(self) -> bool:
        return not (self.new_cells or self.removed_cells or self.rekeyed_cells or self.new_jobs or self.removed_jobs)


def compare_plans(before: Manifest, now: Manifest) -> PlanDiff:
    """The way from one plan to the other."""
    old_jobs, new_jobs = index_jobs(before), index_jobs(now)
    old_cells = {cell.name: cell for cell in before.cells}
    names = {cell.name for cell in now.cells}
    in_both = [(old_cells[cell.name], cell) for cell in now.cells if cell.name in old_cells]
    moved = [(old, new) for old, new in in_both if tuple(iter_chain_keys(old)) != tuple(iter_chain_keys(new))]
    kept = old_jobs.keys() & new_jobs.keys()
    return PlanDiff(
        new_cells=tuple(cell.name for cell in now.cells if cell.name not in old_cells),
        removed_cells=tuple(name for name in old_cells if name not in names),
        rekeyed_cells=tuple(new.name for _, new in moved),
        same_cells=len(in_both) - len(moved),
        new_jobs=tuple(job for job in now.jobs if job.key not in old_jobs),
        removed_jobs=tuple(job for job in before.jobs if job.key not in new_jobs),
        same_jobs=len(kept),
        jobs_with_new_resources=sum(old_jobs[key].resources != new_jobs[key].resources for key in kept),
        field_changes=Counter(
            move for old, new in moved for move in set(iter_cell_changes(old, old_jobs, new, new_jobs))
        ),
    )


def iter_cell_changes(
    old: Cell, old_jobs: Mapping[str, Job], new: Cell, new_jobs: Mapping[str, Job]
) -> Iterator[FieldChange]:
    """The fields that moved the keys of a cell's chain."""
    before, now = map_roles_to_jobs(old, old_jobs), map_roles_to_jobs(new, new_jobs)
    for role, job in now.items():
        if role in before and before[role].key != job.key:
            yield from list_job_changes(before[role], job)
        elif role not in before:
            yield FieldChange(job.phase, role.removeprefix(job.phase).strip() or "job", "none", "new")
    for role, job in before.items():
        if role not in now:
            yield FieldChange(job.phase, role.removeprefix(job.phase).strip() or "job", "there", "gone")


def map_roles_to_jobs(cell: Cell, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs of a chain by what they are for: `trunk`, `pretrain`, `finetune 2`, `evaluate 2`."""
    found = {"pretrain": jobs[cell.pretrain]}
    for chain in cell.chains:
        found[f"finetune {chain.epochs}"] = jobs[chain.finetune]
        found[f"evaluate {chain.epochs}"] = jobs[chain.evaluate]
    parents = jobs[cell.pretrain].parents
    # the last segment stands for the trunk: where it was cut before moves nothing
    return {"trunk": jobs[parents[0]], **found} if parents else found


def list_job_changes(before: Job, now: Job) -> list[FieldChange]:
    """The fields in which two jobs of one role differ; none where only the parent moved."""
    old, new = flatten_config(before.config), flatten_config(now.config)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    moves = [
        FieldChange(now.phase, name, format_field_value(before, old, name), format_field_value(now, new, name))
        for name in names
    ]
    if before.version != now.version:
        moves.append(FieldChange(now.phase, "stage format", str(before.version), str(now.version)))
    return moves


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"schedule": {"peak_lr": 1}}` as `{"schedule.peak_lr": 1}`; entries with a name go by it."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten_config(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(part, dict) and "name" in part for part in value):
            flat |= flatten_config({part["name"]: {**part, "name": part["name"]} for part in value}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def format_field_value(job: Job, config: Mapping[str, Any], name: str) -> str:
    """The field's value, or the default that the configuration leaves out."""
    return str(config[name] if name in config else find_stage_default(job.stage, name))


def find_stage_default(stage: str, name: str) -> Any:
    """The stage's default of a nested field; `absent` where there is none (an entry of a list, an older field)."""
    kind: Any = STAGES[stage].config if stage in STAGES else None
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


def format_phase_counts(jobs: tuple[Job, ...]) -> str:
    """`3 trunk, 48 pretrain`."""
    counts = Counter(job.phase for job in jobs)
    return ", ".join(f"{counts[phase]:,} {phase}" for phase in PHASES if counts[phase])


def format_diff_line(diff: PlanDiff) -> str:
    """The difference in one line."""
    if diff.is_empty:
        changed = (
            f"resources of {format_counted(diff.jobs_with_new_resources, 'job')}"
            if diff.jobs_with_new_resources
            else "paths, estimates or order"
        )
        return f"against the stored plan: the same cells and jobs; {changed} changed"
    return (
        f"against the stored plan: cells {len(diff.new_cells):,} new, {len(diff.removed_cells):,} gone, "
        f"{len(diff.rekeyed_cells):,} changed, {diff.same_cells:,} as before; "
        f"jobs {len(diff.new_jobs):,} new, {len(diff.removed_jobs):,} gone, {diff.same_jobs:,} as before"
    )


def format_diff_report(sweep: str, diff: PlanDiff) -> str:
    """The difference for a reader: counts, then what moved keys, then names."""
    lines = [f"{sweep}: {format_diff_line(diff)}"]
    for title, jobs in (("new jobs", diff.new_jobs), ("gone jobs", diff.removed_jobs)):
        lines += [f"  {title}: {format_phase_counts(jobs)}"] if jobs else []
    if diff.jobs_with_new_resources and not diff.is_empty:
        lines.append(
            f"  other resources for {format_counted(diff.jobs_with_new_resources, 'job')}, with the keys of before"
        )
    lines += [
        f"  {move} ({format_counted(count, 'cell')})" for move, count in sorted(diff.field_changes.items())[:MAX_LISTED]
    ]
    for sign, names in (("+", diff.new_cells), ("-", diff.removed_cells), ("~", diff.rekeyed_cells)):
        lines += [f"  {sign} {name}" for name in names[:MAX_LISTED]]
        lines += [f"  {sign} ... and {len(names) - MAX_LISTED:,} more"] if len(names) > MAX_LISTED else []
    return "\n".join(lines)


def sum_hours(jobs: Sequence[Job], *, on_gpus: bool) -> float:
    """A100-hours or core-hours of the jobs, as the plan estimates them."""
    return sum(job.estimate.a100_hours if on_gpus else job.estimate.cpu_hours for job in jobs)


def find_hours_unit(diff: PlanDiff) -> str:
    """A100-hours where one of the jobs needs a GPU, else core-hours."""
    on_gpus = any(job.estimate.gpu_hours for job in (*diff.new_jobs, *diff.removed_jobs))
    return "A100-hours" if on_gpus else "core-hours"


def format_diff_cost(diff: PlanDiff) -> str:
    """What the new jobs add, and what the gone ones no longer take."""
    unit = find_hours_unit(diff)
    new, gone = (sum_hours(jobs, on_gpus=unit == "A100-hours") for jobs in (diff.new_jobs, diff.removed_jobs))
    return f"cost: new jobs {format_hours(new)} {unit}, gone jobs {format_hours(gone)}, whether done or not"


def build_hours_json(diff: PlanDiff) -> dict[str, Any]:
    """The fields `hours_new`, `hours_gone` and `hours_unit` of docs/json.md."""
    unit = find_hours_unit(diff)
    new, gone = (sum_hours(jobs, on_gpus=unit == "A100-hours") for jobs in (diff.new_jobs, diff.removed_jobs))
    return {"hours_new": new, "hours_gone": gone, "hours_unit": unit}


def build_diff_json(diff: PlanDiff) -> dict[str, Any]:
    """The difference as JSON types (docs/json.md)."""
    return {
        "stored": diff.is_empty and not diff.jobs_with_new_resources,
        "cells": {
            "new": list(diff.new_cells),
            "gone": list(diff.removed_cells),
            "changed": list(diff.rekeyed_cells),
            "same": diff.same_cells,
        },
        "jobs": {
            "new": [job.key for job in diff.new_jobs],
            "gone": [job.key for job in diff.removed_jobs],
            "same": diff.same_jobs,
            "other_resources": diff.jobs_with_new_resources,
        },
        "moves": [
            {"phase": move.phase, "field": move.field, "before": move.before, "now": move.now, "cells": cells}
            for move, cells in sorted(diff.field_changes.items())
        ],
    }
