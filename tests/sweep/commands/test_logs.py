"""`sweep logs` as a user meets it, with real processes."""

import pytest

from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.toy_commands import PATIENCE_SECONDS, beside, sweep, wait_until_it_works

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_logs_shows_the_job_that_matters(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        toy.toy_job("a", cells=["x"]),
        toy.toy_job("b", cells=["y"], fail="raise"),
        toy.toy_job("c", "a", cells=["x"]),
    ]
    toy.plan(store, jobs)
    assert sweep(store, "logs") == 1
    assert "none of these 3 jobs has started" in capsys.readouterr().err
    sweep(store, "submit")
    capsys.readouterr()
    assert sweep(store, "logs") == 0  # the failed one
    printed = capsys.readouterr()
    assert "RuntimeError" in printed.out
    assert printed.err == f"{toy.run_of(store, jobs[1]).locate_attempt('local-0002').log}\n"
    assert sweep(store, "logs", "a", "-f") == 0
    assert capsys.readouterr().out == "starts at step 0\n"
    assert sweep(store, "logs", "x", "--path") == 0  # the one that started last
    assert capsys.readouterr().out == f"{toy.run_of(store, jobs[2]).locate_attempt('local-0001').log}\n"


def test_logs_follows_a_live_attempt_to_its_end(store: Store) -> None:
    job = toy.toy_job("a", steps=20, step_seconds=0.03, last_words="the last words")
    toy.plan(store, [job])
    with beside(store, "submit"):
        wait_until_it_works(store, job)
        with beside(store, "logs", "a", "--follow") as reader:
            out, _ = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out == "starts at step 0\nthe last words\n"
