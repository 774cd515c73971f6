"""The study of study.py, drawn once."""

from collections.abc import Iterator

import pytest

from sweep.results.figures.gallery import FigureData, iter_entries
from sweep.results.figures.printed import PrintedTable
from sweep.results.figures.style import DrawnFigure, OmittedFigure, apply_style
from tests.sweep.results.figures.study import build_study

Entries = dict[str, DrawnFigure | OmittedFigure | PrintedTable]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> FigureData:
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def entries(study: FigureData) -> Entries:
    """Every figure and table of the study by file name; figures are placed as they are when they are saved."""
    with apply_style():
        found = {f"{entry.name}-{model}" if model else entry.name: entry for model, entry in iter_entries(study)}
        for entry in found.values():
            if isinstance(entry, DrawnFigure):
                entry.figure.draw_without_rendering()
    return found


@pytest.fixture
def style() -> Iterator[None]:
    with apply_style():
        yield
