"""`sweep plan --set PATH=VALUE`."""

import json
from pathlib import Path

import pytest

from sweep.cli import main
from tests.sweep.small_sweep import SMALL, edited, keys, planned, written


def plan(folder: Path, *words: str, text: str = SMALL) -> int:
    return main(["plan", str(written(folder, text)), "--store", str(folder / "store"), *words])


def stored_keys(folder: Path) -> set[str]:
    lines = (folder / "store/sweeps/small/manifest.jsonl").read_text().splitlines()
    return {each["key"] for each in map(json.loads, lines) if each["record"] == "job"}


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("pretrain.seed=7", ("  model: tiny\n", "  model: tiny\n  seed: 7\n")),
        ("defaults.finetune.batch_sequences=4", ("finetune: {batch_sequences: 8}", "finetune: {batch_sequences: 4}")),
        ("blocks.0.axes.image_share=[0, 0.5]", ("image_share: [0, 0.2]", "image_share: [0, 0.5]")),
        ("models.tiny.layers=3", ("layers: 2", "layers: 3")),
        ("epochs=[3]", ("epochs: [1, 2]", "epochs: [3]")),
        ("trunk.peak_lr=1e-3", ("peak_lr: 3e-3", "peak_lr: 1e-3")),
    ],
)
def test_a_setting_of_the_command_line_plans_as_if_the_file_had_it(
    tmp_path: Path, option: str, change: tuple[str, str]
) -> None:
    assert plan(tmp_path, "--set", option) == 0
    assert stored_keys(tmp_path) == keys(planned(tmp_path / "edited", edited(change)))


def test_the_stored_file_plans_to_the_same_and_says_with_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", "pretrain.seed=7", "--set", "description='007'", "--set", "data.words.revision='1e3'"]
    assert plan(tmp_path, *given) == 0
    source = tmp_path / "store/sweeps/small/sweep.yaml"
    assert source.read_text().startswith("# planned with --set pretrain.seed=7\n# planned with --set 'description=")
    before = stored_keys(tmp_path)
    copy = source.read_text().replace("path: data/", f"path: {tmp_path}/data/")
    assert main(["plan", str(written(tmp_path / "again", copy)), "--store", str(tmp_path / "store")]) == 0
    assert stored_keys(tmp_path) == before
    capsys.readouterr()
    assert plan(tmp_path, "--diff") == 0
    assert "the stored plan was made with --set pretrain.seed=7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("finetune.peak_lr=abc", "--set finetune.peak_lr=abc: defaults.finetune.peak_lr: 'abc' is not a number"),
        ("finetune.peek_lr=1", "--set finetune.peek_lr=1: defaults.finetune.peek_lr: "),
        ("blocks.9.axes=1", "--set blocks.9.axes=1: '9' is no position of that list, which has 1 (from 0 on)"),
        ("name.x=1", "--set name.x=1: the file has 'small' there, which has no part 'x'"),
        ("seed=[1", "--set seed=[1"),
        ("seed", "--set seed: give a path and its value, as in `--set pretrain.seed=7`"),
        ("seed=", "give a path and its value"),
        ("seed=!!python/object/apply:os.system [id]", "is not allowed here"),
    ],
)
def test_what_will_not_do_is_told_with_the_option(
    option: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, "--set", option) != 0
    assert told in capsys.readouterr().err
    assert not (tmp_path / "store/sweeps").exists()


def test_diff_says_what_a_change_costs_and_what_of_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path) == 0
    capsys.readouterr()
    assert plan(tmp_path, "--diff", "--set", "pretrain.seed=7") == 0
    out = capsys.readouterr().out
    assert "  cost: new jobs " in out
    assert "  done jobs that leave the plan: 0\n" in out
