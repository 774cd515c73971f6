"""Which differences a sweep's evaluations can detect, before a GPU is touched. Pure arithmetic, standard library alone.

The difference between two models, paired by question (docs/results.md, `contrasts.parquet`), that is found at the 5 %
level with 80 % power: (z(0.975) + z(0.8)) * its standard error, as in Miller 2024 (arXiv 2411.00640).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sweep.catalog import Catalog, read_mapping
from sweep.catalog.chance import load_chances
from sweep.catalog.noise import NoiseAssumptions
from sweep.errors import SweepFileError
from sweep.plan.manifest import Manifest

# Why: docs/decisions.md, D97
LEVEL, POWER = 0.05, 0.8
FACTOR = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)
"""2.80: how many standard errors a difference has to be."""
WANTED = (0.02, 0.01)
"""Differences for which the number of seeds is said: the paper's effect, and half of it."""
MOST_SEEDS = 100
Tasks = tuple[tuple[str, int | None], ...]
"""Names and limits of an evaluation's tasks."""
NOTHING_COUNTED: Mapping[str, tuple[int, int]] = {}
LOSSES = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """An evaluation task as far as its noise goes."""

    name: str
    kind: str
    """vision or text."""
    questions: int
    clusters: int
    """Images or passages that the questions are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectableEffect:
    """What can be told apart in one score, a fraction of 1, between two models with the same seeds."""

    score: str
    tasks: tuple[TaskSize, ...]
    stderr: float
    """Of the paired difference by the questions alone."""
    seed_deviation: float
    """Of one model's score over seeds."""

    def compute_effect(self, seeds: int) -> float:
        """The difference that is detected with so many seeds of both models."""
        return FACTOR * math.sqrt(self.stderr**2 + 2 * self.seed_deviation**2 / seeds)

    def count_seeds(self, difference: float) -> int | None:
        """Seeds of both models with which the difference is detected; None where the questions are too few for it."""
        left = (difference / FACTOR) ** 2 - self.stderr**2
        seeds = math.ceil(2 * self.seed_deviation**2 / left * (1 - 1e-12)) if left > 0 else MOST_SEEDS + 1
        return max(1, seeds) if seeds <= MOST_SEEDS else None

    def convert_to_dict(self) -> dict[str, Any]:
        """As `sweep plan --json` prints it (docs/json.md)."""
        return {
            "score": self.score,
            "tasks": [
                {"name": task.name, "questions": task.questions, "clusters": task.clusters} for task in self.tasks
            ],
            "stderr": self.stderr,
            "detectable": self.compute_effect(1),
            "seeds": [{"difference": each, "seeds": self.count_seeds(each)} for each in WANTED],
        }


def compute_task_error(task: TaskSize, assumed: NoiseAssumptions) -> float:
    """Standard error of a paired difference in one task.

    Two answers to one question, of deviation s and correlation r, differ with the variance 2 s^2 (1 - r). Questions
    about one image are dependent: the variance of the mean is (1 + (m - 1) c) times as large, with m questions an
    image and the correlation c (Kish's design effect).
    """
    per_image = task.questions / task.clusters
    variance = 2 * assumed.answer_deviation**2 * (1 - assumed.model_correlation) / task.questions
    return math.sqrt(variance * (1 + (per_image - 1) * assumed.image_correlation))


def compute_detectable_effects(tasks: Sequence[TaskSize], assumed: NoiseAssumptions) -> list[DetectableEffect]:
    """Of the stable scores that these tasks make: the study's tasks where there are any, else all of a kind."""
    found = []
    for score, of_score in group_by_score(tasks).items():
        if of_score:
            error = math.hypot(*(compute_task_error(task, assumed) for task in of_score)) / len(of_score)
            found.append(
                DetectableEffect(
                    score=score, tasks=tuple(of_score), stderr=error, seed_deviation=assumed.seed_deviation
                )
            )
    return found


def group_by_score(tasks: Sequence[TaskSize]) -> dict[str, list[TaskSize]]:
    """The tasks of each stable score, as results choose them by name."""
    held_out = [task for task in tasks if "heldout" in task.name.replace("_", "").replace("-", "")]
    groups = {kind: [task for task in tasks if task.kind == kind] for kind in ("vision", "text")}
    groups["vision"] = [task for task in groups["vision"] if task not in held_out]
    for kind, of_kind in groups.items():
        counted = load_chances().list_counted_tasks(kind)
        groups[kind] = [task for task in of_kind if task.name in counted] or of_kind
    return {
        "vision": groups["vision"],
        "heldout_vision": [task for task in held_out if task.kind == "vision"],
        "text": groups["text"],
    }


def list_task_sizes(
    manifest: Manifest,
    catalog: Catalog,
    assumed: NoiseAssumptions,
    counted: Mapping[str, tuple[int, int]] = NOTHING_COUNTED,
) -> list[TaskSize]:
    """The tasks of the evaluations, of the commonest ones where they differ; losses are left out.

    `counted`: questions and images by task, where their local files were counted; else the catalog's figures.
    """
    evaluations = [job.config for job in manifest.jobs if job.phase == "evaluate"]
    configs = {id(config): config for config in evaluations}  # a planner makes few, and shares them between jobs
    lists: Counter[tuple[str, Tasks, Tasks]] = Counter()
    for identity, times in Counter(map(id, evaluations)).items():
        tasks, vision_tasks, text_tasks = map(configs[identity].get, ("tasks", "vision_tasks", "text_tasks"))
        lists[str(tasks or ""), tuple(read_tasks(vision_tasks)), tuple(read_tasks(text_tasks))] += times
    if not lists:
        return []
    (data, vision, text), _ = lists.most_common(1)[0]
    folder = Path(manifest.data.get(data, ""))
    sizes = []
    for kind, tasks in (("vision", vision), ("text", text)):
        for name, limit in tasks:
            if kind == "text" and name not in catalog.tasks and is_loss(folder / f"{name}.yaml"):
                continue
            entry = catalog.find_task(name, with_image=kind == "vision")
            whole = entry.documents
            questions = min(limit or whole, whole)
            # the first questions have the first images
            images = math.ceil(assumed.clusters.get(name, entry.images or whole) * questions / whole)
            if name in counted:
                questions, images = counted[name]
            clusters = max(1, min(questions, images))
            sizes.append(TaskSize(name=name, kind=kind, questions=questions, clusters=clusters))
    return sizes


def read_tasks(content: Any) -> Iterator[tuple[str, int | None]]:
    """Name and limit of the tasks of an evaluation's configuration."""
    for task in content if isinstance(content, (list, tuple)) else ():
        if isinstance(task, Mapping) and isinstance(task.get("name"), str):
            yield task["name"], task.get("limit")


def is_loss(path: Path) -> bool:
    """Whether a local text task's score is a loss; False where its file cannot be read."""
    try:
        metrics = read_mapping(path).get("metric_list")
    except SweepFileError:
        return False
    first = metrics[0] if isinstance(metrics, list) and metrics else None
    return isinstance(first, Mapping) and first.get("metric") in LOSSES
