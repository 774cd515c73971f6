"""An evaluation on several real processes has the scores of one, to the last bit, whatever their number."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.evaluation.run import run
from stages.job_file import JobFile, read_job
from stages.stop import StopFlag
from tests.stages.evaluation.small_model import make_small_run, write_job
from tests.stages.ranks import RankServer

CONFIG: dict[str, Any] = {
    **{"tasks": "demo-tasks", "tokenizer": {"name": "demo-tokenizer"}, "precision": "fp32"},
    **{"max_new_tokens": 3, "context": 96},
    "text_tasks": [{"name": "cloze", "limit": 30}, {"name": "text_loss", "limit": 12}],
    "vision_tasks": [{"name": "shapes_val", "limit": 13}],
}


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    make_small_run(folder)
    return folder


def job_of(folder: Path, demo: Path, parent: Path) -> JobFile:
    data = {"demo-tasks": demo / "tasks", "demo-tokenizer": demo / "tokenizer.json"}
    path = write_job(folder, config=CONFIG, data=data, parent=parent)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"settings": {"log_samples": True}}))
    return read_job(path)


@pytest.fixture(scope="module")
def alone(small_demo: Path, parent: Path, tmp_path_factory: pytest.TempPathFactory) -> JobFile:
    job = job_of(tmp_path_factory.mktemp("alone"), small_demo, parent)
    assert run(job, StopFlag())
    return job


def scores(job: JobFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(job.result.read_text())["scores"]
    return found


def test_several_processes_score_as_one_does(
    server: RankServer, alone: JobFile, small_demo: Path, parent: Path, tmp_path: Path
) -> None:
    job = job_of(tmp_path / "three", small_demo, parent)
    ranks = server.start(job, 3)
    assert ranks.wait() == [0, 0, 0], ranks.output()
    assert scores(job) == scores(alone)
    for name in ("cloze", "text_loss"):
        log = f"samples/{name}.jsonl"
        assert (job.run / log).read_text() == (alone.run / log).read_text()
    assert ranks.output().count("shapes_val: task ") == 1, "one of them speaks"


def test_an_evaluation_of_one_process_is_finished_by_two(
    server: RankServer, alone: JobFile, small_demo: Path, parent: Path, tmp_path: Path
) -> None:
    job = job_of(tmp_path / "two", small_demo, parent)
    job.checkpoints.mkdir()
    done = {"cloze": scores(alone)["cloze"]}
    (job.checkpoints / "scores.json").write_text(json.dumps({"scores": done, "seconds": 1000.0}))
    [log] = alone.checkpoints.glob("answers-shapes_val.0.jsonl")
    half = "".join(log.read_text().splitlines(keepends=True)[:7])
    (job.checkpoints / log.name).write_text(half)
    ranks = server.start(job, 2)
    assert ranks.wait() == [0, 0], ranks.output()
    assert scores(job) == scores(alone)
    assert json.loads(job.result.read_text())["seconds"] > 1000
    assert not (job.run / "samples" / "cloze.jsonl").exists(), "a task that was scored is not run again"
    first, second = (job.checkpoints / f"answers-shapes_val.{rank}.jsonl" for rank in (0, 1))
    assert first.read_text().startswith(half)
    assert len(first.read_text().splitlines()) + len(second.read_text().splitlines()) == 2 + 13
