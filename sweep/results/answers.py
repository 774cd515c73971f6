"""What each question scored, by all models that were asked it: how the models' scores move together with the questions.

Read from the evaluations' questions/TASK.jsonl (docs/formats.md). Only the sums over clusters are kept: for a mean, the
standard error of any combination of models follows from their covariance matrix.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.store.paths import Store
from jobs.store.reading import open_to_read, parse_object
from sweep.results.evidence import parse_number, parse_whole_number
from sweep.results.scores import MeasuredTaskScore, parse_task_scores

Floats = npt.NDArray[np.float64]
BLOCK = 2_048
"""Clusters that are multiplied at once, in double precision: bounds the memory."""
NO_ANSWERS = "no scores of single questions are kept"
OTHER_QUESTIONS = "the models were asked other questions"
DAMAGED = "the scores of single questions cannot be read"
ONE = "all questions are about one image or passage"


class DamagedAnswersError(ValueError):
    """A file of questions that is not as the evaluation wrote it."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """One task's N questions: the G clusters that they belong to, and their shares of the score."""

    cluster: npt.NDArray[np.intp]
    """Of each question, 0 to G - 1."""
    clusters: int
    stratum: npt.NDArray[np.intp]
    """Part of the task whose mean its value belongs to."""
    strata: int
    shares: Floats
    """What a question's value is multiplied by in the score; their sum is 1."""

    def compute_score(self, values: Floats) -> float:
        """The task's score of the questions' values."""
        return float(self.shares @ values)

    def compute_contributions(self, values: Floats) -> Floats:
        """What each cluster adds to the score beyond its mean, (G,); the sum is 0."""
        means = np.bincount(self.stratum, weights=self.shares * values, minlength=self.strata) * self.strata
        parts = self.shares * (values - means[self.stratum])
        return np.bincount(self.cluster, weights=parts, minlength=self.clusters).astype(float)


def build_question_set(
    clusters: Sequence[str], strata: Sequence[str] = (), weights: Sequence[float] = ()
) -> QuestionSet:
    """From the names that a file of questions gives; without strata one, without weights equal ones."""
    names, cluster = np.unique(np.array(clusters, dtype=object).astype(str), return_inverse=True)
    parts, stratum = np.unique(np.array(strata or [""] * len(clusters)), return_inverse=True)
    weight = np.array(weights or [1.0] * len(clusters), dtype=float)
    totals = np.bincount(stratum, weight)
    return QuestionSet(cluster, len(names), stratum, len(parts), weight / totals[stratum] / len(parts))


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """One task as M models answered it, all asked the same questions."""

    scores: Floats
    """(M,)"""
    covariance: Floats
    """(M, M): of the models' scores over the draw of the clusters; a combination c of models has the variance c'Vc."""
    questions: int
    clusters: int
    is_fraction: bool = True
    """Whether a question scores 0 to 1; else it is a loss."""
    models: Mapping[str, int] = field(default_factory=dict)
    """Key of the evaluation to its row."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a model's answers are not among them, by key."""

    def explain_missing(self, keys: Iterable[str]) -> str:
        """Why the first of `keys` without answers has none; "" if all have."""
        return next((self.left_out.get(key, NO_ANSWERS) for key in keys if key not in self.models), "")


# Why: docs/decisions.md, D94
def compute_covariance(contributions: npt.NDArray[Any]) -> Floats:
    """Cluster-robust covariance of the models' scores from their contributions (M, G), G of at least 2.

    G / (G - 1) * U U': the sandwich of Liang and Zeger 1986 for means, with the small-sample factor as in Cameron and
    Miller 2015, section II (there times (N - 1) / (N - K), which is 1 for a mean).
    """
    models, clusters = contributions.shape
    total: Floats = np.zeros((models, models))
    for start in range(0, clusters, BLOCK):
        block = contributions[:, start : start + BLOCK].astype(float)
        total += block @ block.T
    total *= clusters / (clusters - 1)
    return total


