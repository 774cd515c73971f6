"""Columns of the seven Parquet tables, the same for every sweep (docs/results.md).

The metadata of each field have its `unit` ("" where it has none) and its `description`.
"""

import pyarrow as pa

# Parts of the schemas: types, a column with unit and description, the columns of a model's axes.

STRING = pa.string()
INTEGER = pa.int64()
REAL = pa.float64()
FLAG = pa.bool_()
TIME = pa.timestamp("ms", tz="UTC")


def make_list_type(kind: pa.DataType) -> pa.DataType:
    """A list type that a file gives back as it was written: Parquet calls the items `element`."""
    return pa.list_(pa.field("element", kind))


NAMES = make_list_type(STRING)
PAIRS = pa.map_(STRING, STRING)
SCORES = make_list_type(
    pa.struct(
        [
            pa.field("task", STRING),
            pa.field("kind", STRING),
            pa.field("score", REAL),
            pa.field("stderr", REAL),
            pa.field("chance", REAL),
            pa.field("n", INTEGER),
            pa.field("low", REAL),
            pa.field("high", REAL),
            pa.field("clusters", INTEGER),
        ]
    )
)

SCHEMA_VERSION = "1"
"""Increased when a column changes its meaning or is removed, not for a new column at the end."""


def define_column(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    """One column, with its unit and description as metadata."""
    return pa.field(name, kind, metadata={"unit": unit, "description": description})


def define_table_schema(table: str, columns: list[pa.Field]) -> pa.Schema:
    """The schema of one table."""
    return pa.schema(columns, metadata={"table": table, "schema_version": SCHEMA_VERSION})


AXES = [
    define_column("model", STRING, "", "language model's name in the sweep file"),
    define_column(
        "parameters", INTEGER, "parameters", "language model with embedding and output layer, without qk-norm gains"
    ),
    define_column("branch", REAL, "percent", "share of the text budget that was trained before images came in"),
    define_column("image_share", REAL, "fraction", "share of the image part (captions and instructions) in the mix"),
    define_column("instruction_share", REAL, "fraction", "share of instruction data within the image part"),
    define_column("captions", STRING, "", "source of the captions"),
    define_column("encoder", STRING, "", "vision encoder"),
    define_column("freeze_encoder", FLAG, "", "whether the vision encoder's weights stayed as they were"),
    define_column(
        "amount", REAL, "multiples", "budget of the image-text run, in Chinchilla budgets (20 tokens a parameter)"
    ),
    define_column("text_multiplier", REAL, "multiples", "budget of the whole text trunk, in Chinchilla budgets"),
    define_column(
        "lr_at_branch", STRING, "", "learning rate with which the image-text run begins: the sweep file's word"
    ),
    define_column("seed", INTEGER, "", "seed of the cell"),
    define_column("epochs", INTEGER, "epochs", "passes over the fine-tuning data"),
    define_column("overrides", PAIRS, "", "axes of the sweep that have no column: dotted name -> value as JSON"),
]


# cells, summary, differences and contrasts.parquet: the answers to the study's questions.

BRANCH_STEP = define_column(
    "branch_step", INTEGER, "steps", "optimizer steps of the text trunk that were done before images came in"
)
CELL_AXES = [field for field in AXES if field.name != "epochs"]
POINT_AXES = [field for field in AXES if field.name not in {"parameters", "seed"}]


def define_best_columns(prefix: str, unit: str, what: str) -> list[pa.Field]:
    """Best score of one kind among the models of a cell, and the number of epochs of that model."""
    return [
        define_column(f"{prefix}_best_epochs", INTEGER, "epochs", f"epochs of the finished model with the best {what}"),
        define_column(f"{prefix}_best", REAL, unit, f"its {what}"),
    ]


CELLS = define_table_schema(
    "cells",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column("cell", STRING, "", "name of the cell"),
        define_column("block", STRING, "", "label of the sweep file's block that the cell comes from"),
        *CELL_AXES,
        define_column("models", INTEGER, "models", "fine-tuned models that the plan makes of it"),
        define_column("finished", INTEGER, "models", "of these, evaluated"),
        *define_best_columns("vision", "fraction", "vision_stable_score"),
        define_column("vision_best_stderr", REAL, "fraction", "its standard error"),
        define_column("text_at_vision_best", REAL, "fraction", "text_stable_score of the same model"),
        *define_best_columns("heldout_vision", "fraction", "heldout_vision_stable_score"),
        *define_best_columns("text", "fraction", "text_stable_score"),
        define_column("text_best_stderr", REAL, "fraction", "its standard error"),
        *define_best_columns("bits_per_byte", "bits/byte", "bits_per_byte, the lowest"),
        *define_best_columns("vision_z", "standard deviations", "vision_z_score"),
        define_column("a100_hours", REAL, "A100-hours", "its models' own and shared hours together"),
        define_column("cpu_hours", REAL, "CPU-core-hours", "its models' own and shared hours together"),
        BRANCH_STEP,
    ],
)

