"""What is assumed of answers at plan time: each figure has a source, and a wrong file is refused."""

from pathlib import Path

import pytest

from sweep.catalog import FOLDER, load_catalog
from sweep.catalog.noise import FIELDS, load_noise_assumptions
from sweep.errors import SweepFileError


def test_every_assumption_has_a_source_and_every_cluster_count_a_task() -> None:
    found = load_noise_assumptions()
    assert found.seed_deviation == 0.0063  # the largest of the paper's 0.03 to 0.63 points
    assert all(len(found.sources[name]) > 10 for name in FIELDS)
    tasks = load_catalog().tasks
    assert all(1 < number < tasks[name].documents for name, number in found.clusters.items())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed_deviation: 0.0063", "seed_deviation: 63", "seed_deviation: 63 is not a number above 0 and up to 1"),
        ("  seed_deviation: 0.0063\n", "", "assumptions: wants exactly"),
        ("number: 20,", "number: 0,", "clusters.agieval_sat_en: wants a number of at least 1 and a source"),
        ("clusters:", "images:", "clusters: wants a mapping, and has None"),
    ],
)
def test_a_wrong_file_names_the_entry(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (FOLDER / "noise.yaml").read_text()
    assert before in text
    path = tmp_path / "noise.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SweepFileError, match=r"noise\.yaml") as error:
        load_noise_assumptions(path)
    assert message in str(error.value)
