"""Columns of cells.parquet, summary.parquet and differences.parquet: what the study's questions are answered from."""

import pyarrow as pa

from sweep.results.columns import AXES, FLAG, INTEGER, REAL, STRING, column, table_schema

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
