"""Student's t, Holm's adjustment, and intervals of scores: the formulas of the tables, on plain numbers.

Without scipy, which tables need for nothing else.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval."""
TAIL = (1 - CONFIDENCE) / 2
LARGE = 100.0
"""Degrees of freedom from which the series for the quantile is exact to ten digits."""


def compute_p_values(statistics: Floats, freedom: Floats) -> Floats:
    """Two-sided p-values of t statistics with so many degrees of freedom, which need not be whole.

    I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2); the incomplete beta function by its continued fraction
    (DLMF 8.17.22), from the side on which that converges fast (DLMF 8.17.4).
    """
    half = freedom / 2
    rest = statistics**2 / (freedom + statistics**2)  # 1 - x, without cancellation
    direct = 1 - rest < (half + 1) / (half + 2.5)
    a, b = np.where(direct, half, 0.5), np.where(direct, 0.5, half)
    x, y = np.where(direct, 1 - rest, rest), np.where(direct, rest, 1 - rest)
    beta = np.array([math.lgamma(value) + math.lgamma(0.5) - math.lgamma(value + 0.5) for value in half.flat])
    with np.errstate(divide="ignore"):
        front = np.exp(a * np.log(x) + b * np.log(y) - beta.reshape(half.shape)) / a
    found = front * sum_beta_fraction(a, b, x)
    return np.asarray(np.clip(np.where(direct, found, 1 - found), 0.0, 1.0))


def sum_beta_fraction(a: Floats, b: Floats, x: Floats, terms: int = 1_000) -> Floats:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))) of DLMF 8.17.22, by Lentz's method, until no value moves."""
    tiny = 1e-300
    lower = 1 - (a + b) * x / (a + 1)
    lower = 1 / np.where(np.abs(lower) < tiny, tiny, lower)
    upper, total = np.ones_like(x), lower.copy()
    for m in range(1, terms):
        for d in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            lower, upper = 1 + d * lower, 1 + d / upper
            lower = 1 / np.where(np.abs(lower) < tiny, tiny, lower)
            upper = np.where(np.abs(upper) < tiny, tiny, upper)
            step = lower * upper
            total = total * step
        if np.all(np.abs(step - 1) < 1e-15):
            break
    return total


def compute_t_quantiles(freedom: Floats) -> Floats:
    """Half-widths of 95 % intervals in standard errors: the 97.5 % quantiles of t.

    From 100 degrees of freedom by the series of Abramowitz and Stegun 26.7.5, below that by Newton's method from z on.
    """
    z = NormalDist().inv_cdf(1 - TAIL)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    values = np.full(freedom.shape, z)
    for power, term in enumerate(terms, start=1):
        values += term / freedom**power
    few = freedom < LARGE
    if few.any():
        values[few] = refine_quantiles(np.full(few.sum(), z), freedom[few])
    return values


def refine_quantiles(values: Floats, freedom: Floats) -> Floats:
    """Newton's method; p is convex in t, so that no step from below goes beyond the quantile."""
    scale = np.array([math.exp(math.lgamma((each + 1) / 2) - math.lgamma(each / 2)) for each in freedom])
    scale /= np.sqrt(freedom * math.pi)
    for _ in range(100):
        density = scale * (1 + values**2 / freedom) ** (-(freedom + 1) / 2)
        steps = (compute_p_values(values, freedom) / 2 - TAIL) / density
        values = values + steps
        if np.all(np.abs(steps) < 1e-12 * values):
            break
    return values


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
