"""The device of these tests: the CPU, or with STAGE_DEVICE=cuda a GPU. `python -m benchmarks.gpu_check` sets that.

A reference is computed on the CPU in float64 or float32, and the same lines run on the device. None has run on a GPU.
"""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from stages.distributed import select_device
from tests.stages.devices import DEVICE


@pytest.fixture(scope="session")
def device() -> torch.device:
    return select_device(DEVICE)


@pytest.fixture
def compiler(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler without memory of other tests. On a CPU all of it but its code generation, which takes a minute."""
    import torch._dynamo

    torch._dynamo.reset()
    if device.type == "cpu":
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()
