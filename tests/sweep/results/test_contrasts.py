"""contrasts.parquet and the intervals of differences.parquet, from a store with the scores of single questions."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from jobs.store.paths import write_json
from stages.evaluation.question_scores import QuestionScores, write_question_scores
from sweep.results.answers import DAMAGED, NO_ANSWERS, OTHER_QUESTIONS
from sweep.results.intervals import adjust_by_holm, compute_t_quantile
from tests.sweep.results.results_run import command, written_tables
from tests.sweep.synthetic_store import Grid, Written, toy

Floats = npt.NDArray[np.float64]

GRID = Grid(branches=(0, 80, 100), shares=(0.1, 0.5), epochs=(1, 2))
IMAGES = [f"{number // 3}.png" for number in range(30)]
Values = Mapping[str, Floats]
"""By key of the evaluation: what its questions scored."""


def answered(folder: Path, grid: Grid = GRID, tasks: Sequence[str] = ("a", "b")) -> tuple[Written, dict[str, Values]]:
    """A finished sweep, its two vision tasks with scores of questions; and these by task."""
    written = toy(folder, grid)
    generator = np.random.default_rng(4)
    values: dict[str, Values] = {
        task: {key: generator.integers(0, 2, size=30).astype(float) for key in written.phase("evaluate")}
        for task in tasks
    }
    for key in written.phase("evaluate"):
        write_scores(written, key, {task: found[key] for task, found in values.items()})
    return written, values


def write_scores(written: Written, key: str, values: Mapping[str, Floats], images: Sequence[str] = IMAGES) -> None:
    """What an evaluation leaves of these tasks."""
    scores = {}
    for task, found in values.items():
        ids = tuple(map(str, range(len(found))))
        kept = QuestionScores(ids=ids, clusters=tuple(images), values=tuple(map(float, found)))
        write_question_scores(written.run(key).questions, task, "vision", kept)
        scores[task] = {
            **{"kind": "vision", "score": kept.compute_score(), "n": len(ids), "chance": 0.25, "metrics": {}},
            **{"stderr": 0.09, "clusters": len(set(images)), "clustered_stderr": kept.compute_clustered_error()},
        }
    path = written.run(key).result
    write_json(path, json.loads(path.read_text()) | {"scores": scores})


def read(written: Written, table: str = "contrasts") -> list[dict[str, Any]]:
    written_tables(written)
    path = written.store.locate_sweep(written.sweep).results / f"{table}.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def one(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    [found] = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return found


def find_keys(written: Written, choose: Callable[[Mapping[str, Any], int], bool]) -> list[str]:
    return [
        chain["evaluate"] for cell in written.cells for chain in cell["chains"] if choose(cell["axes"], chain["epochs"])
    ]


def clustered(difference: Floats) -> tuple[float, float]:
    """Mean and clustered error of one task's differences by question, by the formula in the plainest words."""
    mean = float(difference.mean())
    sums: dict[str, float] = defaultdict(float)
    for image, value in zip(IMAGES, difference, strict=True):
        sums[image] += value - mean
    factor = len(sums) / (len(sums) - 1)
    return mean, math.sqrt(factor * sum(total**2 for total in sums.values())) / len(difference)


def expected(values: Mapping[str, Values], first: Sequence[str], second: Sequence[str]) -> tuple[float, float, float]:
    """Difference, error and degrees of freedom of the stable score over all tasks."""
    found = [
        clustered(np.mean([each[key] for key in second], axis=0) - np.mean([each[key] for key in first], axis=0))
        for each in values.values()
    ]
    squares = [error**2 for _, error in found]
    freedom = sum(squares) ** 2 / sum(square**2 / 9 for square in squares)
    return sum(mean for mean, _ in found) / 2, math.sqrt(sum(squares)) / 2, freedom


