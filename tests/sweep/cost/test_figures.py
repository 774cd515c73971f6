"""Which figure an estimate takes: counted, given, assumed; what is told; and that nothing is counted twice."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.store.paths import Store
from sweep.cli import main
from sweep.cost import counts as counts_module
from sweep.cost.counts import DataCount, DataCounts, DataUse, TaskCount, compute_use_digest
from sweep.file_facts import is_present
from sweep.plan.manifest import Manifest
from sweep.plan.new_plan import format_uncounted
from tests.stages.prepare.test_count import make_pairs, make_talks, make_tasks
from tests.sweep.small_sweep import edited, keys, written

REAL = edited(
    ("kind: captions, path: data/pictures", "kind: captions, path: data/pictures, field: alt"),
    ("text_tasks: [cloze], vision_tasks: [shapes]", "text_tasks: [sums, cloze], vision_tasks: [hues, more]"),
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A sweep file with local data, but for its text, its tokenizer and one task."""
    for make, name in ((make_pairs, "pictures"), (make_talks, "talks"), (make_tasks, "exams")):
        make(tmp_path / "data" / name)
    return written(tmp_path, REAL)


def plan(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    assert main(["plan", str(path), "--store", str(path.parent / "store"), "--json", *words]) == 0
    output, remarks = capsys.readouterr()
    return json.loads(output), remarks


def origins(report: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(each["subject"], each["name"]): (each["value"], each["origin"]) for each in report["figures"]}


def test_local_data_are_counted_and_what_is_not_there_is_assumed(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = plan(study, capsys)
    found = origins(report)
    assert found["data pictures", "samples"] == (20, "counted")
    assert found["data talks", "samples"] == (3, "counted")
    # no tokenizer is there: lengths go by characters, which is an assumption
    assert found["data pictures", "text tokens a sample"] == (5.5, "assumed")
    assert found["task sums", "requests"] == (5, "counted")
    assert found["task hues", "images"] == (2, "counted")
    assert found["task cloze", "documents"] == (1_000, "assumed")
    (cloze,) = (each for each in report["figures"] if (each["subject"], each["name"]) == ("task cloze", "documents"))
    assert ". Not counted: " in cloze["source"]
    assert "cloze.yaml" in cloze["source"]
    assert (cloze["models"], cloze["phases"]) == (["tiny"], ["evaluate"])
    # what the evaluations can detect goes by the same counts: three questions about two images
    vision = next(each for each in report["detectable"]["effects"] if each["score"] == "vision")
    assert {"name": "hues", "questions": 3, "clusters": 2} in vision["tasks"]
    # six cells of fine-tunes of one and two epochs over three examples; each evaluation asks 5 + 4,000 + 3 + 3
    assert report["models"]["tiny"]["finetune"]["images"] == 6 * 3 * 2
    assert report["models"]["tiny"]["evaluate"]["requests"] == 12 * (5 + 4_000 + 3 + 3)


def test_a_second_plan_counts_nothing_until_the_data_change(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[DataUse]] = []
    program = counts_module.run_count

    def run_count(uses: Any) -> list[DataCount]:
        asked.append(list(uses))
        return program(asked[-1])

    monkeypatch.setattr(counts_module, "run_count", run_count)
    first, _ = plan(study, capsys)
    assert [sorted(use.kind for use in uses) for uses in asked] == [["captions", "conversations", "tasks"]]
    asked.clear()
    again, _ = plan(study, capsys)
    assert asked == []
    assert again["figures"] == first["figures"]
    talks = study.parent / "data" / "talks" / "talks.json"
    talks.write_text(json.dumps(json.loads(talks.read_text())[:2]))
    changed, _ = plan(study, capsys, "--replace")
    assert [[use.kind for use in uses] for uses in asked] == [["conversations"]]
    assert origins(changed)["data talks", "samples"] == (2, "counted")


def test_the_sweep_file_comes_behind_a_count_and_before_an_assumption_and_a_contradiction_is_told(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(
        REAL.replace("path: data/talks", "path: data/talks, examples: 800, mean_text_tokens: 30").replace(
            "field: alt", "field: alt, examples: 20"
        )
    )
    report, remarks = plan(study, capsys)
    assert origins(report)["data talks", "samples"] == (3, "counted")
    assert origins(report)["data talks", "text tokens a sample"] == (30, "given")  # before a count by characters
    assert "data talks: the sweep file says samples 800, and counted are 3: the count is used" in remarks
    assert "pictures: the sweep file says" not in remarks


def test_counts_move_no_key(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.plan.manifest import read_manifest

    def manifest() -> Manifest:
        plan(study, capsys)
        return read_manifest(Store(study.parent / "store").locate_sweep("small").manifest)

    counted = manifest()
    shutil.rmtree(study.parent / "store")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    uncounted = manifest()
    assert keys(counted) == keys(uncounted)
    assert counted != uncounted


def test_a_program_that_does_not_run_leaves_the_assumptions_and_says_why(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    report, remarks = plan(study, capsys)
    assert origins(report)["data talks", "samples"] == (100_000, "assumed")
    assert "data/talks: the program that counts ended: exit code 1" in remarks
    assert not (study.parent / "store" / "counts").exists()


def test_a_path_that_may_not_be_looked_at_is_not_there() -> None:
    assert is_present("/")
    assert not is_present("/" + 5_000 * "a")  # an OSError: the name is too long


def test_each_problem_names_its_file_once() -> None:
    problems = {"/d/text": "/d/text/0.tar: cut off", "/d/pairs": "counting took more than 10 minutes"}
    assert format_uncounted(problems) == [
        "not counted: /d/text/0.tar: cut off",
        "not counted: /d/pairs: counting took more than 10 minutes",
    ]


def test_a_torn_count_is_counted_again(tmp_path: Path) -> None:
    use = DataUse(kind="captions", path=str(make_pairs(tmp_path / "p")), field="alt")
    counts = DataCounts(Store(tmp_path / "store"))
    assert counts.find_count(use) is None
    counts.count_missing()
    counts.save()
    (kept,) = counts.kept.folder.iterdir()
    found = DataCounts(Store(tmp_path / "store")).find_count(use)
    assert found is not None
    assert (found.samples, found.mean_text_tokens) == (20, 5.5)
    kept.write_text(kept.read_text()[:40])
    again = DataCounts(Store(tmp_path / "store"))
    assert again.find_count(use) is None
    assert again.missing == {use: compute_use_digest(use)}


def test_remote_data_are_not_counted(tmp_path: Path) -> None:
    counts = DataCounts(Store(tmp_path))
    assert counts.find_count(DataUse(kind="captions", path="s3://bucket/pairs")) is None
    assert counts.missing == {}


def test_a_count_survives_its_way_through_json() -> None:
    count = DataCount(samples=3, lengths=((4, 1), (9, 2)), measured=3, tasks={"t": TaskCount(documents=2)})
    assert DataCount.from_json(json.loads(json.dumps(count.convert_to_json()))) == count
