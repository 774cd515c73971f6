"""Which rows of squeue mean that a job would wait for ever."""

import pytest

from jobs.cluster import ClusterState
from jobs.slurm.parsing import QueueRow
from jobs.slurm.states import live_state


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("launch failed requeued held", ClusterState.STUCK),
        ("launch_failed_requeued_held", ClusterState.STUCK),
        ("JobHoldMaxRequeue", ClusterState.STUCK),
        ("JobHeldUser", ClusterState.QUEUED),
        ("JobHeldAdmin", ClusterState.QUEUED),
    ],
)
def test_what_slurm_holds_after_a_failed_start_is_sent_anew_and_what_a_person_holds_is_left(
    reason: str, state: ClusterState
) -> None:
    row = QueueRow(id="51_0", name="sw-3c74f6484065-evaluate-s1", user="me", state="PENDING", reason=reason)
    assert live_state(row) is state
