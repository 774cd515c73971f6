"""`sweep plan`: what it prints, what it writes, and what it refuses to drop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.store.paths import Store, write_json
from sweep.cli import main
from sweep.plan.manifest import read_manifest
from tests.sweep.small_sweep import MANIFESTS, ROOT, SMALL, edited, written


def plan(folder: Path, text: str = SMALL, *options: str) -> int:
    """Plans `text` into the folder's store."""
    return main(["plan", str(written(folder, text)), "--store", str(folder / "store"), *options])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begin_a_job(folder: Path, phase: str, *, done: bool = False) -> None:
    store = Store(folder / "store")
    job = next(job for job in read_manifest(store.locate_sweep("small").manifest).jobs if job.phase == phase)
    run = store.locate_run(job.stage, job.key)
    run.checkpoints.mkdir(parents=True)
    if done:
        write_json(run.result, {"format": 1, "key": job.key, "stage": job.stage, "files": {}})


def test_the_reference_sweep_prints_what_the_paper_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(MANIFESTS / "paper.yaml"), "--store", str(tmp_path)]) == 0
    output, remarks = capsys.readouterr()
    assert output.splitlines()[0] == (
        "paper: 300 cells, 2,710 jobs (10 trunk segments, 300 image-text runs, 1,200 fine-tunes, 1,200 evaluations)"
    )
    assert "no plan was stored before" in remarks
    assert sorted(files(tmp_path)) == ["sweeps/paper/manifest.jsonl", "sweeps/paper/sweep.yaml"]
    assert files(tmp_path)["sweeps/paper/sweep.yaml"] == (MANIFESTS / "paper.yaml").read_bytes()


def test_two_processes_write_equal_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):  # of Python's own hashing: no set's order may show
        command = [sys.executable, "-m", "sweep", "plan", str(MANIFESTS / "paper.yaml"), "--store", "store"]
        folder = tmp_path / seed
        folder.mkdir()
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": ""}
        subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    first, second = files(tmp_path / "1"), files(tmp_path / "2")
    assert len(first) == 2
    assert {name: content.replace(b"/1/", b"/N/") for name, content in first.items()} == {
        name: content.replace(b"/2/", b"/N/") for name, content in second.items()
    }


def test_planning_again_leaves_the_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    assert plan(tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before
    assert "the same as the stored plan" in capsys.readouterr().err


def test_diff_shows_what_changed_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    before = files(tmp_path / "store")
    capsys.readouterr()
    text = edited(
        ("batch_sequences: 8}\n  evaluate", "batch_sequences: 8, peak_lr: 1e-4}\n  evaluate"), ("[0, 50,", "[0, 20,")
    )
    assert plan(tmp_path, text, "--diff") == 0
    assert capsys.readouterr().out.splitlines() == [
        "small: against the stored plan: cells 2 new, 2 gone, 4 changed, 0 as before; "
        "jobs 27 new, 27 gone, 5 as before",
        "  new jobs: 1 trunk, 2 pretrain, 12 finetune, 12 evaluate",
        "  gone jobs: 1 trunk, 2 pretrain, 12 finetune, 12 evaluate",
        "  finetune peak_lr: 0.0003 -> 0.0001 (4 cells)",
        "  + mtiny-b20-i0-c0-x1",
        "  + mtiny-b20-i20-c0-x1",
        "  - mtiny-b50-i0-c0-x1",
        "  - mtiny-b50-i20-c0-x1",
        "  ~ mtiny-b0-i0-c0-x1",
        "  ~ mtiny-b0-i20-c0-x1",
        "  ~ mtiny-b100-i0-c0-x1",
        "  ~ mtiny-b100-i20-c0-x1",
        "  cost: new jobs 0.27 core-hours, gone jobs 0.27, whether done or not",
        "  done jobs that leave the plan: 0",
    ]
    assert files(tmp_path / "store") == before


def test_diff_without_a_stored_plan_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, SMALL, "--diff") == 0
    assert capsys.readouterr().out == "small: no plan was stored before\n"
    assert not (tmp_path / "store").exists()


def test_other_resources_alone_are_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    capsys.readouterr()
    assert plan(tmp_path, SMALL + "resources: {cpus: 7}\n", "--diff") == 0
    assert "the same cells and jobs; resources of 32 jobs changed" in capsys.readouterr().out


def test_an_edited_grid_is_stored_and_the_plan_before_is_kept(tmp_path: Path) -> None:
    plan(tmp_path)
    before = files(tmp_path / "store")["sweeps/small/manifest.jsonl"]
    assert plan(tmp_path, edited(("[0, 50, 100]", "[0, 25, 50, 100]"))) == 0
    after = files(tmp_path / "store")
    assert after["sweeps/small/manifest.previous.jsonl"] == before
    assert after["sweeps/small/manifest.jsonl"] != before


