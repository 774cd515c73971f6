"""Learning rates and training losses of a trunk and of the image-text runs that branch from it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sweep.results.figures.panels import AFTER_ALL_TEXT
from sweep.results.figures.style import (
    GREY,
    DrawnFigure,
    FigureLegend,
    OmittedFigure,
    build_handle,
    build_hollow_handle,
    select_style,
    start_figure,
)
from sweep.results.figures.words import (
    LEGEND_TITLES,
    format_axis_label,
    format_held_axes,
    join_sentences,
    list_varied_axes,
)
from sweep.results.slices import SLICE_AXES, Row, is_in_slice, select_held_values

# What was logged: thinned while it is read, as a long run has millions of lines.

MOST_VALUES = 4096
"""Values of a curve that are kept; beyond, neighbours are averaged."""
LOGGED = ("lr", "loss")
PER_SOURCE = "losses."


@dataclass(slots=True)
class LoggedCurve:
    """One metric of one run: steps, and means over `stride` log lines each."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add_points(self, steps: Iterable[float], values: Iterable[float]) -> None:
        """Appends points; halves their number by averaging neighbours once there are too many."""
        self.steps += steps
        self.values += values
        while len(self.steps) > MOST_VALUES:
            even = len(self.steps) // 2 * 2
            self.steps = np.reshape(self.steps[:even], (-1, 2)).mean(axis=1).tolist() + self.steps[even:]
            self.values = np.reshape(self.values[:even], (-1, 2)).mean(axis=1).tolist() + self.values[even:]


Curves = Mapping[str, Mapping[str, LoggedCurve]]
"""Key of a job, name of a metric, curve."""


def load_curves(metrics: Path, keys: Collection[str]) -> Curves:
    """The learning rates and losses of these jobs from metrics.parquet, batch by batch."""
    found: dict[str, dict[str, LoggedCurve]] = {key: {} for key in keys}
    wanted = pa.array(sorted(keys), pa.string())
    with pq.ParquetFile(metrics) as file:
        for batch in file.iter_batches(columns=["key", "step", "name", "value"]):
            name = batch.column("name")
            logged = pc.or_(pc.is_in(name, pa.array(LOGGED)), pc.starts_with(name, PER_SOURCE))
            kept = batch.filter(
                pc.and_(pc.and_(logged, pc.is_valid(batch.column("step"))), pc.is_in(batch.column("key"), wanted))
            )
            groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for key, step, metric, value in zip(*(column.to_pylist() for column in kept.columns), strict=True):
                groups.setdefault((key, metric), []).append((step, value))
            for (key, metric), points in groups.items():
                found[key].setdefault(metric, LoggedCurve()).add_points(*zip(*points, strict=True))
    return found


# Which runs a figure shows.


@dataclass(frozen=True, slots=True)
class BranchedRuns:
    """A trunk and the image-text runs that branch from it, which differ in their branch point only."""

    trunk: Sequence[str]
    """Keys of its segments, in order."""
    branches: Mapping[float, str]
    """Branch point in percent to the key of its image-text run."""
    starts: Mapping[float, str]
    """Branch point to the key of the segment at whose end it is."""
    caption: str


def select_branched_runs(rows: Sequence[Row], jobs: Sequence[Mapping[str, Any]]) -> BranchedRuns:
    """The runs of one model: all axes but the branch point at the value that most finished runs have
    (of those with images, if there are any), the lowest seed.

    `jobs`: rows of jobs.parquet.
    """
    parents = {job["key"]: job["parents"] for job in jobs}
    trained = [row for row in rows if row["pretrain_loss"] is not None]
    basis = [row for row in trained if row["image_share"]] or trained or rows
    held = select_held_values(basis, [axis for axis in SLICE_AXES if axis not in {"branch", "epochs"}])
    shown = [row for row in rows if is_in_slice(row, held)]
    seed = min((row["seed"] for row in shown if row["seed"] is not None), default=None)
    branches = {
        row["branch"]: row["pretrain_key"] for row in shown if row["seed"] == seed and row["branch"] is not None
    }
    trunks = {branch: list_trunk(parents, key) for branch, key in sorted(branches.items())}
    caption = format_held_axes(held, list_varied_axes(rows))
    if len({row["seed"] for row in rows}) > 1:
        caption += f", seed {seed}"
    return BranchedRuns(
        trunk=list(dict.fromkeys(key for segments in trunks.values() for key in segments)),
        branches=dict(sorted(branches.items())),
        starts={branch: segments[-1] for branch, segments in trunks.items() if segments},
        caption=caption,
    )


def list_trunk(parents: Mapping[str, Sequence[str]], key: str) -> list[str]:
    """The segments that a run goes back to, the first one first."""
    found: list[str] = []
    while parents.get(key):
        key = parents[key][0]
        found.append(key)
    return found[::-1]


# Learning rates.


