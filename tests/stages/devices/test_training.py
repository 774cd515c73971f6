"""Steps of training on the device equal those of the CPU in float32: eager, recomputed, compiled, with images."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.config import LanguageModel, Optimizer, Vision
from stages.data.collate import PADDING, MicroBatch
from stages.distributed import DistributedContext, open_autocast
from stages.job_file import Settings
from stages.models.loss import LossSettings
from stages.models.vlm import VLM
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel
from tests.stages.devices import FLEX

CPU = torch.device("cpu")
MODEL = LanguageModel(d_model=64, layers=2, heads=2, vocabulary=200)
PATCHES = Vision(encoder="patches-16-32")  # four tokens of 768 numbers
SMOOTH = Optimizer(eps=1e-3)
"""AdamW's step then moves with the gradient, and not with its sign alone: see `training_case.SMOOTH_ADAMW`."""
ROUNDING = 5e-5
"""Of float32 losses, as a share; products in TF32 would give a thousandth."""
ROWS, LENGTH, STEPS, RATE = 3, 160, 4, 3e-3


def build_batch(*, packed: bool) -> MicroBatch:
    """Rows of text, or packed documents that begin with an image, and padding."""
    torch.manual_seed(1)
    tokens = torch.randint(0, MODEL.vocabulary, (ROWS, LENGTH))
    targets = torch.randint(0, MODEL.vocabulary, (ROWS * LENGTH,))
    if not packed:
        return MicroBatch(tokens, targets, None, torch.zeros_like(targets), None)
    documents = torch.tensor([([0] * 60 + [1] * 70 + [PADDING] * 30)] * ROWS)
    starts = torch.tensor([row * LENGTH + start for row in range(ROWS) for start in (0, 60)])
    places = starts[:, None] + torch.arange(4)
    learned = (documents != PADDING).flatten()
    learned[places.flatten()] = False
    positions = learned.nonzero()[:, 0]
    return MicroBatch(
        tokens, targets[learned], positions, torch.zeros_like(positions), documents,
        images=torch.randn(2 * ROWS, 4, 768), image_positions=places,
    )  # fmt: skip


def train(
    device: torch.device, batch: MicroBatch, settings: Mapping[str, Any], precision: str = "fp32"
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of some steps on one batch, and the weights after them, on the CPU."""
    torch.manual_seed(0)
    vlm = VLM(MODEL, PATCHES if batch.images is not None else None)
    given = Settings.model_validate({"compile": False, "attention": "sdpa", **settings})
    model = ParallelModel(vlm, DistributedContext(device), given, precision)
    optimizer = AdamW(vlm.iter_named_weights(), SMOOTH)
    losses = []
    here = batch.pin_memory().to(device) if device.type == "cuda" else batch.to(device)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with model.hold_gradient_sync(last=True), open_autocast(precision, device):
            loss, _ = model(here, count=len(batch.targets), settings=LossSettings(z_loss=1e-4, chunk_tokens=128))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        model.clip(1.0)
        optimizer.step(RATE)
        losses.append(loss.item())
    return losses, {name: weight.cpu() for name, weight in vlm.collect_weights().items()}


def assert_near(
    found: tuple[list[float], dict[str, Tensor]], wanted: tuple[list[float], dict[str, Tensor]], tolerance: float
) -> None:
    """Losses by their size; of weights how far they moved."""
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    torch.manual_seed(0)
    start = VLM(MODEL, PATCHES if "projector.0.weight" in wanted[1] else None).collect_weights()
    for name, weight in wanted[1].items():
        assert (found[1][name] - weight).norm() <= 10 * tolerance * (weight - start[name]).norm(), name


@pytest.mark.parametrize("packed", [False, True], ids=["text", "images"])
@pytest.mark.parametrize("settings", [{}, {"activation_checkpointing": True}], ids=["plain", "recompute"])
def test_float32_steps_are_those_of_the_cpu(device: torch.device, packed: bool, settings: dict[str, Any]) -> None:
    batch = build_batch(packed=packed)
    plain = {"cpu_matmul": "torch"}
    assert_near(train(device, batch, settings), train(CPU, batch, plain), ROUNDING)


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("packed", "settings"),
    [
        pytest.param(False, {}, id="text"),
        pytest.param(True, {}, id="images"),
        pytest.param(False, {"activation_checkpointing": True}, id="text-recompute"),
        *(pytest.param(True, {"attention": kind}, id=f"images-{kind}") for kind in FLEX),
    ],
)
def test_compiled_float32_steps_are_those_of_the_cpu(
    device: torch.device, packed: bool, settings: dict[str, Any]
) -> None:
    batch = build_batch(packed=packed)
    plain = {"cpu_matmul": "torch"}
    assert_near(train(device, batch, {"compile": True, **settings}), train(CPU, batch, plain), ROUNDING)


@pytest.mark.parametrize("packed", [False, True], ids=["text", "images"])
def test_bf16_steps_are_near_those_of_the_cpu_in_float32(device: torch.device, packed: bool) -> None:
    batch = build_batch(packed=packed)
    losses, weights = train(device, batch, {}, "bf16")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert losses == pytest.approx(train(CPU, batch, {})[0], rel=0.01)


@pytest.mark.parametrize("steps", [1, 5])
def test_adamw_on_the_device_makes_the_updates_of_the_loop_on_the_cpu(device: torch.device, steps: int) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(300, 40), torch.randn(steps, 300, 40)
    ends, moments = [], []
    for place, fused in ((device, None), (CPU, False)):
        weight = torch.nn.Parameter(start.clone().to(place))
        optimizer = AdamW([("weight", weight)], Optimizer(weight_decay=0.1))
        for gradient in gradients:
            weight.grad = gradient.to(place)
            optimizer.step(1e-2, fused=fused)
        ends.append(weight.detach().cpu())
        moments.append({name: tensor.cpu() for name, tensor in optimizer.dump_state().items()})
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    assert moments[0].keys() == moments[1].keys()
    for name, tensor in moments[1].items():
        torch.testing.assert_close(moments[0][name], tensor, rtol=1e-5, atol=1e-6)
