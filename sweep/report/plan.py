"""The report of `sweep plan`: as text for a reader, and as a mapping for `--json` (docs/json.md, section `plan`)."""

import itertools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.counted import format_counted
from sweep.catalog import REFERENCE, load_catalog
from sweep.catalog.noise import load_noise_assumptions
from sweep.cost.figures import Figure
from sweep.phases import PHASES
from sweep.plan.detectable import (
    LEVEL,
    POWER,
    WANTED,
    DetectableEffect,
    compute_detectable_effects,
    list_task_sizes,
)
from sweep.plan.loss_report import MixtureLoss, format_mixture_losses
from sweep.plan.manifest import Manifest
from sweep.plan.placements import PhasePlacement, format_placement_table
from sweep.plan.speed_report import SpeedComparison, format_speed_comparison
from sweep.plan.totals import Cost, PhaseCost, PlanCosts, compute_plan_costs
from sweep.text_format import (
    format_bytes,
    format_columns,
    format_duration,
    format_hours,
    format_labelled_lines,
    format_large_number,
)

UsedFigures = Mapping[Figure, Collection[tuple[str, str]]]
"""Each figure with the (model, phase) whose estimates rest on it."""
NO_FIGURES: UsedFigures = {}


def build_plan_json(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedComparison] = (),
    placements: tuple[PhasePlacement, ...] = (),
    losses: Sequence[MixtureLoss] = (),
    figures: UsedFigures = NO_FIGURES,
) -> dict[str, Any]:
    """The report as JSON types; the schema is docs/json.md's. Hours are hours, bytes are bytes, nothing is rounded.

    `done` holds the keys of finished jobs; `gpus` and `cpus` say how many may be used at once; `speeds`: what finished
    jobs have measured; `placements`: where jobs run, and whether they fit; `losses`: what the data sets of each mixture
    are expected to have of the loss; `figures`: what the estimates rest on, and for which models and phases.
    """
    costs = compute_plan_costs(manifest, done, gpus=gpus, cpus=cpus)
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
        "priorities": list_block_priorities(manifest),
        "speeds": [found.convert_to_dict() for found in speeds],
        "placements": [each.convert_to_dict() for each in placements],
        "losses": [found.convert_to_dict() for found in losses],
        "figures": [
            {**figure.convert_to_dict(), "models": list_models(users), "phases": list_used_phases(users)}
            for figure, users in figures.items()
        ],
        "detectable": build_detectable_json(manifest, figures),
    }


def format_plan_report(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
    speeds: Sequence[SpeedComparison] = (),
    placements: tuple[PhasePlacement, ...] = (),
    losses: Sequence[MixtureLoss] = (),
    figures: UsedFigures = NO_FIGURES,
    width: int | None = None,
) -> str:
    """The report as plain text, up to 100 columns with the paper's names, with no newline at the end; `width`: of the
    terminal, to which it bends."""
    costs = compute_plan_costs(manifest, done, gpus=gpus, cpus=cpus)
    counts = [
        format_counted(count_phase_jobs(costs, phase), PHASES[phase].job)
        for phase in PHASES
        if count_phase_jobs(costs, phase)
    ]
    cells, jobs = format_counted(len(manifest.cells), "cell"), format_counted(costs.total.jobs, "job")
    head = f"{manifest.sweep}: {cells}, {jobs} ({', '.join(counts)})"
    remarks = [
        *format_sharing(costs), *format_other_hours(costs), *format_features(costs), *format_finished(costs),
        *format_time_left(costs), *format_order(manifest), *format_counted_figures(figures),
        *(("speed", format_speed_comparison(found)) for found in speeds),
        *format_mixture_losses(losses),
        *format_detectable_effects(load_detectable_effects(manifest, figures)),
    ]  # fmt: skip
    table = [*format_cost_table(costs, Marks.from_figures(figures), width), *format_placement_table(placements, width)]
    assumed = format_assumed_figures(figures, min(WIDTH, width or WIDTH))
    return "\n".join([head, "", *table, "", *format_labelled_lines(remarks, width), *assumed])


