"""A sweep whose processes are killed at random moments ends with the same weights and scores as one left alone."""

from pathlib import Path

import pytest

from tests.end_to_end.campaign import campaign, differences, undisturbed
from tests.stages.demo.small_demo import make_small_demo

SMALL = Path(__file__).parent / "small.yaml"


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_kills_at_random_moments_change_no_weight_and_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_CHECKPOINT_STEPS", "4")  # so that an attempt has something to go on from
    data = make_small_demo(tmp_path / "data" / "demo").parent
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    seconds = undisturbed(SMALL, "small", calm, data=data)
    killed = campaign(SMALL, "small", stormy, data=data, kills=10, seed=20, seconds=seconds)
    assert differences(calm, stormy, "small") == []
    assert len(killed) >= 8, f"too few processes were there to be killed: {killed}"
