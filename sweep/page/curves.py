"""Loss curves of all training jobs from metrics.parquet, thinned while they are read."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Floats = npt.NDArray[np.float64]

ALL_POINTS = 48_000
"""Of all curves of a page together."""
FEWEST_POINTS, MOST_POINTS = 12, 64
"""Of one curve."""


@dataclass(frozen=True, slots=True)
class ThinCurve:
    """The training loss of one job. A value is the mean over one of the equal parts of the run."""

    steps: Floats
    values: Floats
    logged: int
    """Losses that the curve was made from."""
    highest: tuple[float, float]
    """Step and value of the highest loss that was logged: a spike does not vanish in the means."""

    def build_json(self) -> list[Any]:
        """Steps as first step and distance where all distances are equal."""
        steps = [round(float(step)) for step in self.steps]
        strides = {later - earlier for earlier, later in pairwise(steps)}
        shortened: list[Any] = [steps[0], strides.pop()] if len(strides) == 1 else [steps]
        values = [float(f"{value:.4g}") for value in self.values]
        return [shortened, values, self.logged, round(self.highest[0]), float(f"{self.highest[1]:.4g}")]


def choose_curve_points(runs: int) -> int:
    """Points of each curve where a page has so many."""
    return max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(runs, 1)))


# Why: docs/decisions.md, D196
def load_thin_curves(metrics: Path, keys: Collection[str]) -> dict[str, ThinCurve]:
    """The curves of these jobs, by key. Losses that are no finite numbers are left out; so are jobs without any."""
    points = choose_curve_points(len(keys))
    wanted = pa.array(sorted(keys), pa.string())
    found: dict[str, ThinCurve] = {}
    for key, steps, values in iter_logged_losses(metrics, wanted):
        finite = np.isfinite(values)
        if finite.any():
            found[key] = thin_curve(steps[finite], values[finite], points)
    return found


def iter_logged_losses(metrics: Path, wanted: pa.Array) -> Iterator[tuple[str, Floats, Floats]]:
    """Key, steps and losses of each job. The file has a job's rows together, so one job at a time is in memory."""
    name, steps, values = "", [np.empty(0)], [np.empty(0)]
    with pq.ParquetFile(metrics) as file:
        for batch in file.iter_batches(columns=["key", "step", "name", "value"]):
            of_loss = pc.and_(pc.equal(batch.column("name"), "loss"), pc.is_valid(batch.column("step")))
            kept = batch.filter(pc.and_(of_loss, pc.is_in(batch.column("key"), wanted)))
            if not kept.num_rows:
                continue
            keys = kept.column("key").dictionary_encode()
            places = keys.indices.to_numpy(zero_copy_only=False)
            bounds = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
            at, loss = (kept.column(each).to_numpy(zero_copy_only=False).astype(float) for each in ("step", "value"))
            for start, end in pairwise(bounds):
                key = keys.dictionary[int(places[start])].as_py()
                if key != name and name:
                    yield name, np.concatenate(steps), np.concatenate(values)
                if key != name:
                    name, steps, values = key, [], []
                steps.append(at[start:end])
                values.append(loss[start:end])
    if name:
        yield name, np.concatenate(steps), np.concatenate(values)


def thin_curve(steps: Floats, values: Floats, points: int) -> ThinCurve:
    """Means over at most `points` equal parts of the run, by step."""
    highest = int(np.argmax(values))
    peak = (float(steps[highest]), float(values[highest]))
    logged = len(steps)
    # a run that went on from a checkpoint, and the end of a run, log a step again
    steps, places = np.unique(steps, return_inverse=True)
    values = np.bincount(places, weights=values) / np.bincount(places)
    first, last = float(steps.min()), float(steps.max())
    if len(steps) <= points:
        return ThinCurve(steps, values, logged, peak)
    part = np.minimum((points * (steps - first) / (last - first)).astype(int), points - 1)
    counts = np.bincount(part, minlength=points)
    sums = np.bincount(part, weights=values, minlength=points)
    there = counts > 0
    middles = first + (np.arange(points) + 0.5) * (last - first) / points
    return ThinCurve(middles[there], sums[there] / counts[there], logged, peak)


def select_evenly(items: Collection[str], most: int) -> list[str]:
    """At most so many of them, at equal distances in their order."""
    listed = list(items)
    if len(listed) <= most:
        return listed
    return [listed[place * len(listed) // most] for place in range(most)]


def build_curves_json(curves: Mapping[str, ThinCurve], rows: Mapping[str, int]) -> dict[str, Any]:
    """The curves by the row of their job in the table of jobs."""
    return {str(rows[key]): curve.build_json() for key, curve in curves.items()}