def test_a_plan_that_keeps_begun_work_is_stored_unasked(tmp_path: Path) -> None:
    plan(tmp_path)
    begin_a_job(tmp_path, "trunk")
    assert plan(tmp_path, edited(("epochs: [1, 2]", "epochs: [1, 2, 4]"))) == 0


@pytest.mark.parametrize("done", [False, True])
def test_begun_work_leaves_a_plan_only_if_the_user_insists(
    done: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path)
    begin_a_job(tmp_path, "finetune", done=done)
    before = files(tmp_path / "store")
    capsys.readouterr()
    text = edited(("epochs: [1, 2]", "epochs: [3]"))
    if done:  # a finished job loses nothing: its result stays and is found again
        assert plan(tmp_path, text) == 0
        return
    assert plan(tmp_path, text) == 1
    errors = capsys.readouterr().err
    assert "This edit drops 1 unfinished job (1 finetune)" in errors
    assert "--replace" in errors
    assert files(tmp_path / "store") == before
    assert plan(tmp_path, text, "--replace") == 0


def test_another_experiment_of_the_same_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    other = edited(("d_model: 64", "d_model: 128"), ("tiny", "wide"))
    assert plan(tmp_path, other) == 1
    assert "has no cell and no job in common with this file" in capsys.readouterr().err
    assert plan(tmp_path, other, "--replace") == 0


def test_a_damaged_stored_plan_is_replaced_only_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    stored = tmp_path / "store/sweeps/small/manifest.jsonl"
    content = stored.read_text()
    stored.write_text(content[:-100])
    assert plan(tmp_path) == 1
    assert "manifest.jsonl:39: is damaged" in capsys.readouterr().err
    assert plan(tmp_path, SMALL, "--replace") == 0
    assert stored.read_text() == content


def test_what_is_done_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    begin_a_job(tmp_path, "trunk", done=True)
    capsys.readouterr()
    assert plan(tmp_path, SMALL, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["sweep"], report["cells"], report["jobs"]["total"]) == ("small", 6, 32)
    assert report["done"]["jobs"] == 1
    assert report["changes"] == {"stored": True}


def test_a_diff_as_json_names_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    capsys.readouterr()
    assert plan(tmp_path, edited(("peak_lr: 3e-3", "peak_lr: 4e-3")), "--diff", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    # the run from 100 % warms up anew, but its parent is another trunk
    assert report["cells"]["changed"] == [f"mtiny-b{b}-i{i}-c0-x1" for b in (50, 100) for i in (0, 20)]
    assert (len(report["jobs"]["new"]), len(report["jobs"]["gone"]), report["jobs"]["same"]) == (22, 22, 10)
    assert [(move["phase"], move["field"], move["cells"]) for move in report["moves"]] == [
        ("pretrain", "schedule.peak_lr", 2), ("trunk", "schedule.peak_lr", 4),
    ]  # fmt: skip


def test_absent_data_and_repeated_work_are_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/words").mkdir()
    text = edited(
        ("epochs:", "      captions: [pictures, more]\nepochs:"),
        ("  talks:", "  more: {kind: captions, path: data/more}\n  idle: {kind: text, path: data/idle}\n  talks:"),
        ("defaults:", "defaults:\n  text: words"),
    )
    assert plan(tmp_path, text) == 0
    remarks = capsys.readouterr().err
    for line, name in ((5, "pictures"), (6, "more"), (8, "talks"), (9, "bpe"), (10, "exams")):
        assert f"{tmp_path}/sweep.yaml:{line}: data.{name}: {tmp_path}/data/" in remarks
    assert "not there yet, and no job reads it: data idle\n" in remarks
    assert (
        "3 cells ask for the same work as another and share all of it, "
        "such as mtiny-b0-i0-c0-x1-more (as mtiny-b0-i0-c0-x1-pictures)"
    ) in remarks


def test_local_data_are_counted_once_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data" / "talks"
    data.mkdir(parents=True)
    answer = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    (data / "conversations.json").write_text(json.dumps([{"id": "1", "conversations": answer}]))
    assert plan(tmp_path) == 0
    assert f"counting local data, which the next plan need not do: {data} ..." in capsys.readouterr().err
    assert plan(tmp_path) == 0
    assert "counting" not in capsys.readouterr().err


def test_an_unwritable_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file")
    assert plan(tmp_path) == 1
    errors = capsys.readouterr().err
    assert "cannot be written: Not a directory" in errors
    assert len(errors.splitlines()) == 1


def test_a_count_of_devices_is_a_number_from_1_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        plan(tmp_path, SMALL, "--gpus", "0")
    assert stopped.value.code == 2
    assert "--gpus" in capsys.readouterr().err
