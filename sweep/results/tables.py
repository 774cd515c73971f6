"""Rows of jobs.parquet, results.parquet, cells.parquet and metrics.parquet, in this order."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from jobs.job import Job
from jobs.reconcile.attempts import AttemptRecord
from jobs.store.reading import open_to_read, parse_object
from stages.config import PretrainConfig
from sweep.results.evidence import ExecutionHours, JobEvidence, parse_number, parse_text_pairs, parse_whole_number
from sweep.results.lineage import ModelChain, count_models_by_job, group_cells_by_job, map_jobs_to_model_names
from sweep.results.schemas import AXES, BRANCH_STEP, CELL_AXES, CELLS, JOBS, METRICS, RESULTS
from sweep.results.scores import build_score_columns, compute_z_scores, extract_z_metrics, parse_task_scores
from sweep.results.slices import SUMMARISED_MEASURES, TEXT, VISION, Measure, Row

# jobs.parquet: every job of the sweep once, with its whole cost.

NUMBERS = {"seconds": "run_seconds", "tokens_per_second": "tokens_per_second", "loss": "loss"}
"""Numbers of result.json: field to column."""
COUNTS = ("steps", "tokens", "image_tokens", "images", "bad_samples")
"""Whole numbers of result.json; their columns have the same names."""


LEFT_STATE = "left"
"""State of a job that an edit took out of the plan after it had been run."""


def build_jobs_table(
    sweep: str,
    chains: Sequence[ModelChain],
    evidence: Mapping[str, JobEvidence],
    left: Mapping[str, JobEvidence] | None = None,
) -> pa.Table:
    """The table, jobs in the manifest's order, and behind them those that left the plan and took some time before."""
    cells, models, names = group_cells_by_job(chains), count_models_by_job(chains), map_jobs_to_model_names(chains)
    rows = [
        {
            "sweep": sweep,
            "cells": cells.get(key, []),
            "models": models[key],
            "model": names.get(key),
            **build_job_columns(found),
            "in_plan": True,
        }
        for key, found in evidence.items()
    ]
    rows += [
        {
            "sweep": sweep,
            "cells": [],
            "models": 0,
            **build_job_columns(found),
            **dict.fromkeys(PLANNED_COLUMNS, 0.0),
            "state": LEFT_STATE,
            "in_plan": False,
        }
        for found in (left or {}).values()
        if found.costs.source is not None
    ]
    return pa.Table.from_pylist(rows, schema=JOBS)


def build_job_columns(found: JobEvidence) -> dict[str, Any]:
    """The columns that come from the job alone, not from its place in the sweep."""
    job = found.job
    return {
        "key": job.key,
        "stage": job.stage,
        "phase": job.phase,
        "state": found.state,
        "parents": list(job.parents),
        **build_planned_columns(job),
        **build_job_cost_columns(found),
        **build_attempt_columns(found.outcomes, done=found.done),
        **build_result_columns(found.result),
        "started_at": convert_to_milliseconds(found.outcomes[0].start.started_at) if found.outcomes else None,
        "finished_at": convert_to_milliseconds(found.finished_at),
        "code_revision": found.code_revision,
    }


PLANNED_COLUMNS = ("planned_a100_hours", "planned_gpu_hours", "planned_cpu_hours")


def build_planned_columns(job: Job) -> dict[str, Any]:
    """Hours that the plan estimates."""
    estimate, resources = job.estimate, job.resources
    # Cores of a job on GPUs are allocated for as long as its GPUs.
    beside = estimate.gpu_hours * resources.nodes * resources.cpus / resources.gpus if resources.gpus else 0.0
    return {
        "planned_a100_hours": estimate.a100_hours,
        "planned_gpu_hours": estimate.gpu_hours,
        "planned_cpu_hours": estimate.cpu_hours + beside,
    }


def build_job_cost_columns(found: JobEvidence) -> dict[str, Any]:
    """Hours of the executions that have ended."""
    used, wasted = found.costs.used, found.costs.wasted
    return {
        "used_a100_hours": used.a100_hours,
        "used_gpu_hours": used.gpu_hours,
        "used_cpu_hours": used.cpu_hours,
        "wasted_a100_hours": wasted.a100_hours,
        "wasted_gpu_hours": wasted.gpu_hours,
        "wasted_cpu_hours": wasted.cpu_hours,
        "hours_source": found.costs.source,
        "overstated_seconds": found.costs.overstated_seconds if found.costs.source else None,
        "gpu_kinds": found.costs.gpu_kinds or None,
        "hours_remark": found.costs.remark or None,
    }


