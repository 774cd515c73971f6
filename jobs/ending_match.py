"""Which row of the cluster's accounting belongs to which attempt on disk. Pure."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.endings import LOST, Ending, distinct
from jobs.records import AttemptStart

SLACK_SECONDS = 60.0
"""Clocks of a node and of the controller may differ by so much."""


@dataclass(frozen=True, slots=True)
class Matched:
    """`of`: attempt's name to its row. `rest`: rows of executions that left no attempt folder, oldest first."""

    of: dict[str, Ending]
    rest: tuple[Ending, ...]


def match(starts: Sequence[AttemptStart], endings: Sequence[Ending]) -> Matched:
    """Each row goes to one attempt at most.

    Job id and batch name must agree. Of several rows with one id (requeues) the one that stands at the attempt's
    restart count is taken if the attempt began while it lasted. Else, as two requeues in one second are one row to
    slurmdbd and rows may come late, it is the row that lasted at the time and began nearest.
    """
    if not endings:
        return Matched({}, ())
    rows = distinct(endings)
    in_order = sorted(starts, key=lambda start: start.started_at)
    runs: dict[tuple[str, str], list[Ending]] = defaultdict(list)
    lost: dict[tuple[str, str], Ending] = {}
    for row in rows:
        if row.ran:
            runs[row.id, row.batch].append(row)
        elif row.state == LOST:
            lost[row.id, row.batch] = row
    found: dict[str, Ending] = {}
    for start in in_order:
        fitting = _row_of(start, runs.get((start.job_id, start.batch), ()), found.values())
        if fitting is not None:
            found[start.attempt] = fitting
    for start in reversed(in_order):  # what is lost was the newest of its id
        if (start.job_id, start.batch) in lost:
            found.setdefault(start.attempt, lost.pop((start.job_id, start.batch)))
    taken = {id(row) for row in found.values()}
    return Matched(found, tuple(row for row in rows if id(row) not in taken))


def _row_of(start: AttemptStart, rows: Sequence[Ending], taken: Collection[Ending]) -> Ending | None:
    """`rows` of its id and batch, in the order of their submission."""
    fitting = [row for row in rows if row not in taken and _lasted_at(row, start.started_at)]
    if start.restart < len(rows) and rows[start.restart] in fitting:
        return rows[start.restart]
    return min(fitting, key=lambda row: abs(row.started_at - start.started_at), default=None)


def _lasted_at(row: Ending, moment: float) -> bool:
    after_start = row.started_at - SLACK_SECONDS <= moment
    return after_start and (row.ended_at <= 0 or moment <= row.ended_at + SLACK_SECONDS)
