"""Columns of results.parquet, jobs.parquet and metrics.parquet: the same whatever the sweep (docs/results.md).

Each field's metadata holds its `unit` ("" where it has none) and its `description`.
"""

import pyarrow as pa

from sweep.results.columns import (
    AXES,
    FLAG,
    INTEGER,
    NAMES,
    PAIRS,
    REAL,
    SCORES,
    STRING,
    TIME,
    column,
    table_schema,
)
from sweep.results.summary_schemas import CELLS, DIFFERENCES, SUMMARY


def score_columns(prefix: str, what: str) -> list[pa.Field]:
    """The stable score of one group of tasks and what it is made of."""
    return [
        column(f"{prefix}_stable_score", REAL, "fraction", f"mean of (accuracy - chance) over {what}"),
        column(f"{prefix}_stable_stderr", REAL, "fraction", "its standard error, the tasks taken as independent"),
        column(f"{prefix}_accuracy", REAL, "fraction", f"mean accuracy over {what}"),
        column(f"{prefix}_chance", REAL, "fraction", "mean chance level over the same tasks"),
    ]


def entered_columns(prefix: str) -> list[pa.Field]:
    """What a stable score is the mean of."""
    return [
        column(f"{prefix}_tasks", NAMES, "", f"tasks that {prefix}_stable_score is the mean over"),
        column(
            f"{prefix}_complete",
            FLAG,
            "",
            "whether they are all tasks of the study's score: comparable with the paper's",
        ),
    ]


def hour_columns(unit: str, name: str) -> list[pa.Field]:
    """Own and shared part of one kind of hours."""
    return [
        column(
            f"{name}_own", REAL, unit, "jobs that this model alone needs (fine-tune, evaluation), lost work included"
        ),
        column(
            f"{name}_shared", REAL, unit, "its equal part of the jobs that several models need (trunk, image-text run)"
        ),
    ]


RESULTS = table_schema(
    "results",
    [
        column("sweep", STRING, "", "name of the sweep"),
        column("cell", STRING, "", "name of the cell"),
        column("block", STRING, "", "label of the sweep file's block that the cell comes from"),
        column("key", STRING, "", "key of the fine-tune job, which makes the model"),
        column("pretrain_key", STRING, "", "key of the image-text job"),
        column("evaluate_key", STRING, "", "key of the evaluation job"),
        column("state", STRING, "", "state of the first job of the chain that is not done; done if there is none"),
        *AXES,
        *score_columns("vision", "the vision tasks, held-out ones apart"),
        *score_columns("heldout_vision", "the held-out vision tasks"),
        *score_columns("text", "the text tasks"),
        column("bits_per_byte", REAL, "bits/byte", "loss on held-out text, mean over the tasks of kind loss"),
        column("scores", SCORES, "fraction", "every task: score, standard error, chance level, number of examples"),
        column("pretrain_loss", REAL, "nats/token", "training loss at the end of the image-text run"),
        column("finetune_loss", REAL, "nats/token", "training loss at the end of the fine-tune"),
        column("text_tokens", INTEGER, "tokens", "text tokens of trunk and image-text run, captions included"),
        column("image_tokens", INTEGER, "tokens", "image tokens of trunk and image-text run"),
        column("finetune_tokens", INTEGER, "tokens", "tokens of the fine-tune, image tokens included"),
        *hour_columns("A100-hours", "a100_hours"),
        *hour_columns("GPU-hours", "gpu_hours"),
        *hour_columns("CPU-core-hours", "cpu_hours"),
        column("finished_at", TIME, "", "end of the evaluation"),
        column("code_revision", STRING, "", "revisions of the code that ran the chain, in order, joined by a space"),
        column("versions", PAIRS, "", "package -> version, as the last finished job of the chain recorded them"),
        column("planned_a100_hours_own", REAL, "A100-hours", "the plan's estimate of the jobs in a100_hours_own"),
        column("planned_a100_hours_shared", REAL, "A100-hours", "its equal part of the estimates of shared jobs"),
        *entered_columns("vision"),
        *entered_columns("text"),
        column("vision_z_score", REAL, "standard deviations", "mean over vision_z_metrics of the distance to the mean"),
        column("vision_z_metrics", NAMES, "", "those of the z-score's eight metrics that the evaluation has"),
    ],
)

