"""What a cell is made of: its axes, its chain of jobs, what they cost, who shares them, what moved, what happened."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.job import Job
from jobs.reconcile.node_exclusion import Exclusion, excluded_nodes, exclusion_limit, nodes_of
from jobs.reconcile.snapshot import Picture
from jobs.store.paths import Store
from jobs.store.results import begun_keys, finished_keys
from sweep.errors import ManifestError, NotPlannedError, UsageError
from sweep.plan.diff import flattened, job_moves, roles
from sweep.plan.manifest import Cell, Manifest, chain_keys, job_index, read_manifest
from sweep.report.history import History, history_json, history_lines, history_of, moment

# Finds a cell in the stored plans by its name, the beginning of one, or the key of one of its jobs.

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


@dataclass(frozen=True, slots=True)
class Link:
    """One job of the chain. `shared_by` counts the sweep's cells that need it."""

    job: Job
    state: str
    shared_by: int
    hours: float
    history: History
    moved: tuple[str, ...] = ()
    """What moved its key since the plan before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that `sweep explain` says of a cell."""

    sweep: str
    cell: Cell
    varied: tuple[str, ...]
    """Axes in which the cells of its block differ."""
    links: tuple[Link, ...]
    unit: str
    """Of `hours`."""
    has_previous: bool
    excluded: tuple[Exclusion, ...] = ()
    """Nodes that the sweep keeps away from now."""


def explain(store: Store, found: Found, picture: Picture, now: float) -> Explanation:
    """Looks up what is done, what is shared, what has moved and what happened.

    `picture`: the sweep's; `now`: Unix seconds.
    """
    plan, cell = found.manifest, found.cell
    jobs = job_index(plan)
    keys = lineage(cell, jobs)
    mine = [jobs[key] for key in keys]
    done, begun = finished_keys(store, mine), begun_keys(store, mine)
    shared = Counter(key for each in plan.cells for key in lineage(each, jobs))
    moved, has_previous = moves_since(store, plan, cell, jobs)
    on_gpus = any(job.estimate.gpu_hours for job in plan.jobs)
    links = [
        Link(
            job,
            "done" if job.key in done else "begun" if job.key in begun else "to do",
            shared[job.key],
            job.estimate.a100_hours if on_gpus else job.estimate.cpu_hours,
            history_of(job, picture),
            moved.get(job.key, ()),
        )
        for job in mine
    ]
    return Explanation(
        sweep=plan.sweep,
        cell=cell,
        varied=varied_axes(plan, cell),
        links=tuple(links),
        unit="A100-hours" if on_gpus else "core-hours",
        has_previous=has_previous,
        excluded=excluded_now(picture, now),
    )


def excluded_now(picture: Picture, now: float) -> tuple[Exclusion, ...]:
    """The nodes that the next attempts of the sweep keep away from, as far as the store and the cluster tell."""
    outcomes = [outcome for evidence in picture.evidence.values() for outcome in evidence.outcomes]
    endings = [ending for found in picture.endings.values() for ending in found]
    nodes = {node for outcome in outcomes for node in nodes_of(outcome)}
    limit = exclusion_limit(len(nodes))
    return tuple(excluded_nodes(outcomes, now, endings=endings, limit=limit))


def varied_axes(plan: Manifest, cell: Cell) -> tuple[str, ...]:
    """Axes in which the cells of the same block differ."""
    block = [each for each in plan.cells if each.block == cell.block]
    return tuple(name for name, value in cell.axes.items() if any(each.axes.get(name) != value for each in block))


def moves_since(
    store: Store, plan: Manifest, cell: Cell, jobs: Mapping[str, Job]
) -> tuple[dict[str, tuple[str, ...]], bool]:
    """What moved each key of the cell since the plan before; False where that plan or the cell in it is not there."""
    try:
        before = read_manifest(store.sweep(plan.sweep).previous)
    except ManifestError:
        return {}, False
    old = next((each for each in before.cells if each.name == cell.name), None)
    if old is None:
        return {}, False
    was, now = roles(old, job_index(before)), roles(cell, jobs)
    moved = {
        job.key: tuple(map(str, job_moves(was[role], job))) or ("its parent moved",)
        for role, job in now.items()
        if role in was and was[role].key != job.key
    }
    return moved, True


