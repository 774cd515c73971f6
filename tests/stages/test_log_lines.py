"""Lines of progress in an attempt's log."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.log_lines import TaskLines, TrainingLines, format_seconds, write_log_line


class SetClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was written to stderr, without the time of day."""
    found = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\dZ  ", line) for line in found)
    return [line[11:] for line in found]


def record_of(step: int) -> dict[str, float]:
    return {"step": step, "loss": 3.72686, "lr": 0.00029, "tokens_per_second": 12_345.6}


def test_a_training_says_step_loss_rate_speed_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SetClock()
    lines = TrainingLines(3_000, clock)
    lines.write_begin(0, 0)
    clock.now = 100.0  # the first steps compile: they say nothing of the others
    lines.write_step(record_of(10))
    clock.now = 110.0
    lines.write_step(record_of(20))
    lines.write_step(record_of(3_000))
    begin, first, second, last = lines_of(capsys)
    assert re.fullmatch(r"begins at step 0 of 3,000, on \d{4}-\d\d-\d\d", begin)
    assert first == "step 10 of 3,000  loss 3.7269  lr 0.00029  12,346 tokens/s"
    assert second == "step 20 of 3,000  loss 3.7269  lr 0.00029  12,346 tokens/s  50 min left"
    assert last == "step 3,000 of 3,000  loss 3.7269  lr 0.00029  12,346 tokens/s"


def test_an_attempt_that_goes_on_says_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingLines(300, SetClock()).write_begin(120, 0)
    TrainingLines(300, SetClock()).write_begin(120, 120)  # a segment of a trunk begins here
    resumed, segment = lines_of(capsys)
    assert resumed.startswith("goes on from step 120 of 300")
    assert segment.startswith("begins at step 120 of 300")


def test_a_task_says_how_far_it_is_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SetClock()
    lines = TaskLines("gqa", writes=True, done_before=100, clock=clock)
    silent = TaskLines("gqa", writes=False, clock=clock)
    for number in range(1, 31):
        clock.now = float(number)
        lines.note(100 + 20 * number, 800, "questions")
        silent.note(number, 800, "questions")
    lines.note(800, 800, "questions")
    assert lines_of(capsys) == [
        "gqa: 300 of 800 questions  25 s left",
        "gqa: 500 of 800 questions  15 s left",
        "gqa: 700 of 800 questions  5 s left",
    ]


def test_a_line_is_one_line_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_log_line("a\nb\x1b[31m\u202ec")
    assert lines_of(capsys) == [r"a b\u001b[31m\u202ec"]


def test_a_log_that_takes_no_more_ends_no_job() -> None:
    program = "from stages.log_lines import write_log_line; write_log_line('x'); print('goes on')"
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert run.stdout == "goes on\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (9_000, "2.5 h"), (864_000, "10.0 days")]
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
