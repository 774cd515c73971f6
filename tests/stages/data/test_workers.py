"""Batches built by other processes and shared by several ranks: the same to the last number, and all of it ends."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.data.batches import BatchLoader
from stages.data.collate import Batch, FixedLengthCollator, MicroBatch
from stages.data.mixture import Mixture
from stages.data.packing import SequenceStart
from stages.data.progress import DataState
from stages.data.sample import Document, SampleSource
from stages.data.workers import WorkerPool, resolve_worker_count
from stages.distributed import SINGLE_PROCESS, Communicator, Numbers
from stages.errors import DataError
from stages.vision.image_input import ImageInput
from tests.stages.data.synthetic_sources import CONTEXT, Nothing, Pairs, Texts
from tests.stages.training.training_case import final_weights, image_config, make_world, result_of, same_bits

LANES = 8
BATCHES = 50
Row = tuple[list[int], list[int], list[str]]
"""Of a sequence: tokens, targets, digests of the pictures."""
Content = list[list[Row]]
"""Of each micro-batch its sequences."""


class Threads(Communicator):
    """Ranks that are threads of one process."""

    def __init__(self, rank: int, size: int, board: list[Numbers], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def gather(self, numbers: Numbers) -> list[Numbers]:
        self._board[self.rank] = numbers
        self._barrier.wait(timeout=600)
        found = list(self._board)
        self._barrier.wait(timeout=600)
        return found


def ranks(size: int) -> list[Threads]:
    board, barrier = [np.zeros(0, np.int64)] * size, threading.Barrier(size)
    return [Threads(rank, size, board, barrier) for rank in range(size)]


def batches(
    *,
    peers: Communicator = SINGLE_PROCESS,
    workers: int = 0,
    limit: int = 100,
    sources: Sequence[SampleSource] | None = None,
) -> BatchLoader:
    used: Sequence[SampleSource] = sources or [Texts(), Pairs(bad=(3, 50, 51))]
    shares = [1 / len(used)] * len(used)
    mixture = Mixture(used, shares, by="tokens", context=CONTEXT, stripes=LANES, seed=1, bad_samples_limit=limit)
    return BatchLoader(mixture, FixedLengthCollator(CONTEXT, 2 * CONTEXT), peers=peers, workers=workers)


def content(batch: Batch) -> Content:
    return [[row_of(part, number) for number in range(len(part.tokens))] for part in batch.micro_batches]


def row_of(part: MicroBatch, number: int) -> Row:
    count, length = part.tokens.shape
    places = torch.arange(count * length) if part.target_positions is None else part.target_positions
    targets = part.targets[places // length == number] if len(part.targets) else part.targets
    rows = [] if part.image_positions is None else (part.image_positions[:, 0] // length).tolist()
    pictures = [each.digest for each, row in zip(part.image_inputs, rows, strict=True) if row == number]
    return part.tokens[number].tolist(), targets.tolist(), pictures


def sort_rows(parts: Content) -> list[Row]:
    """All sequences, whichever were together; an empty pass is left out."""
    return sorted(row for part in parts for row in part if len(row[0]) == CONTEXT)


def run_of(data: BatchLoader, count: int = BATCHES) -> tuple[list[Content], list[tuple[int, int, int]], object]:
    """What a rank met: its parts of the batches, the counts of whole batches, and the state at the end."""
    with data:
        met = [data.take_batch() for _ in range(count)]
        state = data.state
    return [content(batch) for batch in met], [(each.count, each.positions, each.images) for each in met], state


@pytest.fixture(scope="module")
def alone() -> tuple[list[Content], list[tuple[int, int, int]], object]:
    return run_of(batches())


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(
    alone: tuple[object, ...], workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_of(batches(workers=workers)) == alone
    said = capfd.readouterr().err
    assert said.count("skipped: sample 50 is bad") == 1
    assert "resource_tracker" not in said
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_the_batches_of_one(
    alone: tuple[list[Content], list[tuple[int, int, int]], object], size: int
) -> None:
    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(lambda peers: run_of(batches(peers=peers)), ranks(size)))
    for step, whole in enumerate(alone[0]):
        assert sort_rows([part for parts, _, _ in found for part in parts[step]]) == sort_rows(whole)
        assert len({len(parts[step]) for parts, _, _ in found}) == 1
    assert all((counts, state) == alone[1:] for _, counts, state in found)


def test_ranks_may_have_workers_of_their_own(alone: tuple[list[Content], list[tuple[int, int, int]], object]) -> None:
    data = [batches(peers=peers, workers=1) for peers in ranks(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: run_of(each, 20), data))
    both = zip(found[0][0], found[1][0], strict=True)
    assert [sort_rows([*one, *other]) for one, other in both] == [sort_rows(whole) for whole in alone[0][:20]]


def test_the_state_is_that_after_the_last_batch_that_was_taken(
    alone: tuple[list[Content], list[tuple[int, int, int]], object],
) -> None:
    reference, ahead = batches(), batches(workers=1)
    with ahead:
        for _ in range(7):
            reference.take_batch()
            ahead.take_batch()
        time.sleep(0.3)  # the thread goes on
        state = DataState.from_state(json.loads(json.dumps(ahead.state.dump_state())))
        assert state == reference.state
        ahead.restore(state)  # drops what was built ahead
        assert content(ahead.take_batch()) == alone[0][7]
    with batches(workers=1) as later:
        later.restore(state)
        assert [content(later.take_batch()) for _ in range(3)] == alone[0][7:10]


class Impatient(WorkerPool):
    """Does not wait for what it asks for."""

    def ask(self, places: Sequence[SequenceStart]) -> None:
        self._submit(places)


def test_workers_that_are_closed_just_after_a_request_end() -> None:
    """As at a run's end, while the batch after its last is being asked for (cpython#94440)."""
    places = [SequenceStart(0, lane, 0) for lane in range(2)]
    for _ in range(12):
        workers = Impatient(Nothing(), 1)
        workers.build(places)
        workers.ask(places)
        workers.close()
    assert multiprocessing.active_children() == []


