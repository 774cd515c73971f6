"""`sweep list` as a user meets it, with real processes."""

import json

import pytest

from jobs.store.paths import Store
from sweep.cli import main
from tests.jobs import toy
from tests.sweep.toy_commands import sweep

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_sweeps_and_cells_are_listed_with_what_is_done(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", cells=["x"]), toy.toy_job("b", cells=["y"], fail="data")])
    toy.plan(store, [toy.toy_job("c", cells=["z"])], sweep="other")
    assert sweep(store, "submit") == 1
    capsys.readouterr()
    assert main(["list", "--json", "--store", str(store.root)]) == 0
    told = {each["sweep"]: each for each in json.loads(capsys.readouterr().out)["sweeps"]}
    assert {name: (each["state"], each["jobs"]) for name, each in told.items()} == {
        "toy": ("failed", 2), "other": ("ready", 1),
    }  # fmt: skip
    assert told["toy"]["changed"] >= told["other"]["changed"] > 0
    assert main(["list", "--store", str(store.root)]) == 0
    printed = capsys.readouterr()
    assert [line.split()[:5] for line in printed.out.splitlines()[2:]] == [
        ["other", "ready", "0", "of", "1"], ["toy", "failed", "1", "of", "2"],
    ]  # fmt: skip
    assert printed.err.startswith("next: `sweep status other")


def test_an_empty_store_says_what_to_do(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(store.root)]) == 1
    assert "holds no planned sweep; plan one with `sweep plan FILE`" in capsys.readouterr().err
    store.sweeps.mkdir(parents=True)
    assert main(["list", "--store", str(store.root)]) == 1
    toy.plan(store, [toy.toy_job("a")])
    store.locate_sweep("toy").manifest.write_text("damaged")
    assert main(["list", "--store", str(store.root)]) == 1
    assert "manifest.jsonl" in capsys.readouterr().err
