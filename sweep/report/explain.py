"""`sweep explain`: a cell's axes, its chain of jobs, their cost, who shares them, which keys changed, what happened."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from jobs.counted import format_counted
from jobs.job import Job
from jobs.reconcile.node_exclusion import (
    EXCLUSION_HOURS,
    NodeExclusion,
    compute_exclusion_limit,
    list_attempt_nodes,
    select_excluded_nodes,
)
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.slurm.refusals import Refusal
from jobs.store.paths import Store
from jobs.store.reading import is_number
from jobs.store.results import list_begun_keys, list_finished_keys
from sweep.canary.rule import explain_holds, read_held_jobs
from sweep.errors import ManifestError, NotPlannedError, StoreError, UsageError
from sweep.kept_limits import read_limits
from sweep.plan.diff import flatten_config, list_job_changes, map_roles_to_jobs
from sweep.plan.manifest import Cell, Manifest, index_jobs, iter_chain_keys, read_manifest
from sweep.report.history import JobHistory, build_history, build_history_json, format_history, format_time
from sweep.report.peak_memory import read_peak_memory
from sweep.report.status import select_refusals
from sweep.selection import format_name_hint, select_cells
from sweep.stored_sweep import StoredSweep, list_planned_sweeps


def find_sweep_of_cell(store: Store, word: str) -> StoredSweep | None:
    """Of a store with several sweeps the one that has the cell or job, where no sweep is called so; else None.

    Raises UsageError where several have it, and NotPlannedError where none has.
    """
    names = list_planned_sweeps(store) if store.root.exists() else []
    if len(names) < 2 or word in names:
        return None
    plans, unread = read_all_plans(store)
    if not plans:
        raise StoreError(unread)
    found: list[Manifest] = []
    for plan in plans:
        with suppress(NotPlannedError):
            select_cells(plan, [word])
            found.append(plan)
    if not found:
        hint = format_name_hint(word, {cell.name for plan in plans for cell in plan.cells})
        beside = f"; not read: {unread}" if unread else ""
        raise NotPlannedError(f"no cell or job {word!r} in {', '.join(plan.sweep for plan in plans)}{hint}{beside}")
    if len(found) > 1:
        several = ", ".join(plan.sweep for plan in found)
        raise UsageError(f"{word!r} is in several sweeps: {several}; name one: `sweep explain {found[0].sweep} {word}`")
    return StoredSweep(store, found[0])


def read_all_plans(store: Store) -> tuple[list[Manifest], str]:
    """The plans of a store that can be read, and why the first of the others cannot: they may be another person's.

    A copy of a sweep's folder under another name is passed over.
    """
    plans, problem = [], ""
    for name in list_planned_sweeps(store):
        try:
            plan = read_manifest(store.locate_sweep(name).manifest)
        except (ManifestError, StoreError) as error:
            problem = problem or str(error)
            continue
        if plan.sweep == name:
            plans.append(plan)
    return plans, problem


def choose_cells(stored: StoredSweep, words: Sequence[str]) -> list[Cell]:
    """The named cells, in the plan's order, and for each named job the first cell that needs it."""
    chosen = stored.select_cells(words)
    jobs = index_jobs(stored.manifest)
    names = {*chosen.cells, *(jobs[key].cells[0] for key in chosen.keys if jobs[key].cells)}
    return [cell for cell in stored.manifest.cells if cell.name in names]


def list_cell_jobs(cell: Cell, jobs: Mapping[str, Job]) -> list[str]:
    """Keys of all jobs that a cell needs, parents before children."""
    keys: list[str] = []
    parents = jobs[cell.pretrain].parents
    while parents:
        keys.append(parents[0])
        parents = jobs[parents[0]].parents
    return [*reversed(keys), *iter_chain_keys(cell)]


@dataclass(frozen=True, slots=True)
class ChainJob:
    """One job of the chain. `shared_by` counts the sweep's cells that need it."""

    job: Job
    state: str
    shared_by: int
    hours: float
    history: JobHistory
    changed_fields: tuple[str, ...] = ()
    """What changed its key since the previous plan."""
    refusal: Refusal | None = None
    """Slurm's last answer, if it would not take the job."""
    problem: str = ""
    """Why its folder cannot be read, or its result does not count."""
    held: str = ""
    """Why it waits for the first job of its shape; empty if it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that `sweep explain` says of a cell."""

    sweep: str
    cell: Cell
    varied_axes: tuple[str, ...]
    """Axes in which the cells of its block differ."""
    chain_jobs: tuple[ChainJob, ...]
    unit: str
    """Of `format_hours`."""
    has_previous: bool
    excluded: tuple[NodeExclusion, ...] = ()
    """Nodes that the next attempts avoid."""


