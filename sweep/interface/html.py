"""What a notebook shows of our objects. Every text is escaped: names and messages come from files and programs."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from stages.printable import escape_unprintable

MOST_ROWS = 60
"""Of a table that a notebook shows; the rest is counted."""


def escape_html(value: Any) -> str:
    """Text that is no markup, and in which nothing is invisible."""
    return escape(escape_unprintable(str(value)), quote=True)


def render_preformatted(text: str) -> str:
    """A report of the command line."""
    return f'<pre style="line-height: 1.3">{escape_html(text)}</pre>'


def render_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, total: int) -> str:
    """The first `MOST_ROWS` rows. `total`: how many rows there are."""
    shown = [row for row, _ in zip(rows, range(MOST_ROWS), strict=False)]
    body = "".join(f"<tr>{''.join(f'<td>{escape_html(each)}</td>' for each in row)}</tr>" for row in shown)
    titles = "".join(f"<th>{escape_html(each)}</th>" for each in head)
    more = f"<p>{total - len(shown):,} more</p>" if total > len(shown) else ""
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>{more}"


def render_pairs(title: str, pairs: Mapping[str, Any]) -> str:
    """A title, and a row for each pair."""
    rows = "".join(
        f"<tr><th>{escape_html(name)}</th><td>{escape_html(value)}</td></tr>" for name, value in pairs.items()
    )
    return f"<p><b>{escape_html(title)}</b></p><table><tbody>{rows}</tbody></table>"
