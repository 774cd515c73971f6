"""What answers of squeue and sacct mean: as tables, and as properties of any answers whatever."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.observation import ClusterState, Observation
from jobs.reconcile.truth import GONE
from jobs.slurm.batches import KnownBatch
from jobs.slurm.observe import ReconcileResult, reconcile_answers
from jobs.slurm.parsing import AccountRow, HiddenUsers, QueueRow, SlurmAnswer
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.records import FailureClass

PATIENCE = SlurmTimeouts(unknown_submit_s=120, missing_job_s=60, recheck_s=10)
SENT = 1000.0
NOW = 2000.0
NAME = "sw-aaaaaaaaaaaa-finetune-demo"
OTHER = "sw-bbbbbbbbbbbb-finetune-demo"
KEY = "k0"

DOWN: SlurmAnswer[QueueRow] = SlurmAnswer(problem="Unable to contact slurm controller (connect failure)")
NO_SACCT: SlurmAnswer[AccountRow] = SlurmAnswer(problem="Problem talking to the database: Connection refused")
SWITCHED_OFF: SlurmAnswer[AccountRow] = SlurmAnswer(problem="Slurm accounting storage is disabled", absent=True)
NOTHING: SlurmAnswer[AccountRow] = SlurmAnswer()

QUEUED, RUNNING, STUCK, ENDED, UNKNOWN = (
    ClusterState.QUEUED,
    ClusterState.RUNNING,
    ClusterState.STUCK,
    ClusterState.ENDED,
    ClusterState.UNKNOWN,
)


def batch(name: str = NAME, *, id: str = "7", sent_at: float = SENT, keys: str = KEY) -> KnownBatch:
    tasks = dict(enumerate(keys.split()))
    return KnownBatch(
        name=name,
        phase="finetune",
        tasks=tasks,
        user="ann",
        intended_at=sent_at - 1,
        id=id,
        sent_at=sent_at if id else 0,
    )


def live(state: str, reason: str = "", *, id: str = "7_0", name: str = NAME, dependency: str = "") -> QueueRow:
    return QueueRow(id=id, name=name, user="ann", state=state, reason=reason, dependency=dependency)


def run(state: str, *, id: str = "7_0", name: str = NAME, ended_at: float = 1500.0, **others: Any) -> AccountRow:
    row = AccountRow(
        id=id,
        name=name,
        state=state,
        submitted_at=SENT,
        started_at=1200.0,
        ended_at=ended_at,
        elapsed_seconds=300,
        gpus=4,
        cpus=8,
        nodes="n1",
    )
    return row._replace(**others)


def queue(*rows: QueueRow) -> SlurmAnswer[QueueRow]:
    return SlurmAnswer(rows=rows)


def sacct(*rows: AccountRow) -> SlurmAnswer[AccountRow]:
    return SlurmAnswer(rows=rows)


def look(
    squeue: SlurmAnswer[QueueRow],
    accounting: SlurmAnswer[AccountRow] = NOTHING,
    *batches: KnownBatch,
    now: float = NOW,
    missing_since: Mapping[str, float] | None = None,
) -> ReconcileResult:
    return reconcile_answers(
        batches or (batch(),), squeue, accounting, now=now, timeouts=PATIENCE, sweep="demo", missing_since=missing_since
    )


@pytest.mark.parametrize(
    ("row", "state", "message"),
    [
        (live("PENDING", "Resources"), QUEUED, "waits for GPUs or nodes"),
        (
            live("PENDING", "Dependency", dependency="aftercorr:6_*(unfulfilled)"),
            QUEUED,
            "waits for the job before it (6)",
        ),
        (live("PENDING", "DependencyNeverSatisfied"), STUCK, "never: the job before it did not end well"),
        (live("PENDING", "Dependency", dependency="afterok:6_0(failed)"), STUCK, "waits for the job before it (6_0)"),
        (
            live("PENDING", "Dependency", dependency="afterok:6(failed)?afterok:8"),
            QUEUED,
            "waits for the job before it (6, 8)",
        ),
        (live("PENDING", "BeginTime"), QUEUED, "waits for its earliest start time"),
        (live("REQUEUED"), QUEUED, "requeued"),
        (live("REQUEUE_HOLD"), QUEUED, "requeued and held (scontrol release lets it go on)"),
        (live("RUNNING"), RUNNING, ""),
        (live("COMPLETING"), RUNNING, "ending"),
        (live("CONFIGURING"), RUNNING, "its nodes are being prepared"),
        (live("SUSPENDED"), RUNNING, "suspended"),
        (live("TELEPORTING"), UNKNOWN, "in a state unknown here: TELEPORTING"),
    ],
)
@pytest.mark.parametrize("accounting", [NOTHING, NO_SACCT, SWITCHED_OFF, sacct(run("FAILED"))])
def test_a_live_row_outweighs_all_that_is_older(
    row: QueueRow, state: ClusterState, message: str, accounting: SlurmAnswer[AccountRow]
) -> None:
    seen = look(queue(row), accounting).observations[KEY]
    assert (seen.state, seen.describe_wait(), seen.id) == (state, message, "7_0")


FIRST_LOOK: Mapping[str, float] = {}
LONG_MISSED = {KEY: NOW - 10}
JUST_MISSED = {KEY: NOW - 9}


@pytest.mark.parametrize(
    ("squeue", "accounting", "missed", "state"),
    [
        # squeue answers, sacct knows the end
        (queue(), sacct(run("COMPLETED")), FIRST_LOOK, ENDED),
        (queue(), sacct(run("CANCELLED", by_uid="0")), FIRST_LOOK, ENDED),
        (queue(), sacct(run("PREEMPTED")), FIRST_LOOK, ENDED),
        (queue(), sacct(run("PREEMPTED", ended_at=NOW - 9)), FIRST_LOOK, UNKNOWN),
        (queue(), sacct(run("REQUEUED", ended_at=NOW - 10)), FIRST_LOOK, ENDED),
        (queue(), sacct(run("NODE_FAIL", ended_at=NOW - 1)), FIRST_LOOK, UNKNOWN),
        # squeue answers, sacct knows no end
        (queue(), sacct(run("RUNNING", ended_at=0.0)), FIRST_LOOK, UNKNOWN),
        (queue(), sacct(run("RUNNING", ended_at=0.0)), LONG_MISSED, ENDED),
        (queue(), NOTHING, FIRST_LOOK, UNKNOWN),
        (queue(), NOTHING, JUST_MISSED, UNKNOWN),
        (queue(), NOTHING, LONG_MISSED, ENDED),
        (queue(), NO_SACCT, FIRST_LOOK, UNKNOWN),
        (queue(), NO_SACCT, LONG_MISSED, ENDED),
        (queue(), SWITCHED_OFF, FIRST_LOOK, UNKNOWN),
        (queue(), SWITCHED_OFF, LONG_MISSED, ENDED),
        # the same id under another name is another job
        (queue(live("RUNNING", name="train")), sacct(run("COMPLETED", name="train")), FIRST_LOOK, UNKNOWN),
        # squeue fails
        (DOWN, sacct(run("COMPLETED")), FIRST_LOOK, ENDED),
        (DOWN, sacct(run("PREEMPTED")), LONG_MISSED, UNKNOWN),
        (DOWN, sacct(run("RUNNING", ended_at=0.0)), LONG_MISSED, UNKNOWN),
        (DOWN, NOTHING, LONG_MISSED, UNKNOWN),
        (DOWN, NO_SACCT, LONG_MISSED, UNKNOWN),
        (DOWN, SWITCHED_OFF, LONG_MISSED, UNKNOWN),
    ],
)
def test_a_job_that_is_not_in_the_queue(
    squeue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow], missed: Mapping[str, float], state: ClusterState
) -> None:
    assert look(squeue, accounting, missing_since=missed).observations[KEY].state is state


def test_two_looks_that_agree_end_a_job_that_nobody_knows() -> None:
    first = look(queue())
    assert first.missing_since == {KEY: NOW}
    second = look(queue(), missing_since=first.missing_since, now=NOW + 10)
    assert second.observations[KEY].message == GONE
    assert not second.missing_since


@pytest.mark.parametrize("state", ["CANCELLED", "FAILED", "COMPLETED", "NODE_FAIL"])
def test_a_final_state_without_an_end_is_no_end_yet(state: str) -> None:
    """A job of seconds: slurmctld's late word of its start tells its last state, and neither its end nor who ended it
    (accounting_storage/slurmdbd sends starts beside its queue of other messages)."""
    seen = look(queue(), sacct(run(state, ended_at=0.0)))
    assert seen.observations[KEY].state is UNKNOWN
    assert not seen.accounting_records


def test_sacct_is_waited_for_while_the_controller_remembers_the_end() -> None:
    late = sacct(run("RUNNING", ended_at=0.0))
    just, long_ago = (live("CANCELLED")._replace(ends_at=NOW - seconds, nodes="n1") for seconds in (299, 300))
    for accounting in (late, NOTHING):
        seen = look(queue(just), accounting, missing_since=LONG_MISSED)
        assert seen.observations[KEY].message == "ended (CANCELLED); sacct does not tell of it yet"
        assert seen.observations[KEY].state is UNKNOWN
        given_up = look(queue(long_ago), accounting, missing_since=LONG_MISSED)
        assert given_up.observations[KEY].message == "cancelled with scancel"
        (record,) = given_up.accounting_records[KEY]
        assert (record.failure, record.remembered) == (FailureClass.CANCELLED, True)
    assert look(queue(just), NO_SACCT, missing_since=LONG_MISSED).observations[KEY].state is ENDED


ONE_OF_TWO = batch(keys="k0 k1")
IN_QUEUE: dict[str, Any] = {"started_at": 0.0, "elapsed_seconds": 0, "nodes": ""}


@pytest.mark.parametrize(
    ("reason", "seconds", "accounting", "uid", "said"),
    [
        # a row of the batch with the same end says by whom: 24.11 has one row for all tasks that did not start
        ("Dependency", 10, sacct(run("CANCELLED", id="7_1", by_uid="4", ended_at=NOW - 10, **IN_QUEUE)), 4, ENDED),
        ("Dependency", 9, sacct(run("CANCELLED", id="7_1", by_uid="4", ended_at=NOW - 9, **IN_QUEUE)), 4, UNKNOWN),
        # none does: it may come yet
        ("Priority", 59, sacct(run("CANCELLED", id="7_1", by_uid="4", ended_at=NOW - 9, **IN_QUEUE)), None, UNKNOWN),
        ("Priority", 60, sacct(run("CANCELLED", id="7_1", by_uid="4", ended_at=NOW - 9, **IN_QUEUE)), None, ENDED),
        ("Priority", 60, NOTHING, None, ENDED),
        # there is nothing to wait for
        ("JobHeldUser", 10, SWITCHED_OFF, None, ENDED),
        ("JobHeldUser", 10, NO_SACCT, None, ENDED),
    ],
)
def test_a_person_took_out_what_the_controller_remembers_as_cancelled_without_a_node(
    reason: str, seconds: float, accounting: SlurmAnswer[AccountRow], uid: int | None, said: ClusterState
) -> None:
    gone = live("CANCELLED", reason)._replace(ends_at=NOW - seconds)
    found = look(queue(gone, live("PENDING", id="7_1")), accounting, ONE_OF_TWO)
    assert found.observations[KEY].state is said
    records = [(each.failure, each.cancelled_by_uid) for each in found.accounting_records.get(KEY, ())]
    assert records == ([(FailureClass.CANCELLED, uid)] if said is ENDED else [])


@pytest.mark.parametrize(
    "gone", [live("CANCELLED", "DependencyNeverSatisfied"), live("CANCELLED")._replace(nodes="n1"), live("DEADLINE")]
)
def test_what_slurm_took_out_or_what_ran_is_not_called_cancelled_in_the_queue(gone: QueueRow) -> None:
    found = look(queue(gone._replace(ends_at=NOW - 299)), NOTHING, missing_since=LONG_MISSED)
    assert found.observations[KEY].state is UNKNOWN
    assert found.accounting_records == {}


BY_US = replace(ONE_OF_TWO, withdrawn={"k1": NOW - 100})
BY_UID = sacct(run("CANCELLED", id="7_1", by_uid="4", **IN_QUEUE))


@pytest.mark.parametrize(
    ("squeue", "accounting", "sent", "cancelled"),
    [
        # the controller has the array, and not the task: of an array that waits as one it keeps none that was cancelled
        (queue(live("PENDING", id="7_1")), NOTHING, ONE_OF_TWO, True),
        (queue(live("CANCELLED", id="7")), NOTHING, ONE_OF_TWO, True),
        # it has forgotten both, and sacct has one row for all tasks that did not start
        (queue(), BY_UID, ONE_OF_TWO, True),
        # that row is ours
        (queue(), BY_UID, BY_US, False),
        # it lost the array in a crash, or gave its id to another job
        (queue(), NOTHING, ONE_OF_TWO, False),
        (queue(live("PENDING", id="7_1", name=OTHER)), NOTHING, ONE_OF_TWO, False),
        # the task may have run
        (queue(live("PENDING", id="7_1")), NO_SACCT, ONE_OF_TWO, False),
        (queue(live("PENDING", id="7_1")), sacct(run("RUNNING", ended_at=0.0)), ONE_OF_TWO, False),
    ],
)
def test_a_task_that_nobody_has_while_its_array_is_known_was_cancelled_in_the_queue(
    squeue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow], sent: KnownBatch, cancelled: bool
) -> None:
    assert look(squeue, accounting, sent, missing_since=JUST_MISSED).observations[KEY].state is UNKNOWN
    found = look(squeue, accounting, sent, missing_since=LONG_MISSED)
    assert found.observations[KEY].message == ("cancelled in the queue" if cancelled else GONE)
    assert (KEY in found.accounting_records) is cancelled


def test_a_failed_look_is_no_look() -> None:
    first = look(queue())
    failed = look(DOWN, missing_since=first.missing_since, now=NOW + 10)
    assert failed.missing_since == first.missing_since
    assert failed.observations[KEY].message == f"squeue: {DOWN.problem}"


def test_a_job_just_sent_is_not_missed_yet() -> None:
    fresh = batch(sent_at=NOW - 59)
    assert look(queue(), NOTHING, fresh, missing_since={KEY: NOW - 30}).observations[KEY].state is UNKNOWN


def test_an_absence_before_it_was_sent_once_more_does_not_count() -> None:
    again = batch(OTHER, id="8", sent_at=NOW - 100)
    seen = look(queue(), NOTHING, batch(), again, missing_since={KEY: NOW - 500})
    assert seen.observations[KEY].state is UNKNOWN
    assert seen.missing_since == {KEY: NOW}


def test_a_recycled_id_is_not_ours() -> None:
    """submitit#1660, seen in slurm.md: a crashed controller gives acknowledged ids to other jobs."""
    seen = look(queue(live("RUNNING", name="somebody-elses")), missing_since=LONG_MISSED)
    assert seen.observations[KEY].state is ENDED


