"""Published benchmarks: what is read from good files, seeded subsets, and the one clear error of bad ones."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.benchmarks.registry import FAMILIES
from stages.evaluation.questions import Question, select_subset
from stages.evaluation.vision import score_answers
from stages.evaluation.vision_task import read_vision_task
from tests.stages.evaluation.benchmarks.published_files import WRITERS, Item, write_family
from tests.stages.evaluation.benchmarks.random_answers import KINDS

ASK = "Answer the question using a single word or phrase."
FIND = 'Please provide the bounding box coordinate of the region this sentence describes: "What is it?"'
EXPECTED = {
    "vqav2": ("1", "COCO_val2014_000000000042.jpg", "other", f"What is it?\n{ASK}", 0.25),
    "gqa": ("1", "n42.jpg", "query", f"What is it?\n{ASK}", 0.25),
    "vizwiz": (
        "VizWiz_val_00000001.jpg",
        "VizWiz_val_00000001.jpg",
        "answerable",
        f"What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{ASK}",
        0.0,
    ),
    "textvqa": ("1", "003a8ae2ef43b901.jpg", "", f"What is it?\n{ASK}", 0.0),
    "refcoco": ("RefCOCO-1-1", "COCO_train2014_000000000042.jpg", "RefCOCO", FIND, 0.0),
    "ocid_ref": ("1", "ARID10/floor/bottom/box/seq36/rgb/42.png", "minimum", FIND, 0.0),
    "pope": ("random-1", "COCO_val2014_000000000042.jpg", "random", f"What is it?\n{ASK}", 0.5),
}


def item_of(family: str, number: int = 1, kind: str = "") -> Item:
    return Item(number, answers=("yes",) if family == "pope" else ("star",) * 10, kind=kind)


def test_every_family_has_a_writer_and_is_expected_here() -> None:
    assert set(FAMILIES) == set(WRITERS) == set(EXPECTED)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_file_is_read_with_its_prompt_and_references(family: str, tmp_path: Path) -> None:
    write_family(tmp_path, family, [item_of(family)])
    task = read_vision_task(tmp_path, Task(name=family))
    [question] = task.questions
    found = (question.id, question.image, question.kind, task.format_prompt(question), task.chance)
    assert found == EXPECTED[family]
    box = "[0.1, 0.1, 0.5, 0.5]"
    references = {"refcoco": (box,), "ocid_ref": (box,), "gqa": ("star",), "pope": ("yes",)}
    assert question.answers == references.get(family, ("star",) * 10)
    assert task.resolve_image(question).is_file()
    assert score_answers(task, [question.answers[0]]).score == 1


def test_a_task_file_may_have_its_own_prompt_and_chance(tmp_path: Path) -> None:
    write_family(tmp_path, "gqa", [item_of("gqa")], prompt="Q: {question}", chance=0.1, chance_by_kind={"query": 0.2})
    task = read_vision_task(tmp_path, Task(name="gqa"))
    assert (task.prompt, task.chance, task.chance_by_kind) == ("Q: {question}", 0.1, {"query": 0.2})


def test_published_files_and_images_may_be_links_to_where_there_is_room(tmp_path: Path) -> None:
    write_family(tmp_path / "disk", "gqa", [item_of("gqa")])
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("images", "q.json"):
        (tasks / name).symlink_to(tmp_path / "disk" / name)
    (tasks / "gqa.json").write_bytes((tmp_path / "disk" / "gqa.json").read_bytes())
    task = read_vision_task(tasks, Task(name="gqa"))
    assert task.resolve_image(task.questions[0]).is_file()


def test_only_the_validation_split_of_refcoco_is_asked(tmp_path: Path) -> None:
    write_family(tmp_path, "refcoco", [item_of("refcoco", number) for number in (1, 2)])
    refs = json.loads((tmp_path / "RefCOCO" / "refs(unc).json").read_text())
    refs[0]["split"] = "testA"
    (tmp_path / "RefCOCO" / "refs(unc).json").write_text(json.dumps(refs))
    assert [question.id for question in read_vision_task(tmp_path, Task(name="refcoco")).questions] == ["RefCOCO-2-2"]


@pytest.mark.parametrize(
    ("take", "kind"), [(0, "minimum"), (9, "minimum"), (10, "medium"), (17, "maximum"), (20, "maximum")]
)
def test_the_take_tells_how_cluttered_ocids_table_is(take: int, kind: str, tmp_path: Path) -> None:
    write_family(tmp_path, "ocid_ref", [item_of("ocid_ref")])
    edit(tmp_path / "q.json", lambda content: content["1"].update(take_id=take))
    assert read_vision_task(tmp_path, Task(name="ocid_ref")).questions[0].kind == kind


def test_pope_is_the_mean_of_its_splits_whatever_their_sizes(tmp_path: Path) -> None:
    items = [item_of("pope", number, kind) for number, kind in enumerate(["random"] * 4 + ["popular", "adversarial"])]
    write_family(tmp_path, "pope", items)
    task = read_vision_task(tmp_path, Task(name="pope"))
    score = score_answers(task, ["no" if question.kind == "random" else "yes" for question in task.questions])
    assert score.score == pytest.approx(2 / 3)
    assert score.n == 6
    assert (score.metrics["accuracy/random"], score.metrics["yes_ratio/random"]) == (0, 0)
    assert score.metrics["f1"] == score.metrics["yes_ratio"] == pytest.approx(2 / 3)


def test_vizwiz_reports_how_well_unanswerable_questions_are_told(tmp_path: Path) -> None:
    kinds = ["unanswerable", "unanswerable", "answerable", "answerable"]
    write_family(tmp_path, "vizwiz", [item_of("vizwiz", number, kind) for number, kind in enumerate(kinds)])
    task = read_vision_task(tmp_path, Task(name="vizwiz"))
    metrics = score_answers(task, ["Unanswerable", "star", "unanswerable.", "star"]).metrics
    assert metrics["unanswerable_average_precision"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)
    assert metrics["unanswerable_f1"] == pytest.approx(0.5)
    assert metrics["accuracy/answerable"] == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slim_task_takes_as_many_of_each_kind_where_scores_are_by_kind(family: str, tmp_path: Path) -> None:
    kinds = KINDS[family]
    write_family(tmp_path, family, [item_of(family, n, kinds[n % len(kinds)]) for n in range(1, 31)], slim=3)
    task = read_vision_task(tmp_path, Task(name=family))
    counts = Counter(question.kind for question in task.questions)
    if FAMILIES[family].by_kind:
        assert counts == dict.fromkeys(kinds, 3)
    else:
        assert counts.total() == 3
    limited = read_vision_task(tmp_path, Task(name=family, limit=2)).questions
    assert limited == task.questions[:2]


def test_a_subset_is_chosen_by_seed_and_question_id_alone() -> None:
    questions = [Question(id=str(n), image="i", question="q", answers=("a",)) for n in range(100)]
    chosen = [question.id for question in select_subset(questions, 10, 21)]
    assert chosen == ["0", "1", "2", "5", "16", "54", "76", "82", "96", "98"], "changes every slim score"
    assert {question.id for question in select_subset(questions[::-1], 10, 21)} == set(chosen)
    assert {question.id for question in select_subset(questions, 20, 21)} > set(chosen)
    assert {question.id for question in select_subset(questions, 10, 22)} != set(chosen)
    assert select_subset(questions, 1_000, 21) == questions


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def drop(*keys: Any) -> Callable[[Any], Any]:
    """Deletes what the last key names, below the others."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value: Any, *keys: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


