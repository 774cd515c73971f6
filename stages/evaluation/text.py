"""Text tasks through lm-eval's Python API, offline: no bundled task is scanned and no data set is downloaded.

A task that the sweep file calls trusted is the exception (`stages.evaluation.text`).
"""

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.question_scores import QuestionScores
from stages.evaluation.score import Score, compute_mean
from stages.evaluation.text_task import LOSSES, TextTask, check_choices, name_cluster
from stages.files import replace_atomically
from stages.job_file import summarize_error
from stages.log_lines import TaskLines

# The log of an evaluation's text documents: samples/TASK.jsonl beside result.json, a JSON object a line.
#
# Kept on request (`log_samples` of the job's settings). Keys: `doc_id` (number of the document, from 0), `doc` (its
# row), `target`, `arguments` (of each request: context and continuation, or context and generation settings), `resps`
# (of each request: log-probability in nats and whether it is the greedy continuation; a text's log-probability; or
# the answer), `filter`, and each metric by its name.

LEFT_OUT = ("doc_hash", "prompt_hash", "target_hash", "filtered_resps", "metrics")


def write_samples(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes lm-eval's samples of one task, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with replace_atomically(path) as unfinished:
        lines = (json.dumps(build_sample_record(sample), ensure_ascii=False, default=str) for sample in samples)
        unfinished.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def build_sample_record(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the log: what lm-eval keeps, less its hashes and what says the same twice."""
    kept = {name: value for name, value in sample.items() if name not in LEFT_OUT}
    kept["resps"] = [answers[0] for answers in sample["resps"]]  # one answer to each request: nothing is repeated
    return kept


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def block_network() -> Iterator[None]:
    """Hugging Face's libraries without network, and with a scratch folder for all that they write.

    To be entered before lm-eval is imported for the first time: those libraries read the environment then.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        os.environ |= {**OFFLINE, "HF_HOME": scratch}
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def score_text_task(task: TextTask, subject: EvaluatedModel, samples: Path | None = None) -> Score:
    """Zero-shot score of one task; DataError if its rows do not fit its settings.

    `samples`: file for the log of its documents (`stages.evaluation.text`); None: none is kept.
    """
    with block_network():
        loaded = load_task(task, subject.max_new_tokens)
        made = loaded["tasks"][task.name]
        chance = task.chance if task.chance is not None else compute_guessing_chance(made)
        result, documents = run_lm_eval(loaded, task.name, subject, samples)
    score = build_score(result, task.metric, len(task.rows), chance)
    return replace(score, questions=collect_question_scores(documents, task.metric, score.score, task.clusters))


def run_lm_eval(
    loaded: Any, name: str, subject: EvaluatedModel, samples: Path | None, limit: int | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """lm-eval's own result of a loaded task, and its samples, one a document; `limit`: its first documents only."""
    from lm_eval.evaluator import evaluate

    from stages.evaluation.language_model import LMEvalModel

    model = LMEvalModel(subject, TaskLines(name, writes=subject.peers.rank == 0))
    # not simple_evaluate: it also describes the machine, which takes longer than a small task
    found = evaluate(model, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    if samples is not None:
        write_samples(samples, found["samples"][name])
    results = {**found["results"][name], "requests": model.requests, "tokens": model.tokens}
    return results, found["samples"][name]


def load_task(task: TextTask, max_new_tokens: int) -> Any:
    """lm-eval's own object of the task, with each of its documents read once. DataError for one that does not fit.

    `max_new_tokens`: of a generated answer, where the task does not say.
    """
    from lm_eval.tasks import TaskManager

    try:
        loaded = TaskManager(include_defaults=False).load([build_lm_eval_config(task, max_new_tokens)])
        made = loaded["tasks"][task.name]
        made.set_config(key="num_fewshot", value=0)
        for number, doc in enumerate(made.eval_docs, start=1):
            check_document(made, doc, number)
    except DataError as error:
        raise DataError(f"text task {task.name!r}: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, SyntaxError, OverflowError, TemplateError) as error:
        raise DataError(f"text task {task.name!r}: {type(error).__name__}: {summarize_error(error)}") from error
    return loaded


def check_document(task: Any, doc: dict[str, Any], number: int) -> None:
    """ValueError or DataError for a row from which lm-eval would make no request, or a wrong one."""
    text, target = task.doc_to_text(doc), task.doc_to_target(doc)
    if not isinstance(text, str):
        raise ValueError(f"row {number}: doc_to_text gives {text!r}, and a text is expected")
    if task.OUTPUT_TYPE != "multiple_choice":
        if not isinstance(target, str) or not target.strip():
            raise ValueError(f"row {number}: doc_to_target gives {target!r}, and a text is expected")
        return
    choices = task.doc_to_choice(doc)
    check_choices(choices, f"row {number}: doc_to_choice")
    given = task.config.doc_to_target
    # lm-eval takes digits that a template gives for an index, though the task may mean the text
    if type(target) is int and given not in doc and str(target) in choices and choices.index(str(target)) != target:
        raise ValueError(
            f"row {number}: doc_to_target gives {target}, which is the text of choice {choices.index(str(target))} and"
            f" the index of another, {choices[target : target + 1]}; name a column that holds the index or the text"
        )
    if not (target in choices if isinstance(target, str) else type(target) is int and 0 <= target < len(choices)):
        raise ValueError(f"row {number}: doc_to_target gives {target!r}, which is none of the {len(choices)} choices")


def build_lm_eval_config(task: TextTask, max_new_tokens: int) -> dict[str, Any]:
    """lm-eval's settings of the task; the rows are handed over in memory, so that no path or cache plays a part."""
    from datasets import Dataset

    def rows(**_: object) -> dict[str, Any]:
        return {"test": Dataset.from_list([dict(row) for row in task.rows])}

    made = {**task.settings, "task": task.name, "custom_dataset": rows, "test_split": "test"}
    if task.settings["output_type"] == "generate_until":
        # without it lm-eval would put its own 256 where the task is silent
        made["generation_kwargs"] = {"max_gen_toks": max_new_tokens, **task.settings.get("generation_kwargs", {})}
    return made


def compute_guessing_chance(made: Any) -> float | None:
    """Mean of 1 / number of choices over a task's documents; None for a task without choices."""
    if made.OUTPUT_TYPE != "multiple_choice":
        return None
    return compute_mean([1 / len(made.doc_to_choice(doc)) for doc in made.eval_docs])


def build_score(result: dict[str, Any], metric: str, count: int, chance: float | None) -> Score:
    """lm-eval's result of one task of `count` documents, as a Score; its keys are METRIC,FILTER."""
    metrics = {name.split(",")[0]: float(value) for name, value in result.items() if isinstance(value, float)}
    value, is_loss = metrics[metric], metric in LOSSES
    stderr = None
    if not is_loss and count > 1 and 0 <= value <= 1:
        stderr = (value * (1 - value) / (count - 1)) ** 0.5  # a document scores 0 or 1: the sample's own formula
    return Score(
        kind="loss" if is_loss else "text",
        score=value,
        stderr=stderr,
        chance=None if is_loss else chance,
        n=count,
        metrics=metrics,
        requests=result["requests"],
        tokens=result["tokens"],
    )


def collect_question_scores(
    documents: Sequence[Mapping[str, Any]], metric: str, score: float, clusters: Sequence[str] = ()
) -> QuestionScores | None:
    """What each document scored by `metric`, from lm-eval's samples; None where `score` is no mean of such numbers.

    `clusters`: what each document is about, by its number; without it a document's `passage`, else the document alone.
    """
    filters = {sample["filter"] for sample in documents}
    if not documents or len(filters) > 1 or metric not in documents[0]:
        return None
    ordered = sorted(documents, key=lambda sample: int(sample["doc_id"]))
    found = [sample[metric] for sample in ordered]
    pairs = [read_value(value, is_loss=metric == "bits_per_byte") for value in found]
    if None in pairs:
        return None
    values, weights = zip(*(pair for pair in pairs if pair is not None), strict=True)
    ids = [f"{sample['doc_id']}-{sample['doc_hash'][:8]}" for sample in ordered]
    names = clusters or [name_cluster(sample["doc"].get("passage")) for sample in ordered]
    scores = QuestionScores(
        ids=tuple(ids),
        clusters=tuple(name or own for name, own in zip(names, ids, strict=True)),
        values=values,
        weights=weights if len(set(weights)) > 1 else (),
    )
    return scores if math.isclose(scores.compute_score(), score, rel_tol=1e-9, abs_tol=1e-12) else None


def read_value(value: Any, *, is_loss: bool) -> tuple[float, float] | None:
    """One document's value and its weight; None for what is no number. A loss comes as log-likelihood and bytes."""
    if is_loss:
        log_likelihood, size = value
        return (-float(log_likelihood) / (size * math.log(2)), float(size)) if size else None
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value), 1.0
    return None


# A text task that lm-eval reads itself, code included: its own task of that name, or any lm-eval YAML of the user's.
#
# Nothing here is checked before lm-eval has run the task's code, and the score depends on what that does, on lm-
# eval's release and, for hub data, on the network: for task files whose origin one knows.


def score_trusted_task(folder: Path, task: Task, subject: EvaluatedModel, samples: Path | None = None) -> Score:
    """Zero-shot score of the folder's NAME.yaml, else of lm-eval's own task NAME; DataError if it cannot be loaded.

    Paths in the file are relative to the folder. The score is the task's first metric.
    """
    local = (folder / f"{task.name}.yaml").is_file()
    # a task file's data paths are relative to the working directory, in lm-eval
    with chdir(folder):
        loaded = load_trusted_task(folder if local else None, task.name)
        made = loaded["tasks"][task.name]
        result, documents = run_lm_eval(loaded, task.name, subject, samples, limit=task.limit)
    metric = next(iter(made.aggregation()))
    score = build_score(result, metric, int(result["sample_len"]), compute_guessing_chance(made))
    return replace(score, questions=collect_question_scores(documents, metric, score.score))


def load_trusted_task(folder: Path | None, name: str) -> Any:
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
            f"text task {name!r}: its data are not on this machine, and there is no way to the hub: "
            f"{summarize_error(error)}; "
            f"run it once where there is a network and the same HF_HOME, or bring a file {name}.yaml with its rows"
        ) from error
    except (ValueError, KeyError, TypeError, OSError, SyntaxError, ImportError) as error:
        raise DataError(f"text task {name!r}: {type(error).__name__}: {summarize_error(error)}") from error
    return loaded
