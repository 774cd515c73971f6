"""Campaigns by chance that would pass their budget (the short form of `python -m tests.sweep.budget`)."""

from pathlib import Path

import pytest

from sweep.budget import caps, standing
from tests.sweep.budget.__main__ import judge
from tests.sweep.budget.world import run_case


@pytest.mark.parametrize("number", range(4))
def test_a_campaign_stops_below_its_budget_and_says_what_is_left(number: int, tmp_path: Path) -> None:
    world = run_case(7, number, tmp_path)
    assert judge(world).problem == ""
    assert world.sent > 0


def test_estimates_alone_would_let_a_campaign_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same campaigns show it where what is in flight counts at its estimate, whatever finished jobs have taken."""
    monkeypatch.setattr(standing, "MOST_OVERRUN", 1.0)
    monkeypatch.setattr(standing, "find_overruns", lambda _meters: {})
    monkeypatch.setattr(caps, "select_excess", lambda *_: [])
    problems = [judge(run_case(1, number, tmp_path / str(number))).problem for number in (4, 7)]
    assert any("are spent" in problem for problem in problems)
