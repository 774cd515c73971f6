"""Two people, one store: real users of this machine on a real cluster, whatever their umask is.

alice and bob are in one group, carol is not.
"""

import json
import os
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.store.ledger import EventKind, read_events
from jobs.store.paths import Store
from tests.jobs import toy
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.people import ROOT, Answer, Person, build_python_path, make_open_folder, make_people
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import PATIENCE, drain, expected_values, resume


@dataclass(frozen=True)
class SharedStore:
    """A store of alice's with a sweep of toy jobs in it."""

    lab: Lab
    alice: Person
    bob: Person
    carol: Person
    store: Store
    group: str

    def sweep(self, person: Person, command: str, *options: str) -> Answer:
        return person.sweep(command, toy.SWEEP, *options, "--store", str(self.store.root))

    def make(self, mode: int) -> None:
        """The root, as `mkdir`, `chgrp` and `chmod` of alice's make it."""
        root = str(self.store.root)
        self.alice.do("mkdir", "-p", root)
        self.alice.do("chgrp", self.group, root)
        self.alice.do("chmod", f"{mode:o}", root)

    def plan(self, jobs: list[Job]) -> None:
        """By alice, who writes what `sweep plan` does."""
        self.alice.do(self.alice.python, "-c", WRITE_PLAN, str(self.store.root), describe_jobs(jobs))

    def finish(self, *people: Person, seconds: float = 90) -> None:
        """Ticks of all these people in turn until every job is done."""
        turns = iter(range(10**6))

        def done() -> bool:
            person = people[next(turns) % len(people)]
            told = self.sweep(person, "tick", "--json", "--no-results")
            assert told.code == 0, (person.name, told)
            return bool(told.json["complete"])

        wait_for("ticks to come to an end", done, seconds=seconds, every=0.3)

    def tick_until(self, person: Person, what: str, condition: Callable[[], bool]) -> None:
        """Ticks of that person alone, so that it is theirs to send what can be sent."""

        def ticked() -> bool:
            told = self.sweep(person, "tick", "--json", "--no-results")
            assert told.code == 0, (person.name, told)
            return condition()

        wait_for(what, ticked, seconds=90, every=0.3)

    def states(self) -> dict[str, int]:
        told = self.sweep(self.alice, "status", "--fresh", "--json")
        return {state: number for state, number in told.json["states"].items() if number}


def describe_jobs(jobs: list[Job]) -> str:
    """For `WRITE_PLAN`."""
    return json.dumps([{"names": [job.key, *job.parents], "config": dict(job.config)} for job in jobs])


WRITE_PLAN = """
import json, sys
from pathlib import Path
from jobs.store.paths import Store
from jobs.store.sharing import adopt_group_umask
from tests.jobs import toy
root = Path(sys.argv[1])
with adopt_group_umask(root):
    jobs = [toy.toy_job(*each["names"], **each["config"]) for each in json.loads(sys.argv[2])]
    toy.plan(Store(root), jobs, backend="slurm")
"""


@pytest.fixture(scope="module")
def people(worker_id: str) -> Iterator[dict[str, Person]]:
    suffix = f"-{worker_id}"
    with make_people(suffix, ["alice", "bob"], ["carol"]) as made:
        yield made


@pytest.fixture(scope="module")
def people_lab(make_lab: Callable[[str, Options], Lab], people: dict[str, Person]) -> Lab:
    return make_lab("people", Options(nodes=2, users=tuple(person.name for person in people.values())))


@pytest.fixture
def shared(people_lab: Lab, people: dict[str, Person]) -> Iterator[SharedStore]:
    people_lab.reset()
    with make_open_folder() as folder:
        env = {
            **{name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}},
            **people_lab.env,
            "PYTHONPATH": build_python_path(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SWEEP_SLURM_PATIENCE": PATIENCE,
            "SWEEP_TAKEOVER_SECONDS": "3",
            "OMP_NUM_THREADS": "1",
        }
        stage = f"{people['alice'].python} -S {ROOT / 'tests/jobs/counting_stage.py'}"
        env["SWEEP_STAGE_PROGRAM"] = stage
        alice, bob, carol = (replace(people[name], env=env) for name in ("alice", "bob", "carol"))
        (folder / "of-alice").mkdir()
        shutil.chown(folder / "of-alice", alice.name, alice.groups[0])
        yield SharedStore(people_lab, alice, bob, carol, Store(folder / "of-alice" / "store"), alice.groups[1])
        people_lab.reset()


def check_group_bits(root: Path, group: str) -> None:
    """All files and folders are the group's to read and write, and folders hand the group on."""
    found = [root, *root.rglob("*")]
    wrong = [str(path) for path in found if path.group() != group or not path.stat().st_mode & stat.S_IWGRP]
    assert wrong == []
    assert [str(path) for path in found if path.is_dir() and not path.stat().st_mode & stat.S_ISGID] == []


