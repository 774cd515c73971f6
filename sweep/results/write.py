"""Writes the tables and summary.txt, computed at every call; each file is whole or absent."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.reconcile.accounting import AccountingRecord
from jobs.store.paths import Store, open_replacement
from jobs.store.reading import name_file
from sweep.results.answers import load_answers
from sweep.results.comparisons import (
    ScoreDifference,
    build_contrasts_table,
    build_differences_table,
    build_points_table,
    compute_differences,
    format_best_epochs,
    format_effects_table,
    format_fixed_tables,
)
from sweep.results.contrasts import Contrast, ScoredModel, compute_contrasts
from sweep.results.evidence import JobEvidence, UncountedRuns, find_uncounted_runs, load_job_evidence
from sweep.results.left_jobs import load_left_jobs
from sweep.results.lineage import ModelChain, list_model_chains
from sweep.results.schemas import METRICS
from sweep.results.scores import group_tasks, parse_task_scores
from sweep.results.summary import JOB_COLUMNS, format_hours_table, format_summary_table, join_tables
from sweep.results.tables import build_cells_table, build_jobs_table, build_results_table, iter_metric_batches
from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)

COMPRESSION = "zstd"
JSON_ONLY_COLUMNS = ("scores", "versions")
"""Nested columns that only the JSON needs: without them the rows convert in half the time."""


@dataclass(frozen=True, slots=True)
class BuiltTables:
    """All tables but the metrics, which may be too long for memory, and what they are made of."""

    tables: Mapping[str, pa.Table]
    """By name; `results` is the last."""
    rows: Sequence[dict[str, Any]]
    """Rows of `results` without the columns `JSON_ONLY_COLUMNS`."""
    differences: Sequence[ScoreDifference]
    contrasts: Sequence[Contrast]
    evidence: Mapping[str, JobEvidence]
    """Of the plan's jobs, by key."""
    left: Mapping[str, JobEvidence]
    """Of jobs that left the plan."""
    chains: Sequence[ModelChain]
    uncounted: UncountedRuns


@dataclass(frozen=True, slots=True)
class WrittenTables:
    """What was written, except metrics.parquet, which may be too long for memory."""

    results: pa.Table
    jobs: pa.Table
    rows: Sequence[dict[str, Any]]
    """Rows of `results` without the columns `JSON_ONLY_COLUMNS`."""
    differences: Sequence[ScoreDifference]
    contrasts: Sequence[Contrast]
    uncounted: UncountedRuns
    paths: tuple[Path, ...]
    """Of the seven files."""
    chains: Sequence[ModelChain]
    evidence: Mapping[str, JobEvidence]
    """What the tables were built from, by key; jobs that left the plan included."""


def write_tables(stored: StoredSweep, endings: Mapping[str, Sequence[AccountingRecord]] | None = None) -> WrittenTables:
    """All tables of docs/results.md in the sweep's results folder.

    `endings`: what the cluster knows of ended executions, by key; by default those of the sweep's snapshot. The same
    evidence gives the same bytes. Raises OSError if the store refuses a write: that file is then as before.
    """
    built = build_tables(stored, endings)
    paths = {name: stored.paths.results / f"{name}.parquet" for name in ("metrics", *built.tables)}
    write_parquet(paths["metrics"], METRICS, iter_metric_batches(iter_metric_logs(stored.store, built.evidence)))
    for name, table in built.tables.items():
        write_parquet(paths[name], table.schema, table.to_batches())
    return WrittenTables(
        results=built.tables["results"],
        jobs=built.tables["jobs"],
        rows=built.rows,
        differences=built.differences,
        contrasts=built.contrasts,
        uncounted=built.uncounted,
        paths=tuple(paths.values()),
        chains=built.chains,
        evidence={**built.evidence, **built.left},
    )


