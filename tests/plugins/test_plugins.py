"""A package of somebody else registers an engine, tasks and a tracker, and a real sweep needs all three."""

import json
import os
import struct
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest

import sweep
from jobs.store.paths import Store
from sweep.cli import main
from tests.plugins.study import install_package, write_study

LAB_MODULES = ("tiny_lab",)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_package(tmp_path_factory.mktemp("lab") / "site")


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes folders of installed packages visible to this process and to jobs."""

    def add(*folders: Path) -> None:
        forget_modules()
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        invalidate_caches()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield add
    forget_modules()


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in LAB_MODULES]:
        del sys.modules[name]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


BLOCK = 32_768
HEAD = 7
"""Bytes before a file's first record, and before each part of one: LevelDB's log format."""
LAST_PARTS = (1, 4)


def iter_wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a run's file."""
    place, record = HEAD, b""
    while place + HEAD <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEAD:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + HEAD : place + HEAD + size]
        place += HEAD + size
        if kind in LAST_PARTS:
            yield record
            record = b""


def read_wandb(folder: Path) -> dict[str, Any]:
    """Name, group, kind, configuration, history and summary of the one run in a job's folder, by W&B's own messages."""
    from wandb.proto import wandb_internal_pb2

    kinds: Any = wandb_internal_pb2  # its classes are made when it is imported
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": []}
    for content in iter_wandb_records(file.read_bytes()):
        record: Any = kinds.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "kind": run.job_type}
            found["config"] |= read_items(run.config.update)
        elif kind == "history":
            found["history"].append(read_items(record.history.item))
        elif kind == "summary":
            found["summary"] |= read_items(record.summary.update)
    return found


def read_items(items: Any) -> dict[str, Any]:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}