SUMMARY = define_table_schema(
    "summary",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column(
            "axes", STRING, "", "axes that tell the rows apart, with spaces; of the study's others the row is a mean"
        ),
        *POINT_AXES,
        define_column("score", STRING, "", "vision, heldout_vision, text, bits_per_byte or vision_z"),
        define_column("models", INTEGER, "models", "fine-tuned models of the plan at this point"),
        define_column("n", INTEGER, "models", "of these, those that have the score: the row is their mean"),
        define_column(
            "complete", FLAG, "", "whether the score of all of them is the study's (vision_complete, text_complete)"
        ),
        define_column("mean", REAL, "", "mean score, in the unit of the score's column in results.parquet"),
        define_column("std", REAL, "", "standard deviation over these models; null for one"),
        define_column("lowest", REAL, "", "lowest score of these models"),
        define_column("highest", REAL, "", "highest score of these models"),
        define_column("test_stderr", REAL, "", "mean of the models' standard errors: they share the test sets"),
        define_column("seeds", INTEGER, "", "different seeds among these models"),
        define_column(
            "seed_std", REAL, "", "standard deviation over seeds of models that are equal in all else, pooled"
        ),
    ],
)


def define_paired_columns() -> list[pa.Field]:
    """A difference paired by question: its interval, and how likely it is without an effect."""
    return [
        define_column("paired_stderr", REAL, "", "standard error, paired by question and clustered by image"),
        define_column("low", REAL, "", "95 % interval of the difference, from here"),
        define_column("high", REAL, "", "to here"),
        define_column("p_value", REAL, "", "two-sided p-value of no difference, by t"),
        define_column("p_holm", REAL, "", "the same, adjusted by Holm over the contrasts of the axis and score"),
        define_column("noise", STRING, "", "what noise the interval holds: questions, or questions+seeds"),
    ]


DIFFERENCES = define_table_schema(
    "differences",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column("model", STRING, "", "language model's name in the sweep file"),
        define_column("axis", STRING, "", "the one axis in which the models of a pair differ"),
        define_column("first", STRING, "", "its value in the one model, as text: 80, 0.1, true"),
        define_column("second", STRING, "", "its value in the other"),
        define_column("score", STRING, "", "vision, heldout_vision, text, bits_per_byte or vision_z"),
        define_column("pairs", INTEGER, "", "pairs of cells, the mean over their epochs each"),
        define_column("models", INTEGER, "models", "models at the second value that have a partner at the first"),
        define_column("difference", REAL, "", "mean over the pairs of (score at second - score at first)"),
        define_column("stderr", REAL, "", "its standard error by the spread over the pairs; null for one pair"),
        define_column(
            "test_stderr", REAL, "", "standard error of one pair's difference by the test sets, mean over the pairs"
        ),
        *define_paired_columns(),
    ],
)

CONTRASTS = define_table_schema(
    "contrasts",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column(
            "level",
            STRING,
            "",
            "model: a pair of models, all other axes fixed; cell: two cells, mean over epochs; average: over all pairs",
        ),
        define_column("model", STRING, "", "language model's name in the sweep file"),
        define_column("axis", STRING, "", "the one axis in which the models of a pair differ"),
        define_column("first", STRING, "", "its value in the one model, as text: 80, 0.1, true"),
        define_column("second", STRING, "", "its value in the other"),
        define_column("score", STRING, "", "vision, heldout_vision, text or bits_per_byte; or a task's name"),
        define_column("is_task", FLAG, "", "whether it is one task's score"),
        *(field for field in POINT_AXES if field.name != "model"),
        define_column("pairs", INTEGER, "", "pairs of cells, the mean over their epochs each; seeds count apart"),
        define_column("models", INTEGER, "models", "models at the second value that have a partner at the first"),
        define_column("seeds", INTEGER, "", "different seeds among them"),
        define_column("tasks", NAMES, "", "tasks that the score is the mean over"),
        define_column("questions", INTEGER, "", "questions of these tasks"),
        define_column("clusters", INTEGER, "", "images and passages that the questions are about"),
        define_column("difference", REAL, "", "mean over the pairs of (score at second - score at first)"),
        *define_paired_columns(),
        define_column("freedom", REAL, "", "degrees of freedom of t"),
        define_column("family", STRING, "", "contrasts among which p_holm is adjusted: model, axis, score, level"),
        define_column("family_size", INTEGER, "", "how many they are"),
        define_column(
            "shared_draws", NAMES, "", "phases of training that there was one draw of: no bar has their noise"
        ),
        define_column("note", STRING, "", "why there is no interval"),
    ],
)


