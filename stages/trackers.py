"""Trackers: places that show the curves and scores of jobs, besides the files of the store.

TensorBoard and Weights & Biases are built in, others come from packages (entry point `sweep.trackers`). Each package is
loaded only if the settings name it.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stages.errors import ConfigError
from stages.job_file import BUILT_IN_TRACKERS, JobFile
from stages.plugins import TRACKERS, find_plugin

UNPLOTTED_FIELDS = {"step", "first_step", "total_steps", "time"}
"""Figures of a log line that make no curve."""
LONGEST_NAME = 128
"""Letters of a name that W&B takes."""


class Tracker(Protocol):
    """A place that shows curves."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of a log line, at its step. What an attempt does again comes again, with equal figures."""
        ...

    def write_scores(self, figures: Mapping[str, float]) -> None:
        """Of an evaluation: `score/TASK`, `stderr/TASK`, `chance/TASK`, of the tasks that are scored so far."""
        ...

    def close(self) -> None:
        """Writes what is still in memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of the job."""

    key: str
    """The same for all attempts of the job."""
    name: str
    """Cell and phase for people; the key of a job that is run by hand."""
    sweep: str
    """Groups the runs; empty for a job that is run by hand."""
    phase: str
    cell: str
    """The first of the cells that the job serves."""
    cells: tuple[str, ...]
    """All of them."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """Of the first cell."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The stage's own."""
    folder: Path
    """The job's: files go below it."""
    board: Path | None = None
    """Where TensorBoard finds the job by its name; None for one that is run by hand."""
    step: int = 0
    """The step that this attempt goes on behind."""

    def build_settings(self) -> dict[str, Any]:
        """Everything that one may want to sort runs by, as JSON types."""
        about = {
            "key": self.key, "sweep": self.sweep, "phase": self.phase, "cell": self.cell, "cells": list(self.cells),
            "axes": dict(self.axes),
        }  # fmt: skip
        return {**self.configuration, **{name: value for name, value in about.items() if value}}


OpenTracker = Callable[[TrackedRun], Tracker]
"""What an entry point of `sweep.trackers` names (docs/add-a-tracker.md)."""


def describe_tracked_run(job: JobFile, step: int = 0) -> TrackedRun:
    """What trackers are told of a job that goes on behind `step`."""
    origin = job.origin
    return TrackedRun(
        key=job.key,
        name=origin.label or job.key,
        sweep=origin.sweep,
        phase=origin.phase or job.stage,
        cell=origin.cells[0] if origin.cells else "",
        cells=origin.cells,
        axes=origin.axes,
        configuration={"stage": job.stage, **job.config.model_dump(mode="json")},
        folder=job.run,
        board=job.run / origin.board if origin.board else None,
        step=step,
    )


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """The trackers of these names. ConfigError where a package is missing or broken, before any work is done."""
    found: list[Tracker] = []
    for name in names:
        try:
            opened = OPEN[name](run) if name in OPEN else open_plugin_tracker(name, run)
        except ImportError as error:
            raise ConfigError(
                f"settings.trackers has {name}, whose package is missing ({error}); pip install 'sweep-vlm[track]'"
            ) from error
        found.append(GuardedTracker(name, opened))
    return found


@contextmanager
def hold_trackers(trackers: list[Tracker]) -> Iterator[list[Tracker]]:
    """Closes them at the end of the block, whatever ends it."""
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()


def open_plugin_tracker(name: str, run: TrackedRun) -> Tracker:
    """PluginError if no package has it, several have it, or it cannot be loaded."""
    plugin = find_plugin(TRACKERS, name, BUILT_IN_TRACKERS)
    opener: OpenTracker = plugin.load()
    if not callable(opener):
        raise plugin.build_type_error(opener, "a function of stages.trackers.TrackedRun")
    opened = opener(run)
    if missing := [method for method in ("write", "write_scores", "close") if not callable(getattr(opened, method, 0))]:
        raise plugin.build_type_error(opened, f"a tracker, as it has no {missing[0]}()")
    return opened


# Why: docs/decisions.md, D203
class GuardedTracker:
    """A tracker whose failure is told once and ends nothing: the store has every figure."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker, self._broken = name, tracker, False

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._try(lambda: self._tracker.write(step, figures))

    def write_scores(self, figures: Mapping[str, float]) -> None:
        self._try(lambda: self._tracker.write_scores(figures))

    def close(self) -> None:
        self._try(self._tracker.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a page of curves must not end a run of a thousand GPU-hours
            self._broken = True
            print(
                f"tracker {self._name} has failed and gets no more of this attempt ({type(error).__name__}: {error}); "
                "metrics.jsonl and result.json have all figures",
                file=sys.stderr,
            )


def build_score_figures(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`score/TASK`, `stderr/TASK` and `chance/TASK` of the entries of result.json."""
    return {
        f"{name}/{task}": float(entry[name])
        for task, entry in scores.items()
        for name in ("score", "stderr", "chance")
        if isinstance(entry.get(name), int | float)
    }


def select_curves(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that make a curve."""
    return {name: value for name, value in figures.items() if name not in UNPLOTTED_FIELDS}


class TensorBoard:
    """Event files in the job's folder `tensorboard`, one an attempt. What is done again replaces what was there.

    A link by cell and phase leads there from the sweep's own folder, so that TensorBoard shows names and not keys. The
    cell's axes are hyperparameters, the scores their metrics.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=run.step + 1)
        if run.board is not None:
            make_board_link(run.board, folder)
        self._writer.add_text("run", f"    {json.dumps(run.build_settings(), indent=1)}".replace("\n", "\n    "), 0)
        self._write_hyperparameters({})

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in select_curves(figures).items():
            self._writer.add_scalar(name, value, step)

    def write_scores(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, 0)
        self._write_hyperparameters(figures)

    def _write_hyperparameters(self, figures: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        given = {**self._run.axes, **({"phase": self._run.phase} if self._run.axes else {})}
        shown = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in given.items()
            if value is not None
        }
        if shown:
            # not by add_hparams, whose second file in the folder would hide what is written to the first later on
            file: Any = self._writer.file_writer
            for summary in hparams(shown, dict(figures)):  # type: ignore[no-untyped-call]
                file.add_summary(summary)

    def close(self) -> None:
        self._writer.close()


def make_board_link(place: Path, folder: Path) -> None:
    """A link at `place` that leads to `folder`. Where the file system has no links, a line says so."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(folder, place.parent)
        if place.is_symlink() and place.readlink() == Path(target):
            return
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        beside.symlink_to(target, target_is_directory=True)
        beside.replace(place)
    except OSError as error:
        print(f"tensorboard: no link by the job's name: {error}; its curves are in {folder}", file=sys.stderr)


class WandB:
    """A run that is known by the job's key, so that attempts continue it; its name is for people, its group the sweep.

    Project, key, mode (offline) and the like come from W&B's own environment variables. W&B keeps the first figures
    that it is given for a step: an attempt that does steps again, with equal results, adds nothing to them.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        # below the folder W&B makes its own, `wandb`
        self._run = wandb.init(
            dir=str(run.folder),
            id=run.key,
            name=run.name[:LONGEST_NAME],
            group=run.sweep[:LONGEST_NAME] or None,
            job_type=run.phase or None,
            resume="allow",
            config=run.build_settings(),
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(select_curves(figures), step=step)

    def write_scores(self, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures))
        self._run.summary.update(dict(figures))  # what the table of runs sorts by

    def close(self) -> None:
        self._run.finish()


OPEN: Mapping[str, OpenTracker] = {"tensorboard": TensorBoard, "wandb": WandB}
