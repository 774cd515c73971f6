import pytest

from jobs.slurm.parsing import (
    ACCOUNT_FIELDS,
    QUEUE_FIELDS,
    QUEUE_FORMAT,
    SEPARATOR,
    AccountRow,
    QueueRow,
    parse_accounting,
    parse_allocated_gpus,
    parse_allocated_kinds,
    parse_array_tasks,
    parse_queue,
    parse_step_memory,
    select_fields,
)

FIELDS = select_fields(["Reason", "JobID"])
TRES = "billing=1,cpu=1,gres/gpu:a100=4,gres/gpu=4,mem=1G,node=1"
NAME = "sw-aaaaaaaaaaaa-trunk-test"


def line(*, job: str = "1_0", state: str = "COMPLETED", name: str = NAME, **others: str) -> str:
    given = {
        "submit": "1795401649",
        "start": "1795401650",
        "end": "1795401669",
        "elapsed": "19",
        "tres": TRES,
        "cpus": "1",
        "nodes": "n1",
        "code": "0:0",
        "reason": "None",
    } | others
    return "\x1f".join((job, state, *given.values(), name)) + "\n"


def read(text: str) -> tuple[AccountRow, ...]:
    answer = parse_accounting(text, FIELDS)
    assert answer.ok
    return answer.rows


def test_a_finished_execution_is_read_in_full() -> None:
    assert read(line(state="FAILED", code="3:0")) == (
        AccountRow(
            id="1_0",
            name=NAME,
            state="FAILED",
            submitted_at=1795401649.0,
            started_at=1795401650.0,
            ended_at=1795401669.0,
            elapsed_seconds=19,
            gpus=4,
            cpus=1,
            nodes="n1",
            exit_code=3,
            gpu_kinds="a100=4",
        ),
    )


def test_a_cancellation_names_who_did_it() -> None:
    row = read(line(state="CANCELLED by 1000", code="0:15"))[0]
    assert (row.state, row.by_uid, row.signal) == ("CANCELLED", "1000", 15)


def test_a_job_that_never_started_has_neither_times_nor_nodes() -> None:
    row = read(line(state="PENDING", start="Unknown", end="Unknown", elapsed="0", tres="", nodes="None assigned"))[0]
    assert (row.started_at, row.ended_at, row.gpus, row.nodes) == (0.0, 0.0, 0, "")


def test_requeued_executions_share_an_id() -> None:
    rows = read(line(state="REQUEUED", elapsed="3") + line(submit="1795401700", elapsed="6"))
    assert [(row.id, row.state, row.elapsed_seconds) for row in rows] == [
        ("1_0", "REQUEUED", 3),
        ("1_0", "COMPLETED", 6),
    ]


def test_pending_tasks_of_an_array_are_left_to_squeue() -> None:
    assert read(line(job="1_[5-9]", state="PENDING")) == ()


def test_tasks_that_were_cancelled_before_they_began_are_told_one_by_one() -> None:
    rows = read(line(job="36_[0,2-3]", state="CANCELLED by 0", nodes="None assigned", tres="", elapsed="0"))
    assert [row.id for row in rows] == ["36_0", "36_2", "36_3"]
    assert {(row.state, row.shared) for row in rows} == {("CANCELLED", True)}


@pytest.mark.parametrize(
    ("job", "tasks"),
    [
        ("3_[2-3%2]", ["3_2", "3_3"]),
        ("3_[0-6:3]", ["3_0", "3_3", "3_6"]),
        ("3_[1,4-5,...]", ["3_1", "3_4", "3_5"]),
        ("3_[1,4-", ["3_1"]),
        ("3", []),
    ],
)
def test_array_expressions(job: str, tasks: list[str]) -> None:
    assert list(parse_array_tasks(job)) == tasks


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        (TRES, 4),
        ("cpu=8,gres/gpu=16,node=2", 16),
        ("cpu=8,gres/gpu:a100=2,gres/gpu:h100=1", 3),
        ("cpu=8,gres/gpumem=80,node=2", 0),
        ("cpu=1,gres/shard=2,node=1", 0),
        ("", 0),
    ],
)
def test_devices_are_counted_once(tres: str, gpus: int) -> None:
    assert parse_allocated_gpus(tres) == gpus


@pytest.mark.parametrize(
    ("tres", "kinds"),
    [
        ("billing=1,cpu=1,gres/gpu:a100_1g.5gb=1,gres/gpu=1,mem=1G,node=1", "a100_1g.5gb=1"),
        ("cpu=24,gres/gpu=3,gres/gpu:3g.40gb=2,gres/gpu:4g.40gb=1", "3g.40gb=2,4g.40gb=1"),
        ("cpu=24,gres/gpu=3,gres/gpu:a100=2", "a100=2,=1"),
        ("cpu=1,gres/shard=2,node=1", "shard=2"),
        ("cpu=1,gres/shard:a100=2,node=1", "shard:a100=2"),
        ("cpu=1,gres/mps=50,node=1", "mps=50"),
        ("cpu=8,gres/gpu=16,node=2", ""),
        ("cpu=8,gres/gpumem=80,gres/gpuutil=5,node=2", ""),
        ("", ""),
    ],
)
def test_types_of_devices_are_kept_with_their_numbers(tres: str, kinds: str) -> None:
    assert parse_allocated_kinds(tres) == kinds


