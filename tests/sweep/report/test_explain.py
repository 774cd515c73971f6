"""`sweep explain`: a cell's chain, its state, its cost, what moved its keys; and how cells are found."""

import json
import re
from pathlib import Path

import pytest

from jobs.slurm.refusals import Refusal, update_refusals
from jobs.slurm.sbatch_errors import RefusalKind
from jobs.store.paths import Store, write_json
from sweep.cli import main
from sweep.plan.manifest import Manifest, read_manifest
from tests.sweep.small_sweep import SMALL, edited, written


def plan(folder: Path, text: str = SMALL, *options: str) -> Manifest:
    assert main(["plan", str(written(folder, text)), "--store", str(folder / "store"), *options]) == 0
    name = text.partition("name: ")[2].splitlines()[0]
    return read_manifest(Store(folder / "store").locate_sweep(name).manifest)


def explain(folder: Path, *words: str) -> int:
    return main(["explain", *words, "--store", str(folder / "store")])


def test_a_chain_is_shown_with_its_state_its_cost_and_who_shares_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = plan(tmp_path)
    store = Store(tmp_path / "store")
    trunk = next(job for job in manifest.jobs if job.phase == "trunk")
    write_json(store.locate_run("pretrain", trunk.key).result, {"format": 1, "key": trunk.key, "files": {}})
    cell = next(cell for cell in manifest.cells if cell.name == "mtiny-b100-i20-c0-x1")
    store.locate_run("pretrain", cell.pretrain).checkpoints.mkdir(parents=True)
    capsys.readouterr()
    assert explain(tmp_path, cell.name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cell mtiny-b100-i20-c0-x1 of sweep small, block blocks.0"
    assert lines[2] == "axes that vary in its block: branch 100, image_share 0.2"
    assert lines[3].startswith(
        "axes that all cells of its block share: model tiny, instruction_share 0, captions pictures"
    )
    rows = [line.split() for line in lines[7:14]]
    assert [(row[0], row[-3], row[-1]) for row in rows] == [
        ("trunk", "done", "4"), ("trunk", "ready", "2"), ("pretrain", "waiting", "1"), ("finetune", "waiting", "1"),
        ("evaluate", "waiting", "1"), ("finetune", "waiting", "1"), ("evaluate", "waiting", "1"),
    ]  # fmt: skip
    assert "to step 50, peak LR 0.002, words 80 % pictures 20 %" in lines[9]
    assert re.fullmatch(r"Cost: \S+ core-hours \(.*\); .* still to run\.", lines[-1])


def test_the_field_that_moved_a_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    after = plan(tmp_path, edited(("unit_tokens: 25600", "unit_tokens: 25600, weight_decay: 0.1")))
    cell = next(cell for cell in after.cells if cell.name == "mtiny-b50-i0-c0-x1")
    capsys.readouterr()
    assert explain(tmp_path, cell.name) == 0
    moved = capsys.readouterr().out.partition("since the previous plan:\n")[2].splitlines()
    assert moved[0] == f"  {cell.pretrain}  pretrain optimizer.weight_decay: 0.033 -> 0.1"
    assert moved[1] == f"  {cell.chains[0].finetune}  the key of its parent has changed"
    assert len(moved) == 5  # the trunk stays


def test_nothing_moved_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    plan(tmp_path, edited(("[0, 50, 100]", "[0, 25, 50, 100]")))
    capsys.readouterr()
    assert explain(tmp_path, "mtiny-b50-i0-c0-x1") == 0
    assert capsys.readouterr().out.endswith("since the previous plan: no key has changed\n")


def test_a_cell_is_found_by_its_beginning_and_by_the_key_of_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = plan(tmp_path)
    cell = manifest.cells[3]
    for word in (cell.name[:-6], cell.pretrain, cell.chains[1].evaluate[:8]):
        capsys.readouterr()
        assert explain(tmp_path, word, "--json") == 0
        assert json.loads(capsys.readouterr().out)["cell"] == cell.name


def test_json_has_the_whole_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = plan(tmp_path)
    cell = next(cell for cell in manifest.cells if cell.name == "mtiny-b100-i20-c0-x1")
    capsys.readouterr()
    assert explain(tmp_path, cell.name, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    jobs = {job.key: job for job in manifest.jobs}
    assert report["axes"] == dict(cell.axes)
    assert report["varied"] == ["branch", "image_share"]
    assert [job["phase"] for job in report["jobs"]] == ["trunk", "trunk", "pretrain"] + ["finetune", "evaluate"] * 2
    assert all(job["config"] == dict(jobs[job["key"]].config) for job in report["jobs"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["mtiny-b5"], 2, "'mtiny-b5' is the beginning of 2 cells, such as mtiny-b50-i0-c0-x1, mtiny-b50-i20-c0-x1"),
        (["mtiny-b51-i0-c0-x1"], 1, "no cell or job 'mtiny-b51-i0-c0-x1'; did you mean mtiny-b50-i0-c0-x1"),
        (["small", "mtiny-b51-i0-c0-x1"], 1, "no cell or job 'mtiny-b51-i0-c0-x1'; did you mean mtiny-b50-i0-c0-x1"),
        (["other", "mtiny-b50-i0-c0-x1"], 1, "has no planned sweep 'other'; it holds small"),
        (["small"], 2, "give the CELL to explain, such as mtiny-b0-i0-c0-x1; `sweep list small` shows the 6"),
    ],
)
def test_what_cannot_be_found_is_told_in_one_line(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path)
    capsys.readouterr()
    assert explain(tmp_path, *words) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_a_cell_of_two_sweeps_asks_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    plan(tmp_path, edited(("name: small", "name: twin")))
    capsys.readouterr()
    assert explain(tmp_path, "mtiny-b50-i0-c0-x1") == 2
    told = "is in several sweeps: small, twin; name one: `sweep explain small mtiny-b50-i0-c0-x1`"
    assert told in capsys.readouterr().err
    assert explain(tmp_path, "twin", "mtiny-b50-i0-c0-x1") == 0
    capsys.readouterr()
    assert explain(tmp_path, "mtiny-b50-i0-c0-x1", "--sweep", "twin") == 0  # as it was written before
    told = "--sweep is not needed any more: `sweep explain twin mtiny-b50-i0-c0-x1`"
    assert told in capsys.readouterr().err


def test_several_cells_are_explained_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path)
    capsys.readouterr()
    assert explain(tmp_path, "small", "mtiny-b0-*", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["cell"] for each in told["explanations"]] == ["mtiny-b0-i0-c0-x1", "mtiny-b0-i20-c0-x1"]


