"""Student's t, Holm, Wilson, and how often intervals of simulated answers hold the truth."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from sweep.results.answers import TaskAnswers, build_question_set
from sweep.results.contrasts import QUESTIONS, SEEDS, DifferenceEstimate, estimate_difference
from sweep.results.intervals import (
    adjust_by_holm,
    compute_p_values,
    compute_t_quantile,
    compute_t_quantiles,
    compute_unseen_bound,
    compute_wilson_interval,
    merge_intervals,
)
from tests.sweep.results.simulated import collect_answers, draw_answers, draw_values, task_of

DRAWS = 2_000


def test_students_t_is_right_for_whole_and_broken_degrees_of_freedom() -> None:
    # one and two degrees have closed forms: tan(0.475 pi), and 0.95 sqrt(2 / (1 - 0.95^2))
    quantiles: dict[float, float] = {
        1: 12.706204736174694, 1.5: 6.016663104427929, 2: 4.302652729749462, 5: 2.5705818356363146,
        10: 2.228138851986274, 29.5: 2.043724966772122, 99.9: 1.9839958380769385, 100: 1.9839715185235518,
        1000: 1.9623390808264083, 40000: 1.960023293084913,
    }  # fmt: skip
    assert compute_t_quantiles(np.array(list(quantiles), dtype=float)) == pytest.approx(
        list(quantiles.values()), rel=1e-9
    )
    p_values: dict[tuple[float, float], float] = {
        (0.5, 1): 0.7048327646991335, (2, 1.5): 0.22418833035605112, (-3, 2): 0.09546596626670913,
        (0.1, 10): 0.9223207185644082, (2.5, 29.5): 0.018218617266923094, (4, 99.9): 0.00012159564228681726,
        (1, 1000): 0.31755241808467255, (-6, 40000): 1.990098038301166e-09, (0, 5): 1.0,
    }  # fmt: skip
    values, freedom = np.array(list(p_values), dtype=float).T
    assert compute_p_values(values, freedom) == pytest.approx(list(p_values.values()), rel=1e-8)


def test_holm_multiplies_the_smallest_by_all_and_is_never_below_a_smaller_one() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.5, 0.9]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []


def test_wilsons_interval_is_the_textbooks_and_leaves_no_error_of_zero() -> None:
    z2 = compute_t_quantile(79) ** 2
    assert compute_wilson_interval(0.0, 0.0, 80, None) == pytest.approx((0, z2 / (80 + z2)))
    assert compute_wilson_interval(1.0, 0.0, 80, None) == pytest.approx((80 / (80 + z2), 1))
    assert compute_wilson_interval(0.0, 0.0, 80, 10)[1] > 0.3  # ten images, whose answers were all alike
    low, high = compute_wilson_interval(0.3, math.sqrt(0.3 * 0.7 / 100_000), 100_000, None)
    assert (low, high) == pytest.approx((0.3 - 1.96 * 0.001449, 0.3 + 1.96 * 0.001449), abs=1e-5)
    doubled = compute_wilson_interval(0.3, 2 * math.sqrt(0.3 * 0.7 / 100_000), 100_000, 20_000)
    assert doubled[1] - doubled[0] == pytest.approx(2 * (high - low), rel=1e-3)


def test_an_interval_of_a_mean_of_tasks_is_made_of_theirs() -> None:
    assert merge_intervals([0.5, 0.0], [(0.2, 0.9), (0.0, 0.3)]) == pytest.approx((0.25 - 0.15, 0.25 + 0.25))


def row_places(task: TaskAnswers) -> npt.NDArray[np.intp]:
    return np.arange(len(task.scores))


def estimate(coefficients: list[list[float]], *tasks: TaskAnswers) -> DifferenceEstimate:
    found = estimate_difference(np.array(coefficients), tasks, [row_places(task) for task in tasks])
    assert found is not None
    return found


def test_a_paired_difference_has_the_clustered_error_computed_by_hand() -> None:
    images = ["a", "a", "b", "b", "b", "c"]
    values = np.array([[0, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 1]], dtype=float)
    # second minus first: 1, 1 | 0, 0, -1 | 0; mean 1/6; sums of the residuals: 10/6, -9/6, -1/6
    error = math.sqrt(3 / 2 * ((10 / 6) ** 2 + (9 / 6) ** 2 + (1 / 6) ** 2)) / 6
    found = estimate([[-1, 1]], collect_answers(build_question_set(images), values))
    assert (found.difference, found.stderr, found.freedom) == pytest.approx((1 / 6, error, 2))
    assert found.noise == QUESTIONS


def test_tasks_of_a_stable_score_add_up_and_so_do_their_degrees_of_freedom() -> None:
    one = TaskAnswers(np.array([0.2, 0.5]), np.diag([0.01, 0.03]), 20, 11)
    two = TaskAnswers(np.array([0.4, 0.2]), np.diag([0.02, 0.01]), 30, 6)
    found = estimate([[-1, 1]], one, two)
    assert (found.difference, found.stderr) == pytest.approx((0.05, math.sqrt(0.07) / 2))
    assert found.freedom == pytest.approx(0.07**2 / (0.04**2 / 10 + 0.03**2 / 5))


def test_seeds_add_the_variance_of_their_mean() -> None:
    task = TaskAnswers(np.array([0.1, 0.2, 0.5, 0.4]), np.diag([0.01] * 4), 20, 11)
    found = estimate([[-1, 0, 1, 0], [0, -1, 0, 1]], task)  # differences 0.4 and 0.2 by seed
    assert found.difference == pytest.approx(0.3)
    questions, seeds = 4 * 0.01 / 4, 0.02 / 2
    assert found.stderr == pytest.approx(math.sqrt(questions + seeds))
    assert found.freedom == pytest.approx((questions + seeds) ** 2 / (questions**2 / 10 + seeds**2 / 1))
    assert found.noise == SEEDS


def test_no_difference_in_any_question_has_an_interval_and_never_for_a_loss() -> None:
    values = np.zeros((2, 80))
    task = collect_answers(build_question_set([str(number) for number in range(80)]), values)
    found = estimate([[-1, 1]], task)
    half = compute_t_quantile(found.freedom) * found.stderr
    assert half == pytest.approx(1 - 0.025 ** (1 / 80)) == compute_unseen_bound(80)
    loss = TaskAnswers(task.scores, task.covariance, 80, 80, is_fraction=False)
    assert estimate_difference(np.array([[-1.0, 1.0]]), [loss], [row_places(loss)]) is None


def covered(found: list[DifferenceEstimate], truth: float) -> float:
    halves = compute_t_quantiles(np.array([each.freedom for each in found]))
    inside = [abs(each.difference - truth) <= half * each.stderr for each, half in zip(found, halves, strict=True)]
    return float(np.mean(inside))


@pytest.mark.parametrize("images", [60, 300])
def test_intervals_hold_the_truth_and_false_positives_are_five_in_a_hundred(images: int) -> None:
    generator = np.random.default_rng(images)
    levels = np.array([0.0, 0.25])
    questions = [task_of(images, generator) for _ in range(DRAWS)]
    # right where a normal of variance 2 (1 + 0.6^2) exceeds -level
    truth = NormalDist().cdf(levels[1] / math.sqrt(2 * 1.36)) - 0.5
    differing = [estimate([[-1, 1]], draw_answers(each, levels, generator)) for each in questions]
    assert 0.93 <= covered(differing, truth) <= 0.97
    equal = [estimate([[-1, 1]], draw_answers(each, np.zeros(2), generator)) for each in questions]
    assert 0.04 <= 1 - covered(equal, 0.0) <= 0.06
    stable = [
        estimate([[-1, 1]], *(draw_answers(each, np.zeros(2), generator) for each in pair))
        for pair in zip(questions[::2], questions[1::2], strict=True)
    ]
    assert 0.93 <= covered(stable, 0.0) <= 0.97


def test_questions_taken_as_independent_would_not_hold_the_truth() -> None:
    generator = np.random.default_rng(5)
    found = []
    for _ in range(DRAWS // 4):
        questions = task_of(60, generator)
        apart = build_question_set([str(number) for number in range(len(questions.shares))])
        values = draw_values(questions, np.zeros(2), generator)
        found.append(estimate([[-1, 1]], collect_answers(apart, values)))
    assert covered(found, 0.0) < 0.90


def test_holms_family_of_branch_points_errs_in_at_most_five_of_a_hundred_draws() -> None:
    generator = np.random.default_rng(11)
    pairs = [(first, second) for second in range(6) for first in range(second)]
    wrong = 0
    for _ in range(DRAWS):
        task = draw_answers(task_of(100, generator), np.zeros(6), generator)
        found = [estimate_pair(task, first, second) for first, second in pairs]
        p_values = compute_p_values(
            np.array([each.difference / each.stderr for each in found]), np.array([each.freedom for each in found])
        )
        wrong += min(adjust_by_holm(list(p_values))) < 0.05
    assert wrong / DRAWS <= 0.05 + 1.645 * math.sqrt(0.05 * 0.95 / DRAWS)
    assert wrong / DRAWS >= 0.01  # a family error that is held, and not by never finding anything


def estimate_pair(task: TaskAnswers, first: int, second: int) -> DifferenceEstimate:
    coefficients = np.zeros((1, len(task.scores)))
    coefficients[0, [first, second]] = -1, 1
    found = estimate_difference(coefficients, [task], [row_places(task)])
    assert found is not None
    return found


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_with_seeds_the_interval_of_a_mean_over_them_holds_the_truth(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    coefficients = [[0.0] * (2 * seeds) for _ in range(seeds)]
    for seed, row in enumerate(coefficients):
        row[seed], row[seeds + seed] = -1, 1
    found = []
    for _ in range(DRAWS // 2):
        levels = 0.03 * generator.normal(size=2 * seeds)  # about a point of accuracy, more than the paper's 0.63
        found.append(estimate(coefficients, draw_answers(task_of(150, generator), levels, generator)))
    assert 0.93 <= covered(found, 0.0) <= 0.99
