"""Tables as pandas' frames."""

from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from sweep.errors import SweepError, UsageError
from sweep.stored_sweep import StoredSweep

if TYPE_CHECKING:
    from collections.abc import Collection

    from pandas import DataFrame

NEEDED = ("pyarrow", "numpy", "scipy", "pandas")


def load_pandas() -> ModuleType:
    """The package; SweepError says how to install what is missing."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise SweepError(f"frames need {' and '.join(missing)}: pip install 'sweep-vlm[report]'")
    import pandas as pd

    return pd


def load_table(stored: StoredSweep, name: str) -> "DataFrame":
    """One of the tables of docs/results.md, computed now from what is on disk; nothing is written.

    In `results`, each override by dotted name has a column of its own, behind those of the file.
    """
    load_pandas()
    from sweep.results.schemas import SCHEMAS
    from sweep.results.summary import list_override_names, read_overrides
    from sweep.results.write import build_tables

    if name == "metrics":
        return load_metrics(stored, [job.key for job in stored.manifest.jobs])
    if name not in SCHEMAS:
        raise UsageError(f"there is no table {name!r}; tables are {', '.join(SCHEMAS)}")
    built = build_tables(stored)
    frame: DataFrame = built.tables[name].to_pandas()
    if name == "results":
        values = [read_overrides(row) for row in built.rows]
        for override in list_override_names(built.rows):
            frame[override] = [each.get(override) for each in values]
    return frame


def load_metrics(stored: StoredSweep, keys: "Collection[str]") -> "DataFrame":
    """The metrics of these jobs, with their phase and the cells that they serve: a row for each job, step and name."""
    pandas = load_pandas()
    import pyarrow as pa

    from sweep.results.evidence import load_job_evidence
    from sweep.results.lineage import group_cells_by_job, list_model_chains
    from sweep.results.schemas import METRICS
    from sweep.results.tables import iter_metric_batches
    from sweep.results.write import iter_metric_logs

    evidence = load_job_evidence(stored.load_snapshot(recent_answers=True, trusts_checked=True))
    chosen = {key: found for key, found in evidence.items() if key in keys}
    batches = list(iter_metric_batches(iter_metric_logs(stored.store, chosen)))
    frame: DataFrame = pa.Table.from_batches(batches, schema=METRICS).to_pandas()
    cells = group_cells_by_job(list_model_chains(stored.manifest))
    jobs = pandas.DataFrame(
        [{"key": key, "phase": found.job.phase, "cells": tuple(cells.get(key, ()))} for key, found in chosen.items()],
        columns=["key", "phase", "cells"],
    )
    merged: DataFrame = jobs.merge(frame, on="key", how="inner")
    return merged
