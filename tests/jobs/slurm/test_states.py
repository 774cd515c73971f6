"""Which rows of squeue mean that a job would wait for ever."""

import pytest

from jobs.observation import ClusterState
from jobs.slurm.parsing import QueueRow
from jobs.slurm.states import classify_queue_row, explain_reason, is_hopeless, list_awaited_jobs


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
    assert classify_queue_row(row) is state


NAMES = """
None Prolog Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown PartitionInactive
JobHeldAdmin JobHeldUser BeginTime Licenses AssociationJobLimit AssociationResourceLimit AssociationTimeLimit
Reservation ReqNodeNotAvail FrontEndDown SchedDefer NodeDown BadConstraints SystemFailure JobLaunchFailure
NonZeroExitCode RaisedSignal TimeLimit InactiveLimit InvalidAccount InvalidQOS QOSUsageThreshold QOSJobLimit
QOSResourceLimit QOSTimeLimit Cleaning QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied JobHoldMaxRequeue
JobArrayTaskLimit BurstBufferResources BurstBufferStageIn BurstBufferOperation PowerNotAvail PowerReserved DeadLine
PartitionConfig AccountingPolicy FedJobLock OutOfMemory MaxMemPerLimit ReservationDeleted ReservationInvalid
Constraints MaxBBPerAccount MaxCpuPerAccount MaxEnergyPerAccount MaxGRESPerAccount MaxNodePerAccount
MaxLicensePerAccount MaxMemoryPerAccount MaxUnknownPerAccount MaxJobsPerAccount MaxSubmitJobsPerAccount
MaxBillingPerAccount QOSMaxSubmitJobPerUserLimit QOSMaxJobsPerUserLimit QOSMinCpuNotSatisfied AssocMaxJobsLimit
AssocMaxSubmitJobLimit QOSMaxWallDurationPerJobLimit AssocMaxWallDurationPerJobLimit QOSGrpMemLimit AssocGrpMemLimit
QOSMaxNodePerJobLimit AssocMaxNodePerJobLimit QOSMaxNodePerUserLimit QOSMaxCpuMinutesPerJobLimit QOSGrpCPUMinutesLimit
AssocMaxCpuMinutesPerJobLimit AssocGrpCPURunMinutesLimit MaxPoweredUpNodes MpiPortsBusy NvidiaImexChannels
"""
FAMILIES = [
    f"{owner}{scope}"
    for owner in ("QOS", "Assoc")
    for scope in (
        *("GrpBB", "GrpBillingMinutes", "GrpEnergyRunMinutes", "GrpGRES", "GrpJobsLimit", "GrpLicense", "GrpCpuLimit"),
        *("GrpNodeLimit", "GrpSubmitJobsLimit", "GrpWallLimit", "GrpUnknownMinutes", "GrpGRESRunMinutes"),
        *("MaxBBPerJob", "MaxBillingPerNode", "MaxCpuPerJobLimit", "MaxGRESMinutesPerJob", "MaxUnknownPerJob"),
        *("MaxGRESPerUser", "MaxMemoryPerUser", "MinGRES", "MinNode"),
    )
]
# from 24.11 on
FAMILIES += [
    f"Max{resource}RunMinsPer{owner}"
    for resource in ("BB", "Billing", "Cpu", "Energy", "GRES", "Node", "License", "Memory", "Unknown")
    for owner in ("User", "Account")
]


@pytest.mark.parametrize("reason", [*NAMES.split(), *FAMILIES])
def test_every_reason_of_slurm_has_words(reason: str) -> None:
    words = explain_reason(reason)
    assert " " in words
    assert reason not in words
    assert words.startswith("never") == is_hopeless(reason)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "waits for GPUs or nodes"),
        ("Priority", "behind jobs of higher priority"),
        ("QOSMaxGRESPerUser", "QOS limit on GPUs of one user"),
        ("QOSMaxJobsPerUserLimit", "QOS limit on running jobs of one user"),
        ("AssocGrpGRESMinutes", "account's limit on GPU-minutes for all its jobs together"),
        ("QOSMaxWallDurationPerJobLimit", "never: QOS limit on wall-clock time of one job"),
        ("QOSMinGRES", "never: less than the QOS minimum of GPUs"),
        ("PartitionTimeLimit", "never: time limit above the partition's"),
        ("Dependency", "waits for the job before it"),
        ("DependencyNeverSatisfied", "never: the job before it did not end well"),
        (
            "ReqNodeNotAvail,_UnavailableNodes:n[1-2]",
            "a node that it needs is down or reserved (UnavailableNodes:n[1-2])",
        ),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
            "nodes that it needs are down, drained or reserved for jobs of higher priority",
        ),
        ("", "waits for the scheduler to consider it"),
    ],
)
def test_reasons_in_words(reason: str, words: str) -> None:
    assert explain_reason(reason) == words


@pytest.mark.parametrize(
    ("reason", "dependency", "jobs"),
    [
        ("Dependency", "afterok:12_*(unfulfilled),afterok:13_4(unfulfilled)", "12, 13_4"),
        ("Dependency", "afterok:1,afterok:2,afterok:3,afterok:4", "1, 2, 3 and 1 more"),
        ("Dependency", "singleton", "singleton"),
        ("Dependency", "", ""),
        ("DependencyNeverSatisfied", "afterok:6328(failed)", "6328"),
        ("Resources", "afterok:6328(failed)", ""),
    ],
)
def test_the_jobs_that_a_job_waits_for(reason: str, dependency: str, jobs: str) -> None:
    assert list_awaited_jobs(reason, dependency) == jobs


def test_an_unknown_reason_is_shown_as_it_is() -> None:
    assert explain_reason("QOSMaxQubitsPerJob") == "QOSMaxQubitsPerJob"
    assert not is_hopeless("QOSMaxQubitsPerJob")


def test_a_job_that_slurm_holds_after_a_failure_waits_for_ever() -> None:
    assert is_hopeless("launch_failed_requeued_held")
    assert is_hopeless("user_env_retrieval_failed_requeued_held")
    assert "user env retrieval failed" in explain_reason("user_env_retrieval_failed_requeued_held")


def test_a_limit_on_all_jobs_together_passes_and_one_on_a_single_job_does_not() -> None:
    assert not is_hopeless("QOSGrpGRES")
    assert not is_hopeless("QOSMaxSubmitJobPerUserLimit")
    assert is_hopeless("QOSMaxGRESPerJob")