BAD_FILES: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("vqav2", "a.json", drop("annotations"), "a.json: annotations: "),
    ("vqav2", "a.json", put([], "annotations"), "a.json: no annotation of question_id 1"),
    ("vqav2", "a.json", put([], "annotations", 0, "answers"), "a.json: annotations.0.answers: "),
    (
        "vqav2",
        "a.json",
        drop("annotations", 0, "answers", 3, "answer"),
        "annotations.0.answers.3: an object with answer is expected",
    ),
    ("vqav2", "q.json", put([], "questions"), "q.json: no question of question_id 1, which is annotated"),
    ("vqav2", "q.json", put("one", "questions", 0, "image_id"), "q.json: questions.0.image_id: "),
    ("vqav2", "q.json", put(7, "questions", 0, "image_id"), "1 of 1 images are not in"),
    ("gqa", "q.json", drop("1", "imageId"), "q.json: 1.imageId: "),
    ("gqa", "q.json", put("../../secret", "1", "imageId"), "gqa.json: image '../../secret.jpg' leads out of"),
    ("gqa", "q.json", put("", "1", "imageId"), "q.json: 1.imageId: "),
    ("gqa", "q.json", drop("1"), "gqa.json: no questions in the files of family gqa"),
    ("vizwiz", "q.json", put(2, 0, "answerable"), "q.json: 0.answerable: "),
    ("textvqa", "q.json", drop("data", 0, "answers", 9), "q.json: data.0.answers: "),
    ("textvqa", "q.json", drop("data"), "q.json: data: "),
    (
        "refcoco",
        "RefCOCO/refs(unc).json",
        put(5, 0, "ann_id"),
        "instances.json: no annotation 5 or no image 42, of ref_id 1",
    ),
    (
        "refcoco",
        "RefCOCO/instances.json",
        put([0, 0, 9], "annotations", 0, "bbox"),
        "instances.json: annotations.0.bbox: ",
    ),
    (
        "refcoco",
        "RefCOCO/instances.json",
        put([0, 0, 0, 9], "annotations", 0, "bbox"),
        "annotation 1001: box [0.0, 0.0, 0.0",
    ),
    ("ocid_ref", "q.json", put("[1, 2", "1", "bbox"), "q.json: 1.bbox: "),
    (
        "ocid_ref",
        "q.json",
        put("[0, 0, 700, 9]", "1", "bbox"),
        "q.json: 1.bbox: box [0.0, 0.0, 700.0, 9.0] has no area or",
    ),
    ("ocid_ref", "q.json", put(21, "1", "take_id"), "q.json: 1.take_id: "),
    (
        "pope",
        "coco_pope_random.json",
        put("maybe", "label"),
        "coco_pope_random.json, line 1: label: ",
    ),
]