@pytest.mark.parametrize(("of_alice", "of_bob"), [(0o022, 0o022), (0o077, 0o077), (0o022, 0o077)])
def test_two_people_finish_a_sweep_from_plan_to_tables_whatever_their_umask_is(
    of_alice: int, of_bob: int, shared: SharedStore
) -> None:
    shared = replace(shared, alice=shared.alice.with_umask(of_alice), bob=shared.bob.with_umask(of_bob))
    shared.make(0o2770)
    jobs = [toy.toy_job("a", gate_at=2), toy.toy_job("b", "a", phase="pretrain")]
    shared.plan(jobs)
    assert shared.sweep(shared.alice, "submit").code == 0
    run = toy.run_of(shared.store, jobs[0])
    wait_for("a to be at its gate", lambda: toy.count(shared.store, jobs[0], "step") == 2)
    assert shared.sweep(shared.alice, "cancel").code == 0
    shared.alice.do("touch", str(run.root / "gate_open"))
    assert shared.sweep(shared.bob, "resume").code == 0  # bob's job goes on in the folder of alice's attempt
    shared.tick_until(shared.bob, "bob's job to begin", lambda: len(list(run.attempts.iterdir())) == 2)
    shared.finish(shared.bob, shared.alice)
    told = [shared.sweep(person, "results", "--no-figures") for person in (shared.alice, shared.bob, shared.alice)]
    assert [each.code for each in told] == [0, 0, 0], told
    toy.assert_nothing_lost_or_doubled(shared.store, jobs, expected_values(jobs))
    shared.alice.do("rm", str(run.root / "gate_open"))  # this test's own
    owners = {path.owner() for path in (run.attempts).iterdir()}
    assert owners == {shared.alice.name, shared.bob.name}
    check_group_bits(shared.store.root, shared.group)
    assert re.search(r"^ok +sharing ", shared.sweep(shared.bob, "doctor").out, re.MULTILINE)


def test_default_acls_are_enough_without_the_group_of_the_folder(shared: SharedStore) -> None:
    shared.make(0o2770)
    group = shared.store.root.stat().st_gid
    nobody = 0xFFFFFFFF
    rows = [(0x01, 7, nobody), (0x04, 7, nobody), (0x08, 7, group), (0x10, 7, nobody), (0x20, 0, nobody)]
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    os.setxattr(shared.store.root, "system.posix_acl_default", content)
    shared.plan([toy.toy_job("a")])
    assert shared.sweep(shared.alice.with_umask(0o077), "submit").code == 0
    shared.finish(shared.bob.with_umask(0o077))
    check_group_bits(shared.store.root, shared.group)


def test_a_store_that_the_group_may_only_read_is_read_by_it_and_one_line_says_why_no_more(shared: SharedStore) -> None:
    shared.make(0o2750)
    shared.alice.do("chmod", "2750", str(shared.store.root))
    jobs = [toy.toy_job("a")]
    shared.plan(jobs)
    shared.finish(shared.alice)
    assert shared.sweep(shared.alice, "results", "--no-figures").code == 0
    told = shared.sweep(shared.bob, "status")
    assert told.code == 0
    assert told.line.startswith("next: `sweep results toy ")
    assert "100 %" in told.out
    for command in ("tick", "submit", "cancel"):
        told = shared.sweep(shared.bob, command)
        assert told.code == 1, command
        assert f"belongs to {shared.alice.name} (group {shared.group}, " in told.line, command
        assert f"to share the store, {shared.alice.name} runs `chmod -R g+rwX {shared.store.root} && find " in told.line
    told = shared.sweep(shared.bob, "results", "--no-figures")
    assert (told.code, told.err.count("\n")) == (1, 1)
    assert "permission denied" in told.line
    told = shared.sweep(shared.bob, "doctor")
    assert told.code == 1
    assert "permission denied" in told.out
    command = shared.sweep(shared.bob, "tick").line.split("`")[1]
    shared.alice.do("sh", "-c", command)
    assert shared.sweep(shared.bob, "tick").code == 0
    assert shared.sweep(shared.bob, "results", "--no-figures").code == 0


def test_files_of_an_earlier_time_without_the_groups_bits_are_named_by_doctor_and_by_the_failing_command(
    shared: SharedStore,
) -> None:
    shared.make(0o0750)
    shared.plan([toy.toy_job("a")])
    shared.finish(shared.alice)
    shared.alice.do("chmod", "2770", str(shared.store.root))  # shared too late
    told = shared.sweep(shared.bob, "doctor")
    assert told.code == 1
    assert f"group {shared.group} may write {shared.store.root}, and not" in told.out
    told = shared.sweep(shared.bob, "tick")
    assert told.code == 1
    assert shared.alice.name in told.line
    assert "is not in that group" in told.line or "to share the store" in told.line


