"""Engines in a sweep file: what enters a key, what a job is told, and what a plan refuses."""

from pathlib import Path

import pytest

from jobs.job import Job
from stages.config import PretrainConfig
from stages.job_file import Settings
from sweep.errors import SweepFileError
from tests.sweep.small_sweep import edited, keys, planned

ENGINES = """\
engines:
  olm:
    kind: open_lm
    python: /opt/olm/bin/python
    checkout: /opt/open_lm
    revision: 8ddc185
    environment: {OMP_NUM_THREADS: "2"}
    arguments: {epochs: 2}
  mine: {kind: command, python: /bin/sh, command: [train.sh]}
defaults:
"""
IN_FP32 = ("peak_lr: 3e-3, warmup_steps: 4", "peak_lr: 3e-3, warmup_steps: 4, precision: fp32, engine: olm")
PRISMATIC = ("kind: command, python: /bin/sh, command: [train.sh]", "kind: prismatic, python: /bin/sh")
WITH_ENGINE = edited(("defaults:\n", ENGINES), IN_FP32)


def by_phase(folder: Path, text: str) -> dict[str, list[Job]]:
    phases: dict[str, list[Job]] = {}
    for job in planned(folder, text).jobs:
        phases.setdefault(job.phase, []).append(job)
    return phases


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SweepFileError) as raised:
        planned(folder, text)
    return str(raised.value)


def test_a_sweep_that_uses_no_engine_has_the_keys_of_one_without(tmp_path: Path) -> None:
    assert keys(planned(tmp_path / "a", edited(("defaults:\n", ENGINES)))) == keys(planned(tmp_path / "b"))


def test_a_named_engine_carries_out_its_phase_and_no_other(tmp_path: Path) -> None:
    phases = by_phase(tmp_path, WITH_ENGINE)
    assert all(job.config["engine"] for job in phases["trunk"])
    assert not any("engine" in job.config for job in phases["pretrain"] + phases["finetune"] + phases["evaluate"])
    config = PretrainConfig.model_validate(phases["trunk"][0].config)
    assert config.engine is not None
    assert (config.engine.kind, config.engine.revision, config.engine.arguments) == (
        "open_lm",
        "8ddc185",
        {"epochs": 2},
    )


def test_a_job_is_told_where_its_engine_lies(tmp_path: Path) -> None:
    job = by_phase(tmp_path, WITH_ENGINE)["trunk"][0]
    told = Settings.read(job.settings, {}).engine
    assert told is not None
    assert (told.python, told.checkout) == ("/opt/olm/bin/python", "/opt/open_lm")
    assert told.environment == {"OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize(
    "change",
    [("/opt/olm/bin/python", "/usr/bin/python3"), ("/opt/open_lm", "/srv/open_lm"), ('"2"', '"4"'), ("olm", "other")],
)
def test_where_an_engine_lies_moves_no_key(tmp_path: Path, change: tuple[str, str]) -> None:
    assert keys(planned(tmp_path / "a", WITH_ENGINE)) == keys(planned(tmp_path / "b", WITH_ENGINE.replace(*change)))


@pytest.mark.parametrize("change", [("8ddc185", "96383d7"), ("epochs: 2}", "epochs: 4}")])
def test_what_an_engine_computes_moves_the_keys_of_all_that_follows(tmp_path: Path, change: tuple[str, str]) -> None:
    one, other = by_phase(tmp_path / "a", WITH_ENGINE), by_phase(tmp_path / "b", edited(change, text=WITH_ENGINE))
    for phase in ("trunk", "finetune", "evaluate"):
        moved = {job.key for job in one[phase]} - {job.key for job in other[phase]}
        assert moved, phase
    assert not {job.key for job in one["trunk"]} & {job.key for job in other["trunk"]}