JOBS = table_schema(
    "jobs",
    [
        column("sweep", STRING, "", "name of the sweep"),
        column("key", STRING, "", "content address of the job"),
        column("stage", STRING, "", "pretrain, finetune or evaluate"),
        column("phase", STRING, "", "trunk, pretrain, finetune or evaluate"),
        column("state", STRING, "", "as in `sweep status`"),
        column("parents", NAMES, "", "keys of the jobs that it builds on"),
        column("cells", NAMES, "", "names of the cells that need it"),
        column("models", INTEGER, "models", "fine-tuned models that need it: its cost is shared by so many"),
        column(
            "attempts", INTEGER, "attempts", "executions so far, those that failed before an attempt began included"
        ),
        column("node", STRING, "", "machine of the last attempt"),
        column("backend", STRING, "", "what ran the last attempt"),
        column("gpu_type", STRING, "", "GPU type of the last attempt"),
        column("gpus", INTEGER, "GPUs", "of the last attempt, all nodes together"),
        column("cpus", INTEGER, "CPU cores", "of the last attempt, all nodes together"),
        column("started_at", TIME, "", "start of the first attempt"),
        column("finished_at", TIME, "", "end of the job: its result, else its last attempt's end"),
        column("planned_a100_hours", REAL, "A100-hours", "estimate of the plan"),
        column("planned_gpu_hours", REAL, "GPU-hours", "estimate of the plan"),
        column("planned_cpu_hours", REAL, "CPU-core-hours", "estimate of the plan, cores beside GPUs included"),
        column("used_a100_hours", REAL, "A100-hours", "allocated and kept"),
        column("used_gpu_hours", REAL, "GPU-hours", "allocated and kept"),
        column("used_cpu_hours", REAL, "CPU-core-hours", "allocated and kept"),
        column("wasted_a100_hours", REAL, "A100-hours", "allocated for work that no later checkpoint kept"),
        column("wasted_gpu_hours", REAL, "GPU-hours", "allocated for work that no later checkpoint kept"),
        column("wasted_cpu_hours", REAL, "CPU-core-hours", "allocated for work that no later checkpoint kept"),
        column("hours_source", STRING, "", "slurm: the cluster's accounting; attempts: their own records; mixed: both"),
        column("run_seconds", REAL, "seconds", "training or evaluation time of all attempts, as the stage measured it"),
        column("steps", INTEGER, "steps", "optimizer steps at the end"),
        column("tokens", INTEGER, "tokens", "of this job, image tokens included"),
        column("image_tokens", INTEGER, "tokens", "of this job"),
        column("images", INTEGER, "images", "of this job"),
        column("tokens_per_second", REAL, "tokens/second", "throughput"),
        column("loss", REAL, "nats/token", "training loss at the end"),
        column("bad_samples", INTEGER, "samples", "skipped because they could not be read"),
        column("checkpoint_bytes", INTEGER, "bytes", "size of the files that the result names"),
        column("failure", STRING, "", "class of the last attempt's failure; null where it did not fail"),
        column("failure_message", STRING, "", "one line"),
        column("code_revision", STRING, "", "revision of the code that ran it"),
        column("versions", PAIRS, "", "package -> version"),
        column("model", STRING, "", "language model's name in the sweep file"),
        column(
            "overstated_seconds",
            INTEGER,
            "seconds",
            "wall time in the cluster's accounting after the attempts' own ends",
        ),
    ],
)

METRICS = table_schema(
    "metrics",
    [
        column("key", STRING, "", "the job's key: joins with jobs.parquet"),
        column("step", INTEGER, "steps", "optimizer step; null for an evaluation"),
        column(
            "tokens", INTEGER, "tokens", "since the job's first step, image tokens included; null for an evaluation"
        ),
        column("name", STRING, "", "loss, lr, losses.text...; an evaluation's are TASK/METRIC"),
        column("value", REAL, "", "the metric's value, in the metric's own unit"),
    ],
)

SCHEMAS: dict[str, pa.Schema] = {
    "results": RESULTS,
    "jobs": JOBS,
    "metrics": METRICS,
    "cells": CELLS,
    "summary": SUMMARY,
    "differences": DIFFERENCES,
}
