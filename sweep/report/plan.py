"""The report of `sweep plan`: as text for a reader, and as a mapping for `--json` (docs/json.md, section `plan`)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.catalog import REFERENCE, load_catalog
from sweep.plan.manifest import Manifest
from sweep.plan.speed_report import SpeedLine, told
from sweep.plan.totals import PHASES, Cost, PhaseCost, PlanCosts, plan_costs
from sweep.text_format import columns, count, counted, hours, labelled, size, span

MEANING = {"trunk": "trunk segment", "pretrain": "image-text run", "finetune": "fine-tune", "evaluate": "evaluation"}


def summary(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedLine] = (),
) -> dict[str, Any]:
    """The report as JSON types; the schema is docs/json.md's. Hours are hours, bytes are bytes, nothing is rounded.

    `done` holds the keys of finished jobs; `gpus` and `cpus` say how many may be used at once; `speeds`: what finished
    jobs have measured.
    """
    costs = plan_costs(manifest, done, load_catalog().gpus, gpus=gpus, cpus=cpus)
    return {
        "format": 1,
        "sweep": manifest.sweep,
        "cells": len(manifest.cells),
        "jobs": {"total": costs.total.jobs, **{phase: jobs_of(costs, phase) for phase in PHASES}},
        "models": {
            model: {phase: cost.as_dict() for phase, cost in ordered(by_phase)}
            for model, by_phase in costs.by_model.items()
        },
        "total": costs.total.as_dict(),
        "unshared": costs.unshared.as_dict(),
        "done": costs.done.as_dict(),
        "gpu_hours_by_type": costs.gpu_hours_by_type,
        "time": costs.time.as_dict(),
        "speeds": [found.as_dict() for found in speeds],
    }


def summarise(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedLine] = (),
) -> str:
    """The report as plain text, up to 100 columns with the paper's names, with no newline at the end."""
    costs = plan_costs(manifest, done, load_catalog().gpus, gpus=gpus, cpus=cpus)
    counts = [counted(jobs_of(costs, phase), MEANING[phase]) for phase in PHASES if jobs_of(costs, phase)]
    cells, jobs = counted(len(manifest.cells), "cell"), counted(costs.total.jobs, "job")
    head = f"{manifest.sweep}: {cells}, {jobs} ({', '.join(counts)})"
    remarks = [
        *sharing(costs), *other_hours(costs), *features(costs), *finished(costs), *duration(costs),
        *(("speed", told(found)) for found in speeds),
    ]  # fmt: skip
    return "\n".join([head, "", *cost_table(costs), "", *labelled(remarks)])


def jobs_of(costs: PlanCosts, phase: str) -> int:
    """Jobs of one phase, of all models."""
    return sum(by_phase[phase].jobs for by_phase in costs.by_model.values() if phase in by_phase)


def ordered(by_phase: Mapping[str, PhaseCost]) -> list[tuple[str, PhaseCost]]:
    """The phases that there are, in the order of the chain."""
    return [(phase, by_phase[phase]) for phase in PHASES if phase in by_phase]


def cost_table(costs: PlanCosts) -> list[str]:
    """A row for each phase of each model, and the total; A100-hours where GPUs are used at all, else core-hours."""
    rows = [
        [model, phase, *cost_cells(cost, costs), per_job(cost), size(cost.checkpoint_bytes)]
        for model, by_phase in costs.by_model.items()
        for phase, cost in ordered(by_phase)
    ]
    for above, row in reversed(list(itertools.pairwise(rows))):
        row[0] = "" if above[0] == row[0] else row[0]
    rows.append(["total", "", *cost_cells(costs.total, costs), "", size(costs.total.checkpoint_bytes)])
    # on CPU cores the encoder's part is not told apart
    parts = ["LM only", "encoder", "LM only, each"] if costs.total.gpu_hours else ["each"]
    heads = ["model", "phase", "jobs", "tokens", unit_of(costs), *parts, "storage"]
    return columns([heads, *rows], left=2, rules=(1, len(rows)))


