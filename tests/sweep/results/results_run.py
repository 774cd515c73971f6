"""Runs the table builder, or the whole command, on a synthetic store."""

import pytest

from sweep.cli import main
from sweep.results.write import WrittenTables, write_tables
from sweep.stored_sweep import open_sweep
from tests.sweep.synthetic_store import Written


def written_tables(written: Written) -> WrittenTables:
    return write_tables(open_sweep(written.store.root, written.sweep))


def command(written: Written, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `sweep results`."""
    code = main(["results", written.sweep, "--store", str(written.store.root), *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err
