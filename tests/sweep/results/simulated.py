"""Answers of models that are known to differ or not, drawn with questions that share images."""

import numpy as np
import numpy.typing as npt

from sweep.results.answers import QuestionSet, TaskAnswers, build_question_set, compute_covariance

Floats = npt.NDArray[np.float64]


def images_of(count: int, generator: np.random.Generator) -> list[str]:
    """The image of each question: `count` images with 1 to 8 questions each."""
    sizes = generator.integers(1, 9, size=count)
    return [f"{image}.png" for image, size in enumerate(sizes) for _ in range(size)]


def draw_answers(questions: QuestionSet, levels: Floats, generator: np.random.Generator) -> TaskAnswers:
    """What is kept of `draw_values`."""
    return collect_answers(questions, draw_values(questions, levels, generator))


def draw_values(questions: QuestionSet, levels: Floats, generator: np.random.Generator) -> Floats:
    """Right (1) or wrong (0) answers of as many models as `levels`, (models, questions).

    An answer is right where level + difficulty > 0. Each question's and each image's difficulty has a part that is
    common to all models, of standard deviation 1, and one of each model's own, of 0.6.
    """

    def one(scale: float, rows: int) -> Floats:
        own = generator.normal(size=(rows, len(questions.shares)))
        by_image = generator.normal(size=(rows, questions.clusters))[:, questions.cluster]
        return scale * (own + by_image)

    return np.asarray(levels[:, None] + one(1.0, 1) + one(0.6, len(levels)) > 0, dtype=float)


def collect_answers(questions: QuestionSet, values: Floats) -> TaskAnswers:
    """Of values (models, questions)."""
    return TaskAnswers(
        scores=np.array([questions.compute_score(row) for row in values]),
        covariance=compute_covariance(np.array([questions.compute_contributions(row) for row in values])),
        questions=len(questions.shares),
        clusters=questions.clusters,
    )


def task_of(count: int, generator: np.random.Generator) -> QuestionSet:
    return build_question_set(images_of(count, generator))
