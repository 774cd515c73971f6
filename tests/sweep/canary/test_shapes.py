from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job
from sweep.canary.shapes import compute_shapes
from sweep.plan.manifest import Manifest
from tests.jobs import toy
from tests.sweep.small_sweep import edited, planned, shipped

ALL = {"trunk", "pretrain", "finetune", "evaluate"}


def shapes_of(manifest: Manifest, phase: str) -> set[str]:
    shapes = compute_shapes(manifest)
    return {shapes[job.key] for job in manifest.jobs if job.phase == phase}


def change(job: Job, **changes: Any) -> Job:
    return replace(job, **changes)


def shape(*jobs: Job) -> list[str]:
    found = compute_shapes(Manifest(sweep="s", backend="local", data={}, cells=(), jobs=jobs))
    return [found[job.key] for job in jobs]


def test_the_papers_2710_jobs_have_twenty_shapes() -> None:
    plan = shipped("paper")
    shapes = compute_shapes(plan)
    assert (len(shapes), len(set(shapes.values()))) == (2_710, 20)
    assert all(name.startswith(("pretrain-", "finetune-", "evaluate-")) for name in shapes.values())


def test_seeds_rates_shares_and_amounts_make_no_shape(tmp_path: Path) -> None:
    plain = planned(tmp_path)
    assert len(shapes_of(plain, "finetune")) == 1  # of one and of two epochs
    assert len(shapes_of(plain, "trunk")) == 1  # of both segments
    for change_of_text in (
        ("peak_lr: 3e-3", "peak_lr: 1e-3"),
        ("unit_tokens: 51200", "unit_tokens: 102400"),
        ("image_share: [0, 0.2]", "image_share: [0, 0.2, 0.4]"),
        ("image_share: [0, 0.2]\n", "image_share: [0, 0.2]\n      seed: [1, 2, 3]\n"),
    ):
        other = planned(tmp_path, edited(change_of_text))
        assert set(compute_shapes(other).values()) == set(compute_shapes(plain).values())


def test_model_kinds_of_data_tasks_and_resources_make_one(tmp_path: Path) -> None:
    plain = planned(tmp_path)
    for change_of_text, phases in (
        (("d_model: 64, layers: 2", "d_model: 64, layers: 3"), ALL),
        (("encoder: patches-16-64", "encoder: patches-32-64"), {"pretrain", "finetune", "evaluate"}),
        (("vision_tasks: [shapes]", "vision_tasks: [shapes, colours]"), {"evaluate"}),
        (("finetune: {batch_sequences: 8}", "finetune: {batch_sequences: 16}"), {"finetune"}),
        (
            ("epochs: [1, 2]", "resources: {memory_gib: 9}\nepochs: [1, 2]"),
            ALL,
        ),
    ):
        other = planned(tmp_path, edited(change_of_text))
        changed = {phase for phase in ALL if shapes_of(plain, phase).isdisjoint(shapes_of(other, phase))}
        assert changed == phases, change_of_text


@pytest.mark.parametrize(
    ("setting", "differs"),
    [({"micro_batch_tokens": 4096}, True), ({"parallel": "fsdp"}, True), ({"checkpoint_minutes": 3}, False)],
)
def test_settings_that_decide_how_it_runs_make_a_shape(setting: dict[str, Any], differs: bool) -> None:
    one, other = shape(toy.toy_job("a"), change(toy.toy_job("b"), settings=setting))
    assert (one != other) is differs


def test_time_makes_no_shape_and_options_do() -> None:
    job = toy.toy_job("a")
    longer = change(toy.toy_job("b"), resources=replace(job.resources, time_minutes=600, restarts=3))
    elsewhere = change(toy.toy_job("c"), resources=replace(job.resources, options={"partition": "big"}))
    first, second, third = shape(job, longer, elsewhere)
    assert first == second != third


def test_of_a_stage_that_is_not_ours_all_but_numbers_make_the_shape() -> None:
    jobs = [
        change(toy.toy_job(str(number)), stage="rank", config=config)
        for number, config in enumerate(
            [
                {"steps": 3, "how": "x"},
                {"steps": 9, "how": "x"},
                {"steps": 3, "how": "y"},
                {"steps": 3, "how": "x", "fast": True},
            ]
        )
    ]
    first, second, third, fourth = shape(*jobs)
    assert first == second
    assert len({first, third, fourth}) == 3


def test_settings_of_unusual_forms_make_a_shape_and_no_error() -> None:
    odd: list[dict[str, Any]] = [{"sources": 3}, {"conversations": "x"}, {"text_tasks": ["x", 1]}, {"engine": "own"}]
    assert all(shape(*(change(toy.toy_job(str(number)), config=config) for number, config in enumerate(odd))))
