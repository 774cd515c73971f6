"""Tables, summary and report of a sweep, brought up to date together after something has finished."""

from sweep.page.write import write_page
from sweep.results.write import refresh_tables
from sweep.stored_sweep import StoredSweep


# Why: docs/decisions.md, D198
def refresh_results(stored: StoredSweep) -> str:
    """Writes tables, summary and report if any result is newer than they are. Returns a remark for the user, or ""."""
    tables = refresh_tables(stored)
    if tables is None:
        return ""
    page = write_page(stored, tables)
    return "; ".join(
        [f"tables and report refreshed in {stored.paths.results} ({page.name})", *tables.uncounted.list_remarks()]
    )
