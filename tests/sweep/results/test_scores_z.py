"""The z-score of vlm-evaluation."""

import random
from typing import Any

import numpy as np
import pytest

from sweep.catalog.chance import load_chances
from sweep.results.scores import compute_z_scores, extract_z_metrics

NAMES = (
    "vqa-v2", "gqa", "VizWiz-Overall", "TextVQA-OCR", "TextVQA-Pure", "RefCOCO", "RefCOCOg", "OCIDRef-All",
)  # fmt: skip
PLAIN = {"vqav2": 0.7, "gqa": 0.6, "vizwiz": 0.1, "textvqa_ocr": 0.5, "textvqa": 0.4, "ocid_ref": 0.3}


def result(**changes: Any) -> dict[str, Any]:
    scores: dict[str, Any] = {name: {"kind": "vision", "score": score} for name, score in PLAIN.items()}
    scores["refcoco"] = {"score": 0.55, "metrics": {"accuracy/RefCOCO": 0.6, "accuracy/RefCOCOg": 0.5}}
    return {"scores": scores | changes}


def test_the_metrics_are_the_eight_of_the_authors_script() -> None:
    assert tuple(load_chances().z_score) == NAMES
    assert extract_z_metrics(result()) == dict(zip(NAMES, (0.7, 0.6, 0.1, 0.5, 0.4, 0.6, 0.5, 0.3), strict=True))


@pytest.mark.parametrize("broken", [None, 3, {}, {"score": "high"}, {"score": float("nan")}, {"score": True}])
def test_a_metric_that_cannot_be_read_is_missing(broken: Any) -> None:
    assert set(extract_z_metrics(result(gqa=broken))) == set(NAMES) - {"gqa"}
    assert extract_z_metrics({"scores": broken}) == {}


def test_it_is_the_mean_distance_in_population_deviations() -> None:
    chance = random.Random(5)
    models = {f"m{number}": {name: chance.random() for name in NAMES} for number in range(7)}
    table = np.array([[metrics[name] for name in NAMES] for metrics in models.values()])
    expected = ((table - table.mean(axis=0)) / table.std(axis=0)).mean(axis=1)
    assert list(compute_z_scores(models).values()) == pytest.approx(expected.tolist(), abs=1e-12)


def test_two_models_are_one_deviation_away_each() -> None:
    assert compute_z_scores({"low": dict.fromkeys(NAMES, 0.1), "high": dict.fromkeys(NAMES, 0.9)}) == pytest.approx(
        {"low": -1.0, "high": 1.0}
    )


def test_a_single_model_and_equal_models_are_at_zero() -> None:
    same = dict.fromkeys(NAMES, 0.1)
    assert compute_z_scores({"only": same}) == {"only": 0.0}
    assert compute_z_scores({"a": same, "b": same, "c": same}) == pytest.approx({"a": 0.0, "b": 0.0, "c": 0.0})


def test_a_metric_that_no_model_has_is_left_out() -> None:
    assert compute_z_scores({"low": {"gqa": 0.1}, "high": {"gqa": 0.3}}) == pytest.approx({"low": -1.0, "high": 1.0})


def test_a_model_that_lacks_a_metric_counts_in_the_means_and_has_no_score() -> None:
    models = {"a": {"gqa": 0.0, "RefCOCO": 0.2}, "b": {"gqa": 1.0, "RefCOCO": 0.6}, "c": {"gqa": 2.0}, "d": {}}
    found = compute_z_scores(models)
    deviation = (2 / 3) ** 0.5
    assert found == pytest.approx({"a": (-1 / deviation - 1) / 2, "b": 0.5})
