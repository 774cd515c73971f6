import json
from pathlib import Path
from typing import Any

import pytest

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.vision_task import read_vision_task

QUESTION = {"id": "1", "image": "images/1.png", "question": "What is it?", "answers": ["a star"], "kind": "shape"}
VISION = {"format": 1, "questions": "q.jsonl", "metric": "exact_match", "prompt": "Say: {question}", "chance": 0.2}


def write_vision(folder: Path, *, lines: list[str] | None = None, **changes: Any) -> None:
    (folder / "t.json").write_text(json.dumps(VISION | changes))
    (folder / "q.jsonl").write_text("\n".join(lines if lines is not None else [json.dumps(QUESTION)]))


def test_a_vision_task_is_read_with_its_prompt_and_questions(tmp_path: Path) -> None:
    write_vision(
        tmp_path, chance_by_kind={"shape": 0.1}, lines=[json.dumps(QUESTION), "", json.dumps(QUESTION | {"id": "2"})]
    )
    task = read_vision_task(tmp_path, Task(name="t"))
    assert (task.chance, task.chance_by_kind, len(task.questions)) == (0.2, {"shape": 0.1}, 2)
    assert task.format_prompt(task.questions[0]) == "Say: What is it?"
    assert len(read_vision_task(tmp_path, Task(name="t", limit=1)).questions) == 1


def test_the_prompt_of_a_vision_task_is_the_usual_one_unless_given(tmp_path: Path) -> None:
    write_vision(tmp_path)
    content = json.loads((tmp_path / "t.json").read_text())
    del content["prompt"]
    (tmp_path / "t.json").write_text(json.dumps(content))
    task = read_vision_task(tmp_path, Task(name="t"))
    expected = "What is it?\nAnswer the question using a single word or phrase."
    assert task.format_prompt(task.questions[0]) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "bleu"}, "t.json: metric:"),
        ({"chance": 1.5}, "t.json: chance:"),
        ({"prompt": "no place for it"}, "t.json: prompt:"),
        ({"format": 2}, "t.json: format:"),
        ({"script": "rm -rf"}, "t.json: script:"),
        ({"questions": "../q.jsonl"}, "leads out of"),
        ({"questions": "/etc/passwd"}, "leads out of"),
        ({"questions": "missing.jsonl"}, "there is no file"),
        ({"lines": []}, "q.jsonl: no questions in it"),
        ({"lines": [json.dumps(QUESTION), "{"]}, "q.jsonl, line 2:"),
        ({"lines": [json.dumps(QUESTION)] * 2}, "q.jsonl: question id '1' is there 2 times"),
        ({"lines": ["[1]"]}, "q.jsonl, line 1:"),
        ({"lines": [json.dumps(QUESTION | {"answers": []})]}, "q.jsonl, line 1: answers:"),
        ({"lines": [json.dumps(QUESTION | {"answers": "star"})]}, "q.jsonl, line 1: answers:"),
        ({"lines": ["[" * 100_000]}, "q.jsonl, line 1:"),
        ({"questions": "a" * 300}, "cannot be looked up: File name too long"),
        ({"questions": "a\0b"}, "cannot be looked up: "),
        ({"questions": "a\ud800b"}, "cannot be looked up: "),
        ({"family": "x" * 5000, "images": "."}, "is unknown: known are"),
        ({"family": "gqa", "images": "a" * 300, "questions": "q.jsonl"}, "t.json"),
        ({"metric": "box_accuracy_50"}, "q.jsonl, line 1: answers: 'a star' is no box: "),
        (
            {"metric": "box_accuracy_25", "lines": [json.dumps(QUESTION | {"answers": ["[0.5, 0.1, 0.2, 0.3]"]})]},
            "q.jsonl, line 1: answers: '[0.5, 0.1, 0.2, 0.3]' is no box: ",
        ),
    ],
)
def test_a_malformed_vision_task_is_one_clear_data_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_vision(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_vision_task(tmp_path, Task(name="t"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_outside_the_tasks_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    write_vision(tmp_path / "tasks", lines=[json.dumps(QUESTION | {"image": "../secret.png"})])
    task = read_vision_task(tmp_path / "tasks", Task(name="t"))
    with pytest.raises(DataError, match=r"question '1': '../secret.png' leads out of"):
        task.resolve_image(task.questions[0])
