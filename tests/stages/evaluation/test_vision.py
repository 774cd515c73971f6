"""A vision evaluation that was stopped or killed asks what is left, and its score is that of one that was not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.config import Task
from stages.distributed import DistributedContext
from stages.evaluation import vision
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.score import Score
from stages.evaluation.vision import AnswerLog, score_answers, score_vision_task
from stages.evaluation.vision_task import read_vision_task
from stages.stop import StopFlag
from tests.stages.evaluation.benchmarks.published_files import Item, write_family
from tests.stages.thread_ranks import on_threads

COUNT = 10
ANSWERS = {str(number): "star" if number % 3 else "moon" for number in range(COUNT)}


class Model:
    """Takes the place of the model: gives the answers above, two questions at a time, and may be told to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stop_after: int = COUNT, die_after: int = COUNT) -> None:
        self.asked: list[str] = []
        self.stop, self._stop_after, self._die_after = StopFlag(), stop_after, die_after
        monkeypatch.setattr(vision, "QUESTIONS_AT_ONCE", 2)
        monkeypatch.setattr(vision, "generate_answers", self.answer)

    def answer(self, _task: VisionTask, questions: Sequence[Question], *_rest: Any) -> list[str]:
        if len(self.asked) >= self._die_after:
            raise KeyboardInterrupt
        self.asked += [question.id for question in questions]
        if len(self.asked) >= self._stop_after:
            self.stop.request()
        return [ANSWERS[question.id] for question in questions]

    def score(self, task: VisionTask, folder: Path) -> Score | None:
        nothing: Any = None
        alone = DistributedContext(torch.device("cpu"))
        return score_vision_task(task, nothing, nothing, nothing, folder=folder, stop=self.stop, world=alone)


@pytest.fixture
def task(tmp_path: Path) -> VisionTask:
    write_family(tmp_path / "tasks", "vqav2", [Item(number) for number in range(COUNT)])
    return read_vision_task(tmp_path / "tasks", Task(name="vqav2"))


@pytest.fixture
def whole(task: VisionTask) -> Score:
    return score_answers(task, [ANSWERS[question.id] for question in task.questions])


def test_a_stopped_evaluation_goes_on_with_what_is_left(
    task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Model(monkeypatch, stop_after=3)
    assert first.score(task, tmp_path) is None
    assert len(first.asked) == 4, "the batch under way is finished"
    second = Model(monkeypatch)
    assert second.score(task, tmp_path) == whole
    assert sorted(first.asked + second.asked) == sorted(ANSWERS)
    third = Model(monkeypatch)
    assert third.score(task, tmp_path) == whole
    assert third.asked == []


@pytest.mark.parametrize("torn", [1, 5, 35])
def test_what_a_kill_tore_is_asked_again(
    torn: int, task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Model(monkeypatch, die_after=6)
    with pytest.raises(KeyboardInterrupt):
        first.score(task, tmp_path)
    [path] = tmp_path.glob("answers-*")
    path.write_bytes(path.read_bytes()[:-torn])
    second = Model(monkeypatch)
    assert second.score(task, tmp_path) == whole
    assert len(second.asked) == (5 if torn < 35 else 6)
    lines = path.read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines[1:]} == set(ANSWERS)
    assert len(lines) == 1 + COUNT


@pytest.mark.parametrize("content", [b"", b"{", b"no json\n", b"\x00\xff\n\n"])
def test_a_log_that_says_nothing_is_begun_anew(
    content: bytes, task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answers-vqav2.0.jsonl").write_bytes(content)
    assert Model(monkeypatch).score(task, tmp_path) == whole
    assert Model(monkeypatch, die_after=0).score(task, tmp_path) == whole


def test_answers_to_other_questions_do_not_count(
    task: VisionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Model(monkeypatch).score(task, tmp_path)
    write_family(tmp_path / "other", "vqav2", [Item(number, question="How many?") for number in range(COUNT)])
    other = Model(monkeypatch)
    assert other.score(read_vision_task(tmp_path / "other", Task(name="vqav2")), tmp_path) is not None
    assert len(other.asked) == COUNT


def scores_of_ranks(
    task: VisionTask, folder: Path, size: int, stops: Sequence[StopFlag] | None = None
) -> list[Score | None]:
    """What each of several ranks comes to, that work on the task together."""
    nothing: Any = None
    flags = stops or [StopFlag() for _ in range(size)]

    def score(world: DistributedContext) -> Score | None:
        flag = flags[world.rank]
        return score_vision_task(task, nothing, nothing, nothing, folder=folder, stop=flag, world=world)

    return on_threads(size, score)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_questions_and_agree_on_the_score(
    size: int, task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(monkeypatch)
    assert scores_of_ranks(task, tmp_path, size) == [whole] * size
    assert sorted(model.asked) == sorted(ANSWERS), "each question is asked once"
    assert len(list(tmp_path.glob("answers-*"))) == size
    assert Model(monkeypatch, die_after=0).score(task, tmp_path) == whole, "one process reads what several wrote"


def test_an_evaluation_goes_on_with_another_number_of_ranks(
    task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Model(monkeypatch, stop_after=3)
    assert first.score(task, tmp_path) is None
    second = Model(monkeypatch)
    assert scores_of_ranks(task, tmp_path, 3) == [whole] * 3
    assert sorted(first.asked + second.asked) == sorted(ANSWERS)


def test_ranks_stop_together_when_one_of_them_is_asked_to(
    task: VisionTask, whole: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flags = Model(monkeypatch, stop_after=3), (StopFlag(), StopFlag())
    first.stop = flags[1]
    assert scores_of_ranks(task, tmp_path, 2, flags) == [None, None]
    assert len(first.asked) == 4, "the round under way is finished"
    assert not flags[0].requested
    second = Model(monkeypatch)
    assert scores_of_ranks(task, tmp_path, 2) == [whole, whole]
    assert sorted(first.asked + second.asked) == sorted(ANSWERS)


def test_answers_of_any_kind_come_back_as_they_were(task: VisionTask, tmp_path: Path) -> None:
    given = {"1": "line\nbreak\r\u2028", "2": "", "3": 'quote " and \\', "4": "é黒\ud800"}
    AnswerLog(tmp_path, task).add(given)
    assert AnswerLog(tmp_path, task).answers == given
