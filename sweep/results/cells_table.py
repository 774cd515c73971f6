"""Rows of cells.parquet: every cell with the best of its fine-tuned models, by each score."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from sweep.results.slices import SUMMARISED, TEXT, VISION, Measure, Row
from sweep.results.summary_schemas import CELL_AXES, CELLS

KEPT = ("sweep", "cell", "block", *(field.name for field in CELL_AXES))
"""Columns that the models of a cell have in common."""
WITH_ERROR = (VISION, TEXT)


def cells_table(rows: Sequence[Row]) -> pa.Table:
    """In the manifest's order, from the rows of results.parquet."""
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    return pa.Table.from_pylist([cell_values(models) for models in cells.values()], schema=CELLS)


def cell_values(models: Sequence[Row]) -> dict[str, Any]:
    """One cell's row."""
    finished = [row for row in models if row["state"] == "done"]
    values: dict[str, Any] = {name: models[0][name] for name in KEPT}
    values |= {"models": len(models), "finished": len(finished)}
    for measure in SUMMARISED:
        best = best_by(measure, finished)
        if best is None:
            continue
        values |= {f"{measure.name}_best_epochs": best["epochs"], f"{measure.name}_best": best[measure.column]}
        if measure in WITH_ERROR:
            values[f"{measure.name}_best_stderr"] = best[measure.stderr]
        if measure is VISION:
            values["text_at_vision_best"] = best[TEXT.column]
    return values | {unit: total(models, unit) for unit in ("a100_hours", "cpu_hours")}


def best_by(measure: Measure, rows: Iterable[Row]) -> Row | None:
    """The row with the best score of one kind, of equals the one with the fewest epochs; None without a score."""
    scored = [row for row in rows if row[measure.column] is not None]
    sign = -1 if measure.higher_is_better else 1
    return min(scored, key=lambda row: (sign * row[measure.column], row["epochs"]), default=None)


def total(rows: Iterable[Row], unit: str) -> float | None:
    """Own and shared hours together; None where a part is not known."""
    parts = [row[f"{unit}_{part}"] for row in rows for part in ("own", "shared")]
    return None if None in parts else sum(parts)