@pytest.mark.parametrize(("family", "name", "change", "message"), BAD_FILES)
def test_a_malformed_published_file_is_one_clear_error(
    family: str, name: str, change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    write_family(tmp_path, family, [item_of(family)])
    edit(tmp_path / name, change)
    refused(tmp_path, family, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "vqa"}, "gqa.json: family of tasks 'vqa' is unknown: known are vqav2, gqa"),
        ({"questions": None}, "gqa.json: questions: missing; the files of family gqa are questions"),
        ({"annotations": "a.json"}, "gqa.json: annotations: unknown; the files of family gqa are questions"),
        ({"questions": "gone.json"}, "gqa.json: questions: there is no"),
        ({"questions": "../q.json"}, "gqa.json: questions: '../q.json' leads out of"),
        ({"images": "/etc"}, "gqa.json: images: '/etc' leads out of"),
        ({"questions": ["q.json"]}, "gqa.json: questions: "),
        ({"slim": 0}, "gqa.json: slim: "),
        ({"prompt": "no place"}, "gqa.json: prompt: "),
        ({"format": 2}, "gqa.json: format: "),
        ({"family": "pope", "questions": None}, "needs at least one of adversarial, popular, random"),
        ({"family": "refcoco", "questions": None, "RefCOCO": "images"}, "RefCOCO in "),
    ],
)
def test_a_malformed_task_file_is_one_clear_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_family(tmp_path, "gqa", [item_of("gqa")], **changes)
    refused(tmp_path, "gqa", message)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]"])
def test_a_published_file_that_is_no_such_json_is_named(content: bytes, tmp_path: Path) -> None:
    write_family(tmp_path, "gqa", [item_of("gqa")])
    (tmp_path / "q.json").write_bytes(content)
    refused(tmp_path, "gqa", "q.json: ")


def test_a_question_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path, "textvqa", [item_of("textvqa"), item_of("textvqa")])
    refused(tmp_path, "textvqa", "textvqa.json: question id '1' is there 2 times")


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write_family(tmp_path, "vizwiz", [item_of("vizwiz", number) for number in range(5)])
    for number in (1, 3):
        (tmp_path / "images" / f"VizWiz_val_{number:08d}.jpg").unlink()
    refused(tmp_path, "vizwiz", "2 of 5 images are not in")
    refused(tmp_path, "vizwiz", "the first is VizWiz_val_00000001.jpg")


def refused(folder: Path, family: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_vision_task(folder, Task(name=family))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
