"""What each question of a task scored, kept so that models can be compared question by question.

questions/NAME.jsonl beside result.json, three lines (docs/formats.md): what was asked and the score; a score for each
question; and the questions with the image or passage that each is about, equal for all models that were asked the same.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from stages.files import replace_atomically

# Why: docs/decisions.md, D96
FORMAT = 1
MARKS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The n-th letter stands for the n-th distinct score of a task: most tasks have two, VQA's rule has eleven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionScores:
    """The scores of one task's N questions, in the task's order.

    The task's score is the mean over its strata of the weighted mean of a stratum's questions.
    """

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """What a question is about: its image or passage. Questions of one cluster are not independent."""
    values: tuple[float, ...]
    strata: tuple[str, ...] = ()
    """Part of the task that a question belongs to, where the score is the mean of parts (POPE's splits); else empty."""
    weights: tuple[float, ...] = ()
    """Empty: all equal. A text's bytes, where a value is bits per byte."""

    def compute_shares(self) -> list[float]:
        """What each question's value is multiplied by in the task's score; they add up to 1."""
        weights = self.weights or (1.0,) * len(self.values)
        strata = self.strata or ("",) * len(self.values)
        totals: dict[str, float] = defaultdict(float)
        for name, weight in zip(strata, weights, strict=True):
            totals[name] += weight
        return [weight / totals[name] / len(totals) for name, weight in zip(strata, weights, strict=True)]

    def compute_score(self) -> float:
        """The task's score."""
        return math.fsum(share * value for share, value in zip(self.compute_shares(), self.values, strict=True))

    # Why: docs/decisions.md, D94
    def compute_clustered_error(self) -> float | None:
        """Standard error of the score, with questions of one cluster taken as dependent; None for a single cluster.

        sqrt(G / (G - 1) * sum over the G clusters of r^2), with r the sum over a cluster's questions of share times
        (value - mean of its stratum): Liang and Zeger 1986, for a mean; the factor as in Cameron and Miller 2015,
        section II. With one question a cluster it is the sample standard deviation / sqrt(n).
        """
        strata = self.strata or ("",) * len(self.values)
        shares = self.compute_shares()
        parts: dict[str, list[float]] = defaultdict(list)
        for name, share, value in zip(strata, shares, self.values, strict=True):
            parts[name].append(share * value)
        means = {name: math.fsum(values) * len(parts) for name, values in parts.items()}
        residuals: dict[str, float] = defaultdict(float)
        for cluster, name, share, value in zip(self.clusters, strata, shares, self.values, strict=True):
            residuals[cluster] += share * (value - means[name])
        count = len(residuals)
        if count < 2:
            return None
        return math.sqrt(count / (count - 1) * math.fsum(residual**2 for residual in residuals.values()))


def write_question_scores(folder: Path, task: str, kind: str, found: QuestionScores) -> None:
    """Writes the task's file, whole or not at all."""
    questions = render_questions(found)
    head = {
        "format": FORMAT,
        "task": task,
        "kind": kind,
        "n": len(found.values),
        "clusters": len(set(found.clusters)),
        "score": found.compute_score(),
        "asked": sha256(questions.encode()).hexdigest(),
    }
    with replace_atomically(folder / f"{task}.jsonl") as unfinished:
        lines = (json.dumps(head), json.dumps(build_values_record(found.values)), questions)
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def render_questions(found: QuestionScores) -> str:
    """The line on the questions, which is equal for all models that were asked the same."""
    content: dict[str, Any] = {"ids": found.ids, "clusters": found.clusters}
    if found.strata:
        content["strata"] = found.strata
    if found.weights:
        content["weights"] = found.weights
    return json.dumps(content)


def build_values_record(values: Sequence[float]) -> dict[str, Any]:
    """The distinct scores and a letter for each question; all scores in order where they are too many for letters."""
    distinct = sorted(set(values))
    if len(distinct) > len(MARKS):
        return {"values": list(values)}
    letters: Mapping[float, str] = dict(zip(distinct, MARKS, strict=False))
    return {"values": distinct, "marks": "".join(letters[value] for value in values)}
