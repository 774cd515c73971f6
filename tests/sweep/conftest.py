from pathlib import Path

import pytest

from jobs.store.paths import Store
from tests.jobs import toy


@pytest.fixture
def counting_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.local.attempts.STAGE_PROGRAM", toy.COUNTING_STAGE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
