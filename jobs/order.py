"""The order in which a chained cluster is given jobs when its queue cannot take all of them."""

from collections.abc import Iterable, Mapping, Sequence

from jobs.graph import TRUNK_PHASE, heights
from jobs.job import Job
from jobs.reconcile.state import JobStatus, State

EAGER_TRUNK_DEPTH = 1
"""Trunk segments with at most so many unfinished ancestors go ahead of everything: one runs, the next is behind it."""


def depth_first(jobs: Sequence[Job], statuses: Mapping[str, JobStatus]) -> list[Job]:
    """Unfinished jobs, parents before children, so that whole chains finish early.

    First the trunk's next segments, since all later branches wait for them; then chain by chain, the one that can start
    soonest and has the least left ahead. `jobs`: parents before children.
    """
    unfinished = {job.key: job for job in jobs if statuses[job.key].state is not State.DONE}
    height = heights(jobs)
    depth: dict[str, int] = {}
    children: dict[str, list[Job]] = {}
    for job in unfinished.values():
        above = [parent for parent in job.parents if parent in unfinished]
        depth[job.key] = 1 + max((depth[parent] for parent in above), default=-1)
        for parent in above:
            children.setdefault(parent, []).append(job)
    order: dict[str, Job] = {}
    eager = [job for job in unfinished.values() if job.phase == TRUNK_PHASE and depth[job.key] <= EAGER_TRUNK_DEPTH]
    heads = [job for job in unfinished.values() if _begins_a_chain(job, unfinished)]
    for job in [*eager, *sorted(heads, key=lambda job: (depth[job.key], height[job.key])), *unfinished.values()]:
        _take_with_ancestors(job, unfinished, order)
        if job.phase != TRUNK_PHASE:
            _take_descendants(job, unfinished, children, order)
    return list(order.values())


def _begins_a_chain(job: Job, unfinished: Mapping[str, Job]) -> bool:
    return job.phase != TRUNK_PHASE and all(
        unfinished[parent].phase == TRUNK_PHASE for parent in job.parents if parent in unfinished
    )


def _take_with_ancestors(job: Job, unfinished: Mapping[str, Job], order: dict[str, Job]) -> None:
    line = [job]
    for each in line:  # grows while it is read: ancestors, nearest first
        line += [unfinished[parent] for parent in each.parents if parent in unfinished and parent not in order]
    order |= {each.key: each for each in _missing(reversed(line), order)}


def _take_descendants(
    job: Job, unfinished: Mapping[str, Job], children: Mapping[str, list[Job]], order: dict[str, Job]
) -> None:
    """Depth first: a fine-tune's evaluation comes before the next fine-tune."""
    stack = [job]
    while stack:
        each = stack.pop()
        if any(parent in unfinished and parent not in order for parent in each.parents):
            continue  # it has another parent, whose own turn brings it
        order.setdefault(each.key, each)
        stack += [child for child in reversed(children.get(each.key, ())) if child.key not in order]


def _missing(jobs: Iterable[Job], order: Mapping[str, Job]) -> Iterable[Job]:
    return [job for job in jobs if job.key not in order]