def test_the_exit_code_is_passed_on_where_slurm_knows_it() -> None:
    assert look(queue(), sacct(run("FAILED", exit_code=75))).observations[KEY].returncode == 75
    assert look(queue(), sacct(run("COMPLETED"))).observations[KEY].returncode == 0
    assert look(queue(), sacct(run("FAILED", signal=9))).observations[KEY].returncode is None
    assert look(queue(), sacct(run("TIMEOUT"))).observations[KEY].returncode is None


def test_the_newest_execution_decides_and_all_are_told() -> None:
    rows = sacct(run("TIMEOUT"), run("REQUEUED", submitted_at=900.0), run("COMPLETED", submitted_at=1600.0))
    seen = look(queue(), rows)
    assert seen.observations[KEY].message == "ended with code 0"
    assert [ending.state for ending in seen.accounting_records[KEY]] == ["TIMEOUT", "REQUEUED", "COMPLETED"]


@pytest.mark.parametrize(
    ("row", "failure", "message"),
    [
        (run("COMPLETED"), None, "ended with code 0"),
        (run("FAILED", exit_code=3), None, "ended with code 3"),
        (run("FAILED", signal=9), None, "ended by signal 9"),
        (run("TIMEOUT"), FailureClass.WALL_CLOCK, "ran into its time limit"),
        (run("DEADLINE"), FailureClass.WALL_CLOCK, "its deadline has passed"),
        (run("PREEMPTED"), FailureClass.PREEMPTED, "preempted"),
        (run("REQUEUED"), None, "requeued"),
        (run("NODE_FAIL"), FailureClass.NODE_FAULT, "node failure (n1)"),
        (run("NODE_FAIL", failed_node="n9"), FailureClass.NODE_FAULT, "node failure (n9)"),
        (run("BOOT_FAIL"), FailureClass.NODE_FAULT, "node failure at boot (n1)"),
        (run("OUT_OF_MEMORY"), FailureClass.OUT_OF_MEMORY, "out of memory"),
        (run("CANCELLED", by_uid="1000"), FailureClass.CANCELLED, "cancelled by uid 1000"),
        (run("CANCELLED"), None, "cancelled by Slurm: the job before it did not end well"),
    ],
)
def test_an_execution_that_is_over_becomes_an_ending(
    row: AccountRow, failure: FailureClass | None, message: str
) -> None:
    ending = look(queue(live("PENDING")), sacct(row)).accounting_records[KEY][0]
    assert (ending.failure, ending.message, ending.state) == (failure, message, row.state)
    assert (ending.id, ending.batch, ending.key) == ("7_0", NAME, KEY)
    assert (ending.submitted_at, ending.started_at, ending.ended_at) == (SENT, 1200.0, 1500.0)
    assert ending.gpu_seconds == 1200


