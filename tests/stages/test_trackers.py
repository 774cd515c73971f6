"""A tracker's failure is told once and ends nothing; names and links of jobs."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.trackers import GuardedTracker, build_score_figures, make_board_link


class Failing:
    """Takes one line, and then has lost its server."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, step: int, figures: Mapping[str, float]) -> None:  # noqa: ARG002 - a tracker's form
        self.calls += 1
        if step > 1:
            raise ConnectionError("no route to host")

    def write_scores(self, figures: Mapping[str, float]) -> None:  # noqa: ARG002 - likewise
        self.calls += 1

    def close(self) -> None:
        self.calls += 1


def test_a_tracker_that_fails_is_told_once_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    inner = Failing()
    tracker = GuardedTracker("mine", inner)
    for step in (1, 2, 3):
        tracker.write(step, {})
    tracker.write_scores({})
    tracker.close()
    assert inner.calls == 2
    assert capsys.readouterr().err == (
        "tracker mine has failed and gets no more of this attempt (ConnectionError: no route to host); "
        "metrics.jsonl and result.json have all figures\n"
    )


def test_a_link_by_name_is_made_once_and_set_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    for folder in (first, second):
        folder.mkdir(parents=True)
    place = tmp_path / "sweeps" / "cell" / "pretrain"
    for folder in (first, first, second):
        make_board_link(place, folder)
        assert place.resolve() == folder
    assert not place.readlink().is_absolute()  # the store may be mounted elsewhere
    assert [each.name for each in place.parent.iterdir()] == ["pretrain"]
    (tmp_path / "file").write_text("")
    make_board_link(tmp_path / "file" / "below", first)
    assert "tensorboard: no link by the job's name" in capsys.readouterr().err


def test_scores_have_a_figure_for_each_known_number() -> None:
    scores: dict[str, dict[str, float | int | None]] = {
        "arc": {"score": 0.5, "stderr": None, "chance": 0.25, "n": 4},
        "loss": {"score": 1.0},
    }
    assert build_score_figures(scores) == {"score/arc": 0.5, "chance/arc": 0.25, "score/loss": 1.0}
