"""The evaluate stage on published benchmarks: all families in one job, stopped half way and continued."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.evaluation import vision
from stages.evaluation.benchmarks.registry import FAMILIES
from stages.evaluation.run import run
from stages.job_file import JobFile, read_job
from stages.stop import StopFlag
from tests.stages.evaluation.benchmarks.published_files import Item, write_family
from tests.stages.evaluation.benchmarks.random_answers import KINDS
from tests.stages.evaluation.small_model import make_small_run, write_job
from tests.stages.training.training_case import png

COUNT = 6


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family; the task files lie beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    for family in FAMILIES:
        kinds, answers = KINDS[family], ("yes",) if family == "pope" else ("star",) * 10
        items = [Item(n, f"What is {n}?", answers, kinds[n % len(kinds)]) for n in range(COUNT)]
        write_family(folder / family, family, items)
        content = json.loads((folder / family / f"{family}.json").read_text())
        paths = {name: f"{family}/{content[name]}" for name in content.keys() - {"format", "family"}}
        (folder / f"{family}.json").write_text(json.dumps(content | paths))
    for image in folder.rglob("images/**/*.*"):
        image.write_bytes(png("red"))
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    make_small_run(folder)
    return folder


def job_of(folder: Path, tasks: Path, parent: Path, small_demo: Path) -> JobFile:
    config = {
        **{"tasks": "tasks", "tokenizer": {"name": "tokenizer"}, "precision": "fp32", "max_new_tokens": 2},
        **{"context": 256, "text_tasks": [], "vision_tasks": [{"name": family} for family in FAMILIES]},
    }
    data = {"tasks": tasks, "tokenizer": small_demo / "tokenizer.json"}
    return read_job(write_job(folder, config=config, data=data, parent=parent))


def test_an_evaluation_that_was_stopped_within_a_benchmark_scores_as_one_that_was_not(
    tasks: Path, parent: Path, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job_of(tmp_path / "whole", tasks, parent, small_demo)
    assert run(whole, StopFlag())
    scores = json.loads(whole.result.read_text())["scores"]
    assert {name: (entry["n"], entry["chance"]) for name, entry in scores.items()} == {
        name: (COUNT, family.chance) for name, family in FAMILIES.items()
    }
    parts = job_of(tmp_path / "parts", tasks, parent, small_demo)
    asked: list[str] = []
    stop = StopFlag()
    answer = vision.generate_answers

    def answer_and_stop(task: Any, questions: Any, *rest: Any) -> list[str]:
        asked.extend(f"{task.name} {question.id}" for question in questions)
        stop.requested = len(asked) % 4 == 0
        return answer(task, questions, *rest)

    monkeypatch.setattr(vision, "QUESTIONS_AT_ONCE", 2)
    monkeypatch.setattr(vision, "generate_answers", answer_and_stop)
    runs = 1
    while not run(parts, stop):
        assert not parts.result.exists()
        stop.requested = False
        runs += 1
    assert runs > len(FAMILIES)
    assert json.loads(parts.result.read_text())["scores"] == scores
    assert len(asked) == len(set(asked)) == COUNT * len(FAMILIES)
