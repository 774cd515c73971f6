"""A process that writes a feature store: `python -m tests.stages.vision.store_writer FOLDER FIRST END`."""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stages.vision.feature_store import FeatureStore

SHAPE = (4, 8)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def features(number: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number)).bfloat16()


def store_in(folder: Path, clock: Callable[[], float] = time.monotonic) -> FeatureStore:
    folder.mkdir(exist_ok=True)
    return FeatureStore(folder, SHAPE, "bfloat16", clock)


def filled(folder: Path, numbers: range) -> FeatureStore:
    store = store_in(folder)
    for number in numbers:
        store.add(digest(number), features(number))
    return store


if __name__ == "__main__":
    filled(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))
