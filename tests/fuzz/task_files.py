"""Task files and their questions, changed: text tasks, vision tasks of our format, and published benchmarks."""

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.metrics import RULES
from stages.evaluation.text import block_network, load_task
from stages.evaluation.text_task import TextTask, read_text_task, render_requests
from stages.evaluation.vision_task import read_vision_task
from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.json_changes import change_json
from tests.fuzz.yaml_changes import change_yaml
from tests.stages.evaluation.benchmarks.published_files import Item, write_family
from tests.stages.evaluation.test_text_task_paper import ROWS, TASKS

PLAIN: Mapping[str, Any] = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{query}}",
    "metadata": {"version": 1},
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "choices in a column": {
        "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "choices in a template": {
        "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1, "chance": 0.5, "cluster": "{{query.split(' ')[0]}}"},
    },
    "generated": {
        "output_type": "generate_until", "doc_to_target": "{{choices[gold]}}",
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5, "do_sample": False},
        "filter_list": [{"name": "low", "filter": [{"function": "lowercase"}, {"function": "take_first"}]}],
    },
    "one answer": {
        "output_type": "loglikelihood", "doc_to_target": "{{choices[0]}}", "metric_list": [{"metric": "perplexity"}],
    },
    "whole texts": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{query}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}  # fmt: skip
PLAIN_ROWS = [
    {"query": f"One and {number} are", "choices": ["two", "three"], "gold": number % 2} for number in range(3)
]
VISION = {
    "format": 1, "questions": "rows.jsonl", "metric": "exact_match", "prompt": "Say: {question}", "chance": 0.2,
    "chance_by_kind": {"shape": 0.25},
}  # fmt: skip
FAMILY_NAMES = ("vqav2", "gqa", "vizwiz", "textvqa", "refcoco", "ocid_ref", "pope")


class TaskFiles:
    """See `tests.fuzz.campaign.Program`."""

    name = "tasks"

    def __init__(self, folder: Path) -> None:
        with block_network():  # lm-eval and its libraries are loaded once, before the first case
            import lm_eval.tasks  # noqa: F401
        self._sound: dict[str, dict[str, bytes]] = {}
        rows = "\n".join(map(json.dumps, PLAIN_ROWS)).encode()
        for kind, settings in KINDS.items():
            task = yaml.safe_dump({"task": "t", **PLAIN, **settings}, sort_keys=False).encode()
            self._sound[f"text, {kind}"] = {"t.yaml": task, "rows.jsonl": rows}
        for name, given in ROWS.items():
            text = (
                (TASKS / f"{name}.yaml")
                .read_text()
                .replace(f"{name}.jsonl", "rows.jsonl")
                .replace(f"task: {name}", "task: t")
            )
            self._sound[f"text, {name}"] = {
                "t.yaml": text.encode(),
                "rows.jsonl": "\n".join(map(json.dumps, given)).encode(),
            }
        questions = [
            {
                "id": str(number),
                "image": f"{number}.png",
                "question": "What?",
                "answers": ["a star", "star"],
                "kind": "shape",
            }
            for number in range(3)
        ]
        boxes = [{**question, "answers": ["[0.1, 0.2, 0.3, 0.4]"]} for question in questions]
        for metric in RULES:
            lines = "\n".join(map(json.dumps, boxes if "box" in metric or "iou" in metric else questions)).encode()
            self._sound[f"vision, {metric}"] = {
                "t.json": json.dumps({**VISION, "metric": metric}).encode(),
                "rows.jsonl": lines,
            }
        for family in FAMILY_NAMES:
            place = folder / family
            place.mkdir()
            write_family(place, family, [Item(1), Item(2, question="Which?")])
            files = {
                str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
            }
            self._sound[f"published, {family}"] = files

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        kind = dice.choice(sorted(self._sound))
        files = dict(self._sound[kind])
        changeable = sorted(name for name, content in files.items() if content)
        changed = dice.choice(changeable)
        change = change_yaml if changed.endswith("yaml") else change_json
        files[changed] = (change if dice.random() < 0.95 else change_bytes)(dice, files[changed])
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        family, _, name = kind.partition(", ")
        task = Task(name=name if family == "published" else "t", limit=dice.choice((None, None, 1, 1000)))
        try:
            if family == "text":
                self._use_text_task(dice, read_text_task(folder, task), files, task)
            else:
                use_vision_task(folder, task, None if family == "published" else files["rows.jsonl"])
        except DataError as error:
            if len(str(error)) > 3000:
                raise ViolationError(f"a message of {len(str(error))} letters: {str(error)[:300]}") from error
            return Verdict(Outcome.REFUSED, f"{kind}: {changed}")
        return Verdict(Outcome.PASSED, f"{kind}: {changed}")

    def _use_text_task(self, dice: random.Random, found: TextTask, files: Mapping[str, bytes], task: Task) -> None:
        lines = count_lines(files["rows.jsonl"], task)
        if "data_files: {test: rows.jsonl}" in files["t.yaml"].decode("latin-1") and len(found.rows) != lines:
            raise ViolationError(f"{len(found.rows)} rows read of {lines} lines")
        for row in found.rows:
            for text in render_requests(found.settings, row):
                text.encode()
        if dice.random() < 0.5:  # what lm-eval makes of what passed
            with block_network():
                load_task(found, 16)


def count_lines(content: bytes, task: Task) -> int:
    lines = sum(1 for line in content.decode().split("\n") if line.strip())
    return lines if task.limit is None else min(lines, task.limit)


def use_vision_task(folder: Path, task: Task, rows: bytes | None) -> None:
    """Reads a task, and asks and scores each of its questions."""
    found = read_vision_task(folder, task)
    if rows is not None and len(found.questions) != count_lines(rows, task):
        raise ViolationError(f"{len(found.questions)} questions read of {count_lines(rows, task)} lines")
    score = RULES[found.metric]
    for question in found.questions:
        found.format_prompt(question)
        with suppress(DataError):
            found.resolve_image(question)
        for answer in ("a star", "", "[0.1, 0.2, 0.3, 0.4]", *question.answers):
            if not 0 <= score(answer, question.answers) <= 1:
                raise ViolationError(f"{found.metric} scores {answer!r} outside 0..1")
    found.extra_metrics(found.questions, ["a star"] * len(found.questions))
