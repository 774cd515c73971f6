"""The graph of jobs: what to start first, what lies above and below a job."""

from collections.abc import Collection, Mapping, Sequence

from jobs.job import Job

TRUNK_PHASE = "trunk"


def heights(jobs: Sequence[Job]) -> dict[str, int]:
    """Longest way down to a leaf; `jobs` with parents before children."""
    found = {job.key: 0 for job in jobs}
    for job in reversed(jobs):
        for parent in job.parents:
            found[parent] = max(found[parent], found[job.key] + 1)
    return found


def ranks(jobs: Sequence[Job], *, trunks_first: bool) -> dict[str, int]:
    """Each job's place in the order of starting: 0 first.

    Depth first, so that whole chains finish early; among equals the manifest's order. `trunks_first` lets the shared
    trunk go ahead where more than one job runs at a time, since all later branches wait for it.
    """
    height = heights(jobs)

    def urgency(place: int) -> tuple[int, int]:
        job = jobs[place]
        return (-1 if trunks_first and job.phase == TRUNK_PHASE else height[job.key], place)

    return {jobs[place].key: rank for rank, place in enumerate(sorted(range(len(jobs)), key=urgency))}


def with_ancestors(jobs: Sequence[Job], keys: Collection[str]) -> set[str]:
    """`keys` and everything that they need."""
    wanted = set(keys)
    for job in reversed(jobs):
        if job.key in wanted:
            wanted.update(job.parents)
    return wanted


def by_key(jobs: Sequence[Job]) -> Mapping[str, Job]:
    """Jobs by key."""
    return {job.key: job for job in jobs}
