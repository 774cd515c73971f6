"""The report of `sweep plan`: as text for a reader, and as a mapping for `--json` (docs/json.md, section `plan`)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.catalog import REFERENCE, load_catalog
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest
from sweep.plan.speed_report import SpeedComparison, format_speed_comparison
from sweep.plan.totals import Cost, PhaseCost, PlanCosts, compute_plan_costs
from sweep.text_format import (
    format_bytes,
    format_columns,
    format_counted,
    format_duration,
    format_hours,
    format_labelled_lines,
    format_large_number,
)


def build_plan_json(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedComparison] = (),
) -> dict[str, Any]:
    """The report as JSON types; the schema is docs/json.md's. Hours are hours, bytes are bytes, nothing is rounded.

    `done` holds the keys of finished jobs; `gpus` and `cpus` say how many may be used at once; `speeds`: what finished
    jobs have measured.
    """
    costs = compute_plan_costs(manifest, done, load_catalog().gpus, gpus=gpus, cpus=cpus)
    return {
        "format": 1,
        "sweep": manifest.sweep,
        "cells": len(manifest.cells),
        "jobs": {"total": costs.total.jobs, **{phase: count_phase_jobs(costs, phase) for phase in PHASES}},
        "models": {
            model: {phase: cost.convert_to_dict() for phase, cost in sort_phases(by_phase)}
            for model, by_phase in costs.by_model.items()
        },
        "total": costs.total.convert_to_dict(),
        "unshared": costs.unshared.convert_to_dict(),
        "done": costs.done.convert_to_dict(),
        "gpu_hours_by_type": costs.gpu_hours_by_type,
        "time": costs.time.convert_to_dict(),
        "speeds": [found.convert_to_dict() for found in speeds],
    }


def format_plan_report(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedComparison] = (),
) -> str:
    """The report as plain text, up to 100 columns with the paper's names, with no newline at the end."""
    costs = compute_plan_costs(manifest, done, load_catalog().gpus, gpus=gpus, cpus=cpus)
    counts = [
        format_counted(count_phase_jobs(costs, phase), PHASES[phase].job)
        for phase in PHASES
        if count_phase_jobs(costs, phase)
    ]
    cells, jobs = format_counted(len(manifest.cells), "cell"), format_counted(costs.total.jobs, "job")
    head = f"{manifest.sweep}: {cells}, {jobs} ({', '.join(counts)})"
    remarks = [
        *format_sharing(costs), *format_other_hours(costs), *format_features(costs), *format_finished(costs),
        *format_time_left(costs),
        *(("speed", format_speed_comparison(found)) for found in speeds),
    ]  # fmt: skip
    return "\n".join([head, "", *format_cost_table(costs), "", *format_labelled_lines(remarks)])


def count_phase_jobs(costs: PlanCosts, phase: str) -> int:
    """Jobs of one phase, of all models."""
    return sum(by_phase[phase].jobs for by_phase in costs.by_model.values() if phase in by_phase)


def sort_phases(by_phase: Mapping[str, PhaseCost]) -> list[tuple[str, PhaseCost]]:
    """The phases that there are, in the order of the chain."""
    return [(phase, by_phase[phase]) for phase in PHASES if phase in by_phase]


def format_cost_table(costs: PlanCosts) -> list[str]:
    """A row for each phase of each model, and the total; A100-hours where GPUs are used at all, else core-hours."""
    rows = [
        [model, phase, *format_cost_cells(cost, costs), format_hours_per_job(cost), format_bytes(cost.checkpoint_bytes)]
        for model, by_phase in costs.by_model.items()
        for phase, cost in sort_phases(by_phase)
    ]
    for above, row in reversed(list(itertools.pairwise(rows))):
        row[0] = "" if above[0] == row[0] else row[0]
    rows.append(["total", "", *format_cost_cells(costs.total, costs), "", format_bytes(costs.total.checkpoint_bytes)])
    # on CPU cores the encoder's part is not separate
    parts = ["LM only", "encoder", "LM only, each"] if costs.total.gpu_hours else ["each"]
    heads = ["model", "phase", "jobs", "tokens", select_hours_unit(costs), *parts, "storage"]
    return format_columns([heads, *rows], left=2, rules=(1, len(rows)))


