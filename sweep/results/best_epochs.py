"""At how many epochs the cells of a sweep are best, as plain text."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sweep.results.cells_table import best_by
from sweep.results.effects import title
from sweep.results.slices import MEASURES, Row
from sweep.text_format import columns


def best_epochs(rows: Sequence[Row]) -> str:
    """How many cells have their best score at each number of epochs, by each score.

    Only of cells that are finished and were fine-tuned for several numbers; empty where there are none.
    """
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    whole = [models for models in cells.values() if len(models) > 1 and all(row["state"] == "done" for row in models)]
    counts = {
        measure: Counter(best["epochs"] for models in whole if (best := best_by(measure, models)) is not None)
        for measure in MEASURES
    }
    found = {measure: counted for measure, counted in counts.items() if counted}
    if not found:
        return ""
    head = ["epochs: cells that are best there", *map(title, found)]
    numbers = sorted({row["epochs"] for models in whole for row in models})
    lines = [[str(epochs), *(str(counted[epochs]) for counted in found.values())] for epochs in numbers]
    return "\n".join(columns([head, *lines])) + "\n"
