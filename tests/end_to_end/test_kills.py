"""A sweep whose processes are killed at random moments ends with the same weights and scores as one left alone."""

from pathlib import Path

import pytest

from tests.end_to_end.campaign import campaign
from tests.stages.small_demo import make_small_demo

SMALL = Path(__file__).parent / "small.yaml"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_random_moments_change_no_weight_and_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_CHECKPOINT_STEPS", "4")  # so that an attempt has something to go on from
    make_small_demo(tmp_path / "data" / "demo")
    killed, changed = campaign(SMALL, "small", tmp_path, data=tmp_path / "data", kills=10, seed=20)
    assert changed == []
    assert len(killed) >= 8, f"too few processes were there to be killed: {killed}"