def count_phase_jobs(costs: PlanCosts, phase: str) -> int:
    """Jobs of one phase, of all models."""
    return sum(by_phase[phase].jobs for by_phase in costs.by_model.values() if phase in by_phase)


def sort_phases(by_phase: Mapping[str, PhaseCost]) -> list[tuple[str, PhaseCost]]:
    """The phases that there are, in the order of the chain."""
    return [(phase, by_phase[phase]) for phase in PHASES if phase in by_phase]


MARK = "~"
"""Before a number that rests on an assumed figure."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The (model, phase) whose numbers rest on assumed figures."""

    tokens: frozenset[tuple[str, str]]
    hours: frozenset[tuple[str, str]]

    @classmethod
    def from_figures(cls, figures: UsedFigures) -> "Marks":
        """Assumed data and tasks decide tokens and hours, assumed speeds and start-ups hours alone."""
        assumed = [(figure, users) for figure, users in figures.items() if figure.origin == "assumed"]
        work = {each for figure, users in assumed if figure.subject.startswith(("data ", "task ")) for each in users}
        return cls(frozenset(work), frozenset(each for _, users in assumed for each in users))


def format_marked_cells(cells: list[str], where: tuple[str, str] | None, marks: Marks) -> list[str]:
    """The cells behind the number of jobs: tokens, then hours. `where` None: of all jobs."""
    kinds = [marks.tokens, *[marks.hours] * (len(cells) - 1)]
    is_number = [cell not in {"", "-"} for cell in cells]
    is_assumed = [bool(kind) if where is None else where in kind for kind in kinds]
    return [
        f"{MARK}{cell}" if number and assumed else cell
        for cell, number, assumed in zip(cells, is_number, is_assumed, strict=True)
    ]


def format_cost_table(costs: PlanCosts, marks: Marks, width: int | None = None) -> list[str]:
    """A row for each phase of each model, and the total; A100-hours where GPUs are used at all, else core-hours."""
    rows = []
    for model, by_phase in costs.by_model.items():
        for phase, cost in sort_phases(by_phase):
            jobs, *cells = [*format_cost_cells(cost, costs), format_hours_per_job(cost)]
            marked = format_marked_cells(cells, (model, phase), marks)
            rows.append([model, phase, jobs, *marked, format_bytes(cost.checkpoint_bytes)])
    for above, row in reversed(list(itertools.pairwise(rows))):
        row[0] = "" if above[0] == row[0] else row[0]
    jobs, *cells = [*format_cost_cells(costs.total, costs), ""]
    rows.append(
        ["total", "", jobs, *format_marked_cells(cells, None, marks), format_bytes(costs.total.checkpoint_bytes)]
    )
    # on CPU cores the encoder's part is not separate
    parts = ["LM only", "encoder", "start-up", "LM only, each"] if costs.total.gpu_hours else ["start-up", "work, each"]
    heads = ["model", "phase", "jobs", "tokens", select_hours_unit(costs), *parts, "storage"]
    return format_columns([heads, *rows], left=2, rules=(1, len(rows)), width=width)


def format_cost_cells(cost: Cost, costs: PlanCosts) -> list[str]:
    """Jobs, tokens and hours of one row."""
    cells = [f"{cost.jobs:,}", format_large_number(cost.tokens)]
    if not costs.total.gpu_hours:
        return [*cells, format_hours(cost.cpu_hours), format_hours(cost.startup_hours)]
    parts = cost.encoder_a100_hours, cost.startup_a100_hours
    return [*cells, *map(format_hours, (cost.a100_hours, cost.a100_hours - sum(parts), *parts))]


def format_hours_per_job(cost: PhaseCost) -> str:
    """From the cheapest to the dearest job."""
    least, most = format_hours(cost.least_hours), format_hours(cost.most_hours)
    return least if least == most else f"{least} - {most}"


