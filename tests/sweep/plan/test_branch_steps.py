"""Branch points as steps of the trunk, and blocks with epochs of their own. The trunk of SMALL has 100 steps."""

from pathlib import Path
from typing import Any

import pytest

from sweep.cli import main
from sweep.errors import SweepFileError
from sweep.plan.grid import expand_grid
from sweep.plan.manifest import Manifest, index_jobs
from tests.sweep.small_sweep import edited, keys, loaded, planned, written

BLOCK = "      branch: [0, 50, 100]\n      image_share: [0, 0.2]\n"


def with_branches(values: str, *changes: tuple[str, str]) -> str:
    return edited(("[0, 50, 100]", values), *changes)


def stops(manifest: Manifest) -> list[Any]:
    return [job.config.get("stop_step", 100) for job in manifest.jobs if job.phase == "trunk"]


def test_a_trunk_is_cut_at_steps_as_at_percentages(tmp_path: Path) -> None:
    assert stops(planned(tmp_path, with_branches("[0, {step: 37}, 50, {step: 99}, 100]"))) == [37, 50, 99, 100]


def test_a_step_is_the_same_work_as_the_percentage_that_ends_there(tmp_path: Path) -> None:
    percents = planned(tmp_path, with_branches("[0, 37, 50, 100]"))
    steps = planned(tmp_path, with_branches("[0, {step: 37}, {step: 50}, {step: 100}]"))
    assert keys(steps) == keys(percents)


def test_one_segment_serves_a_step_and_the_equal_percentage_of_other_cells(tmp_path: Path) -> None:
    text = with_branches("[{step: 50}]", ("epochs:", "  - axes: {branch: [50], image_share: [0.4]}\nepochs:"))
    manifest = planned(tmp_path, text)
    assert stops(manifest) == [50]
    parents = {index_jobs(manifest)[cell.pretrain].parents for cell in manifest.cells}
    assert parents == {(manifest.jobs[0].key,)}


@pytest.mark.parametrize("mode", ["auto", "continue", "restart", "matched"])
def test_the_last_step_is_100_percent_whatever_the_rate(mode: str, tmp_path: Path) -> None:
    arm = ("  model: tiny", f"  model: tiny\n  lr_at_branch: {mode}")
    assert keys(planned(tmp_path, with_branches("[{step: 100}]", arm))) == keys(
        planned(tmp_path, with_branches("[100]", arm))
    )


def test_the_matched_arm_can_take_its_rate_at_a_step(tmp_path: Path) -> None:
    arm = "  model: tiny\n  lr_at_branch: matched\n  pretrain.matched_branch: "
    texts = [
        edited(("  model: tiny\n  encoder", f"{arm}{point}\n  encoder")) for point in ("70", "{step: 70}", "{step: 71}")
    ]
    percent, step, later = (keys(planned(tmp_path, text)) for text in texts)
    assert percent == step
    assert later != step
    with pytest.raises(SweepFileError, match=r"\{step: 101\} lies behind the trunk's 100 steps"):
        planned(tmp_path, texts[0].replace("_branch: 70", "_branch: {step: 101}"))


def test_a_matched_step_is_shown_and_named(tmp_path: Path) -> None:
    manifest = planned(tmp_path, edited((BLOCK, BLOCK + "      pretrain.matched_branch: [80, {step: 7}]\n")))
    assert manifest.cells[1].name == "mtiny-b0-i0-c0-x1-pretrain.matched_branch=s7"
    assert [cell.axes["pretrain.matched_branch"] for cell in manifest.cells[:2]] == [80, {"step": 7}]


def test_names_tell_steps_from_percentages(tmp_path: Path) -> None:
    manifest = planned(tmp_path, with_branches("[0, {step: 37}, 12.5]"))
    assert [cell.name for cell in manifest.cells if "i20" in cell.name] == [
        "mtiny-b0-i20-c0-x1", "mtiny-bs37-i20-c0-x1", "mtiny-b12.5-i20-c0-x1",
    ]  # fmt: skip


def test_a_cells_axes_have_the_step_and_its_percentage(tmp_path: Path) -> None:
    manifest = planned(tmp_path, with_branches("[12, {step: 37}]"))
    found = [(cell.axes["branch"], cell.axes.get("branch_step")) for cell in manifest.cells]
    assert found == [(12, None), (12, None), (37, 37), (37, 37)]
    assert list(manifest.cells[2].axes)[:4] == ["model", "branch", "branch_step", "image_share"]


def test_a_step_can_be_excluded_and_set(tmp_path: Path) -> None:
    text = with_branches("[0, {step: 37}, 37.5]") + "exclude: [{branch: {step: 37}, image_share: 0}]\n"
    assert [point.name for point in expand_grid(loaded(tmp_path, text)).points if "i0" in point.name] == [
        "mtiny-b0-i0-c0-x1", "mtiny-b37.5-i0-c0-x1",
    ]  # fmt: skip
    default = edited(("      branch: [0, 50, 100]\n", ""), ("  model: tiny", "  model: tiny\n  branch: {step: 37}"))
    assert stops(planned(tmp_path, default)) == [37]


