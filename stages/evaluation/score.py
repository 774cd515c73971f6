"""One task's outcome, as `scores` of result.json holds it (docs/formats.md)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from stages.evaluation.question_scores import QuestionScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`score` is a fraction of 1, or bits per byte for kind `loss`; `n` counts questions or documents."""

    kind: Literal["text", "vision", "loss"]
    score: float
    n: int
    stderr: float | None = None
    chance: float | None = None
    """What always giving the commonest answer, or guessing, would score."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    requests: int = 0
    """What the model was asked: answers to compare, texts, or answers to generate."""
    tokens: int = 0
    """Positions of all requests: images, prompts, and answers that are compared; not those that are generated."""
    questions: QuestionScores | None = None
    """What each question scored; None where the score is no mean over questions."""

    def describe(self) -> str:
        """For people: `score 0.5312 +- 0.0176 (vision, n 800, chance 0.2500)`."""
        error = f" +- {self.stderr:.4f}" if self.stderr is not None else ""
        chance = f", chance {self.chance:.4f}" if self.chance is not None else ""
        return f"score {self.score:.4f}{error} ({self.kind}, n {self.n:,}{chance})"

    def build_record(self) -> dict[str, Any]:
        """The entry of result.json. With scores of questions: `clusters` and `clustered_stderr` too."""
        record = asdict(replace(self, questions=None))
        del record["questions"]
        if self.questions is not None:
            record |= {
                "clusters": len(set(self.questions.clusters)),
                "clustered_stderr": self.questions.compute_clustered_error(),
            }
        return record


def compute_mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return math.fsum(values) / len(values)


def compute_standard_error(values: Sequence[float]) -> float | None:
    """Of the mean: sample standard deviation / sqrt(n), as lm-eval gives it; None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = compute_mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1) / len(values))