def format_sharing(costs: PlanCosts) -> list[tuple[str, str]]:
    """What it would cost if each cell trained all that it descends from by itself."""
    shared, apart = select_hours(costs.total, costs), select_hours(costs.unshared, costs)
    if costs.unshared.jobs <= costs.total.jobs:
        return [("shared", "nothing: no two cells have a job in common")]
    spared = f"{format_counted(costs.total.jobs, 'job does', 'jobs do')} the work of {costs.unshared.jobs:,}"
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
    text = f"{costs.done.jobs:,} of {format_counted(costs.total.jobs, 'job')}"
    return [
        (
            "done",
            f"{text}, {format_hours(done)} of {format_hours(total)} {select_hours_unit(costs)}"
            if costs.done.jobs
            else text,
        )
    ]


def list_block_priorities(manifest: Manifest) -> dict[str, int]:
    """Of each block by its label, the highest first; empty where all have the same."""
    found = {cell.block: cell.priority for cell in manifest.cells}
    return dict(sorted(found.items(), key=lambda pair: -pair[1])) if any(found.values()) else {}


def format_order(manifest: Manifest) -> list[tuple[str, str]]:
    """Which cells are sent first, where the file says."""
    blocks = [f"{label} {priority}" for label, priority in list_block_priorities(manifest).items()]
    return [("order", f"by priority of blocks: {', '.join(blocks)}; whole chains first among equals")] if blocks else []


def format_time_left(costs: PlanCosts) -> list[tuple[str, str]]:
    """How long what is left takes at least."""
    time = costs.time
    if not time.critical_path:
        return []
    jobs = format_counted(len(time.critical_path), "job")
    chain = f"{format_duration(time.critical_path_hours)} for the longest chain, of {jobs}"
    devices = [format_counted(time.gpus, "GPU")] if time.gpus else []
    devices += [format_counted(time.cpus, "core")] if time.cpus else []
    if not devices:
        return [("time", f"at least {chain}; without waits in the queue")]
    given = " and ".join(devices)
    lines = [
        ("time", f"at least {format_duration(time.at_least_hours)} on {given} ({chain}); without waits in the queue")
    ]
    if time.too_wide:
        lines.append(
            (
                "",
                f"{format_counted(time.too_wide, 'job asks', 'jobs ask')} for more than {given} at once "
                "and could not start",
            )
        )
    return lines


# What the estimates rest on.

WIDTH = 100


def list_models(users: Collection[tuple[str, str]]) -> list[str]:
    """The models whose jobs rest on a figure, by name."""
    return sorted({model for model, _ in users})


def list_used_phases(users: Collection[tuple[str, str]]) -> list[str]:
    """The phases whose jobs rest on a figure, in the order of the chain."""
    return [phase for phase in PHASES if any(used == phase for _, used in users)]


def format_counted_figures(figures: UsedFigures) -> list[tuple[str, str]]:
    """Whose figures were counted."""
    subjects = dict.fromkeys(figure.subject for figure in figures if figure.origin == "counted")
    names = [name for name in subjects if name.startswith(("data ", "task "))]
    return [("counted", ", ".join(names))] if names else []