def draw_learning_rates(runs: BranchedRuns, curves: Curves) -> DrawnFigure | OmittedFigure:
    """The learning rate against the step: of the trunk, with the branch points, and of the image-text runs."""
    name = "learning_rate"
    if not any("lr" in curves[key] for key in (*runs.trunk, *runs.branches.values())):
        return OmittedFigure(name, "no run has logged a learning rate yet")
    caption = join_sentences(runs.caption, "one run each, nothing averaged")
    figure = draw_run_panels(runs, curves, ("lr",), caption=caption, label="learning rate")
    return DrawnFigure(name, "Learning rates of trunk and image-text runs", caption, figure)


def draw_losses(runs: BranchedRuns, curves: Curves) -> DrawnFigure | OmittedFigure:
    """Training losses against the step: of the trunk, and of the image-text runs for each source of data."""
    name = "loss"
    if not any("loss" in curves[key] for key in (*runs.trunk, *runs.branches.values())):
        return OmittedFigure(name, "no run has logged a loss yet")
    sources = sorted({each for key in runs.branches.values() for each in curves[key] if each.startswith(PER_SOURCE)})
    caption = join_sentences(
        runs.caption, f"one run each; training loss, each point the mean over 1/{MOST_BINS} of the run"
    )
    figure = draw_run_panels(runs, curves, sources or ["loss"], caption=caption, label="loss (nats/token)")
    return DrawnFigure(name, "Training losses of trunk and image-text runs", caption, figure)


MOST_BINS = 60
"""Points of a drawn curve."""


def draw_run_panels(runs: BranchedRuns, curves: Curves, metrics: Sequence[str], *, caption: str, label: str) -> Figure:
    """A panel for the trunk, if there is one, and one for each metric of the image-text runs."""
    values = list(runs.branches)
    handles = [
        build_handle(
            format_axis_label("branch", value), select_style(index, len(values)), hollow=value == AFTER_ALL_TEXT
        )
        for index, value in enumerate(values)
    ]
    if AFTER_ALL_TEXT in values:
        handles.append(build_hollow_handle())
    trunk_metric = "lr" if metrics == ("lr",) else "loss"
    trunk = [curve for curve in (curves[key].get(trunk_metric) for key in runs.trunk) if curve]
    figure, places = start_figure(
        bool(trunk) + len(metrics), heading=caption, legend=FigureLegend(LEGEND_TITLES["branch"], handles)
    )
    if trunk:
        ends = {
            branch: curves[key][trunk_metric].steps[-1]
            for branch, key in runs.starts.items()
            if trunk_metric in curves[key] and curves[runs.branches[branch]]
        }
        draw_trunk(places[0], trunk, {value: ends.get(value) for value in values}, binned=trunk_metric == "loss")
        places[0].set_title("Text trunk")
    for axes, metric in zip(places[bool(trunk) :], metrics, strict=True):
        for index, (value, key) in enumerate(runs.branches.items()):
            if curve := curves[key].get(metric):
                steps, levels = resample_curve(curve) if metric != "lr" else (curve.steps, curve.values)
                draw_curve(axes, steps, levels, index, len(values), hollow=value == AFTER_ALL_TEXT)
        source = metric.removeprefix(PER_SOURCE)
        axes.set_title("Image-text runs" + (f": {source}" if source != metric else ""))
    for axes in places:
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(axis="y")
    return figure


def draw_trunk(
    axes: Axes, segments: Sequence[LoggedCurve], branches: Mapping[float, float | None], *, binned: bool
) -> None:
    """The trunk's curve, with a marker at each branch point that it has passed. `branches`: percent to step."""
    whole = LoggedCurve()
    for step, value in sorted(point for each in segments for point in zip(each.steps, each.values, strict=True)):
        whole.add_points([step], [value])
    steps, levels = resample_curve(whole) if binned else (whole.steps, whole.values)
    axes.plot(steps, levels, color=GREY, linewidth=0.9)
    for index, (branch, place) in enumerate(branches.items()):
        if place is not None:
            look = select_style(index, len(branches))
            axes.plot(
                [place],
                [np.interp(place, steps, levels)],
                linestyle="none",
                marker=look.marker,
                color=look.colour,
                markerfacecolor="white" if branch == AFTER_ALL_TEXT else look.colour,
                zorder=3,
            )


def draw_curve(
    axes: Axes, steps: Sequence[float], values: Sequence[float], index: int, count: int, *, hollow: bool
) -> None:
    """One run's curve with a few markers, at different places for different runs."""
    look = select_style(index, count)
    every = max(1, len(steps) // 6)
    axes.plot(
        steps,
        values,
        color=look.colour,
        linestyle=look.line,
        linewidth=0.9,
        marker=look.marker,
        markersize=3.2,
        markerfacecolor="white" if hollow else look.colour,
        markevery=(index * every // max(count, 1), every),
    )


def resample_curve(curve: LoggedCurve) -> tuple[list[float], list[float]]:
    """Means over at most `MOST_BINS` equal parts of the run; numbers that are not finite are left out."""
    steps, values = np.asarray(curve.steps), np.asarray(curve.values)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    parts = np.array_split(np.arange(len(steps)), min(MOST_BINS, max(len(steps), 1)))
    kept = [part for part in parts if len(part)]
    return [float(steps[part].mean()) for part in kept], [float(values[part].mean()) for part in kept]
