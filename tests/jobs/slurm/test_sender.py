import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.slurm.batch_ledger import BatchLedger, read_batch_history
from jobs.slurm.batches import SlurmBatch
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, SubmittedJob, UnknownSubmit
from jobs.slurm.script import LaunchSettings, parse_script_tasks
from jobs.slurm.sender import BatchSender
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.ledger import Ledger
from jobs.store.paths import Store
from tests.jobs.fake_clock import FakeClock

NO_NODES = SubmitRefusal(RefusalKind.INVALID, "Requested node configuration is not available")


@dataclass
class FakeClient:
    """Stands beside the protocol: takes arrays until `room` is used up, or gives the answers that it is told."""

    ledger: Path
    timeouts: SlurmTimeouts = field(default_factory=lambda: SlurmTimeouts(submit_interval_s=0.0))
    room: int = 10_000
    answers: list[Any] = field(default_factory=list)
    calls: list[Sequence[str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    asked: list[Sequence[str]] = field(default_factory=list)
    needs: str = ""
    """A node without which it takes nothing."""

    def query_request(self, options: Sequence[str]) -> Any:
        self.asked.append(options)
        return NO_NODES if self._lacks_nodes(options) else None

    def _lacks_nodes(self, options: Sequence[str]) -> bool:
        return any(word.startswith("--exclude=") and self.needs in word for word in options) and bool(self.needs)

    def submit(self, arguments: Sequence[str], script: str) -> Any:
        name = next(word.split("=")[1] for word in arguments if word.startswith("--job-name="))
        assert read_batch_history(self.ledger).batches[name].submit_unknown, "the intent was not on disk before sbatch"
        self.calls.append(arguments)
        tasks = parse_script_tasks(script)
        self.sizes.append(len(tasks))
        if self.answers:
            return self.answers.pop(0)
        if self._lacks_nodes(arguments):
            return NO_NODES
        if len(tasks) > self.room:
            return SubmitRefusal(RefusalKind.LIMIT, "QOSMaxSubmitJobPerUserLimit")
        self.room -= len(tasks)
        return SubmittedJob(str(100 + len(self.calls)))


def batch(name: str, number: int, **content: Any) -> SlurmBatch:
    tasks = {index: f"{name}{index}" for index in range(number)}
    identity = f"{ord(name):012x}"
    made = f"sw-{identity}-pretrain-toy"
    return SlurmBatch(name=made, phase="pretrain", tasks=tasks, resources=Resources(), **content)


def sender(tmp_path: Path, client: FakeClient, **changes: Any) -> BatchSender:
    options: dict[str, Any] = {
        "client": client,
        "ledger": BatchLedger(Ledger(client.ledger)),
        "launch": LaunchSettings(
            store=Store(tmp_path), sweep="toy", program=["x"], code=tmp_path / "c.zip", revision="r"
        ),
        "user": "me",
        "holds_submit_lock": lambda: True,
        "parents_known_until": float("inf"),
        "parents_known_for": float("inf"),
        **changes,
    }
    return BatchSender(**options)


@pytest.fixture
def client(tmp_path: Path) -> FakeClient:
    return FakeClient(tmp_path / "ledger")


def test_the_log_says_what_was_sent_and_why_no_more(
    tmp_path: Path, client: FakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "jobs.slurm.sender")
    client.room = 2
    report = sender(tmp_path, client).send([batch("a", 2), batch("b", 1)])
    own = [record for record in caplog.records if record.name == "jobs.slurm.sender"]
    said = [record.getMessage() for record in own if record.levelno == logging.INFO]
    first, second = batch("a", 2).name, batch("b", 1).name
    assert said == [
        f"{first}: sends 2 pretrain jobs",
        f"{first}: is job 101",
        f"{second}: sends 1 pretrain jobs",
        f"{second}: refused (limit): QOSMaxSubmitJobPerUserLimit",
        f"sends no more of its partition, account and QOS: {report.full}",
    ]
    assert "--array=" in caplog.text


def test_children_name_the_ids_that_their_parents_got(tmp_path: Path, client: FakeClient) -> None:
    first = batch("a", 3)
    second = batch("b", 3, corresponds_batch=first.name)
    report = sender(tmp_path, client).send([first, second])
    assert "--dependency=aftercorr:101" in client.calls[1]
    assert report.placed == {**{f"a{n}": f"101_{n}" for n in range(3)}, **{f"b{n}": f"102_{n}" for n in range(3)}}
    assert (report.calls, report.problem, report.full) == (2, "", "")


def test_a_limit_that_nobody_knew_takes_what_fits_and_ends_the_round(tmp_path: Path, client: FakeClient) -> None:
    client.room = 5
    first = batch("a", 16)
    child = batch("b", 16, corresponds_batch=first.name)
    report = sender(tmp_path, client).send([first, child])
    assert client.sizes == [16, 8, 4]
    assert len(report.placed) == 4
    assert "QOSMaxSubmitJobPerUserLimit" in report.full
    assert set(report.refused) == {f"a{number}" for number in range(4, 16)}
    assert not report.problem
    assert sum(known.submit_unknown for known in read_batch_history(client.ledger).batches.values()) == 0


def test_no_answer_leaves_a_doubt_and_sends_nothing_more(tmp_path: Path, client: FakeClient) -> None:
    client.answers = [UnknownSubmit("Socket timed out")]
    report = sender(tmp_path, client).send([batch("a", 2), batch("b", 2)])
    assert (report.calls, report.placed) == (1, {})
    assert "Socket timed out" in report.problem
    [known] = read_batch_history(client.ledger).batches.values()
    assert known.submit_unknown


def test_what_slurm_will_never_take_does_not_stop_the_others(tmp_path: Path, client: FakeClient) -> None:
    refusal = SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    client.answers = [refusal]
    first = batch("a", 2)
    report = sender(tmp_path, client).send([first, batch("b", 2, corresponds_batch=first.name), batch("c", 2)])
    assert report.refused == dict.fromkeys(["a0", "a1"], refusal)
    assert sorted(report.placed) == ["c0", "c1"]


def test_a_full_controller_is_not_asked_again_in_halves(tmp_path: Path, client: FakeClient) -> None:
    client.answers = [SubmitRefusal(RefusalKind.FULL, "Resource temporarily unavailable")]
    report = sender(tmp_path, client).send([batch("a", 8), batch("b", 2)])
    assert (report.calls, report.placed) == (1, {})
    assert report.full


def test_nothing_is_sent_once_somebody_else_has_taken_over(tmp_path: Path, client: FakeClient) -> None:
    report = sender(tmp_path, client, holds_submit_lock=lambda: False).send([batch("a", 2)])
    assert (report.calls, report.problem) == (0, "another submission from this store took over")


def test_an_id_that_may_be_forgotten_is_no_dependency(tmp_path: Path, client: FakeClient) -> None:
    """Slurm takes an unknown parent for a satisfied dependency."""
    report = sender(tmp_path, client, parents_known_until=0.0).send([batch("a", 1), batch("b", 1, after_ids=("5_0",))])
    assert list(report.placed) == ["a0"]
    assert "too old to depend on" in report.full
    assert report.problem == ""
    first = batch("c", 1)
    late = sender(tmp_path, client, parents_known_for=0.0).send([first, batch("d", 1, after_tasks=((first.name, 0),))])
    assert list(late.placed) == ["c0"]


def test_calls_are_paced(tmp_path: Path, client: FakeClient) -> None:
    client.timeouts, clock = SlurmTimeouts(submit_interval_s=1.0), FakeClock()
    sender(tmp_path, client, clock=clock).send([batch("a", 1), batch("b", 1), batch("c", 1)])
    assert clock.slept == [1.0, 1.0]


def test_an_id_of_this_round_is_a_dependency_for_a_while(tmp_path: Path, client: FakeClient) -> None:
    client.timeouts, clock = SlurmTimeouts(submit_interval_s=40.0), FakeClock()
    first = batch("a", 1)
    batches = [first, batch("b", 1, after_tasks=((first.name, 0),)), batch("c", 1, after_tasks=((first.name, 0),))]
    report = sender(tmp_path, client, clock=clock, parents_known_for=60.0).send(batches)
    assert list(report.placed) == ["a0", "b0"]
    assert "too old to depend on" in report.full
    assert report.problem == ""


def test_a_limit_of_one_partition_does_not_hold_up_another(tmp_path: Path, client: FakeClient) -> None:
    client.answers = [SubmitRefusal(RefusalKind.LIMIT, "QOSMaxSubmitJobPerUserLimit"), SubmittedJob("7")]
    busy, free = Resources(options={"qos": "busy"}), Resources(options={"qos": "free"})
    batches = [replace(batch(name, 1), resources=asked) for name, asked in (("a", busy), ("b", busy), ("c", free))]
    report = sender(tmp_path, client).send(batches)
    assert (report.calls, report.placed) == (2, {"c0": "7_0"})
    assert "QOSMaxSubmitJobPerUserLimit" in report.full


def test_a_full_cluster_and_a_drained_partition_are_told_apart(tmp_path: Path, client: FakeClient) -> None:
    client.answers = [SubmitRefusal(RefusalKind.DELAYED, "Required partition not available"), SubmittedJob("7")]
    report = sender(tmp_path, client).send([batch("a", 2), batch("b", 1)])
    assert (report.placed, report.full, report.problem) == ({"b0": "7_0"}, "", "")
    assert report.delayed == ["2 pretrain jobs cannot be queued now: Required partition not available"]
    client.answers = [SubmitRefusal(RefusalKind.FULL, "Resource temporarily unavailable")]
    report = sender(tmp_path, client).send([batch("d", 2), batch("e", 1)])
    assert (report.calls, report.placed) == (1, {})


def test_a_job_goes_where_it_failed_if_no_other_node_will_do_and_never_to_a_node_at_fault(
    tmp_path: Path, client: FakeClient
) -> None:
    client.needs = "n2"
    report = sender(tmp_path, client).send([batch("a", 2, exclude=("n1",), avoid=("n2",))])
    assert (len(report.placed), report.refused, report.calls) == (2, {}, 2)
    assert [word for call in client.calls for word in call if word.startswith("--exclude=")] == [
        "--exclude=n1,n2",
        "--exclude=n1",
    ]


def test_a_job_for_which_only_nodes_at_fault_are_left_waits(tmp_path: Path, client: FakeClient) -> None:
    client.needs = "n1"
    report = sender(tmp_path, client).send([batch("a", 2, exclude=("n1",)), batch("b", 1)])
    assert list(report.placed) == ["b0"]
    assert {answer.kind for answer in report.refused.values()} == {RefusalKind.DELAYED}
    assert "excluded for their faults: n1" in report.delayed[0]
    assert len(client.asked) == 1


def test_a_request_that_no_node_can_run_is_no_delay(tmp_path: Path, client: FakeClient) -> None:
    client.answers, client.needs = [NO_NODES], ""
    refused = sender(tmp_path, client).send([batch("a", 1)]).refused
    assert [answer.kind for answer in refused.values()] == [RefusalKind.INVALID]
    assert client.asked == []
