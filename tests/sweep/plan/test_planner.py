"""What cells share, what enters a key and what does not."""

import re
from pathlib import Path

import pytest

from jobs.job import Job
from stages.config import PretrainConfig
from sweep.plan.manifest import Manifest, iter_manifest_lines, read_manifest, write_manifest
from sweep.plan.planner import compute_job_key, render_canonical_json
from tests.sweep.small_sweep import MANIFESTS, SMALL, edited, keys, planned, shipped


def phases(manifest: Manifest) -> dict[str, int]:
    found = [job.phase for job in manifest.jobs]
    return {phase: found.count(phase) for phase in ("trunk", "pretrain", "finetune", "evaluate")}


def moved(before: Manifest, after: Manifest) -> dict[str, int]:
    """New keys, by phase."""
    new = [job.phase for job in after.jobs if job.key not in keys(before)]
    return {phase: new.count(phase) for phase in ("trunk", "pretrain", "finetune", "evaluate")}


@pytest.mark.parametrize(
    ("name", "cells", "jobs"),
    [
        ("paper", 300, {"trunk": 10, "pretrain": 300, "finetune": 1_200, "evaluate": 1_200}),
        ("paper-as-run", 78, {"trunk": 5, "pretrain": 78, "finetune": 317, "evaluate": 317}),
        ("7b-pair", 2, {"trunk": 1, "pretrain": 2, "finetune": 2, "evaluate": 2}),
        ("frozen", 6, {"trunk": 1, "pretrain": 6, "finetune": 24, "evaluate": 24}),
        ("captions", 4, {"trunk": 1, "pretrain": 4, "finetune": 16, "evaluate": 16}),
        ("encoders", 3, {"trunk": 1, "pretrain": 3, "finetune": 12, "evaluate": 12}),
        ("shares", 10, {"trunk": 2, "pretrain": 10, "finetune": 40, "evaluate": 40}),
        ("loss-mean", 8, {"trunk": 1, "pretrain": 8, "finetune": 32, "evaluate": 32}),
        ("seeds", 8, {"trunk": 1, "pretrain": 4, "finetune": 32, "evaluate": 32}),
    ],
)
def test_the_shipped_sweeps_have_the_stated_size(name: str, cells: int, jobs: dict[str, int]) -> None:
    manifest = shipped(name)
    assert len(manifest.cells) == cells
    assert phases(manifest) == jobs


ROW = re.compile(r"^\| `([\w-]+)\.yaml` \|.*\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", flags=re.MULTILINE)


def test_the_page_lists_every_shipped_sweep_with_its_size() -> None:
    text = (MANIFESTS.parent / "docs" / "sweep-file.md").read_text()
    rows = {name: [int(number.replace(",", "")) for number in numbers] for name, *numbers in ROW.findall(text)}
    assert sorted(rows) == sorted(path.stem for path in MANIFESTS.glob("*.yaml"))
    for name, (cells, jobs, hours) in rows.items():
        manifest = shipped(name)
        assert (len(manifest.cells), len(manifest.jobs)) == (cells, jobs), name
        assert sum(job.estimate.a100_hours for job in manifest.jobs) == pytest.approx(hours, rel=0.05, abs=1), name


def test_studies_of_one_store_share_what_they_have_in_common() -> None:
    paper = shipped("paper")
    studies = ("captions", "encoders", "seeds", "frozen", "shares", "loss-mean")
    new = {name: moved(paper, shipped(name)) for name in studies}
    assert new == {
        # the datacompdr cell, SigLIP's cell, seed 7 and one frozen cell are the reference sweep's own
        "captions": {"trunk": 0, "pretrain": 3, "finetune": 12, "evaluate": 12},
        "encoders": {"trunk": 0, "pretrain": 2, "finetune": 8, "evaluate": 8},
        "seeds": {"trunk": 0, "pretrain": 0, "finetune": 16, "evaluate": 16},
        "frozen": {"trunk": 0, "pretrain": 5, "finetune": 20, "evaluate": 20},
        # its cells at 10 % are, and here those with the mean over sequences
        "shares": {"trunk": 0, "pretrain": 8, "finetune": 32, "evaluate": 32},
        "loss-mean": {"trunk": 0, "pretrain": 4, "finetune": 16, "evaluate": 16},
    }


