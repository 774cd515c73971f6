"""Colours of what people read on a terminal: states, verdicts, commands to type, the bar of what is done.

They are laid over the finished line, so that no report knows of them, and no width counts them.
"""

import os
import re
from typing import TextIO

RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = ("1;31", "32", "33", "34", "35", "36")
STYLES = {
    "done": GREEN, "ok": GREEN, "running": CYAN, "queued": BLUE, "ready": BLUE, "interrupted": YELLOW,
    "cancelled": YELLOW, "blocked": YELLOW, "note": YELLOW, "unknown": MAGENTA, "failed": RED, "problem": RED,
}  # fmt: skip
COMMAND, BAR = "1", GREEN
MARKED = re.compile(rf"`(?:sweep )[^`\n]*`|\[#+|(?<![\w.+=/-])(?:{'|'.join(STYLES)})(?![\w.+=/-])")
"""Words count where they are no part of a name or a path."""


def can_colour(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours, and the user has not said no (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def render_colours(text: str) -> str:
    """The text with colours. It must hold no escapes of others."""
    return MARKED.sub(colour_match, text)


def colour_match(match: re.Match[str]) -> str:
    """One marked word in its colour."""
    word = match[0]
    style = COMMAND if word.startswith("`") else BAR if word.startswith("[") else STYLES[word]
    return f"\x1b[{style}m{word}\x1b[0m"
