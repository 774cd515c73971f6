"""Any program as an engine: what it is given, and how its end is judged. Each runs for real, as a process."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.__main__ import load_job_runner
from stages.__main__ import run as run_stage
from stages.checkpoint.files import find_newest_checkpoint, load_model
from stages.errors import ConfigError, DivergedError, StageError
from stages.job_file import JobFile
from stages.stop import StopFlag
from tests.stages.training.training_case import (  # fmt: skip
    World,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    result_of,
    schedule,
    text_config,
)

PROGRAM = Path(__file__).parent / "engine_program.py"
HERE = {"python": sys.executable, "checkout": str(PROGRAM.parent)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With one finished text run."""
    world = make_world(tmp_path_factory.mktemp("world"))
    world.run("text", "pretrain", text_config(steps=2))
    return world


def engine(mode: str = "train") -> dict[str, Any]:
    return {"kind": "command", "command": [PROGRAM.name], "arguments": {"mode": mode}}


def job(world: World, key: str, mode: str = "train", **changes: Any) -> JobFile:
    """A text run of four steps, from the finished one, by the program."""
    parent = world.job("text", "pretrain", text_config(steps=2))
    config = text_config(4, schedule=schedule(4, peak_lr=1e-3), engine=engine(mode), **changes)
    return world.job(key, "pretrain", config, [parent], engine=HERE)


def run(job: JobFile, stop: StopFlag | None = None) -> bool:
    return load_job_runner(job)(job, stop or StopFlag())


def lines(job: JobFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


def test_what_the_program_makes_becomes_a_checkpoint_that_our_stages_go_on_from(world: World) -> None:
    made = job(world, "made")
    assert run(made)
    before = final_weights(world.job("text", "pretrain", text_config(steps=2)))
    torch.testing.assert_close(final_weights(made)["norm.weight"], before["norm.weight"] + 0.5)
    checkpoint = find_newest_checkpoint(made.checkpoints)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state["engine"]) == (4, {"kind": "command", "shard": 3})
    result = result_of(made)
    assert (result["steps"], result["tokens"], result["loss"]) == (4, 512, 2.5)
    assert [(line["step"], line["loss"], line["lr"]) for line in lines(made)] == [(i, 2.5, 0.001) for i in range(1, 5)]
    seeing = world.run("seeing", "pretrain", image_config(3, optimizer_state="fresh"), [made])
    assert result_of(seeing)["steps"] == 3


def test_a_program_may_fine_tune_a_model_that_sees_images(world: World) -> None:
    seeing = world.run("sees", "pretrain", image_config(2))
    tuned = world.job("tuned", "finetune", finetune_config(engine=engine()), [seeing], engine=HERE)
    assert run(tuned)
    loaded = load_model(tuned.run, tuned.key)
    assert loaded.vlm.vision is not None
    assert (loaded.checkpoint.state["stage"], loaded.checkpoint.step) == ("finetune", 4)


def test_the_program_finds_its_checkout_and_nothing_of_our_pinned_code(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/pinned/code.zip")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    made = job(world, "found")
    assert run(made)
    found = json.loads((made.run / "engine" / "found.json").read_text())
    assert found["environment"]["PYTHONPATH"] == found["folder"] == str(PROGRAM.parent)
    assert "PYTHONSAFEPATH" not in found["environment"]


def test_an_exit_code_decides_nothing(world: World) -> None:
    assert run(job(world, "late", "late_error"))
    with pytest.raises(StageError, match="ended with exit code 0 and left no finished run"):
        run(job(world, "silent", "silent"))


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("nan", DivergedError, "not a number"),
        ("gives_up", StageError, "shard 3 has no text"),
        ("killed", StageError, "killed by signal 9"),
        ("torn", ConfigError, "no whole safetensors file"),
        ("wrong_model", ConfigError, r"not the job's model.*norm\.weight"),
    ],
)
def test_a_failure_has_its_reason(world: World, mode: str, kind: type[StageError], message: str) -> None:
    failing = job(world, mode.replace("_", "-"), mode)
    with pytest.raises(kind, match=message) as raised:
        run(failing)
    classes = {"nan": "diverged", "gives_up": "data", "killed": "killed"}
    assert raised.value.failure_class == classes.get(mode, "code")
    assert not failing.result.exists()


def test_what_a_failed_attempt_answered_does_not_stop_the_next_one(world: World) -> None:
    with pytest.raises(ConfigError):
        run(job(world, "again", "torn"))
    assert run(job(world, "again"))


def test_a_stop_reaches_the_program_and_the_next_attempt_goes_on(world: World) -> None:
    waiting, stop = job(world, "waiting", "wait"), StopFlag()
    waited = waiting.run / "engine" / "waited"

    def stop_it_once_it_waits() -> None:
        while not waited.exists():
            time.sleep(0.05)
        stop.request()

    threading.Thread(target=stop_it_once_it_waits, daemon=True).start()
    assert not run(waiting, stop)
    assert waited.exists()
    assert run(job(world, "waiting", "wait"))


def test_a_finished_program_is_not_started_again(world: World) -> None:
    done = job(world, "twice")
    (done.run / "engine").mkdir()
    run(done)
    found = done.run / "engine" / "found.json"
    answer = json.loads((done.run / "engine" / "answer.json").read_text())
    assert answer["steps"] == 4
    found.unlink()
    done.result.unlink()
    final = find_newest_checkpoint(done.checkpoints)
    assert final is not None
    (done.run / "engine" / answer["weights"]).write_bytes((final.path / "model.safetensors").read_bytes())
    assert run(job(world, "twice"))
    assert not found.exists()


def test_a_program_may_evaluate_and_must_score_what_was_asked_for(world: World) -> None:
    config = {
        "tasks": "text",
        "tokenizer": {"name": "tokenizer"},
        "text_tasks": [{"name": "cloze"}],
        "engine": engine(),
    }
    parent = world.job("text", "pretrain", text_config(steps=2))
    scored = world.job("scored", "evaluate", config, [parent], engine=HERE)
    assert run(scored)
    assert result_of(scored)["scores"]["cloze"]["score"] == 0.5
    silent = world.job("unscored", "evaluate", {**config, "engine": engine("silent")}, [parent], engine=HERE)
    with pytest.raises(StageError, match="left no finished run"):
        run(silent)


def test_an_engine_that_is_not_there_is_named(world: World) -> None:
    absent = job(world, "absent")
    config = absent.config.model_dump(mode="json")
    missing = world.job("absent", "pretrain", config, engine={"python": "/nowhere/python"})
    assert run_stage(missing, StopFlag()) == 1
    assert "no program '/nowhere/python' (python)" in json.loads(missing.error.read_text())["message"]
