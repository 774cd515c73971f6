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
    assert "runs on this machine; limits of the queue hold on Slurm only" in capsys.readouterr().err
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


def test_what_goes_first_lasts_until_it_is_lifted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, toy.small_graph())
    assert sweep(store, "submit", "--first", "b", "--first", "a-ev2", "--cpus", "1", "--dry-run") == 0
    assert sweep(store, "limits") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no limits"  # nothing of a dry run lasts
    assert sweep(store, "limits", "--first", "b") == 0
    assert capsys.readouterr().out.startswith("--first b  (")
    assert sweep(store, "submit", "--cpus", "1") == 0  # obeys it
    began = sorted((toy.executions(store, job)[0]["time"], job.key) for job in toy.small_graph())
    assert {key[0] for _, key in began[2:7]} == {"b"}
    assert sweep(store, "limits", "--first", "none") == 0
    assert "no limits" in capsys.readouterr().out
    assert sweep(store, "limits", "--first", "nobody") == 1
    assert "has no cell or job 'nobody'" in capsys.readouterr().err
