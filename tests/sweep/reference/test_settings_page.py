"""docs/settings.md is what the code says, and says all of it."""

import re

import pytest

from stages.vision.specs import ENCODERS
from sweep.catalog import load_catalog
from sweep.cli import main
from sweep.reference.settings_page import render_settings_page
from sweep.spec.settings import BASE
from tests.sweep.small_sweep import ROOT

PAGE = ROOT / "docs" / "settings.md"
ROW = re.compile(
    r"^\| `([^`]+)` \| ([^|]*) \| ((?:[^|]|\\\|)*) \| ([^|]*) \| ((?:[^|]|\\\|)*) \| (.*) \|$", re.MULTILINE
)


def test_the_page_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text() == render_settings_page(), "run `make reference`"
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == render_settings_page()


def test_every_setting_has_a_type_a_sentence_and_a_default_or_a_need() -> None:
    rows = {name: rest for name, *rest in ROW.findall(render_settings_page())}
    assert BASE.keys() <= rows.keys()
    wordless = [name for name in BASE if not rows[name][0] or not rows[name][4].endswith(".")]
    assert wordless == []
    # what has no default is needed by someone, or is nothing where it is left out
    silent = [name for name in BASE if not rows[name][1] and not rows[name][3]]
    assert set(silent) <= {"evaluate.text_tasks", "evaluate.vision_tasks", "pretrain.encoder_revision"}


def test_encoders_models_and_gpu_types_are_listed() -> None:
    text = render_settings_page()
    catalog = load_catalog()
    names = [*ENCODERS, *catalog.models, *(name for name, kind in catalog.gpus.items() if kind.is_gpu)]
    assert [name for name in names if f"\n| `{name}` |" not in text] == []