def format_assumed_figures(figures: UsedFigures, width: int = WIDTH) -> list[str]:
    """Each assumed figure with its source, those of one subject and source in one entry: speeds, data, then tasks."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        if figure.origin == "assumed":
            groups.setdefault((figure.subject, figure.source), []).append(figure)
    lines = ["", f"{MARK} rests on figures that are assumed, and neither counted nor given:"] if groups else []
    for (subject, source), found in sorted(groups.items(), key=lambda group: rank_subject(group[0][0])):
        values = ", ".join(f"{figure.name} {format_figure_value(figure.value)}" for figure in found)
        lines += textwrap.wrap(
            f"{subject}: {values}. {source}", width, initial_indent="  ", subsequent_indent="      ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return lines


def rank_subject(subject: str) -> int:
    """What weighs on all hours comes first, tasks come last; else the order in which figures were asked for."""
    return ("speed", "start-up", "data", "task").index(subject.split(maxsplit=1)[0])


def format_figure_value(value: float) -> str:
    """`12,578`, `0.25`, `9.8e+13`."""
    if value >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 1_000 or float(value).is_integer() else f"{value:.4g}"


# Which differences the evaluations can detect.


def load_detectable_effects(manifest: Manifest, figures: UsedFigures) -> list[DetectableEffect]:
    """By the tasks' counted figures, where they were counted, else by the catalog's."""
    assumed = load_noise_assumptions()
    sizes = list_task_sizes(manifest, load_catalog(), assumed, collect_counted_sizes(figures))
    return compute_detectable_effects(sizes, assumed)


def collect_counted_sizes(figures: UsedFigures) -> dict[str, tuple[int, int]]:
    """Questions and images of the tasks that were counted; a text task has as many of both."""
    counted: dict[str, dict[str, int]] = {}
    for figure in figures:
        if figure.origin == "counted" and figure.subject.startswith("task "):
            counted.setdefault(figure.subject.removeprefix("task "), {})[figure.name] = round(figure.value)
    return {
        task: (found["documents"], found.get("images") or found["documents"])
        for task, found in counted.items()
        if found.get("documents")
    }


def build_detectable_json(manifest: Manifest, figures: UsedFigures) -> dict[str, Any]:
    """The field `detectable` of docs/json.md."""
    assumed = load_noise_assumptions()
    return {
        "level": LEVEL,
        "power": POWER,
        "effects": [effect.convert_to_dict() for effect in load_detectable_effects(manifest, figures)],
        "assumptions": [
            {"name": name, "value": getattr(assumed, name), "source": source}
            for name, source in assumed.sources.items()
        ],
    }


def format_detectable_effects(effects: Sequence[DetectableEffect]) -> list[tuple[str, str]]:
    """The difference that two models must have, and the seeds for less; nothing without evaluations."""
    if not effects:
        return []
    assumed = load_noise_assumptions()
    first, *others = [f"{100 * each.compute_effect(1):.1f}" for each in effects]
    points = [f"{first} points", *others]
    shown = [f"{value} in {format_score_name(each)}" for value, each in zip(points, effects, strict=True)]
    lines = [f"one seed shows a difference of {', '.join(shown)}"]
    for difference in WANTED:
        by_need: dict[str, list[str]] = {}
        for each in effects:
            by_need.setdefault(format_seeds(each.count_seeds(difference)), []).append(format_score_name(each))
        needed = "; ".join(f"{need} in {', '.join(names)}" for need, names in by_need.items())
        lines.append(f"{format_counted(round(100 * difference), 'point')}: {needed}")
    lines.append(f"shows: found in {100 * POWER:g} of 100 such pairs of models, at the {100 * LEVEL:g} % level")
    lines.append(
        f"assumed: answers of two models correlate by {assumed.model_correlation:g}, about one image by "
        f"{assumed.image_correlation:g};"
    )
    lines.append(f"scores of two seeds spread by {100 * assumed.seed_deviation:g} points (docs/results.md)")
    return [("power" if number == 0 else "", line) for number, line in enumerate(lines)]


def format_score_name(effect: DetectableEffect) -> str:
    """`vision`, `held-out vision`."""
    return effect.score.replace("heldout_", "held-out ")


def format_seeds(seeds: int | None) -> str:
    """`3 seeds`, or that no number of them does."""
    return "too few questions" if seeds is None else f"{format_counted(seeds, 'seed')} of each model"


def select_hours(cost: Cost, costs: PlanCosts) -> float:
    """A100-hours where the plan uses GPUs, else core-hours."""
    return cost.a100_hours if costs.total.gpu_hours else cost.cpu_hours


def select_hours_unit(costs: PlanCosts) -> str:
    """The unit of `select_hours`."""
    return "A100-hours" if costs.total.gpu_hours else "core-hours"
