"""Text from outside as people may be shown it: nothing in it steers a terminal, a page or a log."""

import os
import re
import sys

STEERING = re.compile(r"[^\n\t -~]")
"""What may not be printable: nearly all lines have none of it."""


# Why: docs/decisions.md, D154
def escape_unprintable(text: str) -> str:
    r"""The text with every letter that cannot be seen written out (`\u001b`, `\u202e`, as JSON has them); line ends and
    tabs stay."""
    if STEERING.search(text) is None:
        return text
    return "".join(letter if letter in "\n\t" or letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def render_line(text: str) -> str:
    """The same on one line."""
    return escape_unprintable(text.replace("\n", " ").replace("\t", " "))


SPEAKER_VARIABLE = "SWEEP_SPEAKER"
"""Holds the words that errors begin with where a command of `sweep` runs a program of ours."""


def print_error(text: str) -> None:
    """One printable line on stderr, in the name of the command that runs this program."""
    print(escape_unprintable(f"{os.environ.get(SPEAKER_VARIABLE, 'error')}: {text}"), file=sys.stderr)
