"""Keys of the shipped sweeps do not move: work that users have finished is found again by the next release."""

import json

import pytest

from tests.sweep.plan.golden_keys import GOLDEN, defaults, sweeps, versions

ANEW = "if that is meant, write the file anew: python -m tests.sweep.plan.golden_keys"
STORED = json.loads(GOLDEN.read_text())


def test_every_shipped_sweep_has_golden_keys() -> None:
    assert sorted(sweeps()) == sorted(STORED["sweeps"]), ANEW


@pytest.mark.parametrize("name", STORED["sweeps"])
def test_the_keys_are_those_of_before(name: str) -> None:
    now, before = sweeps()[name], STORED["sweeps"][name]
    assert now["trunk"] == before["trunk"], ANEW
    changed = [cell for cell in before["cells"] if now["cells"].get(cell) != before["cells"][cell]]
    assert changed == [], ANEW
    assert list(now["cells"]) == list(before["cells"]), ANEW


def test_no_default_changes_its_meaning_under_one_format_version() -> None:
    """Defaults are left out of keys, so a default that changes needs another version; new fields are free to come."""
    now = defaults()
    changed = [
        f"{kind}.{name}: {value!r} -> {now[kind].get(name)!r}"
        for kind, fields in STORED["defaults"].items()
        for name, value in fields.items()
        if name not in now[kind] or now[kind][name] != value
    ]
    assert changed == [] or STORED["versions"] != versions(), ANEW
