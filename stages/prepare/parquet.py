"""Texts of parquet files, a row group at a time. pyarrow comes with the extra `report`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages.errors import ConfigError, DataError

ROWS = 256


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A pyarrow ParquetFile; DataError for a file that is none, ConfigError where pyarrow is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{path}: parquet needs pyarrow; install the project with its extra `report`") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {' '.join(str(error).split())[:300]}") from error


def row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group, as the file's footer gives them."""
    with _opened(path) as file:
        return [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]


def rows(path: str, group: int, column: str) -> Iterator[tuple[int, object]]:
    """(row of the file, from 1; value) of one row group's column; bytes where a string is no UTF-8."""
    with _opened(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise DataError(f"{path}: no column {column!r}; it has {', '.join(names)[:200]}; name one with --field")
        number = sum(file.metadata.row_group(before).num_rows for before in range(group))
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False):
            for value in _values(batch.column(0)):
                number += 1
                yield number, value


def _values(values: Any) -> list[object]:
    import pyarrow

    if pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
        binary = pyarrow.binary() if pyarrow.types.is_string(values.type) else pyarrow.large_binary()
        values = values.cast(binary)  # pyarrow does not look whether a file's strings are UTF-8; `checked_text` does
    return list(values.to_pylist())