def test_an_empty_store_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, "x") == 1
    assert "has no planned sweep 'x'; there is no such folder" in capsys.readouterr().err


def test_slurms_last_answer_for_a_job_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = plan(tmp_path)
    store, cell = Store(tmp_path / "store"), manifest.cells[0]
    refuse(store, cell.pretrain)
    capsys.readouterr()
    assert explain(tmp_path, cell.name) == 0
    shown = capsys.readouterr().out.partition("not sent, as Slurm said:\n")[2].splitlines()[0].split()
    assert shown[0] == cell.pretrain
    assert shown[3:] == ["no", "such", "nodes;", "lower", "cpus"]
    assert explain(tmp_path, cell.name, "--json") == 0
    found = {job["key"]: job.get("refusal") for job in json.loads(capsys.readouterr().out)["jobs"]}
    assert found.pop(cell.pretrain) == {
        "text": "no such nodes", "advice": "lower cpus", "when": 1_790_000_000.0, "kind": RefusalKind.INVALID.value
    }  # fmt: skip
    assert set(found.values()) == {None}
    write_json(store.locate_run("pretrain", cell.pretrain).result, {"format": 1, "key": cell.pretrain, "files": {}})
    assert explain(tmp_path, cell.name) == 0
    assert "as Slurm said" not in capsys.readouterr().out


def test_status_and_doctor_say_how_many_jobs_slurm_would_not_take_and_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = plan(tmp_path)
    refuse(Store(tmp_path / "store"), *(job.key for job in manifest.jobs[:3]))
    capsys.readouterr()
    where = ("--store", str(tmp_path / "store"))
    assert main(["status", "small", *where]) == 0
    shown = capsys.readouterr().out
    assert "not sent\n  3 no such nodes; lower cpus (last asked " in shown
    assert main(["status", "small", "--json", *where]) == 0
    (row,) = json.loads(capsys.readouterr().out)["not_sent"]
    assert row == {
        "message": "no such nodes; lower cpus", "jobs": 3, "kind": "invalid", "last_asked": 1_790_000_000.0
    }  # fmt: skip
    for words in (("small",), ()):
        main(["doctor", *words, "--json", *where])
        checks = json.loads(capsys.readouterr().out)["checks"]
        (found,) = [check for check in checks if check["check"] == "refused"]
        assert found["text"].startswith("sweep small: 3 jobs not sent, as of ")
        assert found["text"].endswith(": no such nodes")
        assert found["advice"] == "lower cpus"


def refuse(store: Store, *keys: str) -> None:
    """Leaves Slurm's answer for these jobs, as a round would."""
    answer = Refusal(text="no such nodes", advice="lower cpus", when=1_790_000_000.0, kind=RefusalKind.INVALID)
    update_refusals(store, "small", dict.fromkeys(keys, answer), settled=(), planned=keys)
