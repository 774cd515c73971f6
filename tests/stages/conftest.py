"""Data that several tests of the stages share."""

from pathlib import Path

import pytest

from tests.stages.demo.small_demo import make_small_demo


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo data set with seed 0. Do not write to it."""
    return make_small_demo(tmp_path_factory.mktemp("demo") / "data")
