"""The paper's and Prismatic's fine-tuning recipes in sweep files."""

from pathlib import Path
from typing import Any

from jobs.job import Job
from stages.config import FinetuneConfig
from sweep.plan.manifest import Manifest
from tests.sweep.small_sweep import SMALL, edited, planned

RECIPES = {
    "paper": (3e-4, 0.05, 0.95, 256, 0.1, 1.0, 0.0),
    "prismatic": (2e-5, 0.03, 0.999, 128, 0.1, 1.0, 0.0),
}
"""Paper, section 5 (appendix D), and the values of Prismatic's model configurations."""


def job_of(manifest: Manifest, key: str) -> Job:
    return next(job for job in manifest.jobs if job.key == key)


def tuned(folder: Path, finetune: str, after: str = "") -> list[tuple[str, FinetuneConfig]]:
    """Each cell's name and its first fine-tune."""
    manifest = planned(folder, edited(("finetune: {batch_sequences: 8}", f"finetune: {finetune}")) + after)
    return [
        (cell.name, FinetuneConfig.model_validate(dict(job_of(manifest, cell.chains[0].finetune).config)))
        for cell in manifest.cells
    ]


def numbers(config: FinetuneConfig) -> tuple[Any, ...]:
    decay, clip = config.optimizer.weight_decay, config.optimizer.gradient_clip
    rates = (config.peak_lr, config.warmup_ratio, config.optimizer.beta2)
    return *rates, config.batch_sequences, decay, clip, config.final_lr


def test_each_recipe_has_its_column_of_the_paper(tmp_path: Path) -> None:
    for name, wanted in RECIPES.items():
        assert {numbers(config) for _, config in tuned(tmp_path / name, f"{{recipe: {name}}}")} == {wanted}
    assert {numbers(config) for _, config in tuned(tmp_path / "none", "{}")} == {RECIPES["paper"]}


def test_a_setting_goes_over_the_recipe_wherever_it_stands(tmp_path: Path) -> None:
    text = edited(
        ("finetune: {batch_sequences: 8}", "finetune: {peak_lr: 1e-4}"),
        ("epochs:", "      finetune.recipe: [prismatic]\nepochs:"),
    )
    manifest = planned(tmp_path, text)
    config = FinetuneConfig.model_validate(dict(job_of(manifest, manifest.cells[0].chains[0].finetune).config))
    assert (config.peak_lr, config.warmup_ratio, config.batch_sequences) == (1e-4, 0.03, 128)


def test_an_axis_of_recipes_names_the_other_one_alone_and_shares_the_pre_training(tmp_path: Path) -> None:
    before = planned(tmp_path / "a", SMALL.replace("  finetune: {batch_sequences: 8}\n", ""))
    text = SMALL.replace("  finetune: {batch_sequences: 8}\n", "").replace(
        "epochs:", "      finetune.recipe: [paper, prismatic]\nepochs:"
    )
    after = planned(tmp_path / "b", text)
    names = {cell.name for cell in before.cells}
    assert {cell.name for cell in after.cells} == names | {f"{name}-finetune.recipe=prismatic" for name in names}
    assert {cell.pretrain for cell in after.cells} == {cell.pretrain for cell in before.cells}
    assert after.cells[0].axes["finetune.recipe"] == "paper"


def test_a_prompt_changes_the_fine_tunes_alone(tmp_path: Path) -> None:
    plain, asked = tuned(tmp_path / "a", "{prompt: pure}"), tuned(tmp_path / "b", "{prompt: vicuna}")
    assert {config.prompt for _, config in plain} == {"pure"}
    assert [config.model_copy(update={"prompt": "pure"}) for _, config in asked] == [config for _, config in plain]