def test_an_axis_compares_an_engine_with_our_own_stage(tmp_path: Path) -> None:
    text = edited(
        ("defaults:\n", ENGINES), ("warmup_steps: 4}", "warmup_steps: 4, precision: fp32}"),
        ("      branch: [0, 50, 100]\n", "      branch: [50]\n      trunk.engine: [own, olm]\n"),
    )  # fmt: skip
    manifest = planned(tmp_path, text)
    assert [cell.axes["trunk.engine"] for cell in manifest.cells] == ["own", "own", "olm", "olm"]
    assert len({cell.pretrain for cell in manifest.cells}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("engine: olm", "engine: olmo")], "'olmo' is not an engine of this file; trunk.engine takes the name of one"),
        ([("epochs: 2}", "epochs: 3}")], "trunk.engine: the trunk has 100 steps, which 3 epochs of open_lm do not"),
        ([("branch: [0, 50, 100]", "branch: [0, 30]")], "branches off at step 30, and open_lm saves every 50 steps"),
        ([("precision: fp32, engine", "engine")], "rotary_table: bfloat16"),
        ([("finetune: {", "finetune: {engine: olm, ")], "an engine of kind open_lm takes trunk and not finetune"),
        ([("command: [train.sh]", "command: []"), ("evaluate: {", "evaluate: {engine: mine, ")], "needs command"),
        ([PRISMATIC, ("finetune: {", "finetune: {engine: mine, ")], "beta2: 0.999, or finetune.recipe: prismatic"),
        ([PRISMATIC, ("finetune: {", "finetune: {engine: mine, recipe: prismatic, ")],
         "finetune.engine: open_lm in bf16 builds its positions' angles in bfloat16"),
        ([PRISMATIC, ("finetune: {", "finetune: {engine: mine, recipe: prismatic, precision: fp32, ")],
         "finetune.engine: prismatic has no encoder patches-16-64; it has siglip-so400m-14-384"),
        ([PRISMATIC, ("finetune: {", "finetune: {engine: mine, recipe: prismatic, loss_mean: sequences, ")],
         "prismatic takes the mean over the targets of each device's part of a batch"),
        ([("pretrain: {", "pretrain: {text_order: continue, ")],
         "pretrain.text_order: continue needs the trunk's place in its text, which a checkpoint of an engine of kind "
         "open_lm does not hold; set trunk.engine: own, or pretrain.text_order: anew"),
        ([("kind: open_lm", "kind: openlm")], "known are command, open_lm"),
        ([("/opt/olm/bin/python", "python3")], "engines.olm.python"),
        ([("revision: 8ddc185", "version: 8ddc185")], "engines.olm.version"),
        ([('OMP_NUM_THREADS: "2"', '"A B": "2"')], "engines.olm.environment"),
        ([("backend: local", "backend: slurm"), ("epochs: [1", "resources: {nodes: 2, gpus_per_node: 0}\nepochs: [1")],
         "an engine is started once for a job"),
    ],
)  # fmt: skip
def test_a_plan_says_what_an_engine_cannot_do(tmp_path: Path, changes: list[tuple[str, str]], message: str) -> None:
    assert message in refusal(tmp_path, edited(*changes, text=WITH_ENGINE))


@pytest.mark.parametrize("name", ["HF_TOKEN", "api_key", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY"])
def test_a_secret_is_named_and_not_copied(tmp_path: Path, name: str) -> None:
    text = edited(("defaults:\n", ENGINES.replace('{OMP_NUM_THREADS: "2"}', f"{{{name}: abcdef}}")), IN_FP32)
    said = refusal(tmp_path, text)
    assert f"environment_from: [{name}]" in said
    assert "abcdef" not in said
    named = ENGINES.replace('environment: {OMP_NUM_THREADS: "2"}', f"environment_from: [{name}]")
    phases = by_phase(tmp_path, edited(("defaults:\n", named), IN_FP32))
    assert all(job.settings["engine"]["environment_from"] == [name] for job in phases["trunk"])  # type: ignore[index]


def test_a_name_that_only_sounds_like_a_secret_may_have_a_value(tmp_path: Path) -> None:
    named = ENGINES.replace("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    assert by_phase(tmp_path, edited(("defaults:\n", named), IN_FP32))["trunk"]