def test_branch_points_are_compared_at_fixed_shares_and_on_average(tmp_path: Path) -> None:
    written, values = answered(tmp_path)
    rows = read(written)
    cases: list[tuple[dict[str, Any], Callable[[Mapping[str, Any], int], bool], int]] = [
        (
            {"level": "model", "image_share": 0.1, "epochs": 2},
            lambda axes, epochs: axes["image_share"] == 0.1 and epochs == 2,
            1,
        ),
        ({"level": "cell", "image_share": 0.5, "epochs": None}, lambda axes, _: axes["image_share"] == 0.5, 1),
        ({"level": "average", "image_share": None}, lambda *_: True, 2),
    ]
    for wanted, choose, pairs in cases:
        first, second = (
            find_keys(written, lambda axes, epochs: axes["branch"] == branch and choose(axes, epochs))  # noqa: B023
            for branch in (80, 100)
        )
        found = one(rows, axis="branch", first="80", second="100", score="vision", **wanted)
        difference, error, freedom = expected(values, first, second)
        assert (found["difference"], found["paired_stderr"], found["freedom"]) == pytest.approx(
            (difference, error, freedom), rel=1e-5
        )
        assert found["high"] - found["low"] == pytest.approx(2 * compute_t_quantile(freedom) * error, rel=1e-5)
        assert (found["pairs"], found["questions"], found["clusters"]) == (pairs, 60, 20)
        assert (found["tasks"], found["noise"], found["note"]) == (["a", "b"], "questions", None)
        assert found["shared_draws"] == ["trunk", "pretrain", "finetune"]
        assert found["branch"] is None
    average = one(rows, axis="branch", first="80", second="100", score="vision", level="average")
    differences = one(read(written, "differences"), axis="branch", first="80", second="100", score="vision")
    for column in ("difference", "paired_stderr", "low", "high", "p_value", "p_holm", "noise"):
        assert differences[column] == pytest.approx(average[column]), column


def test_a_task_has_contrasts_of_its_own(tmp_path: Path) -> None:
    written, values = answered(tmp_path)
    found = one(read(written), axis="epochs", level="average", score="b", is_task=True)
    first, second = (find_keys(written, lambda _, epochs: epochs == wanted) for wanted in (1, 2))  # noqa: B023
    means = [np.mean([values["b"][key] for key in keys], axis=0) for keys in (first, second)]
    assert (found["difference"], found["paired_stderr"]) == pytest.approx(clustered(means[1] - means[0]), rel=1e-5)
    assert (found["freedom"], found["tasks"]) == (pytest.approx(9), ["b"])


def test_p_values_are_adjusted_over_the_contrasts_of_one_axis_and_score(tmp_path: Path) -> None:
    rows = read(answered(tmp_path)[0])
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    assert {row["family_size"] for row in families["2m, branch, vision, average"]} == {3}
    assert {row["family_size"] for row in families["2m, branch, vision, model"]} == {3 * 2 * 2}
    for members in families.values():
        adjusted = adjust_by_holm([row["p_value"] for row in members])
        assert [row["p_holm"] for row in members] == pytest.approx(adjusted)


def test_seeds_are_averaged_and_their_noise_is_in_the_interval(tmp_path: Path) -> None:
    written, values = answered(tmp_path, Grid(branches=(80, 100), shares=(0.5,), epochs=(1,), seeds=(1, 2)))
    found = one(read(written), axis="branch", level="model", score="vision")
    keys = {branch: find_keys(written, lambda axes, _: axes["branch"] == branch) for branch in (80, 100)}  # noqa: B023
    _, error, _ = expected(values, keys[80], keys[100])
    by_seed = [
        np.mean([values[task][keys[100][seed]].mean() - values[task][keys[80][seed]].mean() for task in ("a", "b")])
        for seed in (0, 1)
    ]
    seeds = (by_seed[0] - by_seed[1]) ** 2 / 2 / 2
    assert found["difference"] == pytest.approx(np.mean(by_seed))
    assert found["paired_stderr"] == pytest.approx(math.sqrt(error**2 + seeds), rel=1e-5)
    assert (found["noise"], found["seeds"], found["pairs"]) == ("questions+seeds", 2, 2)
    assert found["shared_draws"] == ["trunk"]  # the grid's seeds share it


def test_models_that_were_asked_other_questions_are_not_compared(tmp_path: Path) -> None:
    written, values = answered(tmp_path)
    [other] = find_keys(written, lambda axes, epochs: (axes["branch"], axes["image_share"], epochs) == (80, 0.1, 2))
    found = {task: each[other] for task, each in values.items()}
    write_scores(written, other, found, images=IMAGES[::-1])
    rows = read(written)
    row = one(rows, axis="branch", first="80", second="100", score="vision", level="model", image_share=0.1, epochs=2)
    assert (row["low"], row["p_holm"], row["noise"]) == (None, None, None)
    assert row["note"] == f"a: {OTHER_QUESTIONS}"
    kept = one(rows, axis="branch", first="80", second="100", score="vision", level="model", image_share=0.5, epochs=2)
    assert kept["note"] is None
    average = one(read(written, "differences"), axis="branch", first="80", second="100", score="vision")
    assert (average["low"], average["stderr"] is None) == (None, False)


