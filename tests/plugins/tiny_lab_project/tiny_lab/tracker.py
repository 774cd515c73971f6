"""A tracker that keeps a file of JSON lines beside the job's own."""

import json
from collections.abc import Mapping

from stages.trackers import TrackedRun


class Notebook:
    """notebook.jsonl in the job's folder."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = run.folder / "notebook.jsonl"
        self._append({"name": run.name, "sweep": run.sweep, "cells": list(run.cells), "axes": dict(run.axes)})

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._append({"step": step, "loss": figures["loss"]})

    def write_scores(self, figures: Mapping[str, float]) -> None:
        self._append(dict(figures))

    def close(self) -> None:
        self._append({"closed": True})

    def _append(self, line: Mapping[str, object]) -> None:
        with self._path.open("a") as file:
            file.write(f"{json.dumps(line)}\n")


def open_notebook(run: TrackedRun) -> Notebook:
    """The tracker of one attempt of a job."""
    return Notebook(run)
