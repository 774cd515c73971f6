"""Writes the three tables: built anew from evidence at every call, each file whole or absent."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.endings import Ending
from jobs.store import Store, replacing
from sweep.results.chains import model_chains
from sweep.results.evidence import JobEvidence, gather
from sweep.results.hours_table import COLUMNS, hours_table
from sweep.results.jobs_table import jobs_table
from sweep.results.metrics_table import metric_batches
from sweep.results.results_table import results_table
from sweep.results.schemas import METRICS
from sweep.results.summary import joined, summary_table
from sweep.stored_sweep import StoredSweep

COMPRESSION = "zstd"


@dataclass(frozen=True, slots=True)
class Tables:
    """What was written; metrics stay on disk, they may be long."""

    results: pa.Table
    jobs: pa.Table
    paths: tuple[Path, ...]
    """results.parquet, jobs.parquet, metrics.parquet."""


def write_tables(stored: StoredSweep, endings: Mapping[str, Sequence[Ending]] | None = None) -> Tables:
    """results.parquet, jobs.parquet and metrics.parquet in the sweep's results folder.

    `endings`: what the cluster knows of ended executions, by key; by default what the sweep's picture has. The same
    evidence gives the same bytes. Raises OSError if the store refuses a write: that file is then as before.
    """
    picture = stored.picture(whole_account=True)
    if endings is not None:
        picture.judge(picture.by_key, dict(picture.observed), endings)
    evidence = gather(picture)
    chains = model_chains(stored.manifest)
    results = results_table(stored.manifest.sweep, chains, evidence)
    jobs = jobs_table(stored.manifest.sweep, chains, evidence)
    paths = tuple(stored.paths.results / f"{name}.parquet" for name in ("results", "jobs", "metrics"))
    write_parquet(paths[0], results.schema, results.to_batches())
    write_parquet(paths[1], jobs.schema, jobs.to_batches())
    write_parquet(paths[2], METRICS, metric_batches(metric_logs(stored.store, evidence)))
    return Tables(results, jobs, paths)


def metric_logs(store: Store, evidence: Mapping[str, JobEvidence]) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Logs of the jobs that have begun."""
    for key, found in evidence.items():
        if found.outcomes or found.result is not None:
            yield key, store.run(found.job.stage, key).metrics, found.result or {}


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Batch by batch, so that memory stays bounded."""
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression=COMPRESSION) as writer:
        for batch in batches:
            writer.write_batch(batch)


def summary_of(tables: Tables) -> str:
    """All scored models, the best first, and the hours by model and stage."""
    models = summary_table(tables.results.drop_columns(["scores", "versions"]).to_pylist())
    return joined(models or "no model has scores yet\n", hours_of(tables))


def hours_of(tables: Tables) -> str:
    """Planned, used and wasted hours by model and stage; empty before anything has run."""
    return hours_table(tables.jobs.select(list(COLUMNS)).to_pylist())


def write_summary(folder: Path, text: str) -> Path:
    """summary.txt: what `summary_of` says."""
    path = folder / "summary.txt"
    with replacing(path) as unfinished:
        unfinished.write_text(text or "no model has scores yet\n", encoding="utf-8")
    return path
