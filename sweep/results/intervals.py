"""Student's t, Holm's adjustment, and intervals of scores: the formulas of the tables, on plain numbers."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""
TAIL = (1 - CONFIDENCE) / 2


def compute_p_values(statistics: Floats, freedom: Floats) -> Floats:
    """Two-sided p-values of t statistics with so many degrees of freedom, which need not be whole."""
    return np.asarray(2 * special.stdtr(freedom, -np.abs(statistics)))


def compute_t_quantiles(freedom: Floats) -> Floats:
    """Half-widths of 95 % intervals in standard errors: the 97.5 % quantiles of t."""
    return np.asarray(special.stdtrit(freedom, 1 - TAIL))


@cache
def compute_t_quantile(freedom: float) -> float:
    """`compute_t_quantiles` of one number."""
    return float(compute_t_quantiles(np.array([freedom], dtype=float))[0])


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family, in the given order; the family-wise error is held whatever the dependence.

    The k-th smallest of m is multiplied by m - k + 1, and none is below a smaller one's: Holm 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


# Why: docs/decisions.md, D95
def compute_wilson_interval(
    score: float, error: float | None, questions: int, clusters: int | None
) -> tuple[float, float]:
    """95 % interval of a mean of `questions` values between 0 and 1, which does not shrink to nothing at 0 and 1.

    Wilson's score interval with the effective number of answers score * (1 - score) / error^2 (Korn and Graubard 1998)
    and t with clusters - 1 degrees of freedom. Where all answers are equal, an image counts as one answer.
    `clusters`: None, questions are independent.
    """
    images = questions if clusters is None else clusters
    variance = (error or 0.0) ** 2
    effective = max(1.0, score * (1 - score) / variance) if variance and 0 < score < 1 else float(images)
    t = compute_t_quantile(max(1, images - 1))
    centre = (score + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half: float = t / (1 + t**2 / effective) * math.sqrt(score * (1 - score) / effective + (t / (2 * effective)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def merge_intervals(scores: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Interval of the mean of independent scores from those of each: mean -+ sqrt(sum of squared distances) / number.

    Zou and Donner 2008; for intervals that are symmetric it is the usual one.
    """
    count = len(scores)
    mean = math.fsum(scores) / count
    below = math.hypot(*(score - low for score, (low, _) in zip(scores, intervals, strict=True))) / count
    above = math.hypot(*(high - score for score, (_, high) in zip(scores, intervals, strict=True))) / count
    return mean - below, mean + above


def compute_unseen_bound(clusters: int) -> float:
    """The largest share of images with any difference that stays unseen in so many with a probability of 2.5 %.

    1 - 0.025^(1 / clusters), about 3.7 / clusters: the rule of three for a two-sided interval.
    """
    return 1 - math.pow(TAIL, 1 / clusters)
