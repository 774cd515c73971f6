"""A text task that lm-eval reads itself, code included: its own task of that name, or any lm-eval YAML of the user's.

Nothing here is checked before lm-eval has run the task's code, and the score depends on what that does, on lm-eval's
release and, for hub data, on the network: for task files whose origin one knows.
"""

from contextlib import chdir
from pathlib import Path
from typing import Any

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.score import Score
from stages.evaluation.subject import Subject
from stages.evaluation.text import chance_by_guessing, evaluated, score_of
from stages.job_file import one_line


def score_trusted_task(folder: Path, task: Task, subject: Subject, samples: Path | None = None) -> Score:
    """Zero-shot score of the folder's NAME.yaml, else of lm-eval's own task NAME; DataError if it cannot be loaded.

    Paths in the file are relative to the folder. The score is the task's first metric.
    """
    local = (folder / f"{task.name}.yaml").is_file()
    # a task file's data paths are relative to the working directory, in lm-eval
    with chdir(folder):
        loaded = load_trusted(folder if local else None, task.name)
        made = loaded["tasks"][task.name]
        result = evaluated(loaded, task.name, subject, samples, limit=task.limit)
    metric = next(iter(made.aggregation()))
    return score_of(result, metric, int(result["sample_len"]), chance_by_guessing(made))


def load_trusted(folder: Path | None, name: str) -> Any:
    """lm-eval's own object of a task of the folder, or of its bundled ones, without few-shot examples."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=folder is None)
    if name not in manager.all_subtasks:
        raise DataError(f"text task {name!r}: neither a file {name}.yaml of the tasks nor a task of lm-eval's")
    try:
        loaded = manager.load([name])
        loaded["tasks"][name].set_config(key="num_fewshot", value=0)
    except ConnectionError as error:  # before OSError, of which it is one
        raise DataError(
            f"text task {name!r}: its data are not on this machine, and there is no way to the hub: {one_line(error)}; "
            f"run it once where there is a network and the same HF_HOME, or bring a file {name}.yaml with its rows"
        ) from error
    except (ValueError, KeyError, TypeError, OSError, SyntaxError, ImportError) as error:
        raise DataError(f"text task {name!r}: {type(error).__name__}: {one_line(error)}") from error
    return loaded
