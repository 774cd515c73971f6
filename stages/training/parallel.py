"""One model on all processes of a job: whole replicas (DDP) or shards of everything (FSDP2).

The batch is cut by rank and the loss is one mean over all of it, so the gradient is the sum of what the ranks find.
Both kinds average over ranks instead; `scale` undoes that. Checkpoints hold whole tensors, whoever writes them.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.distributed import DistributedContext
from stages.errors import ConfigError
from stages.job_file import Settings
from stages.models.linear import select_training_matmul, set_matmul_backend
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX, VLM


class ParallelModel:
    """The model as the training loop sees it: called like the VLM, with this rank's part of the batch.

    `vlm` names the parameters. With FSDP they are DTensors, and must be read after this object was made.
    """

    def __init__(self, vlm: VLM, world: DistributedContext, settings: Settings, precision: str) -> None:
        """Moves the model to the world's device. Equal weights on all ranks are the caller's part."""
        self.vlm, self.world = vlm, world
        self.sharded = world.size > 1 and settings.parallel == "fsdp"
        self.scale = world.size
        """What a rank's loss is multiplied by, as gradients are averaged over ranks."""
        compiled = resolve_compile(settings, world)
        configure_kernels(vlm, settings, world.device, compiled=compiled)
        if compiled or vlm.attention == "flex":  # eager blocks compile flex attention alone
            configure_compiler()
        if compiled:
            vlm.lm.chunk_loss = torch.compile(vlm.lm.chunk_loss)
        for block in vlm.lm.layers:
            prepare_block(block, recompute=settings.activation_checkpointing, compiled=compiled)
        self.module: nn.Module = vlm
        if self.sharded:
            shard(vlm, world.device, precision)
        else:
            vlm.to(world.device)
            if world.size > 1:
                self.module = replicate(vlm, world.device)

    def __call__(self, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """VLM.forward."""
        outcome: tuple[Tensor, Tensor] = self.module(*inputs, **options)
        return outcome

    @contextmanager
    def hold_gradient_sync(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: only the `last` of a step waits for the other ranks."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]  # of FSDPModule
            yield
        elif self.module is not self.vlm and not last:
            with self.module.no_sync():  # type: ignore[operator]  # of DistributedDataParallel
                yield
        else:
            yield

    def clear_image_gradients(self) -> None:
        """Where a whole batch had no image: what images go through rests, without decay, instead of a zero gradient."""
        for name, parameter in self.vlm.iter_named_weights():
            if name.startswith((PROJECTOR_PREFIX, ENCODER_PREFIX)):
                parameter.grad = None

    def shard_moments(self, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The optimizer's whole tensors (of a checkpoint), distributed as their parameters are."""
        return {
            name: shard_like(parameter, moments[name]) if parameter is not None else moments[name]
            for name, parameter in self._owners(moments)
        }

    def gather_moments(self, moments: Mapping[str, Tensor], *, wanted: bool) -> dict[str, Tensor]:
        """The reverse of `shard_moments`, in the CPU's memory; see `copy_to_host`."""
        return copy_to_host(
            {
                name: wrap_local_shard(parameter, moments[name]) if parameter is not None else moments[name]
                for name, parameter in self._owners(moments)
            },
            wanted=wanted,
        )

    def _owners(self, moments: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter | None]]:
        """Each tensor's name and its parameter; None for the number of steps, which is the same on all ranks."""
        parameters = dict(self.vlm.iter_named_weights())
        for name in moments:
            kind, _, parameter = name.partition(".")
            yield name, parameters.get(parameter) if kind != "step" else None

    def clip(self, limit: float) -> Tensor:
        """Scales all gradients down to a global norm of `limit`; returns the norm before that, on the device."""
        from torch.nn.utils import clip_grad_norm_

        norm = clip_grad_norm_([parameter for _, parameter in self.vlm.iter_named_weights()], limit)
        return gather_full_tensor(norm)


# Why: docs/decisions.md, D87
def resolve_compile(settings: Settings, world: DistributedContext) -> bool:
    """Whether blocks and loss are compiled; `auto`: on a GPU, if what its kernels are built with is there.

    What is missing is said once on stderr.
    """
    if settings.compile != "auto":
        return settings.compile
    if world.device.type != "cuda":
        return False
    missing = find_missing_build_tool()
    if missing and world.is_first_rank:
        print(f"settings.compile is auto: nothing is compiled, as {missing}", file=sys.stderr)
    return not missing


def find_missing_build_tool() -> str:
    """What Triton lacks here to build a GPU's kernels; empty if nothing.

    It compiles a small C file against Python's headers for each kernel, at the first step. A container often has
    neither.
    """
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler (gcc or clang; the variable CC names another)"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"{headers} lacks Python.h (Debian's package is python3-dev)"
    return ""


def configure_kernels(vlm: VLM, settings: Settings, device: torch.device, *, compiled: bool) -> None:
    """Whose matrix products and which attention the model takes. ConfigError where flex attention cannot do it."""
    if settings.attention == "flex" and device.type == "cpu":
        raise ConfigError("settings.attention is flex, which has no gradients on a CPU; set auto or sdpa")
    width = vlm.lm.config.d_model // vlm.lm.config.heads
    if settings.attention == "flex" and width < LEAST_FLEX_WIDTH:
        raise ConfigError(
            f"settings.attention is flex, which takes heads of {LEAST_FLEX_WIDTH} or wider, and this model has "
            f"{width} (d_model / heads); set auto or sdpa"
        )
    chosen = select_training_matmul() if settings.cpu_matmul == "auto" else settings.cpu_matmul
    # compiled blocks take the compiler's kernels; it knows no gradient of oneDNN's operator
    set_matmul_backend(vlm, "torch" if compiled else chosen)
    vlm.attention = select_packed_attention(device, width) if settings.attention == "auto" else settings.attention


LEAST_FLEX_WIDTH = 16
"""Of a head: Triton multiplies no narrower matrices, and torch refuses them when it compiles flex attention."""


# Why: docs/decisions.md, D86
def select_packed_attention(device: torch.device, head_width: int) -> Literal["sdpa", "flex"]:
    """The kernel for packed documents: flex on GPUs for which it can be built (Ampere and newer), compiled or not."""
    if head_width < LEAST_FLEX_WIDTH or device.type != "cuda":
        return "sdpa"
    if torch.cuda.get_device_capability(device) < (8, 0) or find_missing_build_tool():
        return "sdpa"
    return "flex"


GRAPHS_LIMIT = 64
"""Graphs of one function at most, beyond which torch leaves further shapes uncompiled (its own limit is 8).

A block has one for each of: a first shape, other shapes, one row; with a mask or without.
"""


def configure_compiler() -> None:
    """Sets up torch's compiler for this process; every model of it is compiled so."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = GRAPHS_LIMIT
    # It cuts a graph where DDP's buckets end, and refuses recomputation and flex attention. Each block is a graph of
    # its own here: DDP exchanges a block's gradients while those of the block before it are computed.
    torch._dynamo.config.optimize_ddp = False


def prepare_block(block: nn.Module, *, recompute: bool, compiled: bool) -> None:
    """Changes how a block is run, not its parameters' names.

    The compiler sees the recomputation and neither sees FSDP's hooks, which gather weights around the call.
    """
    forward = block.forward
    if recompute:
        forward = checkpoint_activations(forward)
    if compiled:
        forward = compile_forward(forward)
    if recompute or compiled:
        block.forward = forward


def compile_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of (B, T, D) and more, compiled but for an empty pass: one position is worth no graph."""
    compiled = torch.compile(forward)

    def run(x: Tensor, *inputs: Any) -> Any:
        return (forward if x.shape[:2].numel() == 1 else compiled)(x, *inputs)

    return run


def checkpoint_activations(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; what it keeps for the backward pass is its inputs, from which the rest is computed again."""
    from torch.utils.checkpoint import checkpoint

    def run(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run


def replicate(vlm: VLM, device: torch.device) -> nn.Module:
    """DDP."""
    from torch.nn.parallel import DistributedDataParallel

    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(vlm, device_ids=devices, gradient_as_bucket_view=True)


# Why: docs/decisions.md, D22
def shard(vlm: VLM, device: torch.device, precision: str) -> None:
    """FSDP2 in place: each block a group, the embedding table one, and the rest one.

    On GPUs with bf16, weights are gathered in bfloat16 and gradients reduced in float32. Inputs are not cast: the
    residual stream stays float32, as autocast leaves it, and so does the embedding table, where it begins.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    reduced = precision == "bf16" and device.type == "cuda"
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        if reduced
        else plain
    )
    fully_shard(vlm.lm.tok_embeddings, mesh=mesh, mp_policy=plain)
    for block in vlm.lm.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(vlm, mesh=mesh, mp_policy=policy)


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """A tensor without its distribution: all ranks call it, and each gets all of it. A plain tensor stays as it is."""
    if hasattr(tensor, "full_tensor"):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def select_local_shard(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; of a plain tensor all."""
    if hasattr(tensor, "to_local"):
        part: Tensor = tensor.to_local()
        return part
    return tensor


def shard_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor of the parameter's shape, distributed as the parameter is; no rank waits for another.

    Every rank gives the same whole tensor, and keeps its part of it on the parameter's device.
    """
    if not hasattr(parameter, "device_mesh"):
        return tensor.to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)  # noqa: S101 - nothing else has a mesh

    # src_data_rank=None: each rank cuts its own, instead of being sent a part
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def wrap_local_shard(parameter: Tensor, part: Tensor) -> Tensor:
    """This rank's part of a tensor of the parameter's shape, as the distributed tensor that it is a part of."""
    if not hasattr(parameter, "device_mesh") or hasattr(part, "device_mesh"):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)  # noqa: S101 - nothing else has a mesh
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())


def copy_to_host(tensors: Mapping[str, Tensor], *, wanted: bool) -> dict[str, Tensor]:
    """Copies of whole tensors in the CPU's memory; nothing where they are not `wanted`.

    All ranks call it. A sharded tensor is gathered on every device, one at a time.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = gather_full_tensor(tensor.detach())
        if wanted:
            copies[name] = full.to("cpu", copy=True)
    return copies
