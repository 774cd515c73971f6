"""The tables' columns are fixed, documented and carried by the files."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.results.schemas import SCHEMAS
from tests.sweep.results.results_run import written_tables
from tests.sweep.synthetic_store import Grid, toy

DOCUMENT = Path(__file__).parents[3] / "docs" / "results.md"
UNITS = {
    "", "parameters", "percent", "fraction", "multiples", "epochs", "bits/byte", "nats/token", "tokens", "A100-hours",
    "GPU-hours", "CPU-core-hours", "models", "attempts", "GPUs", "CPU cores", "seconds", "steps", "images",
    "tokens/second", "samples", "bytes", "standard deviations",
}  # fmt: skip


def metadata(field: pa.Field, name: str) -> str:
    return str((field.metadata or {})[name.encode()].decode())


def test_every_column_has_a_description_and_a_known_unit() -> None:
    for schema in SCHEMAS.values():
        for field in schema:
            assert metadata(field, "description"), field.name
            assert metadata(field, "unit") in UNITS, field.name


def test_the_document_fixes_every_column_with_order_type_unit_and_description() -> None:
    text = DOCUMENT.read_text()
    assert set(re.findall(r"^## (.+)\.parquet$", text, flags=re.MULTILINE)) == set(SCHEMAS)
    for table, schema in SCHEMAS.items():
        section = re.split(r"^## ", text.split(f"## {table}.parquet\n")[1], flags=re.MULTILINE)[0]
        shown = [line for line in section.splitlines() if line.startswith("| `")]
        assert shown == [
            f"| `{field.name}` | {field.type} | {metadata(field, 'unit')} | {metadata(field, 'description')} |"
            for field in schema
        ]


def test_the_files_carry_the_schemas_with_their_metadata(tmp_path: Path) -> None:
    written = toy(tmp_path, Grid(branches=(0,), shares=(0.5,), epochs=(1,)))
    written_tables(written)
    folder = written.store.locate_sweep("toy").results
    for table, schema in SCHEMAS.items():
        found = pq.read_schema(folder / f"{table}.parquet")
        assert found.equals(schema)
        assert found.metadata == schema.metadata
        assert [field.metadata for field in found] == [field.metadata for field in schema]


def test_another_grid_gives_the_same_columns(tmp_path: Path) -> None:
    one = written_tables(toy(tmp_path / "1", Grid(branches=(0,), shares=(0.0,), epochs=(1,))))
    two = written_tables(toy(tmp_path / "2", Grid(branches=(0, 50), shares=(0.5,), epochs=(1, 4), seeds=(1, 2))))
    assert one.results.schema == two.results.schema
    assert one.jobs.schema == two.jobs.schema