def explain_cell(stored: StoredSweep, cell: Cell, snapshot: SweepSnapshot, now: float) -> Explanation:
    """Collects what is done, what is shared, which keys have changed and what happened. `now`: Unix seconds."""
    plan, store = stored.manifest, stored.store
    jobs = index_jobs(plan)
    keys = list_cell_jobs(cell, jobs)
    mine = [jobs[key] for key in keys]
    done, begun = list_finished_keys(store, mine), list_begun_keys(store, mine)
    shared = Counter(key for each in plan.cells for key in list_cell_jobs(each, jobs))
    moved, has_previous = list_changes_since(store, plan, cell, jobs)
    on_gpus = any(job.estimate.gpu_hours for job in plan.jobs)
    refusals = select_refusals(snapshot)
    peaks = read_peak_memory(stored, [each for job in mine for each in snapshot.runs[job.key].outcomes])
    held = explain_holds(read_held_jobs(stored, snapshot, read_limits(stored.paths.limits)))
    links = [
        ChainJob(
            job,
            "done" if job.key in done else "begun" if job.key in begun else "to do",
            shared[job.key],
            job.estimate.a100_hours if on_gpus else job.estimate.cpu_hours,
            build_history(job, snapshot, peaks),
            moved.get(job.key, ()),
            refusals.get(job.key),
            snapshot.runs[job.key].problem,
            held.get(job.key, ""),
        )
        for job in mine
    ]
    return Explanation(
        sweep=plan.sweep,
        cell=cell,
        varied_axes=list_varied_axes(plan, cell),
        chain_jobs=tuple(links),
        unit="A100-hours" if on_gpus else "core-hours",
        has_previous=has_previous,
        excluded=list_excluded_nodes(snapshot, now),
    )


def list_excluded_nodes(snapshot: SweepSnapshot, now: float) -> tuple[NodeExclusion, ...]:
    """The nodes that the next attempts of the sweep will avoid."""
    outcomes = snapshot.read_node_evidence(now - EXCLUSION_HOURS * 3600)
    endings = [ending for found in snapshot.accounting_records.values() for ending in found]
    nodes = {node for outcome in outcomes for node in list_attempt_nodes(outcome)}
    limit = compute_exclusion_limit(len(nodes))
    return tuple(select_excluded_nodes(outcomes, now, endings=endings, limit=limit))


def list_varied_axes(plan: Manifest, cell: Cell) -> tuple[str, ...]:
    """Axes in which the cells of the same block differ."""
    block = [each for each in plan.cells if each.block == cell.block]
    return tuple(name for name, value in cell.axes.items() if any(each.axes.get(name) != value for each in block))


def list_changes_since(
    store: Store, plan: Manifest, cell: Cell, jobs: Mapping[str, Job]
) -> tuple[dict[str, tuple[str, ...]], bool]:
    """What changed each key of the cell since the previous plan; False if there is none, or the cell is not in it."""
    try:
        before = read_manifest(store.locate_sweep(plan.sweep).previous)
    except ManifestError:
        return {}, False
    old = next((each for each in before.cells if each.name == cell.name), None)
    if old is None:
        return {}, False
    was, now = map_roles_to_jobs(old, index_jobs(before)), map_roles_to_jobs(cell, jobs)
    moved = {
        job.key: tuple(map(str, list_job_changes(was[role], job))) or ("the key of its parent has changed",)
        for role, job in now.items()
        if role in was and was[role].key != job.key
    }
    return moved, True


def format_explanation(explanation: Explanation, width: int | None = None) -> str:
    """The explanation for a reader. `width`: of the terminal, to which the table bends."""
    from sweep.text_format import format_columns, format_hours

    cell, varied = explanation.cell, set(explanation.varied_axes)
    block = f", block {cell.block}" if cell.block else ""
    lines = [f"cell {cell.name} of sweep {explanation.sweep}{block}", ""]
    here = [format_axis(name, value) for name, value in cell.axes.items() if name in varied]
    same = [format_axis(name, value) for name, value in cell.axes.items() if name not in varied]
    lines += [f"axes that vary in its block: {', '.join(here) or 'none'}"]
    lines += [f"axes that all cells of its block share: {', '.join(same)}", ""]
    rows = [["phase", "key", "what", "state", explanation.unit, "cells"]]
    rows += [
        [
            link.job.phase,
            link.job.key,
            describe_config(link.job),
            link.history.state.value,  # the word of `sweep status`
            format_hours(link.hours),
            f"{link.shared_by:,}",
        ]
        for link in explanation.chain_jobs
    ]
    lines += [*format_columns(rows, left=4, rules=(1,), width=width), "", format_cost_line(explanation)]
    return "\n".join([*lines, *format_changed_lines(explanation), *format_history_section(explanation)])


def format_axis(name: str, value: Any) -> str:
    """`image_share 0.1`; a branch point that was given as a step is no round percentage."""
    return f"{name} {value:.6g}" if name == "branch" and isinstance(value, float) else f"{name} {value}"