def explanation_text(explanation: Explanation) -> str:
    """The explanation for a reader."""
    from sweep.text_format import columns, hours

    cell, varied = explanation.cell, set(explanation.varied)
    block = f", block {cell.block}" if cell.block else ""
    lines = [f"cell {cell.name} of sweep {explanation.sweep}{block}", ""]
    here = [f"{name} {value}" for name, value in cell.axes.items() if name in varied]
    same = [f"{name} {value}" for name, value in cell.axes.items() if name not in varied]
    lines += [f"axes that put it there: {', '.join(here) or 'none, it is alone in its block'}"]
    lines += [f"the same in its block: {', '.join(same)}", ""]
    rows = [["phase", "key", "what", "state", explanation.unit, "cells"]]
    rows += [
        [link.job.phase, link.job.key, what(link.job), link.state, hours(link.hours), f"{link.shared_by:,}"]
        for link in explanation.links
    ]
    lines += [*columns(rows, left=4, rules=(1,)), "", cost_line(explanation)]
    return "\n".join([*lines, *moved_lines(explanation), *story_lines(explanation)])


def story_lines(explanation: Explanation) -> list[str]:
    """What happened to the jobs of the chain, and which nodes are kept away from."""
    told = [line for link in explanation.links for line in history_lines(link.job, link.history)]
    lines = ["", "history:", *told] if told else []
    if explanation.excluded:
        away = [f"  {each.node} until {moment(each.until)}: {each.reason}" for each in explanation.excluded]
        lines += ["", "nodes that this sweep keeps away from:", *away]
    return lines


def cost_line(explanation: Explanation) -> str:
    """What is its own, what is shared, what is left."""
    from sweep.text_format import hours

    own = sum(link.hours for link in explanation.links if link.shared_by == 1)
    shared = sum(link.hours for link in explanation.links if link.shared_by > 1)
    left = sum(link.hours for link in explanation.links if link.state != "done")
    return (
        f"{hours(own)} {explanation.unit} of its own, {hours(shared)} shared with other cells; {hours(left)} left to do"
    )


def moved_lines(explanation: Explanation) -> list[str]:
    """What moved since the plan before, a line for each job."""
    if not explanation.has_previous:
        return []
    moved = [link for link in explanation.links if link.moved]
    if not moved:
        return ["", "since the plan before: no key moved"]
    return ["", "since the plan before:", *(f"  {link.job.key}  {'; '.join(link.moved)}" for link in moved)]


def what(job: Job) -> str:
    """A job's configuration in a few words."""
    flat = flattened(job.config)
    if job.stage == "pretrain":
        sources = job.config.get("sources", ())
        mix = " ".join(f"{each['name']} {100 * each.get('share', 1):g} %" for each in as_list(sources))
        end = flat.get("stop_step", flat.get("schedule.total_steps"))
        return f"to step {end:,}, peak LR {flat.get('schedule.peak_lr'):g}, {mix}"
    if job.stage == "finetune":
        epochs = "1 epoch" if flat.get("epochs") == 1 else f"{flat.get('epochs')} epochs"
        return f"{epochs}, seed {flat['seed']}" if "seed" in flat else epochs
    tasks = [*as_list(job.config.get("text_tasks")), *as_list(job.config.get("vision_tasks"))]
    return f"{len(tasks)} tasks"


def as_list(value: Any) -> Sequence[Mapping[str, Any]]:
    """A list from JSON; empty for anything else."""
    return value if isinstance(value, list | tuple) else ()


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON types (docs/json.md)."""
    cell = explanation.cell
    return {
        "format": 1,
        "sweep": explanation.sweep,
        "cell": cell.name,
        "block": cell.block,
        "axes": dict(cell.axes),
        "varied": list(explanation.varied),
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
                "moved": list(link.moved),
                **history_json(link.history),
            }
            for link in explanation.links
        ],
        "excluded_nodes": [asdict(each) for each in explanation.excluded],
    }
