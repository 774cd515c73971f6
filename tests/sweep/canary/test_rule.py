import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.reconcile.canary import CanaryLimits
from jobs.store.paths import Store
from sweep.canary.rule import build_canary, build_held_rows, name_released, read_held_jobs
from sweep.cli import main
from sweep.errors import ManifestError, NotPlannedError, SweepFileError
from sweep.kept_limits import KeptLimits, compute_priorities, find_wanted_keys, read_limits
from sweep.plan.manifest import read_manifest, write_manifest
from sweep.stored_sweep import StoredSweep, open_sweep
from tests.jobs import toy
from tests.sweep.small_sweep import edited, keys, planned

NONE = KeptLimits()


@pytest.fixture
def stored(store: Store) -> StoredSweep:
    toy.plan(store, toy.small_graph())
    return open_sweep(store.root, toy.SWEEP)


def with_rule(tmp_path: Path, rule: str) -> CanaryLimits | None:
    return planned(tmp_path, edited(("epochs: [1, 2]", f"canary: {rule}\nepochs: [1, 2]"))).canary


def test_the_sweep_file_s_rule_has_defaults_stands_in_the_plan_and_moves_no_key(tmp_path: Path) -> None:
    assert planned(tmp_path).canary is None
    assert with_rule(tmp_path, "{}") == CanaryLimits(loss=None, memory_factor=1.25, speed_factor=3.0)
    plan = planned(tmp_path, edited(("epochs: [1, 2]", "canary: {loss: [0, 12.5], speed_factor: 5}\nepochs: [1, 2]")))
    assert plan.canary == CanaryLimits(loss=(0.0, 12.5), speed_factor=5.0)
    assert keys(plan) == keys(planned(tmp_path))
    write_manifest(tmp_path / "manifest.jsonl", plan)
    assert read_manifest(tmp_path / "manifest.jsonl").canary == plan.canary


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{loss: [5, 2]}", "[5, 2] is no band"),
        ("{loss: [5]}", "loss is two numbers"),
        ("{speed_factor: 0.5}", "speed_factor is how many times as long"),
        ("{memory: 2}", "did you mean memory_factor?"),
    ],
)
def test_a_rule_that_will_not_do_is_refused_with_its_line(tmp_path: Path, rule: str, told: str) -> None:
    with pytest.raises(SweepFileError, match=r"sweep\.yaml:\d+: ") as refused:
        with_rule(tmp_path, rule)
    assert told in str(refused.value)


def test_a_damaged_rule_of_a_stored_plan_is_told(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, replace(planned(tmp_path), canary=CanaryLimits()))
    for damage in ({"speed_factor": "fast"}, {"loss": [1]}, {"loss": 3}, {"memory_factor": 0}):
        header, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps({**json.loads(header), "canary": damage}) + "\n" + rest)
        with pytest.raises(ManifestError, match="canary is"):
            read_manifest(path)


def test_the_kept_choice_is_above_the_file(stored: StoredSweep) -> None:
    assert build_canary(stored, NONE) is None
    assert build_canary(stored, KeptLimits(canary="on")) is not None
    in_file = StoredSweep(stored.store, replace(stored.manifest, canary=CanaryLimits(speed_factor=9.0)))
    assert build_canary(in_file, KeptLimits(canary="off")) is None
    for kept in (NONE, KeptLimits(canary="on")):
        rule = build_canary(in_file, kept)
        assert rule is not None
        assert rule.limits.speed_factor == 9.0


def test_a_release_names_a_shape_by_a_beginning_a_cell_or_a_key(stored: StoredSweep) -> None:
    rule = build_canary(stored, KeptLimits(canary="on"))
    assert rule is not None
    shape = rule.shapes["a-ft1"]
    assert name_released(stored, [shape[:-1], "b", "a-ev2"]) == (shape, "b", "a-ev2")
    with pytest.raises(NotPlannedError, match="has no cell or job 'finetune-zzzzzz'"):
        name_released(stored, ["finetune-zzzzzz"])
    free = build_canary(stored, KeptLimits(canary="on", released=(shape, "b-ev2", "gone")))
    assert free is not None
    assert not {"a-ft1", "b-ft2"} & free.shapes.keys()
    assert free.released == {"b-ev2", "b-ft2", "b-pre", "trunk2", "trunk1"}


def read_held_rows(stored: StoredSweep, kept: KeptLimits) -> list[dict[str, Any]]:
    snapshot = stored.load_snapshot()
    return build_held_rows(snapshot, read_held_jobs(stored, snapshot, kept).shapes)


def test_what_is_held_is_shown_for_what_may_be_sent_alone(stored: StoredSweep) -> None:
    jobs = [toy.toy_job(name, cells=[name]) for name in "abcd"]
    toy.plan(stored.store, jobs)
    stored = open_sweep(stored.store.root, toy.SWEEP)
    rows = read_held_rows(stored, KeptLimits(canary="on", first=("c",)))
    assert [(row["canary"], row["jobs"], row["verdict"]) for row in rows] == [("c", 3, "pending")]
    assert rows[0]["message"] == "held until the first job of this shape has written its first checkpoint"
    rows = read_held_rows(stored, KeptLimits(canary="on", only=("b", "d")))
    assert [(row["canary"], row["keys"]) for row in rows] == [("b", ["d"])]
    assert read_held_rows(stored, NONE) == []


def test_the_command_keeps_the_rule_and_a_damaged_choice_is_refused(
    stored: StoredSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(stored.store.root)
    assert main(["limits", toy.SWEEP, "--canary", "on", "--release", "a", "--store", root]) == 0
    assert main(["limits", toy.SWEEP, "--release", "b", "--store", root]) == 0  # beside those from before
    kept = read_limits(stored.paths.limits)
    assert (kept.canary, kept.released) == ("on", ("a", "b"))
    capsys.readouterr()
    assert main(["limits", toy.SWEEP, "--json", "--store", root]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["canary"], shown["released"], shown["first"]) == ("on", ["a", "b"], [])
    stored.paths.limits.write_text('{"format": 1, "canary": "perhaps"}')
    assert main(["limits", toy.SWEEP, "--store", root]) == 1
    assert "canary is 'perhaps'" in capsys.readouterr().err


def test_a_name_that_is_the_beginning_of_several_cells_by_now_is_passed_over(store: Store) -> None:
    jobs = [toy.toy_job("a", cells=["m1-s1"]), toy.toy_job("b", cells=["m1-s2"])]
    toy.plan(store, jobs)
    stored = open_sweep(store.root, toy.SWEEP)
    assert compute_priorities(stored, ["m1"]) == {}
    assert compute_priorities(stored, ["m1", "m1-s2"]) == {"a": 0, "b": 1}
    assert find_wanted_keys(stored, KeptLimits(only=("m1", "m1-s1"))) == {"a"}
    assert find_wanted_keys(stored, KeptLimits(only=("m1",))) == set()
