from pathlib import Path

import pytest

from jobs.store.paths import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
