"""The processes of a job: who this one is, what it computes on, and how it agrees with the others.

A launcher (torchrun, or srun through `jobs.attempt.rank`) starts one process a GPU and sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them, or with a WORLD_SIZE of 1, a job is one process and does not
communicate.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stages.errors import ConfigError, NodeFaultError, PortTakenError
from stages.gpu_memory import GPU_LOSS_CHUNK_TOKENS, GPU_MICRO_BATCH_TOKENS
from stages.stop import StopFlag, exit_at_stop

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

    from stages.job_file import Settings


# Where a stage computes, and in what precision.


def select_device(asked: str = "auto", local_rank: int = 0) -> "torch.device":
    """Where this process computes: "cpu", "cuda", or "auto", which is the GPU where there is one.

    Several processes of a node take a GPU each, by their number on the node. Threads follow OMP_NUM_THREADS (torch's
    own rule). NodeFaultError for "cuda" without a GPU, and where a node has fewer GPUs than processes; ConfigError if
    torch is one for CPUs.
    """
    import torch

    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if not has_gpu_build():
            raise ConfigError(
                f"settings.device is cuda and torch finds no GPU: {torch.__version__} is built for CPUs alone"
            )
        raise NodeFaultError(
            f"settings.device is cuda and torch finds no GPU on {os.uname().nodename} ({explain_no_gpu()}, "
            f"CUDA_VISIBLE_DEVICES {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r})"
        )
    if local_rank >= (count := torch.cuda.device_count()):
        raise NodeFaultError(
            f"process {local_rank + 1} of a node with {count} GPUs ({os.uname().nodename}): each process takes one"
        )
    return torch.device("cuda", local_rank)


def has_gpu_build() -> bool:
    """Whether this torch could use a GPU."""
    import torch

    return torch.version.cuda is not None or torch.version.hip is not None


def explain_no_gpu() -> str:
    """What the driver says, in one line."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200]
    return "the driver shows none"


def open_autocast(precision: str, device: "torch.device") -> AbstractContextManager[object]:
    """bf16: matrix products in bfloat16 on float32 weights; fp32: nothing is changed."""
    if precision == "bf16":
        import torch

        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def resolve_micro_batch_tokens(given: int, device: "torch.device") -> int:
    """Positions that go through the model at once, where a job does not say (`given` is 0).

    On a CPU a small part stays in the cache; a GPU needs a large one to be busy.
    """
    return given or (2_048 if device.type == "cpu" else GPU_MICRO_BATCH_TOKENS)


def resolve_loss_chunk_tokens(given: int, device: "torch.device") -> int:
    """Positions whose logits are in memory at once, where a job does not say (`given` is -1); 0: all.

    With 50,000 tokens, 512 positions' logits are 100 MB: on a CPU that is half as fast again as all of 2,048 positions.
    """
    return given if given >= 0 else (512 if device.type == "cpu" else GPU_LOSS_CHUNK_TOKENS)


Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
"""int64, one dimension."""


class Communicator:
    """One process alone. What data sources need to know of the others; see `GlooCommunicator` for several."""

    rank: int = 0
    size: int = 1

    def gather(self, numbers: Numbers) -> list[Numbers]:
        """Every rank's numbers, in the order of ranks; lengths may differ. All ranks call it equally often."""
        return [numbers]


SINGLE_PROCESS = Communicator()
"""A job of one process."""


class GlooCommunicator(Communicator):
    """Several processes, over a gloo group that nothing else uses, so that a thread of its own may call `gather`."""

    def __init__(self, group: "ProcessGroup") -> None:
        self._group = group
        self.rank, self.size = group.rank(), group.size()

    def gather(self, numbers: Numbers) -> list[Numbers]:
        """Two exchanges: of the lengths, then of the numbers, padded to the longest."""
        lengths = [int(found[0]) for found in self._exchange(np.array([len(numbers)], dtype=np.int64))]
        padded = np.zeros(max(lengths), dtype=np.int64)
        padded[: len(numbers)] = numbers
        found = self._exchange(padded) if len(padded) else [padded] * self.size
        return [row[:length] for row, length in zip(found, lengths, strict=True)]

    def _exchange(self, numbers: Numbers) -> list[Numbers]:
        import torch
        from torch import distributed

        own = torch.from_numpy(numbers)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(rows, own, group=self._group)
        return [row.numpy() for row in rows]


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """This process among those of the job."""

    device: "torch.device"
    """What this process computes on."""
    peers: Communicator = SINGLE_PROCESS
    """For the data; a group of its own."""
    host: "ProcessGroup | None" = None
    """gloo group for numbers in the CPU's memory that ranks agree on; None for one process."""

    @property
    def rank(self) -> int:
        return self.peers.rank

    @property
    def size(self) -> int:
        return self.peers.size

    @property
    def is_first_rank(self) -> bool:
        """Whether this is the rank that writes checkpoints, metrics and the result."""
        return self.peers.rank == 0

    # Why: docs/decisions.md, D88
    def all_reduce_sum(self, numbers: "Sequence[float] | torch.Tensor") -> list[float]:
        """Sums over all ranks, in float64, equal on each; a NaN or Inf of one rank reaches all. Waits for all ranks.

        A tensor (N,) of float64 is summed in place where it is: a GPU's by the GPUs, in the order of its own work.
        """
        import torch
        from torch import distributed

        summed = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers, dtype=torch.float64)
        if self.host is not None:
            distributed.all_reduce(summed, group=self.host if summed.device.type == "cpu" else None)
        found: list[float] = summed.tolist()
        return found

    def wait(self) -> None:
        """Until every rank is here."""
        self.all_reduce_sum([0.0])


