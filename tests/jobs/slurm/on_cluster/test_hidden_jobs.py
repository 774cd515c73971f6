"""What a cluster hides from a second person is not taken for gone: two users, neither of them an operator of Slurm."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs import toy
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import Told, ToySweep, drain, resume

ALICE, BOB = "games", "news"
"""Users that every Debian has."""
HIDING = "PrivateData=jobs,usage,users"


def find_python() -> str:
    """An interpreter of this version that every user may run; skips the test where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root can act for two other users")
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in filter(None, (sys.executable, shutil.which(own, path="/usr/bin:/usr/local/bin"))):
        try:
            if run_as(BOB, python, "-c", "import pydantic, yaml, sweep.cli", env=build_environment()).returncode == 0:
                return python
        except PermissionError:
            continue
    pytest.skip(f"no {own} that another user may run together with this checkout")


def build_environment() -> dict[str, str]:
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(toy.ROOT), *packages])}


def run_as(user: str, *words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    entry = pwd.getpwnam(user)
    return subprocess.run(
        words, env=env, cwd="/", user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], umask=0, check=False,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def python() -> str:
    return find_python()


@pytest.fixture(scope="module")
def hiding(make_lab: Callable[[str, Options], Lab], python: str) -> Lab:
    """A cluster that shows nobody the jobs of others, with two users."""
    assert python
    return make_lab("hide", Options(nodes=2, users=(ALICE, BOB), extra=HIDING))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Open to everybody, as pytest's own folders are not."""
    made = Path(tempfile.mkdtemp(prefix="sw-hidden-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


class TwoPeople(ToySweep):
    """A toy sweep in a store that all may write, and commands of either person."""

    def __init__(self, lab: Lab, folder: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
        lab.reset()
        for name, value in lab.env.items():
            monkeypatch.setenv(name, value)
        stage = (python, *toy.COUNTING_STAGE[1:])
        super().__init__(lab, folder, [toy.toy_job(name) for name in "abc"], monkeypatch, stage=stage)
        self.python = python
        self.open_store()

    def open_store(self) -> None:
        for path in [self.store.root, *self.store.root.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)

    def tell(self, user: str, command: str, *options: str) -> Told:
        passed = {name: os.environ[name] for name in os.environ if name.startswith(("SWEEP_", "SLURM_CONF"))}
        words = (self.python, "-m", "sweep", command, toy.SWEEP, *options, "--store", str(self.store.root))
        done = run_as(user, *words, env=build_environment() | passed)
        assert "Traceback" not in done.stderr, done.stderr
        return Told(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def people(hiding: Lab, folder: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> TwoPeople:
    return TwoPeople(hiding, folder, python, monkeypatch)


@pytest.fixture
def hiding_records(hiding: Lab) -> Iterator[None]:
    """slurmdbd, too, shows nobody the records of others."""
    path = hiding.layout.slurmdbd_conf
    before = path.read_text()
    path.write_text(f"{before}PrivateData=jobs,usage\n")
    restart_database(hiding)
    yield
    path.write_text(before)
    restart_database(hiding)


def restart_database(lab: Lab) -> None:
    lab.stop("dbd")
    lab.start("dbd")
    wait_for("slurmdbd to answer", lambda: lab.run("sacctmgr", "show", "qos").returncode == 0)


def test_a_second_person_does_not_send_again_what_a_hidden_queue_holds(people: TwoPeople) -> None:
    drain(people.lab)
    assert people.tell(ALICE, "submit", "--json").json["sent"] == 3
    for _ in range(2):
        told = people.tell(BOB, "tick", "--json", "--no-results")
        assert (told.json["sent"], told.json["states"]["unknown"]) == (0, 3)
        assert f"3 jobs are {ALICE}'s and that queue is hidden from you (PrivateData): ask {ALICE} to run" in told.err
    assert len(people.queue()) == 3
    status = people.tell(BOB, "status", "--fresh").out
    assert f"3 unknown: sent by {ALICE}, whose jobs are hidden from you (PrivateData)" in status
    assert f"ask {ALICE} to run `sweep tick toy`" in status
    doctor = people.tell(BOB, "doctor").out
    assert "other people's jobs are hidden from you (PrivateData=jobs,usage,users)" in doctor
    assert f"3 jobs are {ALICE}'s" in doctor
    cancelled = people.tell(BOB, "cancel", "c")
    assert cancelled.code == 1
    assert f"jobs of {ALICE} are hidden from you (PrivateData)" in cancelled.err
    people.tell(ALICE, "resume", "--cells", "c", "--no-submit")
    assert "hidden from you" not in people.tell(ALICE, "status", "--fresh").out
    explained = people.sweep("status", "--fresh").out  # root sees everything
    assert "hidden from you" not in explained
    resume(people.lab)
    wait_for("the queue to drain", lambda: people.queue() == {}, seconds=60)
    assert json.loads(people.tell(BOB, "tick", "--json", "--no-results").out)["complete"]
    people.assert_as_undisturbed()


def test_a_failed_job_of_a_hidden_queue_is_retried_by_whoever_may_see_it(people: TwoPeople) -> None:
    """slurmdbd shows its final record, so its end is known to all."""
    toy.plan(people.store, [toy.toy_job("a", fail="exit", fail_at=1, fail_times=1)], backend="slurm")
    people.open_store()
    people.tell(ALICE, "submit")
    wait_for("the queue to drain", lambda: people.queue() == {}, seconds=60)
    wait_for("its record", lambda: people.tell(BOB, "tick", "--json", "--no-results").json["sent"] == 1, seconds=60)


@pytest.mark.usefixtures("hiding_records")
def test_records_of_a_hidden_user_are_neither_an_end_nor_hours_until_that_user_notes_them(people: TwoPeople) -> None:
    drain(people.lab)
    people.tell(ALICE, "submit")
    people.lab.output("scancel", people.ids()["a"][0])
    resume(people.lab)
    wait_for("the queue to drain", lambda: people.queue() == {}, seconds=60)
    told = people.tell(BOB, "tick", "--json")
    assert (told.json["sent"], told.json["states"]["unknown"], told.json["states"]["done"]) == (0, 1, 2)
    hours = people.tell(BOB, "results", "--no-figures").out
    assert f"are not Slurm's: records of {ALICE} are hidden from you (PrivateData)" in hours

    def noted() -> bool:
        """The end that bob may not see, and the hours of all three; the accounting has its rows at times of its own."""
        ended = people.tell(ALICE, "tick", "--json").json["states"]["cancelled"] == 1
        return ended and "are not Slurm's" not in people.tell(BOB, "results", "--no-figures").out

    wait_for("her ticks to note them", noted, seconds=60)
    told = people.tell(BOB, "tick", "--json")
    assert (told.json["sent"], told.json["states"]["cancelled"]) == (0, 1)


def test_a_hidden_job_is_sent_again_only_where_it_is_named(people: TwoPeople) -> None:
    drain(people.lab)
    people.tell(ALICE, "submit")
    told = people.tell(BOB, "resume")
    assert "0 jobs have a new budget" in told.err
    assert len(people.queue()) == 3
    people.lab.output("scancel", "--user", ALICE)
    assert people.tell(BOB, "resume", "--cells", "a").code == 0
    assert len(people.queue()) == 1