def read_board(folder: Path) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """Last values of the curves, hyperparameters and the text of a run, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )
    from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder))
    events.Reload()
    curves = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    axes = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    text = events.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    return curves, axes, json.loads(text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's and wandb's own code
@pytest.mark.slow
def test_a_sweep_needs_an_engine_a_task_and_trackers_of_packages(plug: Any, installed: Path, tmp_path: Path) -> None:
    plug(installed)
    content = write_study(tmp_path / "study", trackers=("tensorboard", "wandb", "notebook"))
    plan = sweep.plan(content, store=tmp_path / "store")
    assert plan.problems == ()
    study, store = plan.open(), Store(tmp_path / "store")
    outcome = study.submit(cpus=2)
    assert outcome is not None
    assert outcome.is_complete, study.logs()
    assert study.status().is_complete
    (cell,) = study.cells
    axes = {name: value for name, value in cell.axes.items() if value is not None}
    by_phase = {job.phase: store.locate_run(job.stage, job.key).root for job in plan.jobs}
    keys = {job.phase: job.key for job in plan.jobs}

    # what the packages did: the engine's loss, the task's scores
    row = study.results().iloc[0]
    losses = study.metrics(phase="finetune")
    assert list(losses[losses["name"] == "loss"].value) == [2.75, 2.5, 2.25, 2.0]
    score = json.loads((by_phase["evaluate"] / "result.json").read_text())["scores"]["tally"]
    assert score["n"] == 6
    assert score["chance"] == 0.1
    assert row.scores[0]["task"] == "tally" or "tally" in str(row.scores)

    # provenance: keys hold the package and the version of its numbers, job.json the release
    jobs = {job.phase: job for job in plan.jobs}
    assert jobs["finetune"].config["engine"] == {"kind": "nudge", "plugin": "tiny-lab:3", "arguments": {"by": 0.5}}
    assert jobs["evaluate"].config["vision_tasks"][0]["plugin"] == "tiny-lab:2"  # type: ignore[index]
    for phase in ("finetune", "evaluate"):
        written = json.loads((by_phase[phase] / "job.json").read_text())
        assert written["code"]["versions"]["tiny-lab"] == "1.4.2"
    assert "tiny-lab" not in json.loads((by_phase["pretrain"] / "job.json").read_text())["code"]["versions"]

    names = {
        "trunk": f"{cell.name} trunk-to-4", "pretrain": f"{cell.name} pretrain",
        "finetune": f"{cell.name} finetune-e1", "evaluate": f"{cell.name} evaluate-e1",
    }  # fmt: skip
    for phase, folder in by_phase.items():
        # the package's tracker
        lines = read_lines(folder / "notebook.jsonl")
        assert lines[0] == {"name": names[phase], "sweep": "plugged", "cells": [cell.name], "axes": dict(cell.axes)}
        assert lines[-1] == {"closed": True}
        # W&B
        run = read_wandb(folder)
        assert (run["id"], run["name"]) == (keys[phase], names[phase])
        assert (run["group"], run["kind"]) == ("plugged", phase)
        assert run["config"]["cells"] == [cell.name]
        assert run["config"]["axes"] == dict(cell.axes)
        # TensorBoard, by name and by key
        linked = store.locate_sweep("plugged").tensorboard / cell.name / names[phase].partition(" ")[2]
        assert linked.resolve() == (folder / "tensorboard").resolve()
        curves, shown, about = read_board(linked)
        assert shown == {**axes, "phase": phase}
        assert about["cell"] == cell.name
        if phase == "evaluate":
            assert curves == pytest.approx({f"{name}/tally": score[name] for name in ("score", "stderr", "chance")})
            assert {name: run["summary"][name] for name in curves} == pytest.approx(curves)
            assert lines[1] == pytest.approx(curves)
        else:
            logged = read_lines(folder / "metrics.jsonl")
            assert [line["loss"] for line in lines[1:-1]] == [line["loss"] for line in logged]
            assert [each["loss"] for each in run["history"] if "loss" in each] == [line["loss"] for line in logged]
            assert curves["loss"] == pytest.approx(logged[-1]["loss"])


def test_a_packages_numbers_are_in_the_keys_and_its_release_is_not(plug: Any, installed: Path, tmp_path: Path) -> None:
    content = write_study(tmp_path / "study")
    plug(installed)
    first = sweep.plan(content, store=tmp_path / "one")
    released = {"pyproject.toml": ('version = "1.4.2"', 'version = "1.5.0"')}
    plug(install_package(tmp_path / "released", edit=released))
    assert [job.key for job in sweep.plan(content, store=tmp_path / "two").jobs] == [job.key for job in first.jobs]
    changed = {"tiny_lab/kinds.py": ("version=3", "version=4"), "tiny_lab/tally.py": ("version=2", "version=3")}
    plug(install_package(tmp_path / "changed", edit=changed))
    known = {job.key for job in first.jobs}
    moved = [job.phase for job in sweep.plan(content, store=tmp_path / "three").jobs if job.key not in known]
    assert moved == ["finetune", "evaluate"]
    # the plan of before is refused under the other numbers, and says what would do
    with pytest.raises(sweep.InputsError) as refused:
        sweep.open(tmp_path / "one").submit()
    said = str(refused.value)
    assert "planned with version 3 of the numbers of package tiny-lab, and installed is version 4 of tiny-lab" in said
    assert "task tally: it was planned with version 2 of the numbers of package tiny-lab, and 1.4.2 has another" in said


def test_a_package_that_is_gone_is_told_before_jobs_are_sent(
    plug: Any, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = write_study(tmp_path / "study")
    plug(installed)
    plan = sweep.plan(content, store=tmp_path / "store")
    file = Store(plan.store).locate_sweep("plugged").source
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(installed)])
    plug()
    assert main(["submit", "plugged", "--store", str(plan.store)]) == 1
    said = capsys.readouterr().err
    assert "engine 'nudge' is unknown: known are command, open_lm, prismatic, vla_foundry; to have another" in said
    assert "task tally: its family is of package tiny-lab, which is not installed" in said
    assert "tracker 'notebook' is unknown: known are tensorboard, wandb" in said
    assert main(["plan", str(file), "--store", str(tmp_path / "other")]) == 1
    said = capsys.readouterr().err
    assert "sweep.yaml:" in said
    assert "engines.lab.kind: engine 'nudge' is unknown" in said
    assert "settings.trackers.0: tracker 'notebook' is unknown" in said


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            {"tiny_lab/kinds.py": ("NUDGE = ", "OTHER = ")},
            "engine nudge: package tiny-lab 1.4.2 is broken: tiny_lab.kinds:NUDGE cannot be loaded",
        ),
        (
            {"tiny_lab/kinds.py": ("NUDGE = EngineKind(", "NUDGE = dict(")},
            "package tiny-lab 1.4.2 is broken: tiny_lab.kinds:NUDGE is dict and not a stages.engines.kinds.EngineKind",
        ),
        (
            {"tiny_lab/tally.py": ("FAMILY = Family(", "raise RuntimeError('no licence')\nFAMILY = Family(")},
            r"evaluate.vision_tasks: tally: .*package tiny-lab 1.4.2 is broken.*\(RuntimeError: no licence\)",
        ),
        (
            {"tiny_lab/kinds.py": ('phases=("finetune",)', 'phases=("trunk",)')},
            "nudge takes trunk and not finetune",
        ),
        ({"tiny_lab/kinds.py": ('{"by"}', '{"rate"}')}, "finetune.engine: arguments: by is unknown to nudge"),
    ],
)
def test_a_broken_package_is_named(plug: Any, tmp_path: Path, broken: Any, words: str) -> None:
    plug(install_package(tmp_path / "site", edit=broken))
    with pytest.raises(sweep.SweepFileError, match=words):
        sweep.plan(write_study(tmp_path / "study"), store=tmp_path / "store", dry_run=True)


def test_a_name_that_two_packages_register_is_refused(plug: Any, installed: Path, tmp_path: Path) -> None:
    plug(installed, install_package(tmp_path / "second", name="other-lab"))
    with pytest.raises(sweep.SweepFileError) as refused:
        sweep.plan(write_study(tmp_path / "study"), store=tmp_path / "store", dry_run=True)
    said = str(refused.value)
    assert "engine 'nudge' is there twice: in other-lab 1.4.2 and tiny-lab 1.4.2; uninstall all of them but one" in said
    assert "tracker 'notebook' is there twice" in said
