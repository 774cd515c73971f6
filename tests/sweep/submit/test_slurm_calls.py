"""How a round calls a real cluster's programs: how often, with which scripts, and on which of several clusters."""

import itertools
import json
import os
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes.recorded_programs import RecordedCall, Recorder, record_programs
from tests.slurm_lab.slurm_toy import ToySweep, drain, resume

SEPARATOR = re.compile(r"^=+ call \d+ of \d+: \d+ \S+ jobs?, (\S+)\n(.*)\n-+ script\n", re.MULTILINE)


@pytest.fixture
def toys(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToySweep:
    """Twelve jobs on a cluster that does not start any."""
    drain(slurm)
    return ToySweep(slurm, tmp_path, toy.small_graph(), monkeypatch)


@pytest.fixture
def recorder(toys: ToySweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return record_programs(tmp_path, monkeypatch)


def test_a_round_without_news_asks_the_queue_the_accounting_and_two_other_programs(
    toys: ToySweep, recorder: Recorder
) -> None:
    toys.sent()
    first = recorder.count()
    assert first["sacctmgr"] == 4
    toys.tick()
    calls = recorder.take()
    assert Counter(call.words[0] for call in calls) == {"squeue": 1, "sacct": 1, "scontrol": 1, "sinfo": 1}, calls
    told = toys.sweep("submit").err  # everything waits in the queue: nothing is left to be sent
    assert "from cron retries what fails and renews tables and report; see" in told
    recorder.take()
    assert toys.sweep("status", "--fresh").code == 0
    assert recorder.count() == {"squeue": 1, "sacct": 1}


def test_status_shows_what_ones_own_commands_did_to_the_queue_though_answers_are_kept(
    toys: ToySweep, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", os.environ["SWEEP_SLURM_PATIENCE"].replace("cache=0", "cache=600"))
    number = len(toys.jobs)
    for command, state in (("submit", "queued"), ("cancel", "cancelled"), ("resume", "queued"), ("tick", "queued")):
        toys.sweep(command, *(["--no-results"] if command == "tick" else []))
        recorder.take()
        shown = toys.sweep("status", "--json").json
        assert (shown["states"][state], shown["asked"], shown["answer_age_seconds"]) == (number, [], 0.0), command
        assert recorder.count()["squeue"] == 1, command
        kept = toys.sweep("status", "--json").json
        assert (kept["states"], recorder.count()["squeue"]) == (shown["states"], 0), command
        assert kept["answer_age_seconds"] > 0, command


def test_what_a_site_says_of_itself_is_asked_again_on_demand_when_it_is_old_and_when_it_changes(
    toys: ToySweep, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.tick()
    recorder.take()
    toys.sweep("tick", "--no-results", "--fresh")
    assert recorder.count()["sacctmgr"] == 4
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", f"{os.environ['SWEEP_SLURM_PATIENCE']} site=0")
    toys.tick()
    assert recorder.count()["sacctmgr"] == 4
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", os.environ["SWEEP_SLURM_PATIENCE"].replace(" site=0", ""))
    toys.tick()
    assert recorder.count()["sacctmgr"] == 0
    os.utime(os.environ["SLURM_CONF"])
    toys.tick()
    assert recorder.count()["sacctmgr"] == 4


def test_a_refusal_makes_the_next_round_ask_again_what_is_older_than_an_hour(
    toys: ToySweep, recorder: Recorder, slurm: Lab
) -> None:
    toys.tick()
    (kept,) = toys.store.site.iterdir()
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "asked_at": content["asked_at"] - 4000}))
    recorder.take()
    toys.sweep("cancel")
    slurm.output("scontrol", "update", "partition=main", "state=inactive")
    try:
        toys.sweep("resume")
    finally:
        slurm.output("scontrol", "update", "partition=main", "state=up")
    assert recorder.count()["sacctmgr"] == 0
    toys.tick()
    assert recorder.count()["sacctmgr"] == 4


def test_scripts_are_shown_as_sbatch_then_gets_them(
    toys: ToySweep, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_batches_alike(monkeypatch)
    shown = toys.sweep("submit", "--dry-run", "--scripts")
    name_batches_alike(monkeypatch)
    as_json = toys.sweep("submit", "--dry-run", "--scripts", "--json").json
    assert not [call for call in recorder.take() if is_submission(call)]
    name_batches_alike(monkeypatch)
    toys.sent()
    sent = [call for call in recorder.take() if is_submission(call)]
    names = {batch.name: batch.id for batch in toys.notes().batches.values()}

    parts = SEPARATOR.split(shown.out)
    assert parts[0] == ""
    found = list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    assert len(found) == len(sent) > 3
    for (name, line, script), call, row in zip(found, sent, as_json["calls"], strict=True):
        words = [fill_in_ids(word, names) for word in shlex.split(line)]
        assert tuple(words) == call.words
        assert script == call.script == row["script"]
        assert (row["name"], row["arguments"]) == (name, shlex.split(line))
        assert set(row["keys"]) <= toys.by_key.keys()


def name_batches_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identities of batches, which are random, begin anew."""
    numbers = itertools.count(1)
    monkeypatch.setattr("jobs.slurm.batches.secrets.token_hex", lambda size: f"{next(numbers):0{2 * size}x}")


def is_submission(call: RecordedCall) -> bool:
    return call.words[0] == "sbatch" and "--test-only" not in call.words


def fill_in_ids(word: str, names: dict[str, str]) -> str:
    """A dependency with the ids that were not known before; the other words as they are."""
    if word.startswith("--dependency="):
        for name, job_id in names.items():
            word = word.replace(name, job_id)
    return word


def test_scripts_are_only_for_what_goes_to_slurm(toys: ToySweep) -> None:
    assert "add --dry-run" in toys.sweep("submit", "--scripts").err
    assert "--backend slurm" in toys.sweep("submit", "--dry-run", "--scripts", "--backend", "local").err


def test_a_chosen_cluster_is_named_to_every_program_and_remembered(
    toys: ToySweep, recorder: Recorder, slurm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = read_cluster_name(slurm)
    recorder.take()
    monkeypatch.setenv("SLURM_CLUSTERS", own)
    assert toys.sent()[0] == 12
    assert set(list_clusters(recorder.take())) == {f"--clusters={own}"}
    assert {batch.cluster for batch in toys.notes().batches.values()} == {own}
    monkeypatch.delenv("SLURM_CLUSTERS")
    assert toys.sent("tick") == (0, 0)
    assert toys.sweep("status", "--fresh").code == 0
    assert set(list_clusters(recorder.take())) == {f"--clusters={own}"}
    told = toys.sweep("doctor", "--node-test", "--wait", "2")
    assert "the test job still waits after 2 s (PENDING, " in told.out
    asked = [call for call in recorder.take() if call.words[1:] != ("--version",)]
    assert set(list_clusters(asked)) == {f"--clusters={own}"}
    monkeypatch.setenv("SBATCH_CLUSTERS", "elsewhere")
    refused = toys.sweep("tick", "--no-results")
    assert refused.code == 1
    assert f"SBATCH_CLUSTERS=elsewhere, but this sweep's jobs are on cluster {own}" in refused.err
    assert f"but this sweep's jobs are on cluster {own}" in toys.sweep("doctor").out
    monkeypatch.delenv("SBATCH_CLUSTERS")
    resume(slurm)
    toys.finish()
    toys.assert_as_undisturbed()


def test_jobs_on_the_default_cluster_are_found_when_it_is_then_named(
    toys: ToySweep, slurm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.sent()
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    refused = toys.sweep("tick", "--no-results")
    assert refused.code == 1
    assert "this sweep's jobs are on the default cluster" in refused.err
    own = read_cluster_name(slurm)
    monkeypatch.setenv("SLURM_CLUSTERS", own)
    assert toys.sent("tick") == (0, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("elsewhere", "Slurm cannot be asked about cluster elsewhere (SLURM_CLUSTERS): "),
        ("one,two", "SLURM_CLUSTERS=one,two names several clusters"),
        ("all", "SLURM_CLUSTERS=all names several clusters"),
        ("--mem=1", "SLURM_CLUSTERS='--mem=1' is not the name of a cluster"),
    ],
)
def test_a_cluster_that_cannot_be_chosen_is_refused_in_one_line(
    toys: ToySweep, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", value)
    for command in (("submit",), ("tick", "--no-results"), ("submit", "--dry-run")):
        told = toys.sweep(*command)
        assert told.code == 1
        assert words in told.err, told.err
        assert len(told.err.splitlines()) == 1
    assert toys.queue() == {}


def read_cluster_name(lab: Lab) -> str:
    """As accounting knows the cluster of the tests."""
    lines = lab.output("scontrol", "show", "config").splitlines()
    return next(line.partition("=")[2].strip() for line in lines if line.startswith("ClusterName "))


def list_clusters(calls: list[RecordedCall]) -> list[str]:
    """The cluster that each call names; sacctmgr is asked about one by its own words."""
    others = [call.words for call in calls if call.words[0] != "sacctmgr"]
    return [next((word for word in words if word.startswith("--clusters=")), "none") for words in others]
