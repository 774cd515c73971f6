"""Rows of metrics.parquet: what the stages logged and what the evaluations found, one value a row."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sweep.results.schemas import METRICS
from sweep.results.values import number, whole

BATCH_ROWS = 500_000
"""Rows of a batch: some 40 MB in memory, whatever the length of the runs."""
NOT_METRICS = {"step", "tokens"}


class Columns:
    """The columns of a batch that grows."""

    def __init__(self) -> None:
        self.key: list[str] = []
        self.step: list[int | None] = []
        self.tokens: list[int | None] = []
        self.name: list[str] = []
        self.value: list[float] = []

    def add(self, key: str, step: int | None, tokens: int | None, values: Mapping[str, float]) -> None:
        count = len(values)
        self.key += [key] * count
        self.step += [step] * count
        self.tokens += [tokens] * count
        self.name += values.keys()
        self.value += values.values()

    def batch(self) -> pa.RecordBatch:
        columns = [getattr(self, field.name) for field in METRICS]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, METRICS, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=METRICS)


def metric_batches(logs: Iterable[tuple[str, Path, Mapping[str, Any]]]) -> Iterator[pa.RecordBatch]:
    """`logs` are (key, metrics.jsonl, result or {}): the log's lines, then the scores of an evaluation's result."""
    columns = Columns()
    for key, path, result in logs:
        for entry in log_entries(path):
            columns.add(key, whole(entry.get("step")), whole(entry.get("tokens")), numbers(entry))
            if len(columns.key) >= BATCH_ROWS:
                yield columns.batch()
                columns = Columns()
        columns.add(key, None, None, score_metrics(result))
    if columns.key:
        yield columns.batch()


def log_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, line by line; a torn or damaged line is passed over."""
    try:
        with path.open("rb") as log:
            for line in log:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict):
                    yield entry
    except (FileNotFoundError, NotADirectoryError):
        return


def numbers(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numeric values of a log line; those of a nested object under `outer.inner`."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}.")
        elif prefix or name not in NOT_METRICS:
            real = number(value)
            if real is not None:
                found[prefix + name] = real
    return found


def score_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of an evaluation as TASK/METRIC, and its score, stderr and chance level as TASK/score..."""
    scores = result.get("scores")
    found: dict[str, float] = {}
    for task, entry in sorted(scores.items()) if isinstance(scores, dict) else []:
        if isinstance(entry, dict):
            metrics = entry.get("metrics")
            summary = {name: entry.get(name) for name in ("score", "stderr", "chance", "n")}
            values = {**(metrics if isinstance(metrics, dict) else {}), **summary}
            found |= {f"{task}/{name}": value for name, value in sorted(numbers(values).items())}
    return found