def test_fields_that_a_version_lacks_are_not_asked_for() -> None:
    assert select_fields([]) == (*ACCOUNT_FIELDS, "JobName")
    assert select_fields(["jobid", "reason", "failednode"]) == (*ACCOUNT_FIELDS, "Reason", "FailedNode", "JobName")


def test_a_version_that_knows_the_failed_node_is_believed() -> None:
    fields = select_fields(["Reason", "FailedNode"])
    text = line(state="NODE_FAIL", name=f"n2\x1f{NAME}")
    row = parse_accounting(text, fields).rows[0]
    assert (row.failed_node, row.name) == ("n2", NAME)


def test_text_that_breaks_off_is_no_answer() -> None:
    assert not parse_accounting(line()[:-1], FIELDS).ok


def test_a_foreign_name_with_a_line_break_harms_no_other_row() -> None:
    rows = read(line(name="new\nline\x1fx") + line(job="2_0"))
    assert [row.id for row in rows] == ["1_0", "2_0"]


# squeue's answers.

QUEUE_OF_22 = (
    "1_2\x1fPENDING\x1fJobArrayTaskLimit\x1f(null)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1fN/A\x1f"
    "\x1fN/A\x1fsw-aaaaaaaaaaaa-trunk-test\n"
    "2_0\x1fPENDING\x1fDependency\x1fafterok:1_*(unfulfilled)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1fN/A"
    "\x1f\x1fN/A\x1fsw-bbbbbbbbbbbb-trunk-test\n"
    "1_0\x1fRUNNING\x1fNone\x1f(null)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1f1795401650\x1fn[1-2]"
    "\x1f1795405250\x1fsw-aaaaaaaaaaaa-trunk-test\n"
)
"""Slurm 22.05.8, with SLURM_TIME_FORMAT=%s."""


def test_recorded_text_of_slurm_is_read_in_full() -> None:
    waiting, dependent, running = parse_queue(QUEUE_OF_22).rows
    assert waiting == QueueRow(
        id="1_2",
        name="sw-aaaaaaaaaaaa-trunk-test",
        user="root",
        state="PENDING",
        reason="JobArrayTaskLimit",
        qos="normal",
        account="vision",
        partition="main",
        submitted_at=1795401649.0,
    )
    assert (dependent.reason, dependent.dependency) == ("Dependency", "afterok:1_*(unfulfilled)")
    assert (running.state, running.reason, running.dependency) == ("RUNNING", "", "")
    assert (running.nodes, running.started_at) == ("n[1-2]", 1795401650.0)
    assert (waiting.ends_at, running.ends_at) == (0.0, 1795405250.0)


def test_an_empty_queue_is_a_good_answer() -> None:
    answer = parse_queue("")
    assert answer.ok
    assert answer.rows == ()


def test_queue_text_that_breaks_off_is_no_answer() -> None:
    answer = parse_queue(QUEUE_OF_22[:-3])
    assert not answer.ok
    assert answer.rows == ()


def test_a_foreign_name_with_line_breaks_and_separators_harms_no_other_row() -> None:
    foreign = QUEUE_OF_22.splitlines()[0].replace("sw-aaaaaaaaaaaa-trunk-test", "new\nline\x1fx|y")
    rows = parse_queue(f"{foreign}\n{QUEUE_OF_22}").rows
    assert len(rows) == 4
    assert [row.id for row in rows] == ["1_2", "1_2", "2_0", "1_0"]
    assert rows[1].name == "sw-aaaaaaaaaaaa-trunk-test"


def test_a_separator_in_a_name_stays_in_the_name() -> None:
    foreign = QUEUE_OF_22.splitlines()[0].replace("sw-aaaaaaaaaaaa-trunk-test", "x\x1fy")
    assert parse_queue(foreign + "\n").rows[0].name == "x\x1fy"


def test_a_banner_of_a_sites_wrapper_is_no_row() -> None:
    assert len(parse_queue("Welcome to the cluster\n" + QUEUE_OF_22).rows) == 3


def test_times_of_a_program_that_ignores_the_time_format_are_read_as_utc() -> None:
    row = parse_queue(QUEUE_OF_22.replace("1795401650", "2026-11-23T02:40:50")).rows[2]
    assert row.started_at == 1795401650.0


def test_the_format_has_one_field_for_each_that_is_read() -> None:
    assert QUEUE_FORMAT.count("%") == len(QUEUE_FIELDS) == 13
    assert QUEUE_FIELDS[-1] == "%j"


def test_memory_of_steps_is_read_with_its_unit_and_what_was_not_sampled_is_left_out() -> None:
    lines = (
        ("3_0", "1796057940", ""),
        ("3_0.batch", "1796057940", "42212K"),
        ("3_0.0", "1796057941", "1.50G"),
        ("3_0.extern", "1796057940", ""),
        ("7.0", "1796057942", "0"),
    )
    text = "".join(f"{SEPARATOR.join(each)}\n" for each in lines)
    assert list(parse_step_memory(text)) == [
        ("3_0", 1796057940.0, 42_212 * 1024),
        ("3_0", 1796057941.0, 1.5 * 2**30),
        ("7", 1796057942.0, 0.0),
    ]
    assert list(parse_step_memory("")) == []
