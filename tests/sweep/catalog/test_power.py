"""What devices draw: each figure has a source, and a wrong file is refused."""

from pathlib import Path

import pytest

from sweep.catalog import FOLDER, load_catalog
from sweep.catalog.power import load_power_table
from sweep.errors import SweepFileError


def test_every_gpu_type_has_a_draw_with_a_source() -> None:
    found = load_power_table()
    assert found.gpus.keys() == {name for name, gpu in load_catalog().gpus.items() if gpu.is_gpu}
    assert all(len(each.source) > 10 for each in (*found.gpus.values(), found.core))


def test_a_load_lies_between_idle_and_most() -> None:
    draw = load_power_table().gpus["a100"]
    assert draw.compute_watts(0) == draw.idle_watts + draw.host_watts
    assert draw.compute_watts(1) == draw.watts + draw.host_watts


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("overhead: 1.0", "overhead: 0.5", "overhead: 0.5 is not a number from 1 to 5"),
        ("overhead: 1.0\n", "", "wants exactly"),
        ("trunk: 0.85, ", "", "loads: wants exactly"),
        ("trunk: 0.85", "trunk: 85", "trunk: 85 is not a number"),
        ("watts: 400", "watts: -4", "gpus.a100.watts: -4 is not a number from 0 to"),
        ("idle_watts: 60", "idle_watts: 500", "gpus.a100: idle_watts is above watts"),
        ("  l40s:", "  l41s:", "gpus.l41s: there is no GPU type of that name"),
    ],
)
def test_a_wrong_file_names_the_entry(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (FOLDER / "power.yaml").read_text()
    assert before in text
    path = tmp_path / "power.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SweepFileError, match=r"power\.yaml") as error:
        load_power_table(path)
    assert message in str(error.value)