def format_history_section(explanation: Explanation) -> list[str]:
    """What happened to the jobs of the chain, and which nodes are avoided."""
    history = [line for link in explanation.chain_jobs for line in format_history(link.job, link.history)]
    refused = [
        f"  {link.job.key}  {format_time(link.refusal.when)}  {link.refusal}"
        for link in explanation.chain_jobs
        if link.refusal is not None
    ]
    lines = ["", "not sent, as Slurm said:", *refused] if refused else []
    held = [f"  {link.job.key}  {link.held}" for link in explanation.chain_jobs if link.held]
    lines += ["", "held:", *held] if held else []
    unread = [f"  {link.job.key}  {link.problem}" for link in explanation.chain_jobs if link.problem]
    lines += ["", "not read:", *unread] if unread else []
    lines += ["", "history:", *history] if history else []
    if explanation.excluded:
        away = [f"  {each.node} until {format_time(each.until)}: {each.reason}" for each in explanation.excluded]
        lines += ["", "nodes that the next attempts avoid:", *away]
    return lines


def format_cost_line(explanation: Explanation) -> str:
    """Hours of its own jobs, of shared jobs, and of jobs that are left to do."""
    from sweep.text_format import format_hours

    own = sum(link.hours for link in explanation.chain_jobs if link.shared_by == 1)
    shared = sum(link.hours for link in explanation.chain_jobs if link.shared_by > 1)
    left = sum(link.hours for link in explanation.chain_jobs if link.state != "done")
    among = f"{format_hours(shared)} of them shared with other cells" if shared else "none shared"
    rest = f"{format_hours(left)} still to run" if left else "all of it done"
    return f"Cost: {format_hours(own + shared)} {explanation.unit} ({among}); {rest}."


def format_changed_lines(explanation: Explanation) -> list[str]:
    """Which keys have changed since the previous plan, a line for each job."""
    if not explanation.has_previous:
        return []
    moved = [link for link in explanation.chain_jobs if link.changed_fields]
    if not moved:
        return ["", "since the previous plan: no key has changed"]
    return ["", "since the previous plan:", *(f"  {link.job.key}  {'; '.join(link.changed_fields)}" for link in moved)]


def describe_config(job: Job) -> str:
    """A job's configuration in a few words."""
    flat = flatten_config(job.config)
    if job.stage == "pretrain":
        sources = job.config.get("sources", ())
        named = [each for each in convert_to_list(sources) if isinstance(each, dict)]
        mix = " ".join(f"{each.get('name')} {100 * read_number(each.get('share', 1)):g} %" for each in named)
        end = read_number(flat.get("stop_step", flat.get("schedule.total_steps")))
        return f"to step {end:,.0f}, peak LR {read_number(flat.get('schedule.peak_lr')):g}, {mix}"
    if job.stage == "finetune":
        epochs = "1 epoch" if flat.get("epochs") == 1 else f"{flat.get('epochs')} epochs"
        return f"{epochs}, seed {flat['seed']}" if "seed" in flat else epochs
    tasks = [*convert_to_list(job.config.get("text_tasks")), *convert_to_list(job.config.get("vision_tasks"))]
    return format_counted(len(tasks), "task")


def read_number(value: Any) -> float:
    """A number of a configuration; NaN for anything else: the line of a plan may hold whatever JSON can."""
    return value if is_number(value) else float("nan")


def build_refusal_json(refusal: Refusal) -> dict[str, Any]:
    """Slurm's last answer as JSON types."""
    return {"text": refusal.text, "advice": refusal.advice, "when": refusal.when, "kind": refusal.kind.value}


def convert_to_list(value: Any) -> Sequence[Mapping[str, Any]]:
    """A list from JSON; empty for anything else."""
    return value if isinstance(value, list | tuple) else ()


def build_explanation_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON types (docs/json.md)."""
    cell = explanation.cell
    return {
        "format": 1,
        "sweep": explanation.sweep,
        "cell": cell.name,
        "block": cell.block,
        "axes": dict(cell.axes),
        "varied": list(explanation.varied_axes),
        "unit": explanation.unit,
        "jobs": [
            {
                "key": link.job.key,
                "stage": link.job.stage,
                "phase": link.job.phase,
                "parents": list(link.job.parents),
                "config": dict(link.job.config),
                "state": link.state,
                "hours": link.hours,
                "cells": link.shared_by,
                "moved": list(link.changed_fields),
                **build_history_json(link.history),
                **({"refusal": build_refusal_json(link.refusal)} if link.refusal else {}),
                **({"problem": link.problem} if link.problem else {}),
                **({"held": link.held} if link.held else {}),
            }
            for link in explanation.chain_jobs
        ],
        "excluded_nodes": [asdict(each) for each in explanation.excluded],
    }
