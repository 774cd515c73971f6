"""Slurm's words for states, and what an execution's last row means (job_state_codes, squeue(1), sacct(1))."""

from jobs.cluster import ClusterState
from jobs.reconcile.executions import Ending
from jobs.slurm.rows import AccountRow, QueueRow
from jobs.store.records import FailureClass

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {
    *("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"),
    *("POWER_UP_NODE", "EXPEDITING", "LAUNCHING"),
}
"""Holds nodes, or processes of it may still be alive."""
SURELY_OVER = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"}
MAY_RUN_AGAIN = {"PREEMPTED", "REQUEUED", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""This execution is over; the job may be in the queue again, now or in a moment."""
OVER = SURELY_OVER | MAY_RUN_AGAIN - QUEUED
"""In squeue's mouth: not live. REQUEUED there means that it waits."""

STATE_WORDS = {
    "REQUEUED": "requeued",
    "REQUEUE_FED": "requeued",
    "REQUEUE_HOLD": "requeued and held (scontrol release lets it go on)",
    "SPECIAL_EXIT": "requeued and held after a special exit code (scontrol release lets it go on)",
    "RESV_DEL_HOLD": "held, as its reservation was deleted",
    "SUSPENDED": "suspended",
    "STOPPED": "stopped by a signal",
    "COMPLETING": "ending",
    "CONFIGURING": "its nodes are being prepared",
}

FAILURES = {
    "TIMEOUT": FailureClass.WALL_CLOCK,
    "DEADLINE": FailureClass.WALL_CLOCK,
    "PREEMPTED": FailureClass.PREEMPTED,
    "NODE_FAIL": FailureClass.NODE_FAULT,
    "BOOT_FAIL": FailureClass.NODE_FAULT,
    "LAUNCH_FAILED": FailureClass.NODE_FAULT,
    "RECONFIG_FAIL": FailureClass.NODE_FAULT,
    "OUT_OF_MEMORY": FailureClass.OUT_OF_MEMORY,
}
MESSAGES = {
    "COMPLETED": "ended with code 0",
    "TIMEOUT": "ran into its time limit",
    "DEADLINE": "its deadline has passed",
    "PREEMPTED": "preempted",
    "REQUEUED": "requeued",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure at boot",
    "REVOKED": "revoked by the federation",
}
STUCK_REASON = "DependencyNeverSatisfied"


def live_state(row: QueueRow) -> ClusterState | None:
    """What squeue's row says of the job; None: it is over, and only not forgotten yet."""
    if row.state in QUEUED:
        stuck = row.reason == STUCK_REASON or ("(failed)" in row.dependency and "?" not in row.dependency)
        stuck = stuck or held_by_slurm(row.reason)
        return ClusterState.STUCK if stuck else ClusterState.QUEUED
    if row.state in RUNNING:
        return ClusterState.RUNNING
    return None if row.state in OVER else ClusterState.UNKNOWN


def held_by_slurm(reason: str) -> bool:
    """Whether Slurm itself holds the job, after it could not start it; what a person holds is theirs."""
    plain = reason.strip("() ").replace("_", " ")
    return plain.endswith(" requeued held") or plain.startswith("JobHoldMaxRequeue")


def is_over(row: AccountRow) -> bool:
    """Whether this execution has ended, which its job may not have."""
    return row.ended_at > 0 and row.state in SURELY_OVER | MAY_RUN_AGAIN


def ending_of(row: AccountRow, key: str, *, withdrawn: bool = False) -> Ending:
    """A finished row as an ending. `withdrawn`: we took the job out ourselves, so a cancellation is nobody's wish."""
    ran = bool(row.nodes)  # sacct gives a cancelled job that never ran its end as its start
    return Ending(
        id=row.id,
        batch=row.name,
        key=key,
        state=row.state,
        failure=_failure(row, withdrawn=withdrawn),
        submitted_at=row.submitted_at,
        started_at=row.started_at if ran else 0.0,
        ended_at=row.ended_at,
        elapsed_seconds=row.elapsed_seconds,
        gpus=row.gpus,
        cpus=row.cpus if ran else 0,
        nodes=row.nodes,
        failed_node=row.failed_node,
        exit_code=row.exit_code,
        signal=row.signal,
        message=message_of(row),
    )


def message_of(row: AccountRow) -> str:
    """One line for people on how an execution ended."""
    if row.state == "CANCELLED":
        if row.by_uid:
            return f"cancelled by uid {row.by_uid}"
        return "cancelled by Slurm: the job before it did not end well"
    if row.state == "FAILED":
        if row.signal:
            return f"ended by signal {row.signal}"
        return f"ended with code {row.exit_code}"
    where = row.failed_node or row.nodes
    said = MESSAGES.get(row.state, row.state)
    return f"{said} ({where})" if where and FAILURES.get(row.state) is FailureClass.NODE_FAULT else said


def _failure(row: AccountRow, *, withdrawn: bool) -> FailureClass | None:
    if row.state == "CANCELLED":  # without a uid: by kill_invalid_depend, or --kill-on-invalid-dep
        return FailureClass.CANCELLED if row.by_uid and not withdrawn else None
    return FAILURES.get(row.state)