def test_a_job_that_never_started_has_no_start() -> None:
    row = run("CANCELLED", by_uid="0", nodes="", started_at=1500.0, elapsed_seconds=0, gpus=0)
    ending = look(queue(), sacct(row)).accounting_records[KEY][0]
    assert (ending.started_at, ending.cpus, ending.gpu_seconds) == (0.0, 0, 0)


def test_what_we_took_out_ourselves_is_nobodys_cancellation() -> None:
    ours = replace(batch(), withdrawn={KEY: 0.0})
    assert look(queue(), sacct(run("CANCELLED", by_uid="0")), ours).accounting_records[KEY][0].failure is None
    seen = look(queue(), NOTHING, ours)  # an array's task that never began leaves no row
    assert seen.observations[KEY].state is ENDED
    assert look(DOWN, NOTHING, ours).observations[KEY].state is UNKNOWN
    assert look(queue(live("RUNNING")), NOTHING, ours).observations[KEY].state is RUNNING


def test_a_row_that_tasks_share_is_weak_evidence() -> None:
    """One line of sacct for all tasks that never began; its list of them may be out of date."""
    shared = run("CANCELLED", by_uid="0", nodes="", elapsed_seconds=0, gpus=0, shared=True)
    alone = look(queue(), sacct(shared))
    assert alone.observations[KEY].message == "cancelled by uid 0"
    assert [ending.failure for ending in alone.accounting_records[KEY]] == [FailureClass.CANCELLED]
    for squeue, rows, state in (
        (queue(live("RUNNING")), sacct(shared), RUNNING),
        (queue(), sacct(run("COMPLETED"), shared), ENDED),
        (queue(), sacct(shared._replace(ended_at=NOW - 9)), UNKNOWN),
        (DOWN, sacct(shared), UNKNOWN),
    ):
        seen = look(squeue, rows)
        assert seen.observations[KEY].state is state
        assert all(ending.state == "COMPLETED" for ending in seen.accounting_records.get(KEY, []))