def build_attempt_columns(outcomes: Sequence[AttemptRecord], *, done: bool) -> dict[str, Any]:
    """Number of attempts; node, resources and failure of the last one, or of the one that finished the job."""
    if not outcomes:
        return {"attempts": 0}
    last = outcomes[-1]
    if done:
        last = next((each for each in reversed(outcomes) if each.end and each.failure is None), last)
    return {
        "attempts": len(outcomes),
        "node": last.node,
        "backend": last.start.backend,
        "gpu_type": last.start.gpu_type or None,
        "gpus": last.start.gpus,
        "cpus": last.start.cpus,
        "failure": str(last.failure) if last.failure else None,
        "failure_message": last.end.message if last.end and last.failure else None,
    }


def build_result_columns(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """Columns of a valid result.json; empty without one."""
    if result is None:
        return {}
    sizes = [parse_whole_number(size) or 0 for size in result["files"].values()]
    return {
        **{column: parse_number(result.get(field)) for field, column in NUMBERS.items()},
        **{name: parse_whole_number(result.get(name)) for name in COUNTS},
        "checkpoint_bytes": sum(sizes),
        "versions": parse_text_pairs(result.get("versions")),
    }


def convert_to_milliseconds(seconds: float | None) -> int | None:
    """Unix seconds as Unix milliseconds; None where there is none, or none that a timestamp holds."""
    return round(1000 * seconds) if seconds and math.isfinite(seconds) and abs(seconds) < 1e11 else None


# results.parquet: every fine-tuned model with its axes, scores, tokens and cost.

AXIS_TYPES = {field.name: field.type for field in AXES if field.name not in {"parameters", "epochs", "overrides"}}
"""Axes of a cell in the manifest that have a column of their own, with its type."""
NO_OVERRIDES = AXIS_TYPES.keys() | {BRANCH_STEP.name}


def build_results_table(sweep: str, chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]) -> pa.Table:
    """The table, models in the manifest's order. What is not known of an unfinished model is null."""
    shares = count_models_by_job(chains)
    configs = load_pretrain_configs(chains, evidence)
    compared = build_z_score_columns(chains, evidence)
    rows = [
        {
            "sweep": sweep,
            "parameters": count_parameters(configs.get(chain.cell.pretrain)),
            **build_axis_columns(chain.cell.axes),
            BRANCH_STEP.name: count_trunk_steps(evidence[chain.cell.pretrain], configs),
            **build_token_columns(evidence[chain.cell.pretrain], configs),
            **build_model_columns(chain, [evidence[key] for key in chain.keys]),
            **compared.get(chain.evaluate, {}),
            **build_cost_columns([(evidence[key].costs.total, shares[key]) for key in chain.keys]),
            **build_planned_cost_columns([(evidence[key].job.estimate.a100_hours, shares[key]) for key in chain.keys]),
            "hours_remark": join_remarks(evidence[key].costs.remark for key in chain.keys),
        }
        for chain in chains
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS)


def build_axis_columns(axes: Mapping[str, Any]) -> dict[str, Any]:
    """Axes with a column in it; all others, such as dotted settings, in `overrides` as JSON."""
    values = {name: convert_to_column_type(axes.get(name), kind) for name, kind in AXIS_TYPES.items()}
    others = sorted((name, json.dumps(value)) for name, value in axes.items() if name not in NO_OVERRIDES)
    return {**values, "overrides": others}


def convert_to_column_type(value: Any, kind: pa.DataType) -> Any:
    """`value` in the type of its column; None where it is of another type."""
    if pa.types.is_floating(kind):
        return parse_number(value)
    if pa.types.is_integer(kind):
        return parse_whole_number(value)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    return None if value is None else str(value)


def build_model_columns(chain: ModelChain, jobs: Sequence[JobEvidence]) -> dict[str, Any]:
    """Keys, state, scores and tokens of one model; `jobs`: those of its chain."""
    by_key = {found.job.key: found for found in jobs}
    pretrain, finetune, evaluate = (by_key[key] for key in (chain.cell.pretrain, chain.finetune, chain.evaluate))
    finished = [found for found in jobs if found.result is not None]
    return {
        "cell": chain.cell.name,
        "block": chain.cell.block or None,
        "key": chain.finetune,
        "pretrain_key": chain.cell.pretrain,
        "evaluate_key": chain.evaluate,
        "state": compute_chain_state(chain.evaluate, by_key),
        "epochs": chain.epochs,
        **(build_score_columns(parse_task_scores(evaluate.result)) if evaluate.result else {}),
        "pretrain_loss": find_result_number(pretrain, "loss"),
        "finetune_loss": find_result_number(finetune, "loss"),
        "finetune_tokens": parse_whole_number(find_result_number(finetune, "tokens")),
        "finished_at": convert_to_milliseconds(evaluate.finished_at) if evaluate.result else None,
        "code_revision": " ".join(dict.fromkeys(found.code_revision for found in jobs if found.code_revision)) or None,
        "versions": parse_text_pairs(finished[-1].result.get("versions")) if finished and finished[-1].result else None,
    }