def load_answers(store: Store, results: Mapping[str, Mapping[str, Any]]) -> dict[str, TaskAnswers]:
    """By task. `results`: content of result.json by key of the evaluation.

    Where models were asked different questions, those asked what most were asked are compared.
    """
    scored: dict[str, dict[str, MeasuredTaskScore]] = {}
    for key, result in results.items():
        for task in parse_task_scores(result):
            scored.setdefault(task.task, {})[key] = task
    folders = {key: store.locate_run("evaluate", key).questions for key in results}
    there = {key: folder for key, folder in folders.items() if folder.is_dir()}
    return {
        task: load_task_answers({key: folder / f"{task}.jsonl" for key, folder in there.items()}, found)
        for task, found in sorted(scored.items())
        if any(key in there for key in found)
    }


def load_task_answers(paths: Mapping[str, Path], said: Mapping[str, MeasuredTaskScore]) -> TaskAnswers:
    """One task's answers. `said`: what result.json says, by key; a file that says otherwise is left out."""
    scores = {key: task.score for key, task in said.items()}
    is_fraction = all(task.kind != "loss" for task in said.values())
    left_out: dict[str, str] = {}
    asked: dict[str, str] = {}
    for key, score in scores.items():
        head = read_head(paths[key]) if key in paths else None
        if head is None:
            left_out[key] = DAMAGED if key in paths and paths[key].exists() else NO_ANSWERS
        elif not math.isclose(parse_number(head.get("score")) or 0.0, score, rel_tol=1e-6, abs_tol=1e-9):
            left_out[key] = DAMAGED
        else:
            asked[key] = str(head.get("asked"))
    most = Counter(asked.values()).most_common(1)
    left_out |= {key: OTHER_QUESTIONS for key, digest in asked.items() if digest != most[0][0]}
    found: list[npt.NDArray[np.float32]] = []
    models: dict[str, int] = {}
    questions: QuestionSet | None = None
    for key in [key for key, digest in asked.items() if digest == most[0][0]]:
        try:
            questions = questions or read_question_set(paths[key], most[0][0])
            values = read_values(paths[key], len(questions.shares))
        except DamagedAnswersError:
            left_out[key] = DAMAGED
            continue
        if not math.isclose(questions.compute_score(values), scores[key], rel_tol=1e-6, abs_tol=1e-9):
            left_out[key] = DAMAGED
            continue
        models[key] = len(found)
        found.append(questions.compute_contributions(values).astype(np.float32))
    if questions is None or questions.clusters < 2:
        return TaskAnswers(np.zeros(0), np.zeros((0, 0)), 0, 0, is_fraction, {}, dict.fromkeys(models, ONE) | left_out)
    return TaskAnswers(
        scores=np.array([scores[key] for key in models]),
        covariance=compute_covariance(np.array(found)),
        questions=len(questions.shares),
        clusters=questions.clusters,
        is_fraction=is_fraction,
        models=models,
        left_out=left_out,
    )


def read_head(path: Path) -> dict[str, Any] | None:
    """The first line; None where there is no such file or line."""
    try:
        with open_to_read(path) as file:
            head = parse_object(file.readline())
    except (OSError, ValueError):
        return None
    return head if parse_whole_number(head.get("format")) == 1 else None


def read_question_set(path: Path, asked: str) -> QuestionSet:
    """The third line, whose digest is `asked`. DamagedAnswersError if it is not, or holds something else."""
    try:
        with open_to_read(path) as file:
            line = file.readlines()[2].rstrip(b"\n")
        content = parse_object(line)
        if sha256(line).hexdigest() != asked or not content["clusters"]:
            raise DamagedAnswersError(f"{path}: its questions are not those that its first line names")
        return build_question_set(content["clusters"], content.get("strata", ()), content.get("weights", ()))
    except (OSError, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedAnswersError(f"{path}: {error}") from error


def read_values(path: Path, count: int) -> Floats:
    """The second line: the scores of `count` questions. DamagedAnswersError if they are not there."""
    try:
        with open_to_read(path) as file:
            file.readline()
            content = parse_object(file.readline())
        values = np.array(content["values"], dtype=float)
        if "marks" in content:
            letters = np.frombuffer(content["marks"].encode("ascii"), dtype=np.uint8)
            values = values[LETTERS[letters]]
    except (OSError, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedAnswersError(f"{path}: {error}") from error
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DamagedAnswersError(f"{path}: it wants {count} scores")
    return values


MARKS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTERS = np.full(256, 255, dtype=np.intp)
"""Place of a letter among `MARKS`; 255, beyond every list of values, for what is none."""
LETTERS[np.frombuffer(MARKS, dtype=np.uint8)] = np.arange(len(MARKS))