def test_jobs_whose_end_was_noted_are_not_missed() -> None:
    seen = reconcile_answers(
        [batch()], queue(), NOTHING, now=NOW, timeouts=PATIENCE, missing_since=LONG_MISSED, settled={(NAME, KEY)}
    )
    assert not seen.observations
    assert not seen.missing_since


DOUBTED = batch(id="", sent_at=NOW - 120)


@pytest.mark.parametrize(
    ("squeue", "accounting"),
    [
        (queue(live("PENDING")), NOTHING),
        (queue(live("RUNNING")), NO_SACCT),
        (queue(), sacct(run("COMPLETED"))),
        (DOWN, sacct(run("RUNNING"))),
    ],
)
def test_a_batch_whose_sbatch_gave_no_answer_is_found_by_name(
    squeue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]
) -> None:
    seen = look(squeue, accounting, DOUBTED)
    assert seen.adopted == {NAME: "7"}
    assert not seen.not_submitted


@pytest.mark.parametrize("accounting", [NOTHING, SWITCHED_OFF])
def test_a_batch_that_is_nowhere_for_long_enough_never_reached_slurm(accounting: SlurmAnswer[AccountRow]) -> None:
    seen = look(queue(), accounting, DOUBTED)
    assert seen.not_submitted == [NAME]
    assert not seen.observations