def build_z_score_columns(
    chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]
) -> dict[str, dict[str, Any]]:
    """The z-score columns, by key of the evaluation. Each model is compared with all models of this sweep."""
    results = {chain.evaluate: evidence[chain.evaluate].result for chain in chains}
    metrics = {key: extract_z_metrics(result) for key, result in results.items() if result}
    scores = compute_z_scores(metrics)
    return {
        key: {"vision_z_score": scores.get(key), "vision_z_metrics": list(found)}
        for key, found in metrics.items()
        if found
    }


def find_result_number(found: JobEvidence, name: str) -> float | None:
    """A number of the job's result; None without one."""
    return parse_number(found.result.get(name)) if found.result else None


def compute_chain_state(key: str, jobs: Mapping[str, JobEvidence]) -> str:
    """State of the first unfinished job among `key` and its ancestors; `done` if there is none."""
    found = jobs[key]
    if found.done:
        return found.state
    waits_for = next((parent for parent in found.job.parents if not jobs[parent].done), None)
    return compute_chain_state(waits_for, jobs) if waits_for else found.state


def load_pretrain_configs(
    chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]
) -> dict[str, PretrainConfig | None]:
    """By key. None for a job with the configuration of another program: its model and tokens are unknown."""
    keys = {key for chain in chains for key in chain.keys if evidence[key].job.stage == "pretrain"}
    configs: dict[str, PretrainConfig | None] = dict.fromkeys(keys)
    for key in keys:
        with suppress(ValidationError):
            configs[key] = PretrainConfig.model_validate(dict(evidence[key].job.config))
    return configs


def count_parameters(config: PretrainConfig | None) -> int | None:
    """Parameters of the language model, as the paper's tables count them."""
    return config.model.parameters if config else None


def count_trunk_steps(pretrain: JobEvidence, configs: Mapping[str, PretrainConfig | None]) -> int | None:
    """Steps of the trunk before the image-text run, by the plan; None where the trunk is another program's."""
    trunks = [configs.get(parent) for parent in pretrain.job.parents]
    return None if None in trunks else sum(trunk.last_step for trunk in trunks if trunk)


def build_token_columns(pretrain: JobEvidence, configs: Mapping[str, PretrainConfig | None]) -> dict[str, Any]:
    """Text and image tokens of trunk and image-text run together; empty before that run has a result."""
    # The trunk's tokens come from the plan. A segment's result counts from where another sweep may have cut the trunk.
    tokens, images = (
        parse_whole_number(find_result_number(pretrain, "tokens")),
        parse_whole_number(find_result_number(pretrain, "image_tokens")),
    )
    trunks = [configs.get(parent) for parent in pretrain.job.parents]
    if tokens is None or images is None or None in trunks:
        return {}
    before = sum(trunk.last_step * trunk.step_tokens for trunk in trunks if trunk)
    return {"text_tokens": before + tokens - images, "image_tokens": images}


def build_cost_columns(costs: Iterable[tuple[ExecutionHours, int]]) -> dict[str, Any]:
    """Own and shared hours of one model. `costs`: hours of each job of its chain, and how many models need the job."""
    own, shared = ExecutionHours(), ExecutionHours()
    for cost, models in costs:
        if models == 1:
            own += cost
        else:
            shared += cost.divide_by(models)
    return {
        "a100_hours_own": own.a100_hours,
        "a100_hours_shared": shared.a100_hours,
        "gpu_hours_own": own.gpu_hours,
        "gpu_hours_shared": shared.gpu_hours,
        "cpu_hours_own": own.cpu_hours,
        "cpu_hours_shared": shared.cpu_hours,
    }


def join_remarks(remarks: Iterable[str]) -> str | None:
    """Each remark once; None without any."""
    return "; ".join(dict.fromkeys(filter(None, remarks))) or None


def build_planned_cost_columns(hours: Iterable[tuple[float, int]]) -> dict[str, float]:
    """The same for the A100-hours that the plan estimates."""
    found = list(hours)
    return {
        "planned_a100_hours_own": sum(each for each, models in found if models == 1),
        "planned_a100_hours_shared": sum(each / models for each, models in found if models > 1),
    }


# cells.parquet: every cell with the best of its fine-tuned models, by each score.

KEPT_COLUMNS = ("sweep", "cell", "block", *(field.name for field in CELL_AXES), BRANCH_STEP.name)
"""Columns in which the models of a cell are equal."""
WITH_ERROR = (VISION, TEXT)
"""Scores whose standard error has a column."""