def segments(manifest: Manifest) -> list[Job]:
    return [job for job in manifest.jobs if job.phase == "trunk"]


def test_a_trunk_is_cut_where_cells_branch_off_and_nowhere_else(tmp_path: Path) -> None:
    cut = segments(planned(tmp_path, edited(("[0, 50, 100]", "[0, 20, 70]"))))
    assert [job.config["stop_step"] for job in cut] == [20, 70]
    assert cut[0].parents == ()
    assert cut[1].parents == (cut[0].key,)


def test_another_branch_point_reuses_the_segments_that_are_there(tmp_path: Path) -> None:
    before = planned(tmp_path, SMALL)
    after = planned(tmp_path, edited(("[0, 50, 100]", "[0, 25, 50, 100]")))
    assert moved(before, after) == {"trunk": 1, "pretrain": 2, "finetune": 4, "evaluate": 4}
    assert keys(before) < keys(after)


def test_cells_from_nothing_have_no_trunk(tmp_path: Path) -> None:
    manifest = planned(tmp_path, edited(("[0, 50, 100]", "[0]")))
    assert segments(manifest) == []
    assert all(job.parents == () for job in manifest.jobs if job.phase == "pretrain")


def test_a_fine_tune_seed_shares_the_pre_training(tmp_path: Path) -> None:
    manifest = planned(tmp_path, edited(("epochs:", "      finetune.seed: [7, 365]\nepochs:")))
    assert phases(manifest) == {"trunk": 2, "pretrain": 6, "finetune": 24, "evaluate": 24}
    shared = next(job for job in manifest.jobs if job.phase == "pretrain")
    assert len(shared.cells) == 2
    assert manifest.cells[0].axes["finetune.seed"] == 7