def test_a_damaged_or_missing_file_of_questions_is_said(tmp_path: Path) -> None:
    written, _ = answered(tmp_path, Grid(branches=(0, 80, 100), shares=(0.5,), epochs=(1,)))
    first, second, third = find_keys(written, lambda *_: True)
    path = written.run(first).questions / "a.jsonl"
    lines = path.read_text().splitlines()
    for torn in (lines[:1], [lines[0], '{"values": [0, 1], "marks": "0"}', lines[2]], [lines[0], lines[1], "{}"]):
        path.write_text("\n".join(torn))
        row = one(read(written), axis="branch", first="0", second="80", score="a", level="average")
        assert (row["low"], row["note"]) == (None, f"a: {DAMAGED}"), torn
    path.unlink()
    assert one(read(written), axis="branch", first="0", second="80", score="a", level="average")["note"] == (
        f"a: {NO_ANSWERS}"
    )
    stale = json.loads(written.run(second).result.read_text())
    stale["scores"]["a"]["score"] += 0.25
    write_json(written.run(second).result, stale)
    row = one(read(written), axis="branch", first="80", second="100", score="a", level="average")
    assert row["note"] == f"a: {DAMAGED}"
    assert third


def test_evaluations_of_before_have_differences_without_intervals(tmp_path: Path) -> None:
    written = toy(tmp_path, GRID)
    rows = read(written)
    assert {row["low"] for row in rows} == {None}
    assert {row["note"].split(": ")[1] for row in rows} == {NO_ANSWERS}
    average = one(read(written, "differences"), axis="branch", first="80", second="100", score="vision")
    assert (average["low"], average["p_holm"], average["stderr"] is None) == (None, None, False)


def test_models_scored_by_different_tasks_have_no_interval(tmp_path: Path) -> None:
    written, values = answered(tmp_path, Grid(branches=(80, 100), shares=(0.5,), epochs=(1,)))
    first, _ = find_keys(written, lambda *_: True)
    write_scores(written, first, {"a": values["a"][first]})
    row = one(read(written), axis="branch", level="average", score="vision")
    assert (row["low"], row["note"], row["tasks"]) == (None, "the models' scores are means over different tasks", [])
    assert one(read(written), axis="branch", level="average", score="a")["note"] is None


def test_a_model_whose_answers_are_all_wrong_has_an_interval_above_zero(tmp_path: Path) -> None:
    written, values = answered(tmp_path, Grid(branches=(80,), shares=(0.5,), epochs=(1,)), tasks=("a",))
    [key] = find_keys(written, lambda *_: True)
    write_scores(written, key, {"a": 0 * values["a"][key]})
    [row] = written_tables(written).results.to_pylist()
    assert (row["vision_stable_score"], row["vision_stable_stderr"]) == (-0.25, 0.0)
    t2 = compute_t_quantile(9) ** 2
    assert (row["vision_low"], row["vision_high"]) == pytest.approx((-0.25, t2 / (10 + t2) - 0.25))
    assert (row["scores"][0]["clusters"], row["scores"][0]["low"]) == (10, 0.0)


def test_the_summary_prints_intervals_and_what_is_not_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, _ = answered(tmp_path)
    code, _, err = command(written, capsys, "--no-figures")
    text = (written.store.locate_sweep(written.sweep).results / "summary.txt").read_text()
    assert code == 0
    assert "Noise in the intervals: of the questions.\n" in text
    assert (
        "In no interval, as there is one draw of each: the trunk's segments, the image-text runs, the fine-tunes.\n"
        in text
    )
    [head] = [number for number, line in enumerate(text.splitlines()) if line.startswith("2m: branch 80 % against")]
    table = text.splitlines()[head : head + 4]
    assert [line.split("  ")[0] for line in table[1:]] == ["image share 10 %", "image share 50 %", "average"]
    assert all("[" in line and "]" in line for line in table[1:])
    assert "branch 0 % -> 100 %: vision" in err
