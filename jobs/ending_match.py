"""Which row of the cluster's accounting belongs to which attempt on disk. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.reconcile.executions import LOST, Ending, distinct
from jobs.store.records import AttemptStart

SLACK_SECONDS = 60.0
"""Clocks of a node and of the controller may differ by so much."""
WHOLE_SECOND = 1.0
"""sacct's times are cut to whole seconds."""


@dataclass(frozen=True, slots=True)
class Matched:
    """`of`: attempt's name to its row. `rest`: rows of executions that left no attempt folder, oldest first."""

    of: dict[str, Ending]
    rest: tuple[Ending, ...]


def match(starts: Sequence[AttemptStart], endings: Sequence[Ending]) -> Matched:
    """Each row goes to one attempt at most.

    Job id and batch name must agree, and the attempt must have begun while the row lasted, by clocks that may differ.
    Of several rows with one id (requeues) it is the one that lasted at the time, then the one at the attempt's restart
    count, then the one that began nearest. Rows may be missing: they come late, and two requeues in one second are one
    row to slurmdbd.
    """
    if not endings:
        return Matched({}, ())
    rows = distinct(endings)
    runs: dict[tuple[str, str], list[Ending]] = defaultdict(list)
    lost: dict[tuple[str, str], Ending] = {}
    for row in rows:
        if row.ran:
            runs[row.id, row.batch].append(row)
        elif row.state == LOST:
            lost[row.id, row.batch] = row
    found = _best_pairs(starts, runs)
    for start in sorted(starts, key=lambda start: -start.started_at):  # what is lost was the newest of its id
        if (start.job_id, start.batch) in lost:
            found.setdefault(start.attempt, lost.pop((start.job_id, start.batch)))
    taken = {id(row) for row in found.values()}
    return Matched(found, tuple(row for row in rows if id(row) not in taken))


def _best_pairs(starts: Sequence[AttemptStart], runs: Mapping[tuple[str, str], Sequence[Ending]]) -> dict[str, Ending]:
    """`runs`: rows by id and batch, in the order of their submission."""
    pairs = [
        (apart, abs(place - start.restart), abs(row.began_at - start.started_at), start.attempt, place, row)
        for start in starts
        for place, row in enumerate(runs.get((start.job_id, start.batch), ()))
        if (apart := _apart(row, start.started_at)) <= SLACK_SECONDS
    ]
    found: dict[str, Ending] = {}
    taken: set[int] = set()
    for _, _, _, attempt, _, row in sorted(pairs, key=lambda pair: pair[:-1]):
        if attempt not in found and id(row) not in taken:
            found[attempt] = row
            taken.add(id(row))
    return found


def _apart(row: Ending, moment: float) -> float:
    """Seconds from the moment to the time that the row lasted; 0 within it, and within a second of it."""
    early = row.began_at - moment
    late = moment - row.ended_at if row.ended_at > 0 else 0.0
    return max(early, late, WHOLE_SECOND) - WHOLE_SECOND
