"""Writes the page: the template with its content, the style sheet and the program inside, and a policy that lets only
these two work."""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from jobs.clock import SYSTEM_CLOCK
from jobs.counted import format_counted
from jobs.store.paths import open_replacement
from stages.printable import escape_unprintable
from sweep.page.content import PageContent, build_page_content
from sweep.page.tables import STATIC_ROWS
from sweep.report.history import format_time
from sweep.results.write import WrittenTables
from sweep.stored_sweep import StoredSweep

FILE_NAME = "report.html"
STATIC_CELLS = 300
"""Cells whose row stands in the page itself, so that a reader without JavaScript gets from the grid to it."""


def write_page(
    stored: StoredSweep, tables: WrittenTables, path: Path | None = None, *, now: float | None = None
) -> Path:
    """Writes the report from tables that were just written, by default beside them; returns its path.

    Raises OSError if the file cannot be written: it is then as before.
    """
    target = path or stored.paths.results / FILE_NAME
    content = build_page_content(stored, tables, SYSTEM_CLOCK.now() if now is None else now)
    text = render_page(content)
    with open_replacement(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return target


def render_page(content: PageContent) -> str:
    """The page as text."""
    style, program = read_asset("page.css"), read_asset("page.js")
    page = load_template().render(
        content=content,
        counted=format_counted,
        style=Markup(style),  # noqa: S704 - a file of ours
        program=Markup(program),  # noqa: S704 - a file of ours
        policy=build_policy(style, program),
        data=embed_json(content.data),
        written=format_time(content.written_at),
        static_rows=STATIC_ROWS,
        static_cells=STATIC_CELLS,
    )
    return str(page)


# Why: docs/decisions.md, D194
def build_policy(style: str, program: str) -> str:
    """The Content-Security-Policy: nothing is loaded, and only these two elements have an effect."""
    return (
        f"default-src 'none'; script-src '{digest_source(program)}'; style-src '{digest_source(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def digest_source(text: str) -> str:
    """As a policy names an element of the page by its content."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embed_json(data: Any) -> Markup:
    """JSON that cannot end the script element that it stands in, nor open a comment there."""
    text = json.dumps(escape_words(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - no letter of HTML is left in it


def escape_words(value: Any) -> Any:
    """The data with every letter written out that cannot be seen, or that turns the direction of text."""
    if isinstance(value, str):
        return escape_unprintable(value)
    if isinstance(value, list):
        return (
            [escape_words(each) for each in value]
            if any(isinstance(each, (str, list, dict)) for each in value)
            else value
        )
    if isinstance(value, dict):
        return {escape_unprintable(name): escape_words(each) for name, each in value.items()}
    return value


def escape_shown(value: Any) -> Any:
    """The same for what the template is given; markup of ours keeps its marks."""
    if isinstance(value, Markup):
        return Markup(escape_unprintable(value))  # noqa: S704 - was markup before
    return escape_unprintable(value) if isinstance(value, str) else value


@cache
def read_asset(name: str) -> str:
    """A file of `assets/`."""
    return files("sweep.page").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def load_template() -> Any:
    """The page's template. All that it is given is escaped, unless it is marked up by `markupsafe`."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=escape_shown, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(read_asset("page.html.j2"))
