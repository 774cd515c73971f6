"""A store that a later version has written to: this one shows all that it knows of it, and sends nothing anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.local.runner import StopRequest
from jobs.reconcile.accounting import AccountingRecord
from jobs.slurm.batch_ledger import BatchLedger, read_batch_history
from jobs.slurm.batches import SlurmBatch
from jobs.store.ledger import Ledger, collect_user_requests, read_events
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.cli import main
from sweep.kept_limits import update_limits
from tests.jobs import toy

LATER_CLASS, LATER_EVENT = "melted", {"event": "moved", "key": "a-pre", "time": 1.0, "to": {"cluster": "b"}}
OF_A_RUN = {"start.json", "exit.json", "error.json", "job.json", "result.json", "record.json"}
KINDS = {"manifest.jsonl", "limits.json", *OF_A_RUN}


def add_fields(content: Any) -> Any:
    """A field more in every object, a higher format, and failure classes that are not known here."""
    if isinstance(content, list):
        return [add_fields(each) for each in content]
    if not isinstance(content, dict):
        return content
    grown = {name: value if name in NAMED_MAPPINGS else add_fields(value) for name, value in content.items()}
    for name in ("failure", "class"):
        if grown.get(name):
            grown[name] = LATER_CLASS
    if "format" in grown:
        grown["format"] += 9  # some files have several formats already
    return {**grown, "added_later": {"nested": [1, None, "text"]}}


NAMED_MAPPINGS = {"files", "data", "config", "axes", "parents", "options", "settings"}
"""Objects whose names are no fields: files, data sets, settings."""


def rewrite(path: Path) -> None:
    """The file as a later version would have written it."""
    if path.suffix == ".json":
        path.write_text(json.dumps(add_fields(json.loads(path.read_text()))))
        return
    lines = [json.dumps(add_fields(json.loads(line))) for line in path.read_text().splitlines()]
    if path.parent.name == "ledger":
        lines.append(json.dumps(LATER_EVENT))
    if path.name == "manifest.jsonl":
        lines.append(json.dumps({"record": "site", "name": "b"}))
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four jobs have run, one of them failed; one is cancelled."""
    made = Store(tmp_path / "store")
    jobs = [
        toy.toy_job("trunk", phase="trunk", resources=Resources(time_minutes=5)),
        toy.toy_job("a-pre", "trunk", cells=["a"]),
        toy.toy_job("a-ft", "a-pre", phase="finetune", cells=["a"], fail="code"),
        toy.toy_job("b-pre", "trunk", cells=["b"]),
        toy.toy_job("c-pre", "trunk", cells=["c"]),
    ]
    toy.plan(made, jobs)
    update_limits(made.locate_sweep(toy.SWEEP).limits, {"max_queued": 7})
    assert main(["cancel", toy.SWEEP, "c", "--store", str(made.root)]) == 0
    toy.local_run(made, jobs, wanted={"trunk", "a-pre", "a-ft", "b-pre"}).run(StopRequest())
    return made


def show(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    main([words[0], toy.SWEEP, *words[1:], "--store", str(store.root), "--json"])
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def count_states(report: dict[str, Any]) -> dict[str, int]:
    """A failure of a class that is not known is tried again: of such a job only that it is no other's state."""
    states: dict[str, int] = dict(report["states"])
    return {**states, "failed": states["failed"] + states["interrupted"], "interrupted": 0}


def list_stored(store: Store) -> list[Path]:
    """Every JSON file of the store but what the toy stage alone writes and reads."""
    found = [*store.root.rglob("*.json"), *store.root.rglob("*.jsonl")]
    return [path for path in found if path.name not in {"model.json", "executions.jsonl"}]


def test_what_a_later_version_wrote_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = show(store, capsys, "status")
    files = list_stored(store)
    assert {path.name for path in files} >= KINDS
    assert any(path.parent.name == "ledger" for path in files)
    for path in files:
        rewrite(path)
    after = show(store, capsys, "status")
    assert count_states(after) == count_states(before)
    assert after["limits"] == before["limits"]
    for words in (["status", toy.SWEEP], ["logs", toy.SWEEP, "a"]):
        assert main([*words, "--store", str(store.root)]) == 0
    assert "melted" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted({*KINDS, "ledger"}))
def test_each_kind_of_file_is_shown_alone(store: Store, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    before = count_states(show(store, capsys, "status"))
    for path in list_stored(store):
        if kind in {path.name, path.parent.name}:
            rewrite(path)
    assert count_states(show(store, capsys, "status")) == before


def test_a_plan_of_a_later_version_is_not_carried_out(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(store.locate_sweep(toy.SWEEP).manifest)
    assert main(["submit", toy.SWEEP, "--store", str(store.root), "--dry-run"]) == 1
    assert "of a later version" in capsys.readouterr().err


def test_limits_of_a_later_version_are_not_taken_for_none(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(store.locate_sweep(toy.SWEEP).limits)
    assert main(["submit", toy.SWEEP, "--store", str(store.root), "--dry-run"]) == 1
    assert "use the version of sweep that wrote it" in capsys.readouterr().err


def test_results_of_a_later_version_are_not_made_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for path in store.root.rglob("result.json"):
        rewrite(path)
    assert show(store, capsys, "submit", "--dry-run")["actions"] == []


def write_batches(folder: Path) -> None:
    """A batch of two jobs: one has ended, one was taken out of the queue and kept."""
    name = "sw-0123456789ab-pretrain-toy"
    batch = SlurmBatch(name=name, phase="pretrain", tasks={0: "a", 3: "b"}, resources=Resources())
    ledger = BatchLedger(Ledger(folder))
    ledger.write_intent(batch, "me")
    ledger.write_sent(batch.name, "7")
    ledger.write_withdrawn({batch.name: ["a", "b"]})
    ledger.write_kept({batch.name: ["b"]})
    record = AccountingRecord(
        id="7_0", batch=batch.name, key="a", state="FAILED", failure=FailureClass.CODE, submitted_at=5.0, ended_at=9.0
    )
    ledger.write_ended([record])


@pytest.mark.parametrize("change", [lambda _path: None, rewrite], ids=["as written", "of a later version"])
def test_batches_of_a_later_version_are_known(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = tmp_path / "ledger"
    write_batches(folder)
    for path in folder.iterdir():
        change(path)
    history = read_batch_history(folder)
    [known] = history.batches.values()
    assert (known.id, set(known.withdrawn), known.tasks) == ("7", {"a"}, {0: "a", 3: "b"})
    [record] = history.accounting_records["a"]
    assert record.failure in {FailureClass.CODE, FailureClass.UNKNOWN}
    assert (record.state, record.ended_at) == ("FAILED", 9.0)
    assert collect_user_requests(read_events(folder)).cancelled == {}
