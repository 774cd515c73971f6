from pathlib import Path

import pytest

from sweep.cli import main
from sweep.commands.data import PARTS

DOCS = Path(__file__).parents[4] / "docs" / "data.md"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_help_with_an_example_and_stands_in_the_docs(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", part, "--help"])
    assert stop.value.code == 0
    assert "example" in capsys.readouterr().out
    assert f"sweep data {part}" in DOCS.read_text()
