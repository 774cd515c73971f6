"""The z-score of vlm-evaluation (scripts/compute_z_scores.py): how far a model is from the mean of all models.

Of each metric z = (x - mean) / standard deviation, both over all models that have the metric, the deviation that of a
population (divided by n); a model's z-score is the mean of z over the metrics, the eight of the chance table. As there,
a metric of a single model has deviation 1, and metrics that nobody has are left out. Unlike there, a metric in which no
two models differ counts z = 0 (there it divides by zero), and a model that lacks a metric that another has gets no
score, as means over different metrics cannot be compared.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from sweep.catalog.chance import load_chances
from sweep.results.spread import mean, squares
from sweep.results.values import number

Metrics = Mapping[str, float]


def z_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Those of the z-score's metrics that a result.json has, by the metric's name there; only finite numbers."""
    scores = result.get("scores")
    if not isinstance(scores, dict):
        return {}
    found: dict[str, float] = {}
    for name, wanted in load_chances().z_score.items():
        entry = scores.get(wanted.task)
        values = entry if wanted.metric == "score" else entry.get("metrics") if isinstance(entry, dict) else None
        value = number(values.get(wanted.metric)) if isinstance(values, dict) else None
        if value is not None and math.isfinite(value):
            found[name] = value
    return found


def z_scores(models: Mapping[str, Metrics]) -> dict[str, float]:
    """In standard deviations, by model; models that lack a metric that another one has are left out."""
    names = [name for name in load_chances().z_score if any(name in metrics for metrics in models.values())]
    whole = {model: metrics for model, metrics in models.items() if names and len(metrics) == len(names)}
    moments = {name: moments_of([each[name] for each in models.values() if name in each]) for name in names}
    return {
        model: mean([(metrics[name] - centre) / width for name, (centre, width) in moments.items()])
        for model, metrics in whole.items()
    }


def moments_of(values: Collection[float]) -> tuple[float, float]:
    """Mean, and standard deviation of a population, 1 where no two values differ."""
    centre, width = mean(values), math.sqrt(squares(values) / len(values))
    same = width <= 1e-12 * max(1.0, abs(centre))  # rounding alone: 0.1 three times has a deviation of 1e-17
    return centre, 1.0 if same else width
