"""Counts what a training step of our own model allocates, with fake tensors: no memory, no arithmetic, every shape.

Model, optimizer, autocast, checkpointing, DDP's buckets and FSDP2's gathering are the real code's. Five things stand in
for what a machine without a GPU lacks: fake tensors are on the CPU, so attention is told which kernel a GPU takes, and
sharding that it is on one; peers are torch's own fake process group, whose results have no value, so that DDP's first
comparison of parameters is left out and its sums are the own ones; and weights have no initial values.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed import device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import distributed as ddp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.config import Optimizer
from stages.data.collate import MicroBatch
from stages.distributed import Communicator, DistributedContext, open_autocast
from stages.gpu_memory import TrainingPass
from stages.job_file import Settings
from stages.models import openlm
from stages.models.loss import LossSettings
from stages.models.vlm import VLM
from stages.training import parallel
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel
from stages.vision.specs import resolve_encoder_spec

CPU = torch.device("cpu")


class StorageCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Bytes of all storages that operations have returned and that are still there, and the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outcome):
            if isinstance(leaf, Tensor) and not isinstance(leaf, DTensor):  # a DTensor wraps its own part
                self.note(leaf.untyped_storage())
        return outcome

    def note(self, storage: torch.UntypedStorage) -> None:
        """A storage that may be new, or of another size than before."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            self.now -= self.known[key][1]
            self.known[key] = self.known[key][0], size
        else:
            self.known[key] = weakref.ref(storage, lambda _: self.forget(key)), size
        self.now += size
        self.most = max(self.most, self.now)

    def forget(self, key: int) -> None:
        """A storage that is gone."""
        self.now -= self.known.pop(key)[1]

    def __enter__(self) -> "StorageCount":
        resize = self.resize = torch.UntypedStorage.resize_

        def resize_and_note(storage: torch.UntypedStorage, size: int) -> Any:  # FSDP2 frees what it has gathered so
            outcome = resize(storage, size)
            if storage._cdata in self.known:
                self.note(storage)
            return outcome

        torch.UntypedStorage.resize_ = resize_and_note  # type: ignore[method-assign,assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.UntypedStorage.resize_ = self.resize  # type: ignore[method-assign]
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]


class Peers(Communicator):
    """The first of so many ranks."""

    def __init__(self, size: int) -> None:
        self.size = size


def attend_as_on_a_gpu(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The operators that SDPA takes on a GPU in bf16: FlashAttention, and with a mask the memory-efficient one."""
    if mask is None:
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, True)[0]
        return attended
    bias = torch.zeros_like(mask, dtype=queries.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    bias = bias.expand(*queries.shape[:3], keys.shape[2])
    attended = torch.ops.aten._scaled_dot_product_efficient_attention(queries, keys, values, bias, True)[0]
    return attended  # noqa: RET504 - torch.ops are untyped


def keep_own_sum(_: object, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    """DDP's exchange of a bucket, without peers."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@contextmanager
def pretend_peers_on_gpus(ranks: int) -> Iterator[None]:
    """Stand-ins for GPUs and for the other ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openlm, "attend", attend_as_on_a_gpu)
        patch.setattr(openlm, "init_truncated_normal", lambda weight, std: None)  # noqa: ARG005
        patch.setattr(ddp, "_verify_param_shape_across_processes", lambda *_: None)
        patch.setattr(ddp, "_sync_module_states", lambda *_, **__: None)
        replicate, shard, build_mesh = parallel.replicate, parallel.shard, device_mesh.init_device_mesh

        def replicate_alone(vlm: VLM, device: torch.device) -> nn.Module:
            module = replicate(vlm, device)
            module.register_comm_hook(None, keep_own_sum)  # type: ignore[operator]  # of DistributedDataParallel
            return module

        def build_real_mesh(_: str, shape: tuple[int, ...]) -> Any:
            with unset_fake_temporarily():
                return build_mesh("cpu", shape)

        patch.setattr(parallel, "replicate", replicate_alone)
        gpu: Any = SimpleNamespace(type="cuda")
        patch.setattr(parallel, "shard", lambda vlm, _, precision: shard(vlm, gpu, precision))
        patch.setattr(device_mesh, "init_device_mesh", build_real_mesh)
        if ranks == 1:
            yield
            return
        from torch.testing._internal.distributed.fake_pg import FakeStore

        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def count_training_step(run: TrainingPass) -> int:
    """Most bytes of tensors in one step of the first rank, a frozen encoder left out; the moments are there already."""
    settings = Settings(parallel="fsdp" if run.sharded else "ddp", activation_checkpointing=run.recompute)
    with (
        pretend_peers_on_gpus(run.ranks),
        FakeTensorMode(allow_non_fake_inputs=True),
        StorageCount() as storages,
    ):
        vlm = VLM(run.model, run.vision)
        vlm.to = lambda _: vlm  # type: ignore[assignment,method-assign]  # it is there
        model = ParallelModel(vlm, DistributedContext(CPU, Peers(run.ranks)), settings, run.precision)
        optimizer = AdamW(vlm.iter_named_weights(), Optimizer())
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.0, fused=True)
        optimizer.zero_grad()
        storages.most = storages.now
        for number in range(run.passes):
            with model.hold_gradient_sync(last=number == run.passes - 1):
                run_pass(model, run)
        model.clip(1.0)
        optimizer.step(0.0, fused=True)
        return storages.most


def run_pass(model: ParallelModel, run: TrainingPass) -> None:
    """Forward and backward of one micro-batch, as the loop does it (`Training.accumulate_gradients`)."""
    batch = build_batch(run)
    with open_autocast(run.precision, CPU):
        loss, _ = model(batch, count=1, settings=LossSettings(z_loss=1e-4, chunk_tokens=run.chunk_tokens))
    (loss * model.scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def build_batch(run: TrainingPass) -> MicroBatch:
    """Every position has a target."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64)

    images = run.images > 0 and run.vision is not None
    spec = resolve_encoder_spec(run.vision.encoder) if images and run.vision else None
    return MicroBatch(
        tokens=zeros(run.rows, run.length),
        targets=zeros(run.positions),
        target_positions=None,
        sources=zeros(run.positions),
        documents=zeros(run.rows, run.length) if run.masked else None,
        images=torch.zeros(run.images, spec.image_tokens, spec.feature_width) if spec else None,
        image_positions=zeros(run.images, spec.image_tokens) if spec else None,
    )