@pytest.mark.parametrize(
    ("squeue", "accounting", "now"),
    [(DOWN, NOTHING, NOW), (queue(), NO_SACCT, NOW), (queue(), NOTHING, NOW - 1)],
    ids=["squeue down", "sacct down", "too early"],
)
def test_doubt_stays_until_both_have_answered_late_enough(
    squeue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow], now: float
) -> None:
    """aiida-core#3404, nextflow#970: a time-out of sbatch is no failure of it."""
    seen = look(squeue, accounting, DOUBTED, now=now)
    assert not seen.not_submitted
    assert seen.observations[KEY].state is UNKNOWN
    assert "sbatch gave no answer" in seen.observations[KEY].message


def test_doubt_about_a_later_batch_outweighs_the_end_of_an_earlier_one() -> None:
    later = batch(OTHER, id="", sent_at=NOW - 5)
    assert look(queue(), sacct(run("FAILED")), batch(), later).observations[KEY].state is UNKNOWN


def test_a_batch_that_was_given_up_and_turns_up_is_ours_again() -> None:
    given_up = replace(batch(id=""), not_submitted_at=1200.0)
    seen = look(queue(live("RUNNING")), NOTHING, given_up)
    assert seen.adopted == {NAME: "7"}
    assert seen.observations[KEY].state is RUNNING