def define_score_columns(prefix: str, what: str) -> list[pa.Field]:
    """The stable score of one group of tasks, its standard error, and the two means it is the difference of."""
    return [
        define_column(f"{prefix}_stable_score", REAL, "fraction", f"mean of (accuracy - chance) over {what}"),
        define_column(
            f"{prefix}_stable_stderr", REAL, "fraction", "its standard error, the tasks taken as independent"
        ),
        define_column(f"{prefix}_accuracy", REAL, "fraction", f"mean accuracy over {what}"),
        define_column(f"{prefix}_chance", REAL, "fraction", "mean chance level over the same tasks"),
    ]


def define_entered_columns(prefix: str) -> list[pa.Field]:
    """The tasks of a stable score, and whether they are the study's."""
    return [
        define_column(f"{prefix}_tasks", NAMES, "", f"tasks that {prefix}_stable_score is the mean over"),
        define_column(
            f"{prefix}_complete",
            FLAG,
            "",
            "whether they are all tasks of the study's score: comparable with the paper's",
        ),
    ]


def define_interval_columns(prefix: str) -> list[pa.Field]:
    """95 % interval of a stable score by its test sets."""
    return [
        define_column(
            f"{prefix}_low", REAL, "fraction", f"{prefix}_stable_score is from here, in 95 % of draws of questions,"
        ),
        define_column(f"{prefix}_high", REAL, "fraction", "to here"),
    ]


def define_hour_columns(unit: str, name: str) -> list[pa.Field]:
    """Own and shared hours of one kind; `name`: beginning of the columns' names."""
    return [
        define_column(
            f"{name}_own", REAL, unit, "jobs that this model alone needs (fine-tune, evaluation), lost work included"
        ),
        define_column(
            f"{name}_shared", REAL, unit, "its equal part of the jobs that several models need (trunk, image-text run)"
        ),
    ]


RESULTS = define_table_schema(
    "results",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column("cell", STRING, "", "name of the cell"),
        define_column("block", STRING, "", "label of the sweep file's block that the cell comes from"),
        define_column("key", STRING, "", "key of the fine-tune job, which makes the model"),
        define_column("pretrain_key", STRING, "", "key of the image-text job"),
        define_column("evaluate_key", STRING, "", "key of the evaluation job"),
        define_column(
            "state", STRING, "", "state of the first job of the chain that is not done; done if there is none"
        ),
        *AXES,
        *define_score_columns("vision", "the vision tasks, held-out ones apart"),
        *define_score_columns("heldout_vision", "the held-out vision tasks"),
        *define_score_columns("text", "the text tasks"),
        define_column("bits_per_byte", REAL, "bits/byte", "loss on held-out text, mean over the tasks of kind loss"),
        define_column(
            "scores",
            SCORES,
            "fraction",
            "every task: score, standard error, chance level, number of examples, 95 % interval, number of images",
        ),
        define_column("pretrain_loss", REAL, "nats/token", "training loss at the end of the image-text run"),
        define_column("finetune_loss", REAL, "nats/token", "training loss at the end of the fine-tune"),
        define_column("text_tokens", INTEGER, "tokens", "text tokens of trunk and image-text run, captions included"),
        define_column("image_tokens", INTEGER, "tokens", "image tokens of trunk and image-text run"),
        define_column("finetune_tokens", INTEGER, "tokens", "tokens of the fine-tune, image tokens included"),
        *define_hour_columns("A100-hours", "a100_hours"),
        *define_hour_columns("GPU-hours", "gpu_hours"),
        *define_hour_columns("CPU-core-hours", "cpu_hours"),
        define_column("finished_at", TIME, "", "end of the evaluation"),
        define_column(
            "code_revision", STRING, "", "revisions of the code that ran the chain, in order, joined by a space"
        ),
        define_column("versions", PAIRS, "", "package -> version, as the last finished job of the chain recorded them"),
        define_column(
            "planned_a100_hours_own", REAL, "A100-hours", "the plan's estimate of the jobs in a100_hours_own"
        ),
        define_column(
            "planned_a100_hours_shared", REAL, "A100-hours", "its equal part of the estimates of shared jobs"
        ),
        *define_entered_columns("vision"),
        *define_entered_columns("text"),
        define_column(
            "vision_z_score", REAL, "standard deviations", "mean over vision_z_metrics of the distance to the mean"
        ),
        define_column("vision_z_metrics", NAMES, "", "those of the z-score's eight metrics that the evaluation has"),
        BRANCH_STEP,
        *define_interval_columns("vision"),
        *define_interval_columns("heldout_vision"),
        *define_interval_columns("text"),
    ],
)

