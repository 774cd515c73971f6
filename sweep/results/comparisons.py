"""What an axis does to the scores: rows of differences, contrasts and summary.parquet, and the same as text."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import pyarrow as pa

from jobs.counted import format_counted
from sweep.phases import PHASES
from sweep.results.contrasts import AVERAGE, AXES, CELL, MODEL, SEEDS, Contrast
from sweep.results.schemas import CONTRASTS, DIFFERENCES, SUMMARY
from sweep.results.scores import compute_deviation, compute_mean, sum_squared_deviations
from sweep.results.slices import (
    BITS_PER_BYTE,
    HELD_OUT,
    MEASURES,
    SLICE_AXES,
    SUMMARISED_MEASURES,
    Measure,
    Row,
    list_seeds,
    make_sort_key,
    normalise_axis_value,
    sort_values,
)
from sweep.results.tables import find_best_by
from sweep.text_format import format_columns

# differences.parquet: score differences between models that are equal in all axes but one.

RowsByAxisValue = dict[Any, Row]
"""Models that differ in one axis only, by their value of it."""


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """Score at `second` minus score at `first`, in the score's unit: mean over the pairs of cells of one model size."""

    model: str
    axis: str
    first: Any
    second: Any
    measure: Measure
    difference: float
    stderr: float | None
    """From the spread over the pairs of cells; None for one pair."""
    test_stderr: float | None
    """Standard error of one pair's difference from its (independent) test sets; mean over the pairs."""
    pairs: int
    """Pairs of cells. Models of a cell that differ in epochs are not independent, so they count as one."""
    models: int
    """Pairs of models."""
    contrast: Contrast | None = None
    """The same difference paired by question; None where the models' answers are not kept."""


