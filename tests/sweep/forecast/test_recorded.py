"""The forecast beside runs that were recorded, at parts of their time."""

from pathlib import Path

import pytest

from jobs.reconcile.snapshot import ClusterReport, load_snapshot
from jobs.store.paths import Store
from sweep.forecast.conditions import SiteConditions, build_device_pools
from sweep.forecast.outlook import forecast_campaign
from sweep.forecast.reading import build_campaign
from tests.jobs import toy
from tests.sweep.report.test_time_left import BUSY, STEADY, stand_within


@pytest.mark.parametrize(
    ("path", "part", "factor"),
    [
        (STEADY, 0.0, 4), (STEADY, 0.25, 1.5), (STEADY, 0.5, 1.3), (STEADY, 0.75, 1.3),
        (BUSY, 0.25, 2), (BUSY, 0.5, 2), (BUSY, 0.75, 1.5),
    ],
)  # fmt: skip
def test_a_recorded_run_was_forecast_within_a_factor(path: Path, part: float, factor: float, tmp_path: Path) -> None:
    progress, cores, left = stand_within(path, part)
    store = Store(tmp_path / "store")
    toy.plan(store, progress.jobs)
    snapshot = load_snapshot(progress.jobs, store, toy.SWEEP, ClusterReport())
    pools, list_taken = build_device_pools(cores, holds_back=True)
    conditions = SiteConditions(pools=pools, list_taken=list_taken, room=cores)
    campaign, _ = build_campaign(snapshot, progress, conditions)
    found = forecast_campaign(campaign, draws=60)
    assert left / factor <= found.end.middle <= left * factor
    assert found.end.low < found.end.middle < found.end.high