JOBS = define_table_schema(
    "jobs",
    [
        define_column("sweep", STRING, "", "name of the sweep"),
        define_column("key", STRING, "", "content address of the job"),
        define_column("stage", STRING, "", "pretrain, finetune or evaluate"),
        define_column("phase", STRING, "", "trunk, pretrain, finetune or evaluate"),
        define_column("state", STRING, "", "as in `sweep status`"),
        define_column("parents", NAMES, "", "keys of the jobs that it builds on"),
        define_column("cells", NAMES, "", "names of the cells that need it"),
        define_column("models", INTEGER, "models", "fine-tuned models that need it: its cost is shared by so many"),
        define_column(
            "attempts", INTEGER, "attempts", "executions so far, those that failed before an attempt began included"
        ),
        define_column("node", STRING, "", "machine of the last attempt"),
        define_column("backend", STRING, "", "what ran the last attempt"),
        define_column("gpu_type", STRING, "", "GPU type of the last attempt"),
        define_column("gpus", INTEGER, "GPUs", "of the last attempt, all nodes together"),
        define_column("cpus", INTEGER, "CPU cores", "of the last attempt, all nodes together"),
        define_column("started_at", TIME, "", "start of the first attempt"),
        define_column("finished_at", TIME, "", "end of the job: its result, else its last attempt's end"),
        define_column("planned_a100_hours", REAL, "A100-hours", "estimate of the plan"),
        define_column("planned_gpu_hours", REAL, "GPU-hours", "estimate of the plan"),
        define_column("planned_cpu_hours", REAL, "CPU-core-hours", "estimate of the plan, cores beside GPUs included"),
        define_column("used_a100_hours", REAL, "A100-hours", "allocated and kept"),
        define_column("used_gpu_hours", REAL, "GPU-hours", "allocated and kept"),
        define_column("used_cpu_hours", REAL, "CPU-core-hours", "allocated and kept"),
        define_column("wasted_a100_hours", REAL, "A100-hours", "allocated for work that no later checkpoint kept"),
        define_column("wasted_gpu_hours", REAL, "GPU-hours", "allocated for work that no later checkpoint kept"),
        define_column("wasted_cpu_hours", REAL, "CPU-core-hours", "allocated for work that no later checkpoint kept"),
        define_column(
            "hours_source", STRING, "", "slurm: the cluster's accounting; attempts: their own records; mixed: both"
        ),
        define_column(
            "run_seconds", REAL, "seconds", "training or evaluation time of all attempts, as the stage measured it"
        ),
        define_column("steps", INTEGER, "steps", "optimizer steps at the end"),
        define_column("tokens", INTEGER, "tokens", "of this job, image tokens included"),
        define_column("image_tokens", INTEGER, "tokens", "of this job"),
        define_column("images", INTEGER, "images", "of this job"),
        define_column("tokens_per_second", REAL, "tokens/second", "throughput"),
        define_column("loss", REAL, "nats/token", "training loss at the end"),
        define_column("bad_samples", INTEGER, "samples", "skipped because they could not be read"),
        define_column("checkpoint_bytes", INTEGER, "bytes", "size of the files that the result names"),
        define_column("failure", STRING, "", "class of the last attempt's failure; null where it did not fail"),
        define_column("failure_message", STRING, "", "one line"),
        define_column("code_revision", STRING, "", "revision of the code that ran it"),
        define_column("versions", PAIRS, "", "package -> version"),
        define_column("model", STRING, "", "language model's name in the sweep file"),
        define_column(
            "overstated_seconds",
            INTEGER,
            "seconds",
            "wall time in the cluster's accounting after the attempts' own ends",
        ),
        define_column("gpu_kinds", STRING, "", "GPUs that the cluster says it allocated, by its own names"),
    ],
)

METRICS = define_table_schema(
    "metrics",
    [
        define_column("key", STRING, "", "the job's key: joins with jobs.parquet"),
        define_column("step", INTEGER, "steps", "optimizer step; null for an evaluation"),
        define_column(
            "tokens", INTEGER, "tokens", "since the job's first step, image tokens included; null for an evaluation"
        ),
        define_column("name", STRING, "", "loss, lr, losses.text...; an evaluation's are TASK/METRIC"),
        define_column("value", REAL, "", "the metric's value, in the metric's own unit"),
    ],
)

SCHEMAS: dict[str, pa.Schema] = {
    "results": RESULTS,
    "jobs": JOBS,
    "metrics": METRICS,
    "cells": CELLS,
    "summary": SUMMARY,
    "differences": DIFFERENCES,
    "contrasts": CONTRASTS,
}
