"""Columns of results.parquet, jobs.parquet and metrics.parquet: the same whatever the sweep (docs/results.md).

Each field's metadata holds its `unit` ("" where it has none) and its `description`.
"""

import pyarrow as pa

# What the tables' schemas are made of: types, columns with unit and description, the columns of a model's axes.

STRING = pa.string()
INTEGER = pa.int64()
REAL = pa.float64()
FLAG = pa.bool_()
TIME = pa.timestamp("ms", tz="UTC")


def list_of(kind: pa.DataType) -> pa.DataType:
    """A list whose type reads back from a file as it was written: Parquet calls the items `element`."""
    return pa.list_(pa.field("element", kind))


NAMES = list_of(STRING)
PAIRS = pa.map_(STRING, STRING)
SCORES = list_of(
    pa.struct(
        [
            pa.field("task", STRING),
            pa.field("kind", STRING),
            pa.field("score", REAL),
            pa.field("stderr", REAL),
            pa.field("chance", REAL),
            pa.field("n", INTEGER),
        ]
    )
)

SCHEMA_VERSION = "1"
"""Raised when a column changes its meaning or goes; a new column at the end keeps it."""


def column(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    """One column, with its unit and description as metadata."""
    return pa.field(name, kind, metadata={"unit": unit, "description": description})


def table_schema(table: str, columns: list[pa.Field]) -> pa.Schema:
    """The schema of one table."""
    return pa.schema(columns, metadata={"table": table, "schema_version": SCHEMA_VERSION})


AXES = [
    column("model", STRING, "", "language model's name in the sweep file"),
    column(
        "parameters", INTEGER, "parameters", "language model with embedding and output layer, without qk-norm gains"
    ),
    column("branch", REAL, "percent", "share of the text budget that was trained before images came in"),
    column("image_share", REAL, "fraction", "share of the image part (captions and instructions) in the mix"),
    column("instruction_share", REAL, "fraction", "share of instruction data within the image part"),
    column("captions", STRING, "", "source of the captions"),
    column("encoder", STRING, "", "vision encoder"),
    column("freeze_encoder", FLAG, "", "whether the vision encoder's weights stayed as they were"),
    column("amount", REAL, "multiples", "budget of the image-text run, in Chinchilla budgets (20 tokens a parameter)"),
    column("text_multiplier", REAL, "multiples", "budget of the whole text trunk, in Chinchilla budgets"),
    column("lr_at_branch", STRING, "", "learning rate with which the image-text run begins: the sweep file's word"),
    column("seed", INTEGER, "", "seed of the cell"),
    column("epochs", INTEGER, "epochs", "passes over the fine-tuning data"),
    column("overrides", PAIRS, "", "axes of the sweep that have no column: dotted name -> value as JSON"),
]


# Columns of cells.parquet, summary.parquet and differences.parquet: what the study's questions are answered from.

CELL_AXES = [field for field in AXES if field.name != "epochs"]
POINT_AXES = [field for field in AXES if field.name not in {"parameters", "seed"}]


def best_columns(prefix: str, unit: str, what: str) -> list[pa.Field]:
    """The number of epochs at which a cell has its best score of one kind."""
    return [
        column(f"{prefix}_best_epochs", INTEGER, "epochs", f"epochs of the finished model with the best {what}"),
        column(f"{prefix}_best", REAL, unit, f"its {what}"),
    ]


CELLS = table_schema(
    "cells",
    [
        column("sweep", STRING, "", "name of the sweep"),
        column("cell", STRING, "", "name of the cell"),
        column("block", STRING, "", "label of the sweep file's block that the cell comes from"),
        *CELL_AXES,
        column("models", INTEGER, "models", "fine-tuned models that the plan makes of it"),
        column("finished", INTEGER, "models", "of these, evaluated"),
        *best_columns("vision", "fraction", "vision_stable_score"),
        column("vision_best_stderr", REAL, "fraction", "its standard error"),
        column("text_at_vision_best", REAL, "fraction", "text_stable_score of the same model"),
        *best_columns("heldout_vision", "fraction", "heldout_vision_stable_score"),
        *best_columns("text", "fraction", "text_stable_score"),
        column("text_best_stderr", REAL, "fraction", "its standard error"),
        *best_columns("bits_per_byte", "bits/byte", "bits_per_byte, the lowest"),
        *best_columns("vision_z", "standard deviations", "vision_z_score"),
        column("a100_hours", REAL, "A100-hours", "its models' own and shared hours together"),
        column("cpu_hours", REAL, "CPU-core-hours", "its models' own and shared hours together"),
    ],
)

SUMMARY = table_schema(
    "summary",
    [
        column("sweep", STRING, "", "name of the sweep"),
        column(
            "axes", STRING, "", "axes that tell the rows apart, with spaces; of the study's others the row is a mean"
        ),
        *POINT_AXES,
        column("score", STRING, "", "vision, heldout_vision, text, bits_per_byte or vision_z"),
        column("models", INTEGER, "models", "fine-tuned models of the plan at this point"),
        column("n", INTEGER, "models", "of these, those that have the score: the row is their mean"),
        column(
            "complete", FLAG, "", "whether the score of all of them is the study's (vision_complete, text_complete)"
        ),
        column("mean", REAL, "", "mean score, in the unit of the score's column in results.parquet"),
        column("std", REAL, "", "standard deviation over these models; null for one"),
        column("lowest", REAL, "", "lowest score of these models"),
        column("highest", REAL, "", "highest score of these models"),
        column("test_stderr", REAL, "", "mean of the models' standard errors: they share the test sets"),
        column("seeds", INTEGER, "", "different seeds among these models"),
        column("seed_std", REAL, "", "standard deviation over seeds of models that are equal in all else, pooled"),
    ],
)

DIFFERENCES = table_schema(
    "differences",
    [
        column("sweep", STRING, "", "name of the sweep"),
        column("model", STRING, "", "language model's name in the sweep file"),
        column("axis", STRING, "", "the one axis in which the models of a pair differ"),
        column("first", STRING, "", "its value in the one model, as text: 80, 0.1, true"),
        column("second", STRING, "", "its value in the other"),
        column("score", STRING, "", "vision, heldout_vision, text, bits_per_byte or vision_z"),
        column("pairs", INTEGER, "", "pairs of cells, the mean over their epochs each"),
        column("models", INTEGER, "models", "models at the second value that have a partner at the first"),
        column("difference", REAL, "", "mean over the pairs of (score at second - score at first)"),
        column("stderr", REAL, "", "its standard error by the spread over the pairs; null for one pair"),
        column(
            "test_stderr", REAL, "", "standard error of one pair's difference by the test sets, mean over the pairs"
        ),
    ],
)


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
