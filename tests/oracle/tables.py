"""Parquet tables as text: schemas with all metadata, rows as JSON lines."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

WRITERS_OWN = {"ARROW:schema"}
"""Metadata that pyarrow adds; it differs between its versions."""


def schema_text(path: Path) -> str:
    """The table's metadata, then a line for each column."""
    schema = parquet.read_schema(path)
    lines = [f"{name}: {value}" for name, value in metadata_of(schema.metadata)]
    lines += [f"{field.name} | {field.type} | {metadata_of(field.metadata)}" for field in schema]
    return "\n".join(lines) + "\n"


def metadata_of(metadata: dict[bytes, bytes] | None) -> list[tuple[str, str]]:
    pairs = sorted((metadata or {}).items())
    return [(name.decode(), value.decode()) for name, value in pairs if name.decode() not in WRITERS_OWN]


def rows_text(path: Path) -> str:
    """A JSON object a row, in the table's order; floats with all digits, times in ISO 8601."""
    table: pa.Table = parquet.read_table(path)
    return "".join(json.dumps(plain(row)) + "\n" for row in table.to_pylist())


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