def build_tables(stored: StoredSweep, endings: Mapping[str, Sequence[AccountingRecord]] | None = None) -> BuiltTables:
    """The same tables, and nothing is written."""
    snapshot = stored.load_snapshot(whole_account=True)
    if endings is not None:
        snapshot.reload(replace(snapshot.cluster, observations=snapshot.observed, accounting_records=endings))
    evidence = load_job_evidence(snapshot)
    chains = list_model_chains(stored.manifest)
    sweep = stored.manifest.sweep
    results = build_results_table(sweep, chains, evidence)
    left = load_left_jobs(snapshot)
    jobs = build_jobs_table(sweep, chains, evidence, left)
    rows = results.drop_columns([*JSON_ONLY_COLUMNS]).to_pylist()
    models = list_scored_models(chains, rows, evidence)
    answers = load_answers(stored.store, {model.key: evidence[model.key].result or {} for model in models})
    contrasts = compute_contrasts(models, answers)
    found = compute_differences(rows, contrasts)
    tables = {
        "jobs": jobs,
        "cells": build_cells_table(rows),
        "summary": build_points_table(sweep, rows),
        "differences": build_differences_table(sweep, found),
        "contrasts": build_contrasts_table(sweep, contrasts),
        # Why: docs/decisions.md, D55
        "results": results,  # the last: its time says when all of them were written
    }
    return BuiltTables(
        tables=tables,
        rows=rows,
        differences=found,
        contrasts=contrasts,
        evidence=evidence,
        left=left,
        chains=chains,
        uncounted=find_uncounted_runs(snapshot),
    )


def list_scored_models(
    chains: Sequence[ModelChain], rows: Sequence[dict[str, Any]], evidence: Mapping[str, JobEvidence]
) -> list[ScoredModel]:
    """The models whose evaluation has a result, with what contrasts need. `rows`: those of results.parquet."""
    found = []
    for chain, row in zip(chains, rows, strict=True):
        result = evidence[chain.evaluate].result
        if result is None:
            continue
        tasks = parse_task_scores(result)
        runs: dict[str, tuple[str, ...]] = {}
        for key in chain.keys:
            phase = evidence[key].job.phase
            runs[phase] = (*runs.get(phase, ()), key)
        found.append(
            ScoredModel(
                row=row,
                scores={task.task: task.score for task in tasks},
                groups={name: tuple(task.task for task in group) for name, group in group_tasks(tasks).items()},
                runs=runs,
            )
        )
    return found


def iter_metric_logs(
    store: Store, evidence: Mapping[str, JobEvidence]
) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Key, path of metrics.jsonl and content of result.json (or {}) of each job that has begun."""
    for key, found in evidence.items():
        if found.outcomes or found.result is not None:
            yield key, store.locate_run(found.job.stage, key).metrics, found.result or {}


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes the file batch by batch, so that memory stays bounded."""
    rows = 0
    try:
        # opened here and not by the library, which says "error closing file" and keeps the reason to itself
        with open_replacement(path) as unfinished, unfinished.open("wb") as file:
            writer = pq.ParquetWriter(file, schema, compression=COMPRESSION)
            try:
                with writer:
                    for batch in batches:
                        writer.write_batch(batch)
                        rows += batch.num_rows
            finally:
                writer.is_open = False  # or its destructor closes once more, and prints what the disk says to that
    except OSError as error:
        raise name_file(error, path) from None  # the library's own name no file
    logger.info("%s: %d rows written", path, rows)


def format_results_summary(tables: WrittenTables) -> str:
    """Text of summary.txt: scored models, effects of the axes, the best numbers of epochs, hours."""
    models = format_summary_table(tables.rows) or "no model has scores yet\n"
    return join_tables(
        models,
        format_effects_table(tables.differences),
        format_fixed_tables(tables.contrasts),
        format_best_epochs(tables.rows),
        format_hours_summary(tables),
    )


def format_hours_summary(tables: WrittenTables) -> str:
    """Planned, used and wasted hours by model and stage; empty before anything has run."""
    return format_hours_table(tables.jobs.select(list(JOB_COLUMNS)).to_pylist())


def write_summary(folder: Path, text: str) -> Path:
    """Writes summary.txt and returns its path."""
    path = folder / "summary.txt"
    with open_replacement(path) as unfinished:
        unfinished.write_text(text or "no model has scores yet\n", encoding="utf-8")
    return path


# Refreshes the tables after something has finished.


def refresh_tables(stored: StoredSweep) -> WrittenTables | None:
    """Writes tables and summary if any result is newer than they are; else None."""
    written = read_table_time(stored)
    newest = max((read_result_time(stored, job.stage, job.key) for job in stored.manifest.jobs), default=0.0)
    if newest <= written:
        return None
    tables = write_tables(stored)
    write_summary(stored.paths.results, format_results_summary(tables))
    return tables


def read_table_time(stored: StoredSweep) -> float:
    """Unix seconds at which the tables were written; 0 if never."""
    try:
        return (stored.paths.results / "results.parquet").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def read_result_time(stored: StoredSweep, stage: str, key: str) -> float:
    """Unix seconds at which the job's result was written; 0 if it has none."""
    try:
        return stored.store.locate_run(stage, key).result.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return 0.0
