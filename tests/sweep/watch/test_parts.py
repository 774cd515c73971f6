"""The parts of the live view that need no terminal."""

import json
from pathlib import Path

from rich.cells import cell_len

from sweep.watch.curves import MetricsCurve, draw_sparkline
from sweep.watch.terminal import iter_key_names
from sweep.watch.view import choose_widths, fit_cell, wrap_line


def write_lines(path: Path, *steps: int, mode: str = "a") -> None:
    with path.open(mode) as file:
        for step in steps:
            record = {"step": step, "total_steps": 100, "loss": 10.0 - step / 10, "time": 1_000.0 + step / 2}
            file.write(json.dumps(record) + "\n")


def test_a_curve_reads_what_is_new_and_starts_anew_with_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curve = MetricsCurve(path)
    assert not curve.update()
    write_lines(path, 10, 20)
    with path.open("a") as file:
        file.write('{"step": 30, "lo')
    assert curve.update()
    assert (curve.last["step"], curve.losses) == (20, [9.0, 8.0])
    assert not curve.update()
    with path.open("a") as file:
        file.write('ss": 7.0, "total_steps": 100, "time": 1015.0}\n')
    assert curve.update()
    assert curve.losses == [9.0, 8.0, 7.0]
    assert curve.estimate_seconds_left(0.0, now=1_015.0) == 35.0
    assert curve.estimate_seconds_left(0.0, now=1_020.0) == 30.0
    assert curve.estimate_seconds_left(1_012.0, now=1_015.0) is None  # one line of this attempt
    new = tmp_path / "new"
    write_lines(new, 10)
    new.replace(path)  # an attempt dropped the steps that it does again
    assert curve.update()
    assert curve.losses == [9.0]


def test_numbers_that_are_none_break_no_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": "x", "loss": null, "time": 1e999}\n[]\n{"step": 1, "loss": true}\n' + "[" * 100_000 + "\n"
    )
    curve = MetricsCurve(path)
    assert curve.update()
    assert curve.losses == []
    assert curve.get_number("loss") is None
    assert curve.estimate_seconds_left(0.0, 0.0) is None


def test_a_sparkline_has_its_width_and_its_ends() -> None:
    assert draw_sparkline([3, 2, 1], 10) == "█▅▁"
    assert draw_sparkline(list(range(1_000)), 8) == "▁▂▃▄▅▆▇█"
    assert draw_sparkline([1, 1], 5) == "▁▁"
    assert draw_sparkline([], 5) == draw_sparkline([1.0], 0) == ""
    assert draw_sparkline([1, 2], 5, "_#") == "_#"


def test_keys_are_told_apart() -> None:
    given = "\x1b[A\x1bOBq\x1b[5~\r\x7f\x1b[1;5Cé\x1b".encode()
    assert list(iter_key_names(given)) == ["up", "down", "q", "page up", "enter", "backspace", "é", "escape"]
    assert list(iter_key_names(b"\x00\x01")) == []


def test_cells_have_their_width_whatever_letters_they_have() -> None:
    for text in ("", "short", "a" * 50, "日本語" * 10, "\u0301" * 3):
        for width in (0, 1, 7, 20):
            assert cell_len(fit_cell(text, width)) == width, (text, width)
    assert fit_cell("12", 4, right=True) == "  12"


def test_a_table_is_as_wide_as_its_terminal_at_most() -> None:
    for columns in (60, 80, 100, 120, 200, 400):
        widths = choose_widths(columns)
        assert sum(widths.values()) + len(widths) - 1 <= columns
    assert "curve" in choose_widths(120)


def test_a_narrow_terminal_has_fewer_columns_and_names_that_can_be_told_apart() -> None:
    for columns in range(20, 130):
        for longest in (0, 16, 40):
            widths = choose_widths(columns, longest)
            assert sum(widths.values()) + len(widths) - 1 <= columns, (columns, widths)
            assert widths["job"] >= min(12, columns - 10), (columns, widths)
            assert min(widths.values()) > 0
    assert [*choose_widths(60)] == ["state", "phase", "job", "step", "loss", "left"]
    assert [*choose_widths(30)] == ["state", "job"]


def test_a_name_is_shown_whole_before_a_curve_is_wide() -> None:
    for columns in (60, 80, 100, 120, 200):
        for longest in (5, 19, 30, 80):
            widths = choose_widths(columns, longest)
            assert sum(widths.values()) + len(widths) - 1 <= columns
            assert widths["job"] >= longest or widths.get("curve", 0) <= 10
    assert choose_widths(100, 19)["job"] == 19


def test_long_lines_wrap_and_steer_nothing() -> None:
    assert wrap_line("abcdef", 3) == ["abc", "def"]
    assert wrap_line("a\x1b[2Jb", 80) == [r"a\u001b[2Jb"]
    assert wrap_line("", 80) == [""]
