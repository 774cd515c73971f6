"""Arguments that several commands have, and checks of their values."""

import argparse
import os
from pathlib import Path


class TerminalHelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, with example lines as they are.

    argparse makes one for every argument, and would import shutil to find the width: that takes longer than to parse.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=find_terminal_columns() - 2)


def find_terminal_columns() -> int:
    """As shutil.get_terminal_size: $COLUMNS, else the terminal's, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments behind `CommonOptions`, and `-v`, which may also stand before the command."""
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(os.environ.get("SWEEP_STORE", "store")),
        metavar="DIR",
        help="folder that holds all sweeps and runs (default: $SWEEP_STORE, else ./store)",
    )
    add_verbose_argument(parser)


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """`-v`, absent from the namespace where it is not given: a subparser's default would undo the parent's value."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=argparse.SUPPRESS,
        help="log to stderr what is read, asked of Slurm and decided; -vv logs more",
    )


MOST_DIGITS = 15
MOST_AMOUNT = 1e15
"""Hours, seconds, jobs: more is no amount, and floats count to it one by one."""


def parse_positive_int(text: str) -> int:
    """A whole number of at least 1, or argparse's error."""
    number = parse_count(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{quote_word(text)} is not a whole number of at least 1")
    return number


def parse_count(text: str) -> int:
    """A whole number, 0 included, or argparse's error."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{quote_word(text)} is not a whole number")
    if len(text.lstrip("0")) > MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"{quote_word(text)} is more than anything here can count")
    return int(text)


def parse_amount(text: str) -> float:
    """A number of at least 0, or argparse's error."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= MOST_AMOUNT:
        raise argparse.ArgumentTypeError(f"{quote_word(text)} is not a number from 0 to {MOST_AMOUNT:.0e}")
    return number


def quote_word(text: str) -> str:
    """A given word for a message: quoted, one line, not at any length."""
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:59]}…"
