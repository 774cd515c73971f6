"""The file of a sweep's kept limits: what is set, lifted, refused, and shown."""

import json
from pathlib import Path

import pytest

from sweep.errors import StoreError
from sweep.kept_limits import KeptLimits, build_limits_json, format_limit_lines, read_limits, update_limits
from tests.jobs.fake_clock import FakeClock


def test_a_store_without_the_file_has_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path / "limits.json") == KeptLimits()
    assert KeptLimits().list_set() == {}
    assert format_limit_lines(build_limits_json(KeptLimits())) == []


def test_what_is_not_given_stays_and_none_lifts(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    update_limits(path, {"max_queued": 2, "only": ("a", "b")})
    update_limits(path, {"budget_a100_hours": 0.5})
    assert read_limits(path).list_set() == {"max_queued": 2, "budget_a100_hours": 0.5, "only": ("a", "b")}
    after = update_limits(path, {"max_queued": None, "only": ()})
    assert after == read_limits(path)
    assert after.list_set() == {"budget_a100_hours": 0.5}


def test_who_set_a_limit_and_when_is_that_of_its_last_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "limits.json", FakeClock()
    monkeypatch.setattr("sweep.kept_limits.read_user_name", lambda: "ann")
    first = update_limits(path, {"max_queued": 2}, clock)
    monkeypatch.setattr("sweep.kept_limits.read_user_name", lambda: "54321")
    clock.sleep(60)
    both = update_limits(path, {"max_queued": 2, "pace_seconds": 3.0}, clock)
    assert (both.changes["max_queued"], both.changes["pace_seconds"].by) == (first.changes["max_queued"], "54321")
    assert both.changes["pace_seconds"].at == first.changes["max_queued"].at + 60
    lines = format_limit_lines(build_limits_json(both))
    assert [line.partition("  (")[0] for line in lines] == ["--max-queued 2", "--pace 3"]
    assert "(ann, " in lines[0]


def test_a_large_budget_is_shown_to_the_last_digit(tmp_path: Path) -> None:
    kept = update_limits(tmp_path / "limits.json", {"budget_a100_hours": 1_234_567.0})
    assert format_limit_lines(build_limits_json(kept))[0].startswith("--budget-a100-hours 1234567  (")


def test_a_change_without_a_time_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"format": 1, "max_queued": 2, "changes": {"max_queued": {"by": "ann", "at": "noon"}}}')
    assert (read_limits(path).max_queued, read_limits(path).changes) == (2, {})


@pytest.mark.parametrize("given", [{"canary": "on"}, {"first": ("a",)}, {"released": ("a",)}, {"budget_money": 5.0}])
def test_what_an_earlier_version_would_pass_over_it_refuses(given: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    assert read_limits(path) != update_limits(path, given)
    assert json.loads(path.read_text())["format"] == 2
    update_limits(path, {**dict.fromkeys(given), "max_queued": 2} | {name: () for name in given if name != "canary"})
    if "budget_money" not in given:
        assert json.loads(path.read_text())["format"] == 1


def test_nothing_is_written_where_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    update_limits(path, {"max_queued": None})
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 3}', "has format 3, not 1 or 2"),
        ('{"format": 2, "budget_money": "9"}', "budget_money is '9'"),
        ('{"format": 2, "budget_core_hours": -1}', "budget_core_hours is -1"),
        ('{"format": 1, "max_queued": "2"}', "max_queued is '2'"),
        ('{"format": 1, "budget_a100_hours": true}', "budget_a100_hours is True"),
        ('{"format": 1, "backend": "pbs"}', "backend is 'pbs'"),
        ('{"format": 1, "backend": []}', "backend is []"),
        ('{"format": 1, "max_queued": -4}', "max_queued is -4"),
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error_and_not_no_limit(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "limits.json"
    path.write_text(text)
    with pytest.raises(StoreError) as error:
        read_limits(path, acts=True)
    assert f"{path}: {problem}" in str(error.value)


def test_the_file_is_json_with_a_format_number(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    update_limits(path, {"max_queued": 2, "backend": "slurm"})
    content = json.loads(path.read_text())
    assert (content["format"], content["max_queued"], content["backend"], content["only"]) == (1, 2, "slurm", [])
    assert content["changes"]["backend"].keys() == {"by", "at"}


def test_an_older_program_refuses_a_budget_that_it_does_not_know_and_obeys_all_else(tmp_path: Path) -> None:
    """One of the first format refuses every other format before it acts."""
    path = tmp_path / "limits.json"
    update_limits(path, {"max_queued": 2, "budget_a100_hours": 5.0})
    content = json.loads(path.read_text())
    assert (content["format"], "budget_money" in content) == (1, False)
    update_limits(path, {"budget_money": 100.0, "budget_currency": "EUR"})
    assert json.loads(path.read_text())["format"] == 2
    assert read_limits(path, acts=True).list_set() == {
        "max_queued": 2, "budget_a100_hours": 5.0, "budget_money": 100.0, "budget_currency": "EUR"
    }  # fmt: skip
    assert "--budget-money 100 EUR  (" in "\n".join(format_limit_lines(build_limits_json(read_limits(path))))
    update_limits(path, {"budget_money": None, "budget_currency": None})
    assert json.loads(path.read_text())["format"] == 1


def test_a_file_of_the_first_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"format": 1, "budget_a100_hours": 7, "max_queued": null}')
    assert read_limits(path, acts=True) == KeptLimits(budget_a100_hours=7)
