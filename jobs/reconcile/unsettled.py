"""What is not known of a sweep's jobs, and what would settle it: lines for `status`, `tick`, `doctor` and `explain`."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from jobs.counted import format_counted
from jobs.observation import Observation
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState

MOST_KEYS = 3
MOST_UNREAD = 5


def list_unsettled_remarks(snapshot: SweepSnapshot) -> list[str]:
    """One line for each reason for which jobs are neither sent nor given up, with the commands that settle it."""
    hidden: dict[str, list[str]] = defaultdict(list)
    doubtful: dict[str, list[str]] = defaultdict(list)
    for key, seen in snapshot.observed.items():
        if snapshot.statuses[key].state is not JobState.UNKNOWN:
            continue
        if seen.hidden_owner:
            hidden[seen.hidden_owner].append(key)
        elif seen.doubt:
            doubtful[seen.doubt].append(key)
    return [
        *(_describe_hidden(owner, keys, snapshot.sweep) for owner, keys in hidden.items()),
        *(_describe_doubt(doubt, keys, snapshot.sweep) for doubt, keys in doubtful.items()),
    ]


def list_unread_runs(snapshot: SweepSnapshot, wanted: Collection[str]) -> list[str]:
    """Why jobs are not known to be done or not: their folders cannot be read. A line each, of the first few."""
    found = [snapshot.runs[key].problem for key in sorted(wanted) if not snapshot.runs[key].readable]
    more = len(found) - MOST_UNREAD
    return [*found[:MOST_UNREAD], *([f"{more:,} more folders cannot be read"] if more > 0 else [])]


def explain_unknown(seen: Observation | None) -> str:
    """Why the cluster cannot say what became of a job; empty if it can."""
    if seen is None:
        return ""
    return seen.doubt or (seen.message if seen.hidden_owner else "")


def _describe_hidden(owner: str, keys: Sequence[str], sweep: str) -> str:
    return (
        f"{_count(keys)} {owner}'s and that queue is hidden from you (PrivateData): ask {owner} to run "
        f"`sweep tick {sweep}`, or, if they are gone, send them again with `sweep resume {sweep} {_name(keys)}`"
    )


def _describe_doubt(doubt: str, keys: Sequence[str], sweep: str) -> str:
    return (
        f"{_count(keys)} out of the queue, and it is not known whether a person cancelled them ({doubt}): "
        f"`sweep resume {sweep} {_name(keys)}` sends them again, `sweep cancel {sweep} {_name(keys)}` "
        "leaves them out"
    )


def _count(keys: Sequence[str]) -> str:
    return format_counted(len(keys), "job is", "jobs are")


def _name(keys: Sequence[str]) -> str:
    return " ".join(keys[:MOST_KEYS]) + (" ..." if len(keys) > MOST_KEYS else "")