def test_a_refused_batch_leaves_no_trace() -> None:
    refused = replace(batch(id=""), not_submitted_at=1200.0)
    seen = look(queue(), NOTHING, refused)
    assert (seen.observations, seen.not_submitted, seen.adopted, seen.missing_since) == ({}, [], {}, {})


def test_jobs_of_this_sweep_that_no_ledger_knows_are_strays() -> None:
    rows = queue(
        live("PENDING", id="9_0", name="sw-cccccccccccc-trunk-demo"),
        live("PENDING", id="9_1", name="sw-cccccccccccc-trunk-demo"),
        live("PENDING", id="11_0", name="sw-dddddddddddd-trunk-other"),
        live("RUNNING", id="12", name="train"),
    )
    assert look(rows).unknown_batches == {"sw-cccccccccccc-trunk-demo": "9"}


@pytest.mark.parametrize(
    ("old", "new", "kept", "duplicates"),
    [
        ("RUNNING", "PENDING", "7_0", ["8_0"]),
        ("PENDING", "RUNNING", "8_0", ["7_0"]),
        ("PENDING", "PENDING", "8_0", ["7_0"]),
        ("RUNNING", "RUNNING", "8_0", []),
    ],
)
def test_a_pending_copy_of_a_live_job_is_a_duplicate(old: str, new: str, kept: str, duplicates: list[str]) -> None:
    rows = queue(live(old), live(new, id="8_0", name=OTHER))
    seen = look(rows, NOTHING, batch(), batch(OTHER, id="8", sent_at=SENT + 100))
    assert seen.observations[KEY].id == kept
    assert seen.duplicates == duplicates
    assert bool(seen.remarks) == (not duplicates)


