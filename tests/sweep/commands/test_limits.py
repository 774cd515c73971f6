"""`sweep limits` as a user meets it on a sweep of this machine."""

import time

import pytest

from jobs.store.paths import Store
from sweep.report.time_left import read_time_left
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.sweep.toy_commands import sweep

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_limits_of_a_queue_are_said_to_hold_on_slurm_only(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a")])
    assert sweep(store, "limits") == 0
    told = capsys.readouterr()
    assert told.out == "no limits\n"
    assert told.err.startswith("next: `sweep submit toy")
    assert sweep(store, "limits", "--max-queued", "2") == 0
    assert "runs on this machine; these limits hold on Slurm only" in capsys.readouterr().err
    assert sweep(store, "limits", "--backend", "slurm") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if not line.startswith("next: `sweep tick toy")] == []


def test_time_left_goes_by_the_kept_back_end(store: Store) -> None:
    toy.plan(store, [toy.toy_job("a"), toy.toy_job("b")])
    assert sweep(store, "submit", "--only", "a") == 0

    def tell_basis() -> str:
        stored = open_sweep(store.root, toy.SWEEP)
        return read_time_left(stored, stored.load_snapshot(), time.time()).basis

    assert "of this machine" in tell_basis()
    assert sweep(store, "limits", "--backend", "slurm") == 0
    assert tell_basis() == "nothing runs now, so nobody knows how many jobs would run at once"
