"""Which of a plan's vision tasks are of a family that a package registers."""

import json
from pathlib import Path

from jobs.store.reading import read_file
from stages.config import EvaluateConfig, Task
from stages.plugins import TASKS, PluginError, has_plugin
from sweep.errors import ConfigProblemError


# Why: docs/decisions.md, D204
def add_family_labels(config: EvaluateConfig, folder: str) -> EvaluateConfig:
    """The configuration, with the package of each task's family. `folder`: where the task files lie.

    ConfigProblemError for a package that is twice there or broken. What else is wrong with a task's file is told before
    jobs are sent.
    """
    labels = {task.name: find_family_label(task, folder) for task in config.vision_tasks}
    if not any(labels.values()):
        return config
    tasks = tuple(task.model_copy(update={"plugin": labels[task.name]}) for task in config.vision_tasks)
    return config.model_copy(update={"vision_tasks": tasks})


def find_family_label(task: Task, folder: str) -> str:
    """The task's `plugin`; empty for a family that is built in, and where its file is not here or names none."""
    try:
        family = json.loads(read_file(Path(folder, f"{task.name}.json")))["family"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    # imported here: most sweeps have no published benchmark, and plan without loading how they are read
    from stages.evaluation.benchmarks.registry import FAMILIES, render_family_label

    if not isinstance(family, str) or family in FAMILIES or not has_plugin(TASKS, family):
        return ""
    try:
        return render_family_label(family)
    except PluginError as error:
        raise ConfigProblemError(f"evaluate.vision_tasks: {task.name}: {error}") from None