def read_world_size(environment: Mapping[str, str]) -> int:
    """Processes of the job, as the launcher says. ConfigError if that is no number."""
    given = environment.get("WORLD_SIZE", "")
    if given and not (given.isdecimal() and int(given) > 0):
        raise ConfigError(f"WORLD_SIZE is {given!r}; a launcher such as torchrun sets the number of processes")
    return int(given or 1)


@contextmanager
def open_distributed_context(settings: "Settings", stop: StopFlag) -> Iterator[DistributedContext]:
    """This process's place in the job, connected to the others; the connection ends with the block.

    After an error in the block nobody is waited for: the others notice that this process is gone. A stop while it
    still waits for them ends the process: there is nothing to save yet.
    ConfigError if the launcher's variables are incomplete, NodeFaultError where GPUs are missing, PortTakenError.
    """

    if read_world_size(os.environ) == 1:
        yield DistributedContext(select_device(settings.device))
        return
    from torch import distributed

    device = select_device(settings.device, read_local_rank())
    timeout = timedelta(minutes=settings.peer_timeout_minutes)
    with exit_at_stop(stop):
        connect(device, timeout)
        peers, host = (distributed.new_group(backend="gloo", timeout=timeout) for _ in range(2))
        distributed.barrier(group=host)  # from here on every process is known to be there
    world = DistributedContext(device, GlooCommunicator(peers), host)
    yield world
    world.wait()  # the first rank holds the address book of all: it must not leave before the others
    distributed.destroy_process_group()


def read_local_rank() -> int:
    """This process's number on its node; ConfigError where the launcher did not say."""
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {', '.join(missing)} not set; start the processes "
            "with torchrun, or with srun through jobs.attempt.rank"
        )
    return int(os.environ["LOCAL_RANK"])


def connect(device: "torch.device", timeout: timedelta) -> None:
    """Joins the job's other processes: nccl between GPUs, gloo between CPUs. `timeout`: longest wait for a peer.

    PortTakenError in the first rank if it cannot listen at the port that the launcher chose.
    """
    import torch
    from torch import distributed

    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            distributed.init_process_group("nccl", timeout=timeout, device_id=device)
        else:
            distributed.init_process_group("gloo", timeout=timeout)
    except distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise PortTakenError(f"{place}, where the job's processes meet, is in use by another program") from error


# Evaluation on several processes: what each computes of a whole, and how all come to know all of it.

BatchT = TypeVar("BatchT")

BYTES_PER_NUMBER = 8
"""Of one of the numbers that peers exchange."""


# Why: docs/decisions.md, D49
def map_batches(
    batches: Sequence[BatchT],
    compute: Callable[[BatchT], Mapping[int, Sequence[int]]],
    peers: Communicator,
    note: Callable[[int], None] | None = None,
) -> dict[int, Sequence[int]]:
    """What `compute` gives for all batches: whole numbers, any count, under an item's number.

    All ranks call it with equal batches. They are dealt out whole: the answers of several processes are those of one,
    bit by bit. `note` hears how many items this rank has done after each batch.
    """
    found: dict[int, Sequence[int]] = {}
    for batch in batches[peers.rank :: peers.size]:
        found |= compute(batch)
        if note is not None:
            note(len(found))
    if peers.size == 1:
        return found
    flat = [number for item, values in found.items() for number in (item, len(values), *values)]
    answers: dict[int, Sequence[int]] = {}
    for part in peers.gather(np.array(flat, dtype=np.int64)):
        numbers, place = part.tolist(), 0
        while place < len(numbers):
            item, count = numbers[place : place + 2]
            answers[item] = numbers[place + 2 : place + 2 + count]
            place += 2 + count
    return answers


def all_gather_objects(value: Any, peers: Communicator) -> list[Any]:
    """Every rank's value, which JSON can hold, in the order of ranks. All ranks call it equally often."""
    if peers.size == 1:
        return [value]
    content = json.dumps(value).encode()
    padded = content + b" " * (-len(content) % BYTES_PER_NUMBER)
    return [json.loads(part.tobytes()) for part in peers.gather(np.frombuffer(padded, dtype=np.int64))]


def is_stop_requested(stop: StopFlag, world: DistributedContext) -> bool:
    """Whether any rank was asked to stop, so that all stop at the same place. Waits for all ranks."""
    return world.all_reduce_sum([float(stop.requested)])[0] > 0
