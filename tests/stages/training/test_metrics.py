"""Metrics in TensorBoard and W&B, from real runs; nothing leaves the machine."""

import json
import sys

import pytest

from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.trackers import describe_tracked_run, open_trackers
from stages.training.metrics import flatten_record
from tests.stages.training.test_pretrain import StopAfter
from tests.stages.training.training_case import World, make_world, run_here, start, text_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def scalars_of(job: JobFile, tag: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(job.run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own code
def test_tensorboard_has_the_curve_of_an_interrupted_run_once(world: World) -> None:
    job = world.job("board", "pretrain", text_config(8), trackers=["tensorboard"], checkpoint_steps=5)
    assert not run_here(job, StopAfter(7))
    (job.checkpoints / "step-00000007" / "record.json").unlink()  # as if it had been killed: steps 6 and 7 come again
    assert run_here(job)
    lines = [json.loads(line) for line in job.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for tag, values in (
        ("loss", [line["loss"] for line in lines]),
        ("losses/text", [line["losses"]["text"] for line in lines]),
    ):
        shown = scalars_of(job, tag)
        assert [step for step, _ in shown] == [2, 4, 6, 8]
        assert [value for _, value in shown] == pytest.approx(values, rel=1e-6)


def test_wandb_gets_every_line_offline_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = world.job("offline", "pretrain", text_config(6), trackers=["wandb"])
    process = start(job)  # W&B starts processes and threads of its own: not in this one
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    (file,) = (job.run / "wandb").glob("offline-run-*-offline/run-offline.wandb")
    content = file.read_bytes()  # a log of records, in which values stand as JSON
    lines = [json.loads(line) for line in job.metrics.read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        for value in (line["loss"], line["grad_norm"], line["losses"]["text"]):
            assert json.dumps(value).encode() in content


def test_a_missing_package_is_named_with_its_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb.*pip install 'sweep-vlm\[track\]'"):
        open_trackers(["wandb"], describe_tracked_run(world.job("without", "pretrain", text_config(2))))


def test_nested_figures_get_a_path() -> None:
    record = {"step": 1, "loss": 2.0, "losses": {"text": 3.0, "a": {"b": 4}}, "note": "x"}
    assert flatten_record(record) == {"step": 1, "loss": 2.0, "losses/text": 3.0, "losses/a/b": 4}
