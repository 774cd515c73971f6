"""Rows of summary.parquet: mean scores by branch point, image share, instruction share and epochs, with spreads."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from sweep.results.slices import SLICE_AXES, SUMMARISED, Measure, Row, axis_value, seeds_of
from sweep.results.spread import deviation, mean, squares
from sweep.results.summary_schemas import SUMMARY

STUDY_AXES = ("branch", "image_share", "instruction_share", "epochs")
"""What the study asks about; a row is a mean over those of them that it does not tell apart."""
SETTINGS = tuple(axis for axis in SLICE_AXES if axis not in STUDY_AXES)
"""What rows always tell apart, as the model: no mean over encoders or amounts of training."""
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


def points_table(sweep: str, rows: Sequence[Row]) -> pa.Table:
    """By grouping, in the order of results.parquet. Points without a score yet have no row.

    Points by all four axes are there where they have several seeds; with one they are results.parquet itself.
    """
    settings = [(row["model"], *(axis_value(row, axis) for axis in SETTINGS)) for row in rows]
    found = []
    for grouping in GROUPINGS:
        groups: dict[Key, list[Row]] = defaultdict(list)
        for row, setting in zip(rows, settings, strict=True):
            if belongs(row, grouping):
                groups[(*setting, *(row[axis] for axis in grouping))].append(row)
        for key, members in groups.items():
            if grouping != STUDY_AXES or len(members) > 1:
                named = dict(zip(("model", *SETTINGS, *grouping), key, strict=True))
                found += [
                    {"sweep": sweep, "axes": " ".join(grouping), **named, **values} for values in scores_of(members)
                ]
    return pa.Table.from_pylist(found, schema=SUMMARY)


def belongs(row: Row, grouping: Sequence[str]) -> bool:
    """Models without images have no instruction share; only beside their image share does it stand for them."""
    return "instruction_share" not in grouping or "image_share" in grouping or row.get("image_share") != 0


def scores_of(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The columns of each score that a point has."""
    for measure in SUMMARISED:
        scored = [row for row in rows if row[measure.column] is not None]
        if scored:
            yield {"models": len(rows), **point_values(scored, measure)}


def point_values(rows: Sequence[Row], measure: Measure) -> dict[str, Any]:
    """One score of the models at one point."""
    values = [row[measure.column] for row in rows]
    errors = [row[measure.stderr] for row in rows if measure.stderr and row[measure.stderr] is not None]
    complete = COMPLETE.get(measure.name)
    return {
        "score": measure.name,
        "n": len(values),
        "complete": all(row[complete] for row in rows) if complete else None,
        "mean": mean(values),
        "std": deviation(values),
        "lowest": min(values),
        "highest": max(values),
        "test_stderr": mean(errors) if len(errors) == len(rows) else None,
        "seeds": len({seeds_of(row) for row in rows}),
        "seed_std": seed_deviation(rows, measure),
    }


def seed_deviation(rows: Sequence[Row], measure: Measure) -> float | None:
    """Standard deviation over the seeds of models that are equal in all else, pooled over such models.

    sqrt(sum of squared deviations / sum of (seeds - 1)); None where no model has a second seed.
    """
    same: dict[Key, dict[Key, float]] = defaultdict(dict)
    if len({seeds_of(row) for row in rows}) > 1:
        for row in rows:
            same[tuple(axis_value(row, axis) for axis in SLICE_AXES)][seeds_of(row)] = row[measure.column]
    freedom = sum(len(by_seed) - 1 for by_seed in same.values())
    return math.sqrt(math.fsum(squares(by_seed.values()) for by_seed in same.values()) / freedom) if freedom else None