def test_a_killed_worker_ends_in_an_error_that_says_so() -> None:
    with batches(workers=2) as data:
        data.take_batch()
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"a data worker died.*data_workers: 0"):
            [data.take_batch() for _ in range(10)]
    assert multiprocessing.active_children() == []


def test_stop_signals_leave_the_workers_at_work(
    alone: tuple[list[Content], list[tuple[int, int, int]], object],
) -> None:
    with batches(workers=2) as data:
        met = [content(data.take_batch())]
        for child in multiprocessing.active_children():
            assert child.pid is not None
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(child.pid, number)
        met += [content(data.take_batch()) for _ in range(10)]
    assert met == alone[0][:11]


PARENT = """
if __name__ == "__main__":
    import time
    from stages.data.batches import BatchLoader
    from stages.data.collate import FixedLengthCollator
    from stages.data.mixture import Mixture
    from tests.stages.data.synthetic_sources import CONTEXT, Texts
    mixture = Mixture([Texts()], [1.0], by="tokens", context=CONTEXT, stripes=8, seed=1, bad_samples_limit=0)
    data = BatchLoader(mixture, FixedLengthCollator(CONTEXT, CONTEXT), workers=2)
    data.take_batch()
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(program)], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class Torn(Texts):
    """A source whose shard turns out to be torn at sample 77."""

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:
        if index == 77:
            raise DataError("shard-3.tar: cut off")
        return super().read_document(index, position, room)


def test_what_stops_a_worker_stops_the_loop() -> None:
    with batches(workers=1, sources=[Torn()]) as data, pytest.raises(DataError, match=r"shard-3\.tar: cut off"):
        [data.take_batch() for _ in range(100)]
    assert multiprocessing.active_children() == []


def test_what_stops_one_rank_stops_all() -> None:
    def error_of(peers: Threads) -> str:
        with pytest.raises(DataError) as caught:
            run_of(batches(peers=peers, sources=[Torn()]), 100)
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(error_of, ranks(4)))
    assert errors.count("shard-3.tar: cut off") == 1
    assert sum("could not build its part of a batch; its log says why" in error for error in errors) == 3


def test_bad_samples_beyond_the_limit_stop_every_rank_at_the_same_batch() -> None:
    def steps(peers: Threads) -> tuple[int, str]:
        data = batches(peers=peers, limit=2)
        with pytest.raises(DataError) as caught:
            [data.take_batch() for _ in range(100)]
        return sum(progress.sequences for progress in data.state.sources), str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        (one, said), (other, also_said) = pool.map(steps, ranks(2))
    assert one == other
    assert all("'captions': 3 bad samples; the limit is 2; the last: sample" in text for text in (said, also_said))
    assert sorted("the log of another rank" in text for text in (said, also_said)) == [False, True]


def test_ranks_that_close_at_different_moments_all_end() -> None:
    def take_and_close(peers: Threads) -> None:
        data = batches(peers=peers, workers=1)
        for _ in range(3):
            data.take_batch()
        time.sleep(0.2 * peers.rank)
        data.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take_and_close, ranks(2)))
    assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_picture_arrives_whole_from_another_process(dtype: torch.dtype) -> None:
    features = torch.arange(12).view(3, 4).to(dtype)
    sent = ImageInput("a" * 64, features=features)
    load, arguments = sent.__reduce__()
    assert callable(load)
    received = load(*arguments)  # type: ignore[misc]
    assert received.digest == sent.digest
    assert received.pixels is None
    assert torch.equal(received.features, features)
    assert received.features.dtype == dtype


def test_workers_are_as_many_as_the_cores_of_a_rank_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert resolve_worker_count(-1, {}, on_gpu=False) == 0
    assert resolve_worker_count(-1, {}, on_gpu=True) == 4
    assert resolve_worker_count(-1, {"LOCAL_WORLD_SIZE": "8"}, on_gpu=True) == 1
    assert resolve_worker_count(6, {"LOCAL_WORLD_SIZE": "8"}, on_gpu=False) == 6


def test_a_job_with_workers_has_the_weights_of_one_without(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    without = world.run("without", "pretrain", image_config(4), data_workers=0)
    having = world.run("having", "pretrain", image_config(4), data_workers=2)
    assert same_bits(final_weights(without), final_weights(having))
    assert result_of(without)["sources"] == result_of(having)["sources"]
    assert multiprocessing.active_children() == []
