"""What the ranks of a job tell each other of each batch: what its sequences took, or that there is no such batch."""

from collections.abc import Callable, Sequence

import numpy as np

from stages.data.builder import Built, Place
from stages.data.progress import SequenceCounts, read_counts
from stages.data.workers import ClosedError
from stages.distributed import Peers
from stages.errors import OtherRankError

BUILT, CLOSED, FAILED = 0, 1, 2


def own_part(places: Sequence[Place], peers: Peers) -> Sequence[Place]:
    """The places of the sequences that this rank builds: of n those from rank * n / size on."""
    bounds = [len(places) * rank // peers.size for rank in (peers.rank, peers.rank + 1)]
    return places[bounds[0] : bounds[1]]


def build_together(
    own: Sequence[Place], build: Callable[[Sequence[Place]], list[Built]], peers: Peers
) -> tuple[list[Built], list[SequenceCounts]]:
    """This rank's `own` sequences of a batch, and the counts of all ranks' in the batch's order.

    What `build` raises here is raised, after the other ranks were told; there it is an OtherRankError. ClosedError if a
    rank has closed its batches.
    """
    status = FAILED
    try:
        built = build(own)
        status = BUILT
    except ClosedError:
        status = CLOSED
        raise
    finally:
        if status != BUILT:
            peers.gather(np.array([status], dtype=np.int64))
    numbers = [BUILT, *(number for each in built for number in each.counts.numbers())]
    gathered = peers.gather(np.array(numbers, dtype=np.int64))
    said = [int(given[0]) for given in gathered]
    if FAILED in said:
        raise OtherRankError(f"rank {said.index(FAILED)} could not build its part of a batch; its log says why")
    if CLOSED in said:
        raise ClosedError
    return built, [counts for given in gathered for counts in read_counts(given[1:].tolist())]