def test_a_shared_root_that_does_not_hand_its_group_on_is_named_by_plan_and_doctor(shared: SharedStore) -> None:
    shared.make(0o0770)
    planned = shared.alice.sweep("plan", str(ROOT / "manifests" / "paper.yaml"), "--store", str(shared.store.root))
    assert planned.code == 0
    advice = f"chmod g+s {shared.store.root}"
    assert advice in planned.err
    told = shared.alice.sweep("doctor", "--store", str(shared.store.root))
    assert advice in told.out
    shared.alice.do("chmod", "g+s", str(shared.store.root))
    planned = shared.alice.sweep("plan", str(ROOT / "manifests" / "paper.yaml"), "--store", str(shared.store.root))
    assert advice not in planned.err


COMMANDS = ("status", "tick", "submit", "cancel", "resume", "results", "limits", "logs", "explain", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_third_person_outside_of_the_group_is_told_in_one_line(command: str, shared: SharedStore) -> None:
    shared.make(0o2770)
    shared.plan([toy.toy_job("a")])
    cells = ["a"] if command in {"logs", "explain"} else []
    told = shared.carol.sweep(command, toy.SWEEP, *cells, "--store", str(shared.store.root))
    assert told.code == 1
    assert "permission denied" in told.line.lower() or "belongs to" in told.line
    assert f"{shared.carol.name} is not in that group" in told.line


def test_a_running_job_of_another_person_is_cancelled_when_its_owner_ticks_and_not_before(shared: SharedStore) -> None:
    shared.make(0o2770)
    jobs = [toy.toy_job("a", gate_at=2), toy.toy_job("b", "a")]
    shared.plan(jobs)
    assert shared.sweep(shared.alice, "submit").code == 0
    wait_for("a to be at its gate", lambda: toy.count(shared.store, jobs[0], "step") == 2)
    alice, bob = shared.alice.name, shared.bob.name

    told = shared.sweep(shared.bob, "cancel", "--grace", "5")
    assert (told.code, told.out) == (1, "")
    assert f"2 jobs are noted as cancelled here, and 2 of them as {alice}'s go on" in told.line
    assert f"only {alice} or an operator can end them" in told.line
    assert shared.states() == {"running": 1, "queued": 1}
    for person, who in (
        (shared.bob, f"only {alice} (by `sweep tick toy`) or an operator can end it"),
        (shared.alice, "`sweep tick toy` ends it"),
    ):
        status = shared.sweep(person, "status", "--fresh").out
        assert f"1 job: cancel asked by {bob}, still running: {who}" in status
        assert f"1 job: cancel asked by {bob}, still queued: {who}" in status
    events = read_events(shared.store.locate_sweep(toy.SWEEP).ledger)
    assert [(each.by, each.key) for each in events if each.event is EventKind.CANCELLED] == [(bob, "a"), (bob, "b")]

    told = shared.sweep(shared.bob, "tick", "--no-results")
    assert told.code == 0, told.err  # it is no fault of his
    assert f"2 jobs of {alice} are to leave the queue: only {alice}" in told.err
    assert shared.states() == {"running": 1, "queued": 1}

    told = shared.sweep(shared.alice, "tick", "--no-results")
    assert told.code == 0, told.err
    assert "told 1 cancelled job that runs to save and stop" in told.err
    wait_for("both to be out", lambda: shared.states() == {"cancelled": 2}, every=0.3)
    assert toy.count(shared.store, jobs[0], "stopped") == 1
    assert "cancel asked" not in shared.sweep(shared.bob, "status", "--fresh").out

    shared.alice.do("touch", str(toy.run_of(shared.store, jobs[0]).root / "gate_open"))
    assert shared.sweep(shared.bob, "resume").code == 0
    shared.finish(shared.bob)
    toy.assert_nothing_lost_or_doubled(shared.store, jobs, expected_values(jobs))


def test_an_operator_cancels_the_jobs_of_others_at_once(shared: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.make(0o2770)
    drain(shared.lab)
    shared.plan([toy.toy_job("a")])
    assert shared.sweep(shared.alice, "submit").code == 0
    root = replace(shared.alice, name="root", groups=("root",))  # who owns this cluster
    told = shared.sweep(root, "cancel")
    assert told.code == 0, told.err
    assert shared.states() == {"cancelled": 1}
    resume(shared.lab)


def test_what_another_person_has_queued_and_nobody_wants_any_more_leaves_when_its_owner_ticks(
    shared: SharedStore,
) -> None:
    shared.make(0o2770)
    drain(shared.lab)
    shared.plan([toy.toy_job("a"), toy.toy_job("b")])
    assert shared.sweep(shared.alice, "submit").code == 0
    shared.plan([toy.toy_job("a")])
    told = shared.sweep(shared.bob, "tick", "--no-results")
    assert told.code == 0, told.err
    assert f"1 job of {shared.alice.name} is to leave the queue: only {shared.alice.name}" in told.err
    assert "took 1 out" not in told.err
    told = shared.sweep(shared.alice, "tick", "--no-results", "--json")
    assert (told.code, told.json["withdrawn"]) == (0, 1)
    assert "are to leave" not in shared.sweep(shared.bob, "tick", "--no-results").err
    resume(shared.lab)
