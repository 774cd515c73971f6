"""Which differences a plan says that it detects, against the formula by hand and against simulated answers."""

import math
from pathlib import Path

import numpy as np
import pytest

from jobs.job import Job
from sweep.catalog import load_catalog
from sweep.catalog.noise import NoiseAssumptions, load_noise_assumptions
from sweep.plan.detectable import (
    DetectableEffect,
    TaskSize,
    compute_detectable_effects,
    compute_task_error,
    is_loss,
    list_task_sizes,
)
from sweep.plan.manifest import Manifest
from sweep.results.contrasts import estimate_difference
from sweep.results.intervals import compute_p_values
from tests.sweep.results.simulated import collect_answers, task_of

ASSUMED = NoiseAssumptions(
    answer_deviation=0.5, model_correlation=0.5, image_correlation=0.1, seed_deviation=0.005, sources={}, clusters={}
)


def effect(stderr: float, seed_deviation: float = 0.005) -> DetectableEffect:
    return DetectableEffect(score="vision", tasks=(), stderr=stderr, seed_deviation=seed_deviation)


def test_the_error_of_a_task_is_that_by_hand() -> None:
    alone = TaskSize(name="a", kind="vision", questions=400, clusters=400)
    assert compute_task_error(alone, ASSUMED) == pytest.approx(math.sqrt(2 * 0.25 * 0.5 / 400))  # 0.025
    eleven_an_image = TaskSize(name="a", kind="vision", questions=1_100, clusters=100)
    assert compute_task_error(eleven_an_image, ASSUMED) == pytest.approx(math.sqrt(2 * 0.25 * 0.5 / 1_100 * 2))


def test_the_effect_is_2_80_standard_errors_of_questions_and_seeds() -> None:
    assert effect(0.01, 0.0001).compute_effect(1) == pytest.approx(0.02802, abs=1e-5)
    assert effect(0.003).compute_effect(2) == pytest.approx(2.80159 * math.sqrt(0.003**2 + 0.005**2), rel=1e-5)


def test_the_seeds_are_the_fewest_that_detect_it() -> None:
    found = effect(0.003)
    for difference in (0.02, 0.015, 0.01):
        seeds = found.count_seeds(difference)
        assert seeds is not None
        assert found.compute_effect(seeds) <= difference * (1 + 1e-9)
        assert seeds == 1 or found.compute_effect(seeds - 1) > difference
    assert found.count_seeds(2.79 * 0.003) is None  # the questions alone hide it
    assert found.count_seeds(found.compute_effect(7)) == 7


def test_scores_are_the_studys_tasks_or_all_of_a_kind() -> None:
    def found(*tasks: tuple[str, str]) -> dict[str, list[str]]:
        sizes = [TaskSize(name=name, kind=kind, questions=100, clusters=100) for name, kind in tasks]
        return {each.score: [task.name for task in each.tasks] for each in compute_detectable_effects(sizes, ASSUMED)}

    assert found(("gqa", "vision"), ("vizwiz", "vision"), ("copa", "text")) == {"vision": ["gqa"], "text": ["copa"]}
    assert found(("shapes_val", "vision"), ("shapes_heldout", "vision")) == {
        **{"vision": ["shapes_val"], "heldout_vision": ["shapes_heldout"]}
    }
    [both] = compute_detectable_effects(
        [TaskSize(name=name, kind="vision", questions=100, clusters=100) for name in ("gqa", "pope")], ASSUMED
    )
    assert both.stderr == pytest.approx(0.05 / math.sqrt(2))


def plan_with(folder: Path, config: dict[str, object]) -> Manifest:
    job = Job(
        key="a" * 16,
        stage="evaluate",
        version=2,
        phase="evaluate",
        parents=(),
        cells=(),
        config={"tasks": "t", **config},
    )
    return Manifest(sweep="s", backend="local", data={"t": str(folder)}, cells=(), jobs=(job,))


def test_a_limit_takes_its_part_of_questions_and_images_and_losses_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text("metric_list: [{metric: bits_per_byte}]\n")
    assert is_loss(tmp_path / "lost.yaml")
    assert not is_loss(tmp_path / "absent.yaml")
    config = {
        "vision_tasks": [{"name": "gqa", "limit": 1258}, {"name": "own", "limit": 50}],
        "text_tasks": [{"name": "copa"}, {"name": "lost"}],
    }
    sizes = list_task_sizes(plan_with(tmp_path, config), load_catalog(), load_noise_assumptions())
    assert [(task.name, task.kind, task.questions, task.clusters) for task in sizes] == [
        ("gqa", "vision", 1_258, 40),
        ("own", "vision", 50, 50),
        ("copa", "text", 100, 100),
    ]
    counted = list_task_sizes(
        plan_with(tmp_path, config), load_catalog(), load_noise_assumptions(), {"own": (50, 10), "copa": (90, 90)}
    )
    assert [(task.questions, task.clusters) for task in counted] == [(1_258, 40), (50, 10), (90, 90)]
    assert list_task_sizes(plan_with(tmp_path, {}), load_catalog(), load_noise_assumptions()) == []


def test_the_stated_difference_is_found_in_four_of_five_simulated_evaluations() -> None:
    """Answers as assumed: half of them right, correlated between models by a common and an own part."""
    generator = np.random.default_rng(8)
    found, draws, correlation = 0, 1_000, 0.5
    # two answers agree with the correlation 0.5 if the latent one is sin(pi / 2 * 0.5)
    common = math.sqrt(math.sin(math.pi / 2 * correlation))
    own = math.sqrt(1 - common**2)
    task = task_of(400, generator)
    count = len(task.shares)
    size = TaskSize(name="a", kind="vision", questions=count, clusters=count)
    wanted = 2.80159 * compute_task_error(size, ASSUMED)
    shift = wanted * math.sqrt(2 * math.pi)  # a share right of one half moves by shift / sqrt(2 pi)
    for _ in range(draws):
        latent = common * generator.normal(size=count) + own * generator.normal(size=(2, count))
        answers = collect_answers(task, (latent + np.array([[0.0], [shift]]) > 0).astype(float))
        estimate = estimate_difference(np.array([[-1.0, 1.0]]), [answers], [np.arange(2)])
        assert estimate is not None
        statistic = np.array([estimate.difference / estimate.stderr])
        found += float(compute_p_values(statistic, np.array([estimate.freedom]))[0]) < 0.05
    assert found / draws == pytest.approx(0.8, abs=0.04)
