"""Cells and jobs as a command line names them: by name, by a beginning that only one has, by a pattern, by a job's key.

Every command reads its cells here, and so do the limits that are kept (`sweep.kept_limits`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.job import Job
from sweep.errors import NotPlannedError, UsageError
from sweep.plan.manifest import Manifest

KEY_PREFIX = 6
"""Fewest digits of a key that name a job."""
WILDCARDS = frozenset("*?[")
"""What makes a word a pattern. No cell's name and no key has one of them (`jobs.store.paths.SAFE_NAME`)."""
MOST_SHOWN = 5
"""Names of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSelection:
    """What the words of a command line chose of a plan. Nothing was named: everything is chosen."""

    cells: frozenset[str] = frozenset()
    """Names."""
    keys: frozenset[str] = frozenset()
    """Of jobs that were named by key."""
    words: tuple[str, ...] = ()
    """The words with whole names and keys; a pattern stays one."""

    def has_job(self, job: Job) -> bool:
        """Whether it is named by key, or one of the cells needs it."""
        return not self.words or job.key in self.keys or not self.cells.isdisjoint(job.cells)

    def has_job_alone(self, job: Job) -> bool:
        """Whether it is named by key, or is the named cells' own: no other cell needs it. A trunk is of no cell."""
        return self.has_job(job) and (not self.words or job.key in self.keys or self.cells.issuperset(job.cells))


# Why: docs/decisions.md, D181
def select_cells(plan: Manifest, words: Sequence[str]) -> CellSelection:
    """What the words mean. Raises NotPlannedError for one that means nothing, UsageError for one that means several."""
    if not words:
        return CellSelection()
    cells: dict[str, None] = {}
    keys: dict[str, None] = {}
    whole: dict[str, None] = {}
    names = {cell.name for cell in plan.cells}
    for word in words:
        if not word:  # a variable that is not set: it must not mean the one cell that there may be
            raise UsageError(f"an empty word names no cell; leave it out for all {len(plan.cells):,}, or give a name")
        if WILDCARDS.intersection(word):
            cells |= dict.fromkeys(match_names(plan, word))
            whole[word] = None
        elif found := match_cell(plan, names, word):
            cells[found] = whole[found] = None
        else:
            key = match_key(plan, word)
            keys[key] = whole[key] = None
    return CellSelection(cells=frozenset(cells), keys=frozenset(keys), words=tuple(whole))


def match_names(plan: Manifest, pattern: str) -> list[str]:
    """The cells whose whole names the pattern matches, as a shell matches names of files."""
    from fnmatch import fnmatchcase

    found = [cell.name for cell in plan.cells if fnmatchcase(cell.name, pattern)]
    if not found:
        raise NotPlannedError(
            f"sweep {plan.sweep} has no cell like {pattern!r}; `sweep list {plan.sweep}` shows its {len(plan.cells):,}"
        )
    return found


def match_cell(plan: Manifest, names: Collection[str], word: str) -> str:
    """The cell of that name, or the only one whose name begins so; empty if there is none."""
    if word in names:
        return word
    found = [cell.name for cell in plan.cells if cell.name.startswith(word)]
    if len(found) > 1:
        raise UsageError(
            f"{word!r} is the beginning of {len(found):,} cells, such as {', '.join(found[:MOST_SHOWN])}; "
            f"give more of the name, or '{word}*' for all of them"
        )
    return found[0] if found else ""


def match_key(plan: Manifest, word: str) -> str:
    """The key that is the word, or the only one that begins so."""
    found = [job.key for job in plan.jobs if job.key.startswith(word)] if len(word) >= KEY_PREFIX else []
    if not found and any(job.key == word for job in plan.jobs):
        return word
    if len(found) == 1 or word in found:
        return word if word in found else found[0]
    if found:
        raise UsageError(
            f"{word!r} is the beginning of {len(found):,} keys, such as {', '.join(found[:MOST_SHOWN])}; "
            "give more of it"
        )
    known = {cell.name for cell in plan.cells} | {job.key for job in plan.jobs}
    hint = format_name_hint(word, known) or f"; `sweep list {plan.sweep}` shows its cells"
    raise NotPlannedError(f"sweep {plan.sweep} has no cell or job {word!r}{hint}")


MOST_LETTERS = 200
"""Of a misspelt word that are compared."""


def format_name_hint(word: str, known: Collection[str]) -> str:
    """`; did you mean NAME?` for a word that is nearly a known one; else empty."""
    from difflib import get_close_matches

    close = get_close_matches(word[:MOST_LETTERS], sorted(known), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""