def format_cost_cells(cost: Cost, costs: PlanCosts) -> list[str]:
    """Jobs, tokens and hours of one row."""
    cells = [f"{cost.jobs:,}", format_large_number(cost.tokens)]
    if not costs.total.gpu_hours:
        return [*cells, format_hours(cost.cpu_hours)]
    encoder = cost.encoder_a100_hours
    return [*cells, format_hours(cost.a100_hours), format_hours(cost.a100_hours - encoder), format_hours(encoder)]


def format_hours_per_job(cost: PhaseCost) -> str:
    """From the cheapest to the dearest job."""
    least, most = format_hours(cost.least_hours), format_hours(cost.most_hours)
    return least if least == most else f"{least} - {most}"


def format_sharing(costs: PlanCosts) -> list[tuple[str, str]]:
    """What it would cost if each cell trained all that it descends from by itself."""
    shared, apart = select_hours(costs.total, costs), select_hours(costs.unshared, costs)
    if costs.unshared.jobs <= costs.total.jobs:
        return [("shared", "nothing: no two cells have a job in common")]
    spared = f"{costs.total.jobs:,} jobs do the work of {costs.unshared.jobs:,}"
    times = f", {apart / shared:.1f} times as much" if shared else ""
    return [("shared", f"{spared}; with nothing shared: {format_hours(apart)} {select_hours_unit(costs)}{times}")]


def format_other_hours(costs: PlanCosts) -> list[tuple[str, str]]:
    """GPU-hours where they are not A100-hours, and core-hours of jobs beside those on GPUs."""
    lines = []
    if not set(costs.gpu_hours_by_type) <= {REFERENCE}:
        each = ", ".join(f"{format_hours(spent)} on {kind}" for kind, spent in sorted(costs.gpu_hours_by_type.items()))
        lines.append(("GPU-hours", each))
    if costs.total.gpu_hours and costs.total.cpu_hours:
        lines.append(("core-hours", f"{format_hours(costs.total.cpu_hours)} in jobs without GPUs"))
    return lines


def format_features(costs: PlanCosts) -> list[tuple[str, str]]:
    """What the store keeps of encoded images."""
    if not costs.total.feature_bytes:
        return []
    kept = f"{format_bytes(costs.total.feature_bytes)} on disk beside the checkpoints"
    return [("features", f"{kept}: each image once, for all jobs with the same encoder")]


def format_finished(costs: PlanCosts) -> list[tuple[str, str]]:
    """What is done already."""
    done, total = select_hours(costs.done, costs), select_hours(costs.total, costs)
    text = f"{costs.done.jobs:,} of {costs.total.jobs:,} jobs"
    return [
        (
            "done",
            f"{text}, {format_hours(done)} of {format_hours(total)} {select_hours_unit(costs)}"
            if costs.done.jobs
            else text,
        )
    ]


def format_time_left(costs: PlanCosts) -> list[tuple[str, str]]:
    """How long what is left takes at least."""
    time = costs.time
    if not time.critical_path:
        return []
    jobs = format_counted(len(time.critical_path), "job")
    chain = f"{format_duration(time.critical_path_hours)} for the longest chain, of {jobs}"
    devices = [f"{time.gpus:,} GPUs"] if time.gpus else []
    devices += [f"{time.cpus:,} cores"] if time.cpus else []
    if not devices:
        return [("time", f"at least {chain}; without waits in the queue")]
    given = " and ".join(devices)
    lines = [
        ("time", f"at least {format_duration(time.at_least_hours)} on {given} ({chain}); without waits in the queue")
    ]
    if time.too_wide:
        lines.append(("", f"{time.too_wide:,} jobs ask for more than {given} at once and could not start"))
    return lines


def select_hours(cost: Cost, costs: PlanCosts) -> float:
    """A100-hours where the plan uses GPUs, else core-hours."""
    return cost.a100_hours if costs.total.gpu_hours else cost.cpu_hours


def select_hours_unit(costs: PlanCosts) -> str:
    """The unit of `select_hours`."""
    return "A100-hours" if costs.total.gpu_hours else "core-hours"