def cost_cells(cost: Cost, costs: PlanCosts) -> list[str]:
    """Jobs, tokens and hours of one row."""
    cells = [f"{cost.jobs:,}", count(cost.tokens)]
    if not costs.total.gpu_hours:
        return [*cells, hours(cost.cpu_hours)]
    encoder = cost.encoder_a100_hours
    return [*cells, hours(cost.a100_hours), hours(cost.a100_hours - encoder), hours(encoder)]


def per_job(cost: PhaseCost) -> str:
    """From the cheapest to the dearest job."""
    least, most = hours(cost.least_hours), hours(cost.most_hours)
    return least if least == most else f"{least} - {most}"


def sharing(costs: PlanCosts) -> list[tuple[str, str]]:
    """What it would cost if each cell trained all that it descends from by itself."""
    shared, apart = hours_of(costs.total, costs), hours_of(costs.unshared, costs)
    if costs.unshared.jobs <= costs.total.jobs:
        return [("shared", "nothing: no two cells have a job in common")]
    spared = f"{costs.total.jobs:,} jobs do the work of {costs.unshared.jobs:,}"
    times = f", {apart / shared:.1f} times as much" if shared else ""
    return [("shared", f"{spared}; with nothing shared: {hours(apart)} {unit_of(costs)}{times}")]


def other_hours(costs: PlanCosts) -> list[tuple[str, str]]:
    """GPU-hours where they are not A100-hours, and core-hours of jobs beside those on GPUs."""
    lines = []
    if not set(costs.gpu_hours_by_type) <= {REFERENCE}:
        each = ", ".join(f"{hours(spent)} on {kind}" for kind, spent in sorted(costs.gpu_hours_by_type.items()))
        lines.append(("GPU-hours", each))
    if costs.total.gpu_hours and costs.total.cpu_hours:
        lines.append(("core-hours", f"{hours(costs.total.cpu_hours)} in jobs without GPUs"))
    return lines


def features(costs: PlanCosts) -> list[tuple[str, str]]:
    """What the store keeps of encoded images."""
    if not costs.total.feature_bytes:
        return []
    kept = f"{size(costs.total.feature_bytes)} on disk beside the checkpoints"
    return [("features", f"{kept}: each image once, for all jobs with the same encoder")]


def finished(costs: PlanCosts) -> list[tuple[str, str]]:
    """What is done already."""
    done, total = hours_of(costs.done, costs), hours_of(costs.total, costs)
    text = f"{costs.done.jobs:,} of {costs.total.jobs:,} jobs"
    return [("done", f"{text}, {hours(done)} of {hours(total)} {unit_of(costs)}" if costs.done.jobs else text)]


def duration(costs: PlanCosts) -> list[tuple[str, str]]:
    """How long what is left takes at least."""
    time = costs.time
    if not time.critical_path:
        return []
    chain = f"{span(time.critical_path_hours)} for the longest chain, of {counted(len(time.critical_path), 'job')}"
    devices = [f"{time.gpus:,} GPUs"] if time.gpus else []
    devices += [f"{time.cpus:,} cores"] if time.cpus else []
    if not devices:
        return [("time", f"at least {chain}; without waits in the queue")]
    given = " and ".join(devices)
    lines = [("time", f"at least {span(time.at_least_hours)} on {given} ({chain}); without waits in the queue")]
    if time.too_wide:
        lines.append(("", f"{time.too_wide:,} jobs ask for more than {given} at once and could not start"))
    return lines


def hours_of(cost: Cost, costs: PlanCosts) -> float:
    """A100-hours where the plan uses GPUs, else core-hours."""
    return cost.a100_hours if costs.total.gpu_hours else cost.cpu_hours


def unit_of(costs: PlanCosts) -> str:
    """The unit of `hours_of`."""
    return "A100-hours" if costs.total.gpu_hours else "core-hours"
