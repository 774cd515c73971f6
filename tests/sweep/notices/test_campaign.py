"""Events under faults (the short form of `python -m tests.sweep.notices`)."""

import random
from pathlib import Path

import pytest

from tests.sweep.notices.faults import WITHOUT, run_campaign


def test_each_event_is_once_in_its_log_and_none_is_lost(tmp_path: Path) -> None:
    report = run_campaign(random.Random("short"), tmp_path, steps=4)
    assert report.problems == []
    assert report.events > 2


def test_the_campaign_sees_what_is_lost_without_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT, "retry")
    report = run_campaign(random.Random("short"), tmp_path, trouble=1.0, steps=2)
    assert any("the receiver never had it" in problem for problem in report.problems)