# a change of the file that changes no number of any run
HARMLESS = {
    "name": ("name: paper", "name: renamed"),
    "description": ("description: When", "description: Where"),
    "backend": ("backend: slurm", "backend: local"),
    "data path": ("path: $STORE/data/dclm", "path: /elsewhere/dclm"),
    "partition": ("  # partition: gpu", "  partition: gpu"),
    "account": ("  # account: my-project", "  account: mine"),
    "node count": ("resources:", "resources:\n  nodes: 2"),
    "GPU type": ("resources:", "resources:\n  gpu_type: h100"),
    "time limit": ("limit_minutes: 2880", "limit_minutes: 60"),
    "estimate": ("{kind: captions,", "{kind: captions, mean_text_tokens: 99,"),
    "settings": ("epochs:", "settings: {compile: true, models: {1.4b: {parallel: fsdp}}}\nepochs:"),
    "feature cache": ("epochs:", "settings: {feature_cache: true}\nepochs:"),
    "number of examples": ("field: syn_text}", "field: syn_text, examples: 1000}"),
    "block name": ("name: 1.4b-images", "name: images"),
    "a default written out": ("    context: 2048                 # P\n", "    context: 2048\n    z_loss: 1.0e-4\n"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_no_number_changes_no_key(tmp_path: Path, change: tuple[str, str]) -> None:
    text = (MANIFESTS / "paper.yaml").read_text()
    after = planned(tmp_path, edited(change, text=text))
    assert [job.key for job in after.jobs] == [job.key for job in shipped("paper").jobs]


def test_moving_the_store_changes_no_key() -> None:
    here, there = shipped("paper", Path("/here")), shipped("paper", Path("/there"))
    assert [job.key for job in here.jobs] == [job.key for job in there.jobs]
    assert here.data["dclm"] == "/here/data/dclm"
    assert there.data["dclm"] == "/there/data/dclm"


# one number, and how many jobs lie downstream of it
NUMBERS = {
    "fine-tune rate": (
        ("peak_lr: 3.0e-4 ", "peak_lr: 2.9e-4 "),
        {"trunk": 0, "pretrain": 0, "finetune": 1_200, "evaluate": 1_200},
    ),
    "evaluation task": (
        ("      - piqa", "      - winogrande"),
        {"trunk": 0, "pretrain": 0, "finetune": 0, "evaluate": 1_200},
    ),
    "1.4B trunk rate": (
        ("  1.4b:\n", "  1.4b:\n    trunk.peak_lr: 9.0e-3\n"),
        {"trunk": 5, "pretrain": 65, "finetune": 260, "evaluate": 260},
    ),
    "1.4B restart rate": (
        ("  1.4b:\n", "  1.4b:\n    pretrain.restart_lr: 2.9e-3\n"),
        {"trunk": 0, "pretrain": 26, "finetune": 104, "evaluate": 104},
    ),
    "revision of the text": (
        ("{kind: text,", "{kind: text, revision: v2,"),
        # all but the 12 cells that see no text at all: branch 0, images alone
        {"trunk": 10, "pretrain": 288, "finetune": 1_152, "evaluate": 1_152},
    ),
    "revision of the encoder's weights": (
        ("{kind: encoder,", "{kind: encoder, revision: v2,"),
        {"trunk": 0, "pretrain": 300, "finetune": 1_200, "evaluate": 1_200},
    ),
    "field of the captions": (
        ("field: syn_text}", 'field: "syn_text,txt"}'),
        # 8 mixes of 13 (of 12 at 79M) have captions
        {"trunk": 0, "pretrain": 192, "finetune": 768, "evaluate": 768},
    ),
    "revision of the instructions": (
        ("{kind: conversations,", "{kind: conversations, revision: v2,"),
        {"trunk": 0, "pretrain": 192, "finetune": 1_200, "evaluate": 1_200},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_one_number_changes_exactly_the_keys_downstream(
    tmp_path: Path, change: tuple[str, str], expected: dict[str, int]
) -> None:
    text = (MANIFESTS / "paper.yaml").read_text()
    after = planned(tmp_path, edited(change, text=text))
    before = shipped("paper")
    assert moved(before, after) == expected
    assert len(after.jobs) == len(before.jobs)
    for new, old in zip(after.jobs, before.jobs, strict=True):
        assert (new.key != old.key) == (new.config != old.config or any(key not in keys(before) for key in new.parents))


def test_a_key_is_sixteen_digits_of_the_content(tmp_path: Path) -> None:
    manifest = planned(tmp_path, SMALL)
    assert all(re.fullmatch(r"[0-9a-f]{16}", job.key) for job in manifest.jobs)
    for job in manifest.jobs:
        config = (
            render_canonical_json(PretrainConfig.model_validate(dict(job.config))) if job.stage == "pretrain" else None
        )
        if config is not None:
            # where a trunk was cut before does not matter
            assert job.key == compute_job_key(job.stage, config, () if job.phase == "trunk" else job.parents)


def test_defaults_do_not_enter_a_key() -> None:
    assert compute_job_key("finetune", "{}") == compute_job_key("finetune", "{}", ())
    assert compute_job_key("finetune", "{}") != compute_job_key("evaluate", "{}")
    assert compute_job_key("finetune", "{}", ("a",)) != compute_job_key("finetune", "{}")


def test_the_priority_of_a_block_stands_in_its_cells_and_moves_no_key(tmp_path: Path) -> None:
    plain = planned(tmp_path)
    urgent = planned(
        tmp_path, edited(("      image_share: [0, 0.2]\n", "      image_share: [0, 0.2]\n    priority: 3\n"))
    )
    assert keys(urgent) == keys(plain)
    assert {cell.priority for cell in urgent.cells} == {3}
    assert {cell.priority for cell in plain.cells} == {0}
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, urgent)
    assert read_manifest(path).cells == urgent.cells
    assert '"priority"' not in "".join(iter_manifest_lines(plain))