# Why: docs/decisions.md, D54
@dataclass(slots=True)
class PairedDifferences:
    """The pairs of models of one difference."""

    by_cell: dict[Any, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[float | None] = field(default_factory=list)

    def add_pair(self, cell: Any, difference: float, error: float | None) -> None:
        """Adds a pair of models. `cell`: equal for all pairs of the same two cells; `error`: standard error."""
        self.by_cell[cell].append(difference)
        self.errors.append(error)

    def compute_statistics(self) -> tuple[float, float | None, float | None, int, int]:
        """`ScoreDifference` from `difference` on: difference, stderr, test_stderr, pairs, models."""
        means = [compute_mean(same) for same in self.by_cell.values()]
        known = [error for error in self.errors if error is not None]
        spread = compute_deviation(means)
        stderr = None if spread is None else spread / math.sqrt(len(means))
        test_stderr = compute_mean(known) if len(known) == len(self.errors) else None
        return compute_mean(means), stderr, test_stderr, len(means), len(self.errors)


def compute_differences(rows: Sequence[Row], contrasts: Sequence[Contrast] = ()) -> list[ScoreDifference]:
    """The differences of every axis that varies, for every two of its values and every score.

    `contrasts`: those of the same rows; a difference that has an interval among them gets it.
    """
    scored = [row for row in rows if any(row.get(measure.column) is not None for measure in SUMMARISED_MEASURES)]
    identities = [
        (row["model"], list_seeds(row), *(normalise_axis_value(row, name) for name in SLICE_AXES)) for row in scored
    ]
    found: list[ScoreDifference] = []
    for axis in AXES:
        place = 2 + SLICE_AXES.index(axis)
        families: dict[tuple[Any, ...], RowsByAxisValue] = defaultdict(dict)
        for row, identity in zip(scored, identities, strict=True):
            if identity[place] is not None:
                families[(*identity[:place], *identity[place + 1 :])][identity[place]] = row
        found += iter_axis_differences(axis, families)
    averages = {
        (each.comparison.model, each.comparison.axis, each.comparison.first, each.comparison.second, each.score): each
        for each in contrasts
        if each.comparison.level == AVERAGE and not each.is_task and each.estimate
    }
    return [
        replace(each, contrast=averages.get((each.model, each.axis, each.first, each.second, each.measure.name)))
        for each in found
    ]


def iter_axis_differences(axis: str, families: dict[tuple[Any, ...], RowsByAxisValue]) -> Iterator[ScoreDifference]:
    """The differences of one axis. `families`: (model, seeds, all other axes) to the models that share these."""
    epochs = 2 + SLICE_AXES.index("epochs") - (SLICE_AXES.index(axis) < SLICE_AXES.index("epochs"))
    found: dict[tuple[Any, ...], PairedDifferences] = defaultdict(PairedDifferences)
    for identity, family in families.items():
        cell = identity if axis == "epochs" else (*identity[:epochs], *identity[epochs + 1 :])
        for first, second in combinations(sort_values(family), 2):
            for measure, difference, error in iter_score_differences(family[first], family[second]):
                found[identity[0], first, second, measure].add_pair(cell, difference, error)
    for (model, first, second, measure), pairs in found.items():
        yield ScoreDifference(model, axis, first, second, measure, *pairs.compute_statistics())


def iter_score_differences(one: Row, other: Row) -> Iterator[tuple[Measure, float, float | None]]:
    """For each score that both models have: `other` minus `one`, and the standard error from the test sets."""
    for measure in SUMMARISED_MEASURES:
        low, high = one.get(measure.column), other.get(measure.column)
        if low is not None and high is not None:
            first, second = one.get(measure.stderr), other.get(measure.stderr)
            yield measure, high - low, None if first is None or second is None else math.hypot(first, second)


def build_differences_table(sweep: str, found: Sequence[ScoreDifference]) -> pa.Table:
    """The table of differences.parquet."""
    rows = [
        {
            "sweep": sweep,
            "model": each.model,
            "axis": each.axis,
            "first": format_axis_value(each.first),
            "second": format_axis_value(each.second),
            "score": each.measure.name,
            "pairs": each.pairs,
            "models": each.models,
            "difference": each.difference,
            "stderr": each.stderr,
            "test_stderr": each.test_stderr,
            **(build_paired_columns(each.contrast) if each.contrast else {}),
        }
        for each in found
    ]
    return pa.Table.from_pylist(rows, schema=DIFFERENCES)


def build_paired_columns(contrast: Contrast) -> dict[str, Any]:
    """The columns of a difference paired by question; nulls where it has no interval."""
    found = contrast.estimate
    return {
        "paired_stderr": found.stderr if found else None,
        "low": contrast.low,
        "high": contrast.high,
        "p_value": contrast.p_value,
        "p_holm": contrast.p_holm,
        "noise": found.noise if found else None,
    }


def build_contrasts_table(sweep: str, contrasts: Sequence[Contrast]) -> pa.Table:
    """The table of contrasts.parquet. Axes that a contrast is a mean over are null, and so is its own."""
    rows = [
        {
            "sweep": sweep,
            "level": each.comparison.level,
            "model": each.comparison.model,
            "axis": each.comparison.axis,
            "first": format_axis_value(each.comparison.first),
            "second": format_axis_value(each.comparison.second),
            "score": each.score,
            "is_task": each.is_task,
            **dict(each.comparison.at),
            "pairs": each.pairs,
            "models": each.models,
            "seeds": each.seeds,
            "tasks": list(each.tasks),
            "questions": each.questions or None,
            "clusters": each.clusters or None,
            "difference": each.difference,
            **build_paired_columns(each),
            "freedom": each.estimate.freedom if each.estimate else None,
            "family": each.family,
            "family_size": each.family_size or None,
            "shared_draws": list(each.shared_draws),
            "note": each.note or None,
        }
        for each in contrasts
    ]
    return pa.Table.from_pylist(rows, schema=CONTRASTS)


def format_axis_value(value: Any) -> str:
    """A value of an axis: `80`, `0.1`, `true`, `siglip`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# The differences as text: a line for each axis, and a table for each axis.

PERCENTAGES = {"image_share", "instruction_share"}
MEASURE_NAMES = {HELD_OUT: "held-out vision", BITS_PER_BYTE: "bits/byte"}
AGAINST_LAST = {"branch"}
"""Axes whose values are compared with the last one (images after all of the text); others with the first."""

LEGEND = (
    "Mean differences between cells that are equal in all else.\n"
    "±: standard error by the spread over the pairs; of one pair, by its test sets.\n"
)
PAIRED_LEGEND = (
    "Mean differences between cells that are equal in all else.\n"
    "[low, high]: 95 % interval, paired by question, clustered by image; *: p below 0.05, by Holm over the axis.\n"
    "Noise in the intervals: of the questions{seeds}.\n"
    "In no interval, as there is one draw of each: {shared}.\n"
    "±: standard error by the spread over the pairs; of one pair, by its test sets.\n"
)
SHORT_LEGEND = "[low, high]: 95 % interval, paired by question; *: p below 0.05, by Holm; all differences: summary.txt"


def format_effects(found: Sequence[ScoreDifference]) -> list[str]:
    """A line for each axis that varies: the change of each score from its first value to its last; what marks mean."""
    models = list(dict.fromkeys(each.model for each in found))
    lines = []
    for model in models:
        of_model = [each for each in found if each.model == model]
        for axis in AXES:
            of_axis = [each for each in of_model if each.axis == axis]
            if of_axis:
                lines.append((f"{model}: " if len(models) > 1 else "") + format_axis_effect(axis, of_axis))
    return [*lines, SHORT_LEGEND] if any(each.contrast for each in found) else lines


def format_axis_effect(axis: str, found: Sequence[ScoreDifference]) -> str:
    """`branch 0 % -> 100 %: vision +0.120 ±0.010 (9 pairs)`."""
    values = sort_values({value for each in found for value in (each.first, each.second)})
    ends = {each.measure: each for each in found if (each.first, each.second) == (values[0], values[-1])}
    changes = [format_change(ends[measure]) for measure in MEASURES if measure in ends]
    names = f"{format_shown_value(axis, values[0])} -> {format_shown_value(axis, values[-1])}"
    return f"{axis.replace('_', ' ')} {names}: {', '.join(changes) or 'no two models to compare'}"


def format_change(each: ScoreDifference) -> str:
    """`vision +0.120 ±0.010 (9 pairs)`."""
    name = format_measure_title(each.measure)
    return f"{name} {format_signed_difference(each)} ({format_counted(each.pairs, 'pair')})"


def format_signed_difference(each: ScoreDifference, sign: int = 1) -> str:
    """`+0.120 [+0.100, +0.140]*`, the interval paired by question; else `+0.120 ±0.010`.

    `±`: by the spread over pairs; for one pair, by its test sets.
    """
    if each.contrast is not None:
        return format_interval(each.contrast, sign)
    error = each.stderr if each.stderr is not None else each.test_stderr
    value = sign * each.difference + 0.0
    return f"{value:+.3f}" if error is None else f"{value:+.3f} ±{error:.3f}"


def format_interval(contrast: Contrast, sign: int = 1) -> str:
    """`+0.120 [+0.100, +0.140]*`: the star says that p is below 0.05 in its family."""
    ends = sorted(sign * (end or 0.0) + 0.0 for end in (contrast.low, contrast.high))
    star = "*" if contrast.p_holm is not None and contrast.p_holm < 0.05 else ""
    return f"{sign * contrast.difference + 0.0:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]{star}"


def format_effects_table(found: Sequence[ScoreDifference]) -> str:
    """A table for each model and axis, of the differences to one value of it; empty without any difference."""
    models = list(dict.fromkeys(each.model for each in found))
    tables = []
    for model in models:
        for axis in AXES:
            of_axis = [each for each in found if each.model == model and each.axis == axis]
            if of_axis:
                tables.append(format_axis_table(f"{model} by " if len(models) > 1 else "", axis, of_axis))
    return "\n".join([*tables, format_legend(found)]) if tables else ""


def format_legend(found: Sequence[ScoreDifference]) -> str:
    """What the intervals hold and what not."""
    known = [each.contrast for each in found if each.contrast is not None]
    if not known:
        return LEGEND
    several = any(each.estimate and each.estimate.noise == SEEDS for each in known)
    shared = {phase for each in known for phase in each.shared_draws}
    return PAIRED_LEGEND.format(
        seeds=", and of the seeds where models have the same ones" if several else "",
        shared=", ".join(words.jobs for phase, words in PHASES.items() if phase in shared) or "none",
    )


FIXED_AXES = ("branch",)
"""Axes whose last two values are compared at fixed values of the others: the study's question."""


def format_fixed_tables(contrasts: Sequence[Contrast]) -> str:
    """The last two branch points at each mix, mean over epochs, and the mean over mixes; empty where there is one."""
    tables = []
    for axis in FIXED_AXES:
        for model in dict.fromkeys(each.comparison.model for each in contrasts):
            found = [
                each
                for each in contrasts
                if each.comparison.axis == axis and each.comparison.model == model and not each.is_task
            ]
            if table := format_fixed_table(model, axis, found):
                tables.append(table)
    return "\n".join(tables)


def format_fixed_table(model: str, axis: str, contrasts: Sequence[Contrast]) -> str:
    """A line for each cell's place on the other axes that vary, and the average; empty below two places."""
    values = sort_values({value for each in contrasts for value in (each.comparison.first, each.comparison.second)})
    if len(values) < 2:
        return ""
    chosen = [each for each in contrasts if (each.comparison.first, each.comparison.second) == (*values[-2:],)]
    level = CELL if any(each.comparison.level == CELL for each in chosen) else MODEL
    fixed = [each for each in chosen if each.comparison.level == level]
    places = list(dict.fromkeys(each.comparison.at for each in fixed))
    varied = [
        name
        for name in (places and dict(places[0])) or ()
        if len({dict(place)[name] for place in places if dict(place)[name] is not None}) > 1
    ]
    if len(places) < 2 or not varied:
        return ""
    measures = [measure for measure in MEASURES if any(each.score == measure.name for each in chosen)]
    head = f"{model}: {axis} {format_shown_value(axis, values[-2])} against {format_shown_value(axis, values[-1])}, at"
    table = [[head, *map(format_measure_title, measures)]]
    by_place = {(each.comparison.at, each.score): each for each in chosen if each.comparison.level in {level, AVERAGE}}
    for place in [*sorted(places, key=lambda place: [make_sort_key(value) for _, value in place]), ()]:
        at = dict(place)
        words = [f"{name.replace('_', ' ')} {format_shown_value(name, at[name])}" for name in varied if place]
        cells = [by_place.get((place, measure.name)) for measure in measures]
        shown = ["-" if each is None else format_contrast(each, -1) for each in cells]
        table.append([", ".join(words) or "average", *shown])
    return "\n".join(format_columns(table)) + "\n"


def format_contrast(contrast: Contrast, sign: int) -> str:
    """With its interval, or the difference alone."""
    return f"{sign * contrast.difference + 0.0:+.3f}" if contrast.low is None else format_interval(contrast, sign)


def format_axis_table(prefix: str, axis: str, found: Sequence[ScoreDifference]) -> str:
    """A line for each value except the one that the others are compared with."""
    values = sort_values({value for each in found for value in (each.first, each.second)})
    reference = values[-1] if axis in AGAINST_LAST else values[0]
    sign = -1 if axis in AGAINST_LAST else 1
    compared = {
        (select_other_value(each, reference), each.measure): each
        for each in found
        if reference in (each.first, each.second)
    }
    measures = [measure for measure in MEASURES if any(key[1] == measure for key in compared)]
    table = [
        [
            f"{prefix}{axis.replace('_', ' ')}, against {format_shown_value(axis, reference)}",
            "pairs",
            *map(format_measure_title, measures),
        ]
    ]
    for value in values:
        cells = [compared.get((value, measure)) for measure in measures]
        known = [each for each in cells if each is not None]
        if known:
            words = ["-" if each is None else format_signed_difference(each, sign) for each in cells]
            table.append([format_shown_value(axis, value), str(max(each.pairs for each in known)), *words])
    return "\n".join(format_columns(table)) + "\n"


def select_other_value(each: ScoreDifference, reference: Any) -> Any:
    """The one of the two values that is not `reference`."""
    return each.second if each.first == reference else each.first


def format_measure_title(measure: Measure) -> str:
    """Name of a score for people."""
    return MEASURE_NAMES.get(measure, measure.title.lower())


def format_shown_value(axis: str, value: Any) -> str:
    """A value of an axis for people: shares in percent."""
    if axis in PERCENTAGES:
        return f"{100 * value:g} %"
    return f"{value:g} %" if axis == "branch" else format_axis_value(value)


# At how many epochs cells are best, as text.


def format_best_epochs(rows: Sequence[Row]) -> str:
    """How many cells have their best score at each number of epochs, for each score.

    Counts cells with several numbers of epochs, all finished; empty where there are none.
    """
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    whole = [models for models in cells.values() if len(models) > 1 and all(row["state"] == "done" for row in models)]
    counts = {
        measure: Counter(best["epochs"] for models in whole if (best := find_best_by(measure, models)) is not None)
        for measure in MEASURES
    }
    found = {measure: counted for measure, counted in counts.items() if counted}
    if not found:
        return ""
    head = ["epochs: cells that are best there", *map(format_measure_title, found)]
    numbers = sorted({row["epochs"] for models in whole for row in models})
    lines = [[str(epochs), *(str(counted[epochs]) for counted in found.values())] for epochs in numbers]
    return "\n".join(format_columns([head, *lines])) + "\n"


# summary.parquet: mean scores, with spreads, by branch point, image share, instruction share and epochs.

STUDY_AXES = ("branch", "image_share", "instruction_share", "epochs")
"""The axes of the study's questions. A row names some of them and is a mean over the others."""
SETTING_AXES = tuple(axis for axis in SLICE_AXES if axis not in STUDY_AXES)
"""Like the model, never averaged over: a mean over encoders or amounts of training answers no question."""
GROUPINGS = (
    ("branch",),
    ("image_share",),
    ("instruction_share",),
    ("epochs",),
    ("branch", "image_share"),
    ("branch", "image_share", "instruction_share"),
    STUDY_AXES,
)
COMPLETE = {"vision": "vision_complete", "text": "text_complete"}
Key = tuple[Any, ...]


def build_points_table(sweep: str, rows: Sequence[Row]) -> pa.Table:
    """The table of summary.parquet: groupings in their order, points in the order of `rows`; none without a score.

    Points by all four axes have a row only with several seeds: with one seed they repeat results.parquet.
    """
    settings = [(row["model"], *(normalise_axis_value(row, axis) for axis in SETTING_AXES)) for row in rows]
    found = []
    for grouping in GROUPINGS:
        groups: dict[Key, list[Row]] = defaultdict(list)
        for row, setting in zip(rows, settings, strict=True):
            if is_in_grouping(row, grouping):
                groups[(*setting, *(row[axis] for axis in grouping))].append(row)
        for key, members in groups.items():
            if grouping != STUDY_AXES or len(members) > 1:
                named = dict(zip(("model", *SETTING_AXES, *grouping), key, strict=True))
                found += [
                    {"sweep": sweep, "axes": " ".join(grouping), **named, **values}
                    for values in iter_score_columns(members)
                ]
    return pa.Table.from_pylist(found, schema=SUMMARY)


def is_in_grouping(row: Row, grouping: Sequence[str]) -> bool:
    """Whether the model belongs to the grouping. Without images it has an instruction share by its image share only."""
    return "instruction_share" not in grouping or "image_share" in grouping or row.get("image_share") != 0


def iter_score_columns(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """For each score that the models of a point have, its columns."""
    for measure in SUMMARISED_MEASURES:
        scored = [row for row in rows if row[measure.column] is not None]
        if scored:
            yield {"models": len(rows), **build_point_columns(scored, measure)}


def build_point_columns(rows: Sequence[Row], measure: Measure) -> dict[str, Any]:
    """The columns of one score; `rows`: the models of the point that have it."""
    values = [row[measure.column] for row in rows]
    errors = [row[measure.stderr] for row in rows if measure.stderr and row[measure.stderr] is not None]
    complete = COMPLETE.get(measure.name)
    return {
        "score": measure.name,
        "n": len(values),
        "complete": all(row[complete] for row in rows) if complete else None,
        "mean": compute_mean(values),
        "std": compute_deviation(values),
        "lowest": min(values),
        "highest": max(values),
        "test_stderr": compute_mean(errors) if len(errors) == len(rows) else None,
        "seeds": len({list_seeds(row) for row in rows}),
        "seed_std": compute_seed_deviation(rows, measure),
    }


def compute_seed_deviation(rows: Sequence[Row], measure: Measure) -> float | None:
    """Standard deviation over seeds, pooled over groups of models that are equal in all else.

    sqrt(sum of squared deviations / sum of (seeds - 1)); None where no group has a second seed.
    """
    same: dict[Key, dict[Key, float]] = defaultdict(dict)
    if len({list_seeds(row) for row in rows}) > 1:
        for row in rows:
            same[tuple(normalise_axis_value(row, axis) for axis in SLICE_AXES)][list_seeds(row)] = row[measure.column]
    freedom = sum(len(by_seed) - 1 for by_seed in same.values())
    return (
        math.sqrt(math.fsum(sum_squared_deviations(by_seed.values()) for by_seed in same.values()) / freedom)
        if freedom
        else None
    )
