from jobs.slurm.parsing import QUEUE_FIELDS, QUEUE_FORMAT, QueueRow, parse_queue

RECORDED = (
    "1_2\x1fPENDING\x1fJobArrayTaskLimit\x1f(null)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1fN/A\x1f"
    "\x1fN/A\x1fsw-aaaaaaaaaaaa-trunk-test\n"
    "2_0\x1fPENDING\x1fDependency\x1fafterok:1_*(unfulfilled)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1fN/A"
    "\x1f\x1fN/A\x1fsw-bbbbbbbbbbbb-trunk-test\n"
    "1_0\x1fRUNNING\x1fNone\x1f(null)\x1froot\x1fnormal\x1fvision\x1fmain\x1f1795401649\x1f1795401650\x1fn[1-2]"
    "\x1f1795405250\x1fsw-aaaaaaaaaaaa-trunk-test\n"
)
"""Slurm 22.05.8, with SLURM_TIME_FORMAT=%s."""


def test_recorded_text_of_slurm_is_read_in_full() -> None:
    waiting, dependent, running = parse_queue(RECORDED).rows
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


def test_text_that_breaks_off_is_no_answer() -> None:
    answer = parse_queue(RECORDED[:-3])
    assert not answer.ok
    assert answer.rows == ()


def test_a_foreign_name_with_line_breaks_and_separators_harms_no_other_row() -> None:
    foreign = RECORDED.splitlines()[0].replace("sw-aaaaaaaaaaaa-trunk-test", "new\nline\x1fx|y")
    rows = parse_queue(f"{foreign}\n{RECORDED}").rows
    assert len(rows) == 4
    assert [row.id for row in rows] == ["1_2", "1_2", "2_0", "1_0"]
    assert rows[1].name == "sw-aaaaaaaaaaaa-trunk-test"


def test_a_separator_in_a_name_stays_in_the_name() -> None:
    foreign = RECORDED.splitlines()[0].replace("sw-aaaaaaaaaaaa-trunk-test", "x\x1fy")
    assert parse_queue(foreign + "\n").rows[0].name == "x\x1fy"


def test_a_banner_of_a_sites_wrapper_is_no_row() -> None:
    assert len(parse_queue("Welcome to the cluster\n" + RECORDED).rows) == 3


def test_times_of_a_program_that_ignores_the_time_format_are_read_as_utc() -> None:
    row = parse_queue(RECORDED.replace("1795401650", "2026-11-23T02:40:50")).rows[2]
    assert row.started_at == 1795401650.0


def test_the_format_has_one_field_for_each_that_is_read() -> None:
    assert QUEUE_FORMAT.count("%") == len(QUEUE_FIELDS) == 13
    assert QUEUE_FIELDS[-1] == "%j"