def test_a_cell_that_a_step_and_a_percentage_both_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepFileError) as refused:
        planned(tmp_path, with_branches("[0, 50, {step: 50}]"))
    assert f"{tmp_path}/sweep.yaml:20: blocks.0: cell mtiny-bs50-i0-c0-x1: branches at step 50, where cell " in str(
        refused.value
    )
    assert "mtiny-b50-i0-c0-x1 does; take one of them out" in str(refused.value)


def test_two_percentages_that_end_at_one_step_stay_two_cells_of_one_run(tmp_path: Path) -> None:
    manifest = planned(tmp_path, with_branches("[50, 50.5, {step: 20}]"))
    assert len(manifest.cells) == 6
    assert stops(manifest) == [20, 50]


WRONG = [
    ("{step: 0}", 21, "branch.1: {'step': 0} will not do"),
    ("{step: -3}", 21, "{step: N}, N a whole number above 0"),
    ("{step: 3.5}", 21, "{'step': 3.5} will not do"),
    ("{step: true}", 21, "{'step': True} will not do"),
    ("{step: null}", 21, "is empty; give it a value"),
    ("{steps: 3}", 21, "{'steps': 3} will not do"),
    ("{step: 3, of: 9}", 21, "will not do"),
    ("{}", 21, "{} will not do"),
    ("step", 21, "'step' is not a number; branch is where images enter: a percentage of the text"),
    ("{step: 101}", 20, "branch point {step: 101} lies behind the trunk's 100 steps; take 1 to 100"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "line", "part"), WRONG, ids=[case[0] for case in WRONG])
def test_a_wrong_step_is_named_with_its_line(
    value: str, line: int, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, with_branches(f"[0, {value}]"))
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"sweep plan: {path}:{line}: ")
    assert part in error


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (with_branches("[{step: 5}, {step: 5.0}]"), 21, "branch.1: {step: 5} stands here twice"),
        (edited(("branch: [0, 50, 100]", "branch.step: [5, 6]")), 20, "branch.step is no axis"),
        (edited(("epochs:", "    epochs: [2, 2]\nepochs:")), 23, "blocks.0.epochs: has a number twice"),
        (edited(("epochs:", "    epochs: []\nepochs:")), 23, "blocks.0.epochs: [] has no values"),
        (edited(("epochs:", "    epochs: [0]\nepochs:")), 23, "blocks.0.epochs.0: 0 is out of range"),
        (edited(("epochs:", "    epochs:\nepochs:")), 23, "blocks.0.epochs: is empty; give it a value"),
        (edited(("epochs:", "    set: {finetune.epochs: 3}\nepochs:")), 23, "`epochs` of the file or of a block"),
    ],
)  # fmt: skip
def test_other_faults_are_named_with_their_line(
    text: str, line: int, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"sweep plan: {path}:{line}: ")
    assert part in error


OWN_EPOCHS = edited((BLOCK, BLOCK + "  - axes: {branch: [50], image_share: [0.4, 0.6]}\n    epochs: [3, 1]\n"))
"""Six cells with the file's epochs, [1, 2], and two with their own."""


def test_a_block_with_epochs_of_its_own_has_chains_of_its_own(tmp_path: Path) -> None:
    manifest = planned(tmp_path, OWN_EPOCHS)
    jobs = index_jobs(manifest)
    assert [[chain.epochs for chain in cell.chains] for cell in manifest.cells] == [[1, 2]] * 6 + [[1, 3]] * 2
    for cell in manifest.cells:
        assert [jobs[chain.finetune].config["epochs"] for chain in cell.chains] == [each.epochs for each in cell.chains]


def test_epochs_of_a_block_move_no_key_of_another_number(tmp_path: Path) -> None:
    everywhere = planned(tmp_path, edited(("[3, 1]", "[1, 2]"), text=OWN_EPOCHS))
    own = planned(tmp_path, OWN_EPOCHS)
    new = [job for job in own.jobs if job.key not in keys(everywhere)]
    assert [(job.phase, job.config.get("epochs")) for job in new] == [("finetune", 3), ("evaluate", None)] * 2


def test_features_are_encoded_once_though_blocks_have_other_epochs(tmp_path: Path) -> None:
    kept = "settings: {feature_cache: true}\n"
    text = OWN_EPOCHS.replace("encoder: patches-16-64", "encoder: efficientnet-lite0-224").replace(
        "context: 64", "context: 256"
    )
    paying = [
        job.config["epochs"]
        for job in planned(tmp_path, text + kept).jobs
        if job.phase == "finetune" and job.estimate.feature_bytes
    ]
    assert paying == [1]
