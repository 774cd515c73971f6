"""The study's two stable scores: their chance table, and the paper's own rows through it."""

from pathlib import Path
from typing import Any

import pytest

from sweep.catalog import FOLDER, load_catalog
from sweep.catalog.chance import load_chances
from sweep.errors import SweepFileError
from sweep.results.scores import build_score_columns, parse_task_scores

SEVEN_B = {
    "with images": (
        {"vqav2": 0.7639, "gqa": 0.6108, "textvqa": 0.468, "refcoco": 0.642, "ocid_ref": 0.461, "pope": 0.875},
        0.1088,
        0.4701,
    ),
    "without": (
        {"vqav2": 0.7469, "gqa": 0.606, "textvqa": 0.416, "refcoco": 0.589, "ocid_ref": 0.397, "pope": 0.871},
        0.1169,
        0.4377,
    ),
}
"""The paper's 7B rows: the six tasks of the score, VizWiz, and the score that they give to four places."""
TEXT_CHANCE = {
    "agieval_sat_en": 0.2,
    "arc_easy": 0.25,
    "bigbench_conceptual_combinations_multiple_choice": 0.25,
    "boolq": 0.5,
    "copa": 0.5,
    "hellaswag": 0.25,
    "mathqa": 0.2,
    "piqa": 0.5,
    "pubmedqa": 0.333,
}
PARTS = {"refcoco": ("RefCOCO", "RefCOCO+", "RefCOCOg"), "pope": ("adversarial", "popular", "random")}


def entry(task: str, score: float, kind: str = "vision", **changes: Any) -> dict[str, Any]:
    metrics = {f"accuracy/{part}": score for part in PARTS.get(task, ())}
    return {"kind": kind, "score": score, "stderr": 0.01, "chance": None, "n": 1000, "metrics": metrics} | changes


def values(tasks: dict[str, float], kind: str = "vision", **further: dict[str, Any]) -> dict[str, Any]:
    entries = {name: entry(name, score, kind) for name, score in tasks.items()}
    return build_score_columns(parse_task_scores({"scores": entries | further}))


@pytest.mark.parametrize("row", SEVEN_B)
def test_the_papers_rows_give_its_vision_stable_score(row: str) -> None:
    tasks, vizwiz, expected = SEVEN_B[row]
    found = values(tasks, vizwiz=entry("vizwiz", vizwiz, chance=0.0))
    assert found["vision_stable_score"] == pytest.approx(expected, abs=5.1e-5)
    assert found["vision_chance"] == pytest.approx(1 / 6)
    assert found["vision_stable_stderr"] == pytest.approx(0.01 / 6**0.5)
    assert (found["vision_tasks"], found["vision_complete"]) == (sorted(tasks), True)
    assert {task["task"]: task["chance"] for task in found["scores"]}["vizwiz"] is None


def test_the_text_score_is_over_the_nine_tasks() -> None:
    found = values({name: chance + 0.1 * place for place, (name, chance) in enumerate(TEXT_CHANCE.items())}, "text")
    assert found["text_stable_score"] == pytest.approx(0.4)
    assert found["text_chance"] == pytest.approx(sum(TEXT_CHANCE.values()) / 9)
    assert found["text_complete"] is True


def test_a_score_over_fewer_tasks_says_so() -> None:
    tasks = SEVEN_B["with images"][0] | {}
    del tasks["pope"]
    found = values(tasks)
    assert found["vision_stable_score"] == pytest.approx((0.7639 + 0.6108 - 0.5 + 0.468 + 0.642 + 0.461) / 5)
    assert (found["vision_complete"], "pope" in found["vision_tasks"]) == (False, False)


@pytest.mark.parametrize("task", PARTS)
def test_a_task_that_lacks_a_part_does_not_complete_the_score(task: str) -> None:
    tasks = SEVEN_B["with images"][0]
    metrics = {f"accuracy/{part}": 0.5 for part in PARTS[task][1:]}
    further = {task: entry(task, tasks[task], metrics=metrics)}
    found = build_score_columns(
        parse_task_scores({"scores": {name: entry(name, tasks[name]) for name in tasks} | further})
    )
    assert (len(found["vision_tasks"]), found["vision_complete"]) == (6, False)


def test_further_tasks_do_not_move_the_studys_score() -> None:
    tasks = SEVEN_B["with images"][0]
    found = values(tasks, mine=entry("mine", 0.9, chance=0.1), gqa_text=entry("gqa_text", 0.3, "text", chance=0.25))
    assert found["vision_stable_score"] == values(tasks)["vision_stable_score"]
    assert (found["text_tasks"], found["text_complete"]) == (["gqa_text"], False)


def test_a_task_is_known_by_name_and_kind_and_the_table_goes_before_its_own_chance() -> None:
    found = values({}, gqa=entry("gqa", 0.5, "text", chance=0.1), pope=entry("pope", 0.9, chance=0.4))
    assert {task["task"]: task["chance"] for task in found["scores"]} == {"gqa": 0.1, "pope": 0.5}
    assert found["text_tasks"] == ["gqa"]


def test_the_table_is_the_papers() -> None:
    table = load_chances()
    assert {name: table.tasks[name].chance for name in table.list_counted_tasks("text")} == TEXT_CHANCE
    assert {name: table.tasks[name].chance for name in table.list_counted_tasks("vision")} == {
        "vqav2": 0.25, "gqa": 0.25, "textvqa": 0.0, "refcoco": 0.0, "ocid_ref": 0.0, "pope": 0.5,
    }  # fmt: skip
    assert (table.tasks["vizwiz"].counts_in, table.tasks["vizwiz"].chance) == ("none", None)
    assert all(len(task.source) > 10 for task in table.tasks.values())
    assert {task.name for task in table.tasks.values()} == {
        name for name in load_catalog().tasks if not name.startswith("default")
    }


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("counts_in: text", "counts_in: vision", "agieval_sat_en.counts_in: 'vision' is neither 'text' nor 'none'"),
        (
            "kind: vision, counts_in: none",
            "kind: sound, counts_in: none",
            "vizwiz.kind: 'sound' is none of vision, text",
        ),
        ("chance: 0.5, parts", "chance: 50, parts", "pope.chance: 50: a task that counts wants a fraction below 1"),
        ("chance: 0.5, parts", "parts", "pope.chance: None: a task that counts"),
        ("chance: 0.2,", 'chance: "a fifth",', "agieval_sat_en.chance: 'a fifth' is not of type float"),
        ("parts: [adversarial, popular, random]", "parts: 3", "pope.parts: 3 is not a list of names"),
        ("{task: gqa, metric: score}", "{task: gqa}", "z_score.gqa: field 'metric' is missing"),
        ("z_score:", "z_scores:", "z_score: wants a mapping, and has None"),
    ],
)
def test_a_wrong_table_names_the_entry(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (FOLDER / "chance.yaml").read_text()
    assert before in text
    path = tmp_path / "chance.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SweepFileError) as error:
        load_chances(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
