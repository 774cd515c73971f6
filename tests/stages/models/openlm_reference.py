"""Our model trained as open_lm trains: the same batches in the same order, the exact settings, no loop around it."""

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from stages.data.collate import MicroBatch
from stages.models.linear import set_matmul_backend
from stages.models.loss import LossSettings
from stages.models.vlm import VLM
from stages.training.optimizer import AdamW
from tests.stages.models.openlm_checkout import SEED, Case


def initial_model(case: Case) -> VLM:
    """Right after seeding, as open_lm builds it."""
    torch.manual_seed(SEED)
    vlm = VLM(case.model)
    set_matmul_backend(vlm, "torch")
    return vlm


def micro_batch(rows: Tensor) -> MicroBatch:
    """Sequences (B, T + 1) of one text source."""
    targets = rows[:, 1:].reshape(-1)
    return MicroBatch(
        tokens=rows[:, :-1],
        targets=targets,
        target_positions=None,
        sources=torch.zeros_like(targets),
        documents=None,
        image_inputs=(),
        images=None,
        image_positions=None,
    )


def batches(case: Case) -> Iterator[MicroBatch]:
    """Each step's batch: the shard's rows in order."""
    for step in range(case.steps):
        yield micro_batch(torch.tensor([case.row(step * case.batch + i) for i in range(case.batch)]))


def train(case: Case, vlm: VLM) -> list[float]:
    """All steps; their losses."""
    optimizer = AdamW(vlm.iter_named_weights(), case.optimizer)
    losses = []
    for step, batch in enumerate(batches(case)):
        optimizer.zero_grad()
        loss, _ = vlm(batch, count=len(batch.targets), settings=LossSettings(z_loss=case.z_loss))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, case.optimizer.gradient_clip)
        optimizer.step(case.schedule.compute_lr(step))
        losses.append(loss.item())
    return losses


def sha256(tensor: Tensor) -> str:
    """Of the tensor's bytes."""
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def machine() -> dict[str, str]:
    """What float32 sums' last bits depend on: torch, and the kernels that its libraries choose for the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": " ".join([platform.machine(), *(fields.get(key, "") for key in ("vendor_id", "cpu family", "model"))]),
    }
