"""Brings the tables of a sweep up to date where something has finished since they were written."""

from importlib.util import find_spec

from sweep.stored_sweep import StoredSweep


def refresh_results(stored: StoredSweep) -> str:
    """Writes tables and summary if any result is newer than they are. Returns a remark for the user, or nothing."""
    written = table_time(stored)
    newest = max((result_time(stored, job.stage, job.key) for job in stored.manifest.jobs), default=0.0)
    if newest <= written:
        return ""
    if find_spec("pyarrow") is None:
        return "tables are not refreshed here: the extra `report` is not installed (pip install 'sweep-vlm[report]')"
    from sweep.results.write import summary_of, write_summary, write_tables

    tables = write_tables(stored)
    write_summary(stored.paths.results, summary_of(tables))
    return f"tables refreshed in {stored.paths.results}"


def table_time(stored: StoredSweep) -> float:
    """When the tables were written, in Unix seconds; 0 if never."""
    try:
        return (stored.paths.results / "results.parquet").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def result_time(stored: StoredSweep, stage: str, key: str) -> float:
    """When a job's result appeared; 0 if it has none."""
    try:
        return stored.store.run(stage, key).result.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return 0.0
