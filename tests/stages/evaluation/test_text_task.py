"""Task files: what is read from good ones, and the one clear error of bad ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.text_task import check_template, read_text_task
from stages.evaluation.vision_task import read_vision_task

TEXT = {
    "task": "t",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "t.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 1},
}


ROW = {"query": "One and one are", "choices": ["two", "three"], "gold": 0}


def write_text(folder: Path, *, lines: list[str] | None = None, **changes: Any) -> None:
    content = {name: value for name, value in (TEXT | changes).items() if value is not None}
    (folder / "t.yaml").write_text(yaml.safe_dump(content))
    (folder / "t.jsonl").write_text("\n".join(lines if lines is not None else [json.dumps(ROW)]))


def test_a_text_task_is_read_with_its_rows(tmp_path: Path) -> None:
    write_text(tmp_path, lines=[json.dumps(ROW)] * 3)
    task = read_text_task(tmp_path, Task(name="t", limit=2))
    assert (len(task.rows), task.metric, task.is_loss, task.chance) == (2, "acc", False, None)
    assert "dataset_path" not in task.settings
    write_text(tmp_path, metadata={"version": 1, "chance": 0.25}, doc_to_choice=["no", "yes"])
    task = read_text_task(tmp_path, Task(name="t"))
    assert (task.chance, task.settings["doc_to_choice"]) == (0.25, ["no", "yes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_path": "allenai/ai2_arc"}, "dataset_path:"),
        ({"dataset_kwargs": {"data_files": {"test": "../t.jsonl"}}}, "leads out of"),
        ({"dataset_kwargs": {"data_files": {"train": "t.jsonl"}}}, "data_files has no 'test'; it has train"),
        ({"test_split": None}, "test_split or validation_split"),
        ({"output_type": "generate"}, "output_type:"),
        ({"dataset_kwargs": {"data_files": {"test": "a" * 300}}}, "cannot be looked up: File name too long"),
        ({"dataset_kwargs": {"data_files": {"test": "a\ud800"}}}, "cannot be looked up: "),
        ({"metric_list": []}, "metric_list:"),
        ({"num_fewshot": 5}, "num_fewshot:"),
        ({"generation_kwargs": {"do_sample": True}}, "generation_kwargs.do_sample:"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "filter_list.0.filter.0.function:"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "lowercase"}]}]}, "must be take_first"),
        ({"metadata": {"prepare": "eval"}}, "metadata.prepare:"),
        ({"metric_list": [{"metric": "bleu"}]}, "metric_list.0.metric:"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "metric_list.0.hf_evaluate:"),
        ({"unsafe_code": True}, "unsafe_code:"),
        ({"process_docs": "os.system"}, "process_docs:"),
        ({"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "doc_to_text:"),
        ({"doc_to_text": "{{ query "}, "doc_to_text:"),
        ({"doc_to_choice": ["{{ cycler.next() }}", "b"]}, "doc_to_choice:"),
        ({"lines": []}, "t.jsonl: no rows in it"),
        (
            {"lines": [json.dumps(ROW), '{"query": "other keys"}']},
            "t.jsonl, line 2: an object with choices, gold, query",
        ),
        ({"lines": ["not json"]}, "t.jsonl, line 1:"),
        ({"lines": [json.dumps({**ROW, "gold": 1 << 64})]}, "t.jsonl, line 1: 'gold' holds an integer beyond 64 bits"),
        (
            {"lines": [json.dumps(ROW), json.dumps({**ROW, "choices": ["a", "\udc00"]})]},
            "t.jsonl, line 2: 'choices' holds half a character",
        ),
        (
            {"lines": [json.dumps({**ROW, "query": math.nan})]},
            "t.jsonl, line 1: 'query' holds a number that is not finite",
        ),
        (
            {"lines": [json.dumps(ROW), json.dumps({**ROW, "choices": [1, 2]})]},
            "t.jsonl, row 2: 'choices' gives [1, 2], and a list of two texts or more is expected",
        ),
        (
            {"lines": [json.dumps({**ROW, "choices": []})]},
            "t.jsonl, row 1: 'choices' gives [], and a list of two texts",
        ),
        ({"lines": [json.dumps({**ROW, "choices": 7})]}, "t.jsonl, row 1: 'choices' gives 7, and a list of two texts"),
    ],
)
def test_a_malformed_text_task_is_one_clear_data_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_text(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_text_task(tmp_path, Task(name="t"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tag", ["!function os.system", "!!python/object/apply:os.system [id]"])
def test_a_yaml_tag_that_asks_for_code_is_refused(tag: str, tmp_path: Path) -> None:
    write_text(tmp_path)
    with (tmp_path / "t.yaml").open("a") as file:
        file.write(f"process_results: {tag}\n")
    with pytest.raises(DataError, match=r"t\.yaml:\d+: holds more than plain values"):
        read_text_task(tmp_path, Task(name="t"))


@pytest.mark.parametrize(
    "line", ["num_fewshot: " + "9" * 5000, "num_fewshot: 2026-13-45", "num_fewshot: " + "[" * 50_000]
)
def test_a_number_or_a_date_that_is_none_is_one_clear_data_error(line: str, tmp_path: Path) -> None:
    write_text(tmp_path)
    with (tmp_path / "t.yaml").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=r"t\.yaml: ") as caught:
        read_text_task(tmp_path, Task(name="t"))
    assert len(str(caught.value)) < 700 + len(str(tmp_path))


def test_a_missing_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.yaml: cannot be read"):
        read_text_task(tmp_path, Task(name="gone"))
    with pytest.raises(DataError, match=r"gone.json: cannot be read"):
        read_vision_task(tmp_path, Task(name="gone"))


@pytest.mark.parametrize(
    "template",
    [
        *("plain", "{{a}} and {{ b.c }}", "{{a['b']}}{{ c | trim }}", "{{a ~ ': ' ~ b}}", "{{choices[0]}}"),
        *("{{ a[:-1] }}{{ b[1:3] }}{{ c[-1] }}", "{{ [a, b] }}", "{{ 'x' if a == 'b' and not c else d }}"),
        *("{{ choices.label.index(key) }}", "{{ a.strip().lower() }}", "{{ a.split(' ')[0] }}"),
    ],
)
def test_templates_that_put_fields_together_are_taken(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a() }}",
        "{{ a.__class__ }}",
        "{{ a['__class__'] }}",
        "{{ a[b] }}",
        "{{ a|attr('x') }}",
        "{{ a|map('upper') }}",
        "{% for x in y %}{% endfor %}",
        "{% set x = 1 %}",
        "{% include 'x' %}",
        "{{ 10 ** 10 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ a.format(b) }}",
        "{{ a.replace('a', 'aa') }}",
        "{{ a.index(*b) }}",
        "{{ a.__init__.index(b) }}",
        "{{ a['x':] }}",
        "{{ a[b:] }}",
        "{{ range(9) }}",
        "{{ lipsum(9) }}",
        "{{ (a | attr('b')).index(c) }}",
    ],
)
def test_templates_that_could_do_more_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        check_template(template)
