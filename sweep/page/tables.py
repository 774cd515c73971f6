"""Tables of the page: their first rows as text for readers without JavaScript, all rows as columns for its program."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sweep.page.drawing import format_minus
from sweep.text_format import format_hours

# Why: docs/decisions.md, D197
STATIC_ROWS = 100
"""Rows that stand in the page itself; its program shows as many at a time."""
UNKNOWN = ""


class ColumnKind(StrEnum):
    """How values of a column are written, here and in assets/page.js alike."""

    TEXT = "text"
    NUMBER = "number"
    HOURS = "hours"
    TIME = "time"
    P_VALUE = "p"
    CELL = "cell"
    """The name of a cell, which opens it."""


@dataclass(frozen=True, slots=True)
class PageColumn:
    """A column; None among the values: not known."""

    name: str
    title: str
    values: Sequence[Any]
    kind: ColumnKind = ColumnKind.TEXT
    digits: int = 0
    """Decimals of numbers."""
    shown: bool = True
    """False: only in the JSON and the CSV."""

    def format_value(self, value: Any) -> str:
        """One value for a reader."""
        if value is None:
            return UNKNOWN
        if self.kind is ColumnKind.TIME:
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M")
        if self.kind is ColumnKind.HOURS:
            return format_hours(value)
        if self.kind is ColumnKind.P_VALUE:
            return f"{value:.3f}" if value >= 0.001 else "<0.001"
        if self.kind is ColumnKind.NUMBER:
            return format_minus(f"{value:,.{self.digits}f}") if math.isfinite(value) else str(value)
        return str(value)

    def shorten_value(self, value: Any) -> Any:
        """A number without digits that nobody is shown; times and counts as they are."""
        return value if isinstance(value, int) else round_number(value, MANY_DIGITS)

    def build_json(self) -> dict[str, Any]:
        """The column for the program. Words that come again and again are written once."""
        head: dict[str, Any] = {"name": self.name, "title": self.title, "kind": self.kind.value}
        if self.digits:
            head["digits"] = self.digits
        if not self.shown:
            head["hidden"] = 1
        if self.kind in {ColumnKind.TEXT, ColumnKind.CELL}:
            words = list(dict.fromkeys(self.values))
            if 2 * len(words) <= len(self.values):
                places = {word: place for place, word in enumerate(words)}
                return {**head, "words": words, "at": [places[value] for value in self.values]}
            return {**head, "values": list(self.values)}
        return {**head, "values": [self.shorten_value(value) for value in self.values]}


def round_number(value: float | None, digits: int) -> float | int | str | None:
    """So many significant digits; what JSON has no number for as a word."""
    if value is None:
        return None
    if not math.isfinite(value):
        return str(value)
    kept = float(f"{value:.{digits}g}")
    return int(kept) if kept == int(kept) else kept


MANY_DIGITS = 7
"""Of numbers that are rounded once more when they are shown: fewer would show another last digit now and then."""
FEW_DIGITS = 4


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table with its name in the page, which is also that of its CSV file."""

    name: str
    caption: str
    columns: Sequence[PageColumn]

    @property
    def count(self) -> int:
        return len(self.columns[0].values)

    @property
    def shown_columns(self) -> list[PageColumn]:
        return [column for column in self.columns if column.shown]

    def list_text_rows(self, limit: int = STATIC_ROWS) -> list[list[str]]:
        """The first rows of the shown columns as text."""
        shown = self.shown_columns
        return [[column.format_value(column.values[row]) for column in shown] for row in range(min(limit, self.count))]

    def build_json(self) -> dict[str, Any]:
        """All rows."""
        return {
            "name": self.name,
            "caption": self.caption,
            "count": self.count,
            "columns": [column.build_json() for column in self.columns],
        }
