"""The order in which jobs are sent and started: by priority, and among equals whole chains first. Both back ends, the
forecast and the time that is left go by it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from jobs.job import TRUNK_PHASE, Job, compute_heights

NO_PRIORITIES: Mapping[str, int] = MappingProxyType({})
NEXT_TRUNK_DEPTH = 1
"""Trunk segments with at most so many unfinished ancestors go ahead of the chains: one runs, the next is behind it."""
WHOLE_TRUNK, NO_TRUNK = 2**31, -1
"""Likewise, where jobs start when their parents are done: all of a trunk where several run at a time, since all later
branches wait for it, and none of it where one runs at a time."""


# Why: docs/decisions.md, D225
def sort_jobs(
    jobs: Sequence[Job],
    done: Collection[str],
    priorities: Mapping[str, int] = NO_PRIORITIES,
    *,
    trunk_depth: int = NEXT_TRUNK_DEPTH,
) -> list[Job]:
    """Unfinished jobs, parents before children: those of higher priority first, and among equals so that whole chains
    finish early.

    Among equals the trunk's next segments come first, since all later branches wait for them (`trunk_depth`); then
    chain by chain, the one that can start soonest and has the least left ahead. `jobs`: parents before children.
    `done`: keys. `priorities`: by key as `extend_priorities` has them; a job without one has 0.
    """
    order = _order_depth_first([job for job in jobs if job.key not in done], compute_heights(jobs), trunk_depth)
    if not any(priorities.values()):
        return order
    # the sort is stable, and no parent has a lower priority than its child: parents stay before children
    return sorted(order, key=lambda job: -priorities.get(job.key, 0))


def extend_priorities(jobs: Sequence[Job], own: Mapping[str, int]) -> dict[str, int]:
    """The priority of each job that serves a cell or a job with one: the highest of its cells, of its own key's, and of
    all that build on it. `own`: by name of a cell or by key. `jobs`: parents before children.

    A cell without a number has 0, so a job that it shares with one below 0 has 0.
    """
    if not any(own.values()):
        return {}
    found: dict[str, int] = {}
    for job in reversed(jobs):
        known = [own.get(cell, 0) for cell in job.cells]
        known += [own[job.key]] if job.key in own else []
        known += [found[job.key]] if job.key in found else []
        found[job.key] = highest = max(known, default=0)
        for parent in job.parents:
            found[parent] = max(found.get(parent, highest), highest)
    return found


def _order_depth_first(jobs: Sequence[Job], height: Mapping[str, int], trunk_depth: int) -> list[Job]:
    unfinished = {job.key: job for job in jobs}
    depth: dict[str, int] = {}
    children: dict[str, list[Job]] = {}
    for job in jobs:
        above = [parent for parent in job.parents if parent in unfinished]
        depth[job.key] = 1 + max((depth[parent] for parent in above), default=-1)
        for parent in above:
            children.setdefault(parent, []).append(job)
    order: dict[str, Job] = {}
    eager = [job for job in jobs if job.phase == TRUNK_PHASE and depth[job.key] <= trunk_depth]
    heads = [job for job in jobs if _begins_a_chain(job, unfinished)]
    for job in [*eager, *sorted(heads, key=lambda job: (depth[job.key], height[job.key])), *jobs]:
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
