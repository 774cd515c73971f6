"""What is kept of each question, and the error of a score whose questions share images."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stages.config import Task
from stages.evaluation.question_scores import QuestionScores, write_question_scores
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.text import collect_question_scores
from stages.evaluation.text_task import read_text_task
from stages.evaluation.vision import score_answers

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["no", "yes"]
doc_to_target: label
metric_list: [{{metric: acc}}]
metadata: {metadata}
"""


def clusters_of(folder: Path, rows: list[dict[str, Any]], metadata: str = "{}") -> tuple[str, ...]:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"label": 0, **row}) + "\n" for row in rows))
    (folder / "t.yaml").write_text(TASK.format(name="t", metadata=metadata))
    return read_text_task(folder, Task(name="t")).clusters


def test_the_clustered_error_is_that_computed_by_hand() -> None:
    found = QuestionScores(ids=tuple("abcdef"), clusters=("x", "x", "y", "y", "y", "z"), values=(1, 0, 1, 1, 1, 0))
    # mean 2/3; residuals of x: 1/3 - 2/3 = -1/3, of y: 3 x 1/3 = 1, of z: -2/3; each by 1/6 in the mean of six
    by_hand = math.sqrt(3 / 2 * ((-1 / 3) ** 2 + 1**2 + (-2 / 3) ** 2) / 36)
    assert found.compute_score() == pytest.approx(2 / 3)
    assert found.compute_clustered_error() == pytest.approx(by_hand)


def test_with_one_question_a_cluster_it_is_the_plain_error() -> None:
    found = QuestionScores(ids=tuple("abcd"), clusters=tuple("abcd"), values=(1, 0, 0.3, 1))
    spread = math.sqrt(sum((value - 0.575) ** 2 for value in found.values) / 3)
    assert found.compute_clustered_error() == pytest.approx(spread / 2)


def test_questions_about_one_image_have_no_error() -> None:
    alone = QuestionScores(ids=tuple("ab"), clusters=("x", "x"), values=(1, 0))
    assert alone.compute_clustered_error() is None


def test_the_mean_of_parts_weighs_each_part_alike_and_joins_their_images() -> None:
    found = QuestionScores(
        ids=tuple("abcdef"), clusters=("x", "y", "x", "y", "x", "y"), values=(1, 0, 1, 1, 0, 1), strata=tuple("ppqqqq")
    )
    # p: mean 1/2, shares 1/4; q: mean 3/4, shares 1/8. x: 1/4 x 1/2 + 1/8 x (1/4 - 3/4) = 1/16; y: -1/16
    assert found.compute_score() == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert found.compute_clustered_error() == pytest.approx(math.sqrt(2 * 2 / 16**2))


def test_a_vision_tasks_questions_are_kept_with_their_images(tmp_path: Path) -> None:
    questions = tuple(
        Question(id=str(number), image=image, question="?", answers=("yes",), kind=kind)
        for number, (image, kind) in enumerate([("1.png", "a"), ("1.png", "b"), ("2.png", "b")])
    )
    task = VisionTask(
        name="t", folder=tmp_path, metric="exact_match", prompt="{question}", chance=0.5, chance_by_kind={},
        questions=questions, mean_of_kinds=True,
    )  # fmt: skip
    score = score_answers(task, ["yes", "no", "yes"])
    assert score.score == pytest.approx((1 + 1 / 2) / 2)
    assert score.questions is not None
    write_question_scores(tmp_path, "t", score.kind, score.questions)
    head, values, asked = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert {name: head[name] for name in ("task", "kind", "n", "clusters", "score")} == {
        **{"task": "t", "kind": "vision", "n": 3, "clusters": 2, "score": pytest.approx(0.75)}
    }
    assert values == {"values": [0.0, 1.0], "marks": "101"}
    assert asked == {"ids": ["0", "1", "2"], "clusters": ["1.png", "1.png", "2.png"], "strata": ["a", "b", "b"]}
    record = score.build_record()
    assert (record["clusters"], "questions" in record) == (2, False)
    assert record["clustered_stderr"] == score.questions.compute_clustered_error()
    other = score_answers(task, ["no", "no", "no"])
    assert other.questions is not None
    write_question_scores(tmp_path, "other", other.kind, other.questions)
    assert json.loads((tmp_path / "other.jsonl").read_text().splitlines()[0])["asked"] == head["asked"]


def test_scores_of_too_many_kinds_for_letters_stand_in_order(tmp_path: Path) -> None:
    values = tuple(number / 100 for number in range(100))
    ids = tuple(map(str, range(100)))
    write_question_scores(tmp_path, "t", "loss", QuestionScores(ids=ids, clusters=ids, values=values))
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[1]) == {"values": list(values)}


def sample(number: int, **changes: Any) -> dict[str, Any]:
    return {"doc_id": number, "doc_hash": f"{number:064x}", "doc": {}, "filter": "none", "acc": 1.0, **changes}


def test_documents_about_one_passage_are_a_cluster_and_others_stand_alone() -> None:
    passages = ["one", "one", None, "", "two"]
    documents = [sample(number, doc={"passage": passage}, acc=number % 2) for number, passage in enumerate(passages)]
    found = collect_question_scores(documents[::-1], "acc", 0.4)
    assert found is not None
    assert list(found.values) == [0, 1, 0, 1, 0]
    assert found.clusters[0] == found.clusters[1]
    assert len(set(found.clusters)) == 4


def test_a_loss_weighs_documents_by_their_bytes() -> None:
    documents = [sample(0, bits_per_byte=(-10.0, 10)), sample(1, bits_per_byte=(-60.0, 30))]
    score = 70 / 40 / math.log(2)
    found = collect_question_scores(documents, "bits_per_byte", score)
    assert found is not None
    assert list(found.weights) == [10.0, 30.0]
    assert found.values == pytest.approx((1 / math.log(2), 2 / math.log(2)))
    assert found.compute_score() == pytest.approx(score)


def test_a_score_that_is_no_mean_over_documents_keeps_none() -> None:
    assert collect_question_scores([sample(0), sample(1)], "acc", 0.5) is None  # the mean is 1
    assert collect_question_scores([sample(0, f1=(1, 0))], "f1", 1.0) is None
    assert collect_question_scores([sample(0), sample(0, filter="other")], "acc", 1.0) is None


def test_a_task_file_says_what_its_rows_are_about(tmp_path: Path) -> None:
    rows = [{"question": f"{text} Q: {number}"} for number, text in enumerate(["a", "a", "b"])]
    first, second, third = clusters_of(tmp_path, rows, """{cluster: "{{question.split('Q: ')[0]}}"}""")
    assert first == second != third
    assert clusters_of(tmp_path, rows) == ("", "", "")
    first, second = clusters_of(tmp_path, [{"question": "?", "passage": "p"}, {"question": "!", "passage": "p"}])
    assert first == second != ""
