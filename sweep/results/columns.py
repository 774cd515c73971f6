"""What the tables' schemas are made of: types, columns with unit and description, the columns of a model's axes."""

import pyarrow as pa

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