def test_a_stuck_copy_does_not_hide_one_that_will_run() -> None:
    rows = queue(live("PENDING", "Priority"), live("PENDING", "DependencyNeverSatisfied", id="8_0", name=OTHER))
    seen = look(rows, NOTHING, batch(), batch(OTHER, id="8", sent_at=SENT + 100))
    assert (seen.observations[KEY].state, seen.duplicates) == (QUEUED, ["8_0"])


def test_a_name_under_two_ids_is_remarked_on() -> None:
    seen = look(queue(live("RUNNING"), live("PENDING", id="9_0")))
    assert seen.remarks == [f"{NAME} is in Slurm as 7 and 9 (sbatch said 7)"]
    assert seen.duplicates == ["9_0"]


def test_a_job_that_would_wait_for_ever_is_named() -> None:
    seen = look(queue(live("PENDING", "PartitionTimeLimit")))
    assert seen.observations[KEY].state is QUEUED
    assert seen.stuck_reasons == {KEY: "never: time limit above the partition's"}


def test_tasks_are_told_apart_by_their_index() -> None:
    seen = look(
        queue(live("RUNNING", id="7_1")),
        sacct(run("COMPLETED")),
        batch(keys="k0 k1 k2"),
        missing_since={"k2": NOW - 10},
    )
    assert {key: each.state for key, each in seen.observations.items()} == {"k0": ENDED, "k1": RUNNING, "k2": ENDED}


def test_rows_of_tasks_that_nobody_planned_are_passed_over() -> None:
    rows = queue(live("RUNNING", id="7_5"), live("RUNNING", id="7"))
    seen = look(rows, sacct(run("COMPLETED", id="7_6")), batch(keys=f"{KEY} other"))
    assert not seen.accounting_records
    assert {each.state for each in seen.observations.values()} == {UNKNOWN}


def test_the_row_of_a_whole_array_of_one_task_is_that_task() -> None:
    seen = look(queue(live("CANCELLED", id="7")), NO_SACCT, missing_since=FIRST_LOOK)
    assert seen.observations[KEY].state is ENDED


STATES = ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "TELEPORTING"]
ENDS = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "REQUEUED", "RUNNING", "PENDING"]
NAMES = st.sampled_from([NAME, OTHER, "sw-eeeeeeeeeeee-trunk-demo", "train"])
IDS = st.sampled_from(["7_0", "7_1", "8_0", "9_0", "7"])
QUEUES = st.lists(st.builds(live, st.sampled_from(STATES), id=IDS, name=NAMES), max_size=4).map(
    lambda rows: queue(*rows)
)
ENDED_AT = st.sampled_from([0.0, 1500.0, NOW - 1])
RUNS = st.lists(st.builds(run, st.sampled_from(ENDS), id=IDS, name=NAMES, ended_at=ENDED_AT), max_size=4)
BATCHES = st.lists(
    st.builds(
        lambda name, id, sent, withdrawn: replace(
            batch(name, id=id, sent_at=sent, keys="k0 k1"), withdrawn={KEY: 0.0} if withdrawn else {}
        ),
        st.just(NAME),
        st.sampled_from(["7", ""]),
        st.sampled_from([SENT, NOW - 5]),
        st.booleans(),
    ),
    min_size=1,
    max_size=1,
).flatmap(lambda first: st.sampled_from([first, [*first, batch(OTHER, id="8", keys="k0 k1")]]))
MISSED = st.sampled_from([{}, LONG_MISSED, {KEY: NOW - 10, "k1": NOW - 10}])


def has_live_row(answer: SlurmAnswer[QueueRow], batches: list[KnownBatch], key: str) -> bool:
    tasks = {(known.name, index): name for known in batches for index, name in known.tasks.items()}
    return any(tasks.get((row.name, int(row.id.partition("_")[2] or -1))) == key for row in answer.rows)


