"""Arguments that several commands have, and checks of their values."""

import argparse
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn


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
        default=find_default_store(),
        metavar="DIR",
        help="folder that holds all sweeps and runs (default: $SWEEP_STORE, else ./store, else your nearest one above)",
    )
    add_verbose_argument(parser)


DEFAULT_STORE = "store"


# Why: docs/decisions.md, D183
def find_default_store() -> Path:
    """$SWEEP_STORE, else ./store, else the nearest `store` of a folder above this one, else ./store, not there yet.

    A store above must hold sweeps and be this user's, and the search ends above a folder of another user: nobody else
    can lay one in the way.
    """
    if given := os.environ.get("SWEEP_STORE"):
        return Path(given)
    user, folder = os.getuid(), Path()
    with suppress(OSError):  # a folder above that may not be looked into: nothing is found there
        while not (folder / DEFAULT_STORE).is_dir() and folder.stat().st_uid == user:
            above = folder / ".."
            store = above / DEFAULT_STORE
            if (store / "sweeps").is_dir() and store.stat().st_uid == user:
                return store
            if above.samefile(folder):
                break  # the root
            folder = above
    return Path(DEFAULT_STORE)


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """`-v`, absent from the namespace where it is not given: a subparser's default would undo the parent's value."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=argparse.SUPPRESS,
        help="log to stderr what is read, asked of Slurm and decided; -vv logs more",
    )


CELLS_HELP = "name, unique beginning or pattern ('m79*-b20-*') of cells, or a job's key"


def add_cell_arguments(parser: argparse.ArgumentParser, *, reads: bool, cells: str, phase: str = "") -> None:
    """NAME and CELLs, as every command has them: `sweep COMMAND NAME [CELL...]`.

    `reads`: the command changes nothing, so that NAME may be left out of a store with one sweep. `cells`: what becomes
    of the cells that are named. `phase`: what `--phase` does; empty: there is no such option.
    """
    if reads:
        parser.add_argument(
            "name", nargs="?", metavar="NAME", help="name of the sweep; may be left out if the store holds one"
        )
    else:
        parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("cells", nargs="*", default=[], metavar="CELL", help=f"{cells}: {CELLS_HELP}")
    if phase:
        from sweep.phases import PHASES

        parser.add_argument("--phase", choices=tuple(PHASES), help=phase)


def add_old_cells_option(parser: argparse.ArgumentParser, option: str, dest: str) -> None:
    """An option that named cells before they were words of their own: it still does, and help is silent about it."""
    parser.add_argument(option, dest=dest, nargs="+", default=[], metavar="CELL", help=argparse.SUPPRESS)


class CommandParser(argparse.ArgumentParser):
    """Takes options and words in any order, and says which option an unknown one may have meant."""

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """The parsed words. SystemExit on wrong usage and for help."""
        given, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.refuse(f"unrecognized arguments: {' '.join(map(quote_word, unknown))}", options, known)
        return given

    def refuse(self, problem: str, words: Iterable[str], known: Iterable[str]) -> NoReturn:
        """Wrong usage, with the known word that one of `words` comes near to."""
        for word in words:
            if close := find_close_words(word, known):
                self.error(f"{problem}; did you mean {close[0]}?")
        self.error(problem)


def find_close_words(word: str, known: Iterable[str]) -> list[str]:
    """The known word that one comes near to, if any."""
    from difflib import get_close_matches

    return get_close_matches(word[:MOST_LETTERS], list(known), n=1)


MOST_LETTERS = 60
"""Of a misspelt word that are compared."""


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


MOST_PERCENT = 99.0
"""Of attempts that fail: with all of them nothing would ever end."""


def parse_percent(text: str) -> float:
    """A number from 0 to 99, or argparse's error."""
    number = parse_amount(text)
    if number > MOST_PERCENT:
        raise argparse.ArgumentTypeError(f"{quote_word(text)} is not a percentage from 0 to {MOST_PERCENT:g}")
    return number


def quote_word(text: str) -> str:
    """A given word for a message: quoted, one line, not at any length."""
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:59]}…"