def build_cells_table(rows: Sequence[Row]) -> pa.Table:
    """The table from the rows of results.parquet, cells in the manifest's order."""
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    return pa.Table.from_pylist([build_cell_row(models) for models in cells.values()], schema=CELLS)


def build_cell_row(models: Sequence[Row]) -> dict[str, Any]:
    """The row of one cell; `models`: its rows of results.parquet."""
    finished = [row for row in models if row["state"] == "done"]
    values: dict[str, Any] = {name: models[0][name] for name in KEPT_COLUMNS}
    values |= {"models": len(models), "finished": len(finished)}
    for measure in SUMMARISED_MEASURES:
        best = find_best_by(measure, finished)
        if best is None:
            continue
        values |= {f"{measure.name}_best_epochs": best["epochs"], f"{measure.name}_best": best[measure.column]}
        if measure in WITH_ERROR:
            values[f"{measure.name}_best_stderr"] = best[measure.stderr]
        if measure is VISION:
            values["text_at_vision_best"] = best[TEXT.column]
    return values | {unit: sum_hours(models, unit) for unit in ("a100_hours", "cpu_hours")}


def find_best_by(measure: Measure, rows: Iterable[Row]) -> Row | None:
    """The row with the best score by `measure`, among equals that of the fewest epochs; None without a score."""
    scored = [row for row in rows if row[measure.column] is not None]
    sign = -1 if measure.higher_is_better else 1
    return min(scored, key=lambda row: (sign * row[measure.column], row["epochs"]), default=None)


def sum_hours(rows: Iterable[Row], unit: str) -> float | None:
    """Own and shared hours of all rows; None where one is not known. `unit`: a100_hours or cpu_hours."""
    parts = [row[f"{unit}_{part}"] for row in rows for part in ("own", "shared")]
    return None if None in parts else sum(parts)


# metrics.parquet: what stages logged and evaluations measured, one value a row.

BATCH_ROWS = 500_000
"""Rows of a batch: bounds memory to some 40 MB, however long the runs are."""
NOT_METRICS = {"step", "tokens"}


class MetricColumns:
    """A batch of rows, column by column."""

    def __init__(self) -> None:
        self.key: list[str] = []
        self.step: list[int | None] = []
        self.tokens: list[int | None] = []
        self.name: list[str] = []
        self.value: list[float] = []

    def add_row(self, key: str, step: int | None, tokens: int | None, values: Mapping[str, float]) -> None:
        count = len(values)
        self.key += [key] * count
        self.step += [step] * count
        self.tokens += [tokens] * count
        self.name += values.keys()
        self.value += values.values()

    def build_batch(self) -> pa.RecordBatch:
        columns = [getattr(self, field.name) for field in METRICS]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, METRICS, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=METRICS)


def iter_metric_batches(logs: Iterable[tuple[str, Path, Mapping[str, Any]]]) -> Iterator[pa.RecordBatch]:
    """Batches of rows: for each job the lines of its log, then the scores of its result.

    `logs`: (key, path of metrics.jsonl, content of result.json or {}).
    """
    columns = MetricColumns()
    for key, path, result in logs:
        for entry in iter_log_entries(path):
            columns.add_row(
                key,
                parse_whole_number(entry.get("step")),
                parse_whole_number(entry.get("tokens")),
                flatten_numbers(entry),
            )
            if len(columns.key) >= BATCH_ROWS:
                yield columns.build_batch()
                columns = MetricColumns()
        columns.add_row(key, None, None, flatten_score_metrics(result))
    if columns.key:
        yield columns.build_batch()


def iter_log_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, line by line. Half-written and damaged lines are skipped."""
    try:
        with open_to_read(path) as log:
            for line in log:
                with suppress(ValueError):
                    yield parse_object(line)
    except (FileNotFoundError, NotADirectoryError):
        return


def flatten_numbers(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a log line; those of a nested object as `outer.inner`."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            found |= flatten_numbers(value, f"{prefix}{name}.")
        elif prefix or name not in NOT_METRICS:
            real = parse_number(value)
            if real is not None:
                found[prefix + name] = real
    return found


def flatten_score_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of an evaluation as TASK/METRIC, with TASK/score, /stderr, /chance and /n."""
    scores = result.get("scores")
    found: dict[str, float] = {}
    for task, entry in sorted(scores.items()) if isinstance(scores, dict) else []:
        if isinstance(entry, dict):
            metrics = entry.get("metrics")
            summary = {name: entry.get(name) for name in ("score", "stderr", "chance", "n")}
            values = {**(metrics if isinstance(metrics, dict) else {}), **summary}
            found |= {f"{task}/{name}": value for name, value in sorted(flatten_numbers(values).items())}
    return found