@given(BATCHES, QUEUES, RUNS, MISSED)
def test_a_job_with_a_live_row_has_never_ended(
    batches: list[KnownBatch], squeue: SlurmAnswer[QueueRow], runs: list[AccountRow], missed: dict[str, float]
) -> None:
    seen = look(squeue, sacct(*runs), *batches, missing_since=missed)
    for key in ("k0", "k1"):
        if has_live_row(squeue, batches, key):
            assert seen.observations[key].state is not ENDED


@given(BATCHES, st.sampled_from([NO_SACCT, SWITCHED_OFF, None]), RUNS, MISSED)
def test_without_squeue_only_a_final_row_ends_a_job(
    batches: list[KnownBatch], failed: SlurmAnswer[AccountRow] | None, runs: list[AccountRow], missed: dict[str, float]
) -> None:
    seen = look(DOWN, failed or sacct(*runs), *batches, missing_since=missed)
    final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
    proven = set() if failed else {row.id.partition("_")[2] for row in runs if row.state in final}
    for key, observation in seen.observations.items():
        if observation.state is ENDED:
            assert key.removeprefix("k") in proven
    assert not seen.not_submitted


def test_jobs_of_a_hidden_user_are_unknown_unless_something_shows_them() -> None:
    hidden = HiddenUsers(queue=frozenset({"ann"}))

    def state(squeue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow] = NOTHING) -> Observation:
        return reconcile_answers(
            (batch(keys="k0 k1"),), squeue, accounting, now=NOW, timeouts=PATIENCE, missing_since=LONG_MISSED,
            hidden=hidden,
        ).observations[KEY]  # fmt: skip

    unseen = state(queue())
    assert (unseen.state, unseen.hidden_owner) == (UNKNOWN, "ann")
    assert state(queue(), sacct(run("PENDING", ended_at=0.0))).hidden_owner == "ann"
    assert state(queue(), sacct(run("COMPLETED"))).state is ENDED
    coordinator = state(queue(live("RUNNING", id="7_1")), sacct())  # is shown another task of the same array
    assert not coordinator.hidden_owner


def test_an_unanswered_sbatch_of_a_hidden_user_is_never_given_up() -> None:
    doubted = batch(id="", sent_at=0.0)
    for hidden, given_up in ((HiddenUsers(), [NAME]), (HiddenUsers(queue=frozenset({"ann"})), [])):
        seen = reconcile_answers((doubted,), queue(), NOTHING, now=NOW, timeouts=PATIENCE, hidden=hidden)
        assert seen.not_submitted == given_up


@pytest.mark.parametrize("off", [-10_800, 10_800])
def test_the_age_of_an_end_is_by_the_controllers_clock(off: float) -> None:
    """This machine's clock is hours off; the job was preempted 5 s ago and may be in the queue again in a moment."""
    just = sacct(run("PREEMPTED", ended_at=NOW - 5))
    seen = reconcile_answers((batch(),), queue(), just, now=NOW + off, timeouts=PATIENCE, cluster_now=NOW)
    assert seen.observations[KEY].state is UNKNOWN
    over = reconcile_answers((batch(),), queue(), just, now=NOW + off, timeouts=PATIENCE, cluster_now=NOW + 60)
    assert over.observations[KEY].state is ENDED


def test_without_accounting_an_end_that_nobody_remembers_is_in_doubt_and_one_that_is_remembered_is_not() -> None:
    unseen = look(queue(), SWITCHED_OFF, missing_since=LONG_MISSED).observations[KEY]
    assert (unseen.state, unseen.vouched_from) == (ENDED, SENT)
    assert "there is no accounting on this cluster" in unseen.doubt
    remembered = look(queue(live("FAILED")), SWITCHED_OFF, missing_since=LONG_MISSED).observations[KEY]
    assert (remembered.state, remembered.doubt) == (ENDED, "")
    cancelled = look(queue(live("CANCELLED")._replace(nodes="n1", started_at=1500.0, ends_at=1600.0)), SWITCHED_OFF)
    (record,) = cancelled.accounting_records[KEY]
    assert (record.failure, record.remembered, record.elapsed_seconds) == (FailureClass.CANCELLED, True, 100)
