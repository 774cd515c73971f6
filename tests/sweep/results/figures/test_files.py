"""The files: three formats, fonts, sizes in inches, the same bytes, nothing stale."""

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from sweep.results.figures.gallery import FigureData, draw_figures, iter_entries
from sweep.results.figures.style import DPI, DrawnFigure, apply_style, save_figure
from tests.sweep.results.figures.conftest import Entries

FORMATS = ("png", "pdf", "svg")
SVG = "{http://www.w3.org/2000/svg}"
SHOWN = ("sizes", "score_by_branch-79m", "text_against_vision-1.4b", "heat_map-79m", "tasks-79m", "loss-79m")


@pytest.fixture(scope="module")
def saved(study: FigureData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of their own: saving changes how boxes are measured."""
    folder = tmp_path_factory.mktemp("figures")
    with apply_style():
        for model, entry in iter_entries(study):
            name = f"{entry.name}-{model}" if model else entry.name
            if name in SHOWN:
                assert isinstance(entry, DrawnFigure)
                save_figure(entry.figure, folder, name, FORMATS)
    return folder


def inches(entries: Entries, name: str) -> tuple[float, float]:
    entry = entries[name]
    assert isinstance(entry, DrawnFigure)
    width, height = entry.figure.get_size_inches()
    return float(width), float(height)


@pytest.mark.parametrize("name", SHOWN)
def test_a_png_has_300_dots_an_inch_and_shows_something(saved: Path, entries: Entries, name: str) -> None:
    width, height = inches(entries, name)
    with Image.open(saved / f"{name}.png") as image:
        assert image.size == (int(DPI * width), int(DPI * height))
        inked = sum(image.convert("L").histogram()[:200]) / (image.width * image.height)
    assert 0.005 < inked < 0.5


@pytest.mark.parametrize("name", SHOWN)
def test_a_pdf_is_whole_has_its_size_and_true_type_fonts(saved: Path, entries: Entries, name: str) -> None:
    content = (saved / f"{name}.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
    assert box
    assert [float(side) / 72 for side in box.groups()] == pytest.approx(inches(entries, name), abs=0.01)
    assert b"/Subtype /CIDFontType2" in content or b"/Subtype /TrueType" in content
    assert b"/Subtype /Type3" not in content
    assert b"/FontFile2" in content  # embedded
    assert b"CreationDate" not in content


@pytest.mark.parametrize("name", SHOWN)
def test_an_svg_parses_has_its_size_and_text_as_text(saved: Path, entries: Entries, name: str) -> None:
    root = ElementTree.parse(saved / f"{name}.svg").getroot()  # noqa: S314 - our own file
    assert root.tag == f"{SVG}svg"
    assert float(root.attrib["width"].removesuffix("pt")) / 72 == pytest.approx(inches(entries, name)[0], abs=0.01)
    words = {each.text for each in root.iter(f"{SVG}text")}
    assert words & {"Vision", "text (accuracy - chance)", "Vision tasks", "Text trunk"}
    assert not list(root.iter("{http://purl.org/dc/elements/1.1/}date"))


@pytest.fixture
def few(study: FigureData) -> FigureData:
    """A sweep of one model that has few figures."""
    rows = [
        each for each in study.rows if each["model"] == "79m" and each["image_share"] == 0.1 and each["epochs"] == 1
    ]
    return replace(study, rows=rows)


def test_the_same_data_give_the_same_bytes(few: FigureData, tmp_path: Path) -> None:
    contents = []
    for attempt in ("one", "other"):
        written, _ = draw_figures(few, tmp_path / attempt, FORMATS)
        contents.append({path.name: path.read_bytes() for path in written})
    assert contents[0] == contents[1]
    assert {Path(name).suffix for name in contents[0]} == {".png", ".pdf", ".svg", ".md", ".csv", ".tex"}


def test_files_of_before_go_and_all_others_stay(few: FigureData, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "figures"
    folder.mkdir(parents=True)
    for name in ("score_by_epochs.png", "overview-gone.svg", "table_seeds.tex", "mine.png", "overview-notes.txt"):
        (folder / name).write_bytes(b"old")
    (folder.parent / "overview-79m.png").write_bytes(b"where figures lay before")
    (folder.parent / "results.parquet").write_bytes(b"a table")
    written, _ = draw_figures(few, folder, ("pdf",))
    assert {*folder.iterdir()} == {*written, folder / "mine.png", folder / "overview-notes.txt"}
    assert [path.name for path in folder.parent.iterdir() if path.is_file()] == ["results.parquet"]


def test_captions_say_what_every_figure_shows(few: FigureData, tmp_path: Path) -> None:
    written, _ = draw_figures(few, tmp_path, ("svg",))
    text = (tmp_path / "captions.md").read_text()
    assert all(f"**{path.stem}**" in text for path in written if path.suffix == ".svg")
    assert "**score_by_branch**: Scores against branch point." in text


def test_what_is_left_out_is_told_by_model_and_reason(study: FigureData, few: FigureData, tmp_path: Path) -> None:
    _, remarks = draw_figures(few, tmp_path, ())
    assert "not drawn: sizes: a single model" in remarks
    assert any(remark.startswith("not drawn: score_by_image_share, ") for remark in remarks)


def test_a_score_that_is_not_finite_is_no_score(few: FigureData, tmp_path: Path) -> None:
    rows = [{**each, "vision_stable_score": math.nan, "bits_per_byte": math.inf} for each in few.rows]
    written, remarks = draw_figures(replace(few, rows=rows), tmp_path, ("svg",))
    assert "score_by_branch" in {path.stem for path in written}  # text alone
    assert "not drawn: text_against_vision: no scores of vision or none of text" in remarks


def test_several_models_have_a_set_of_figures_each_and_some_together(study: FigureData, tmp_path: Path) -> None:
    rows = [each for each in study.rows if each["image_share"] == 0.1 and each["epochs"] == 1]
    written, remarks = draw_figures(replace(study, rows=rows), tmp_path, ("svg",))
    names = {path.stem for path in written}
    assert {"score_by_branch-79m", "score_by_branch-1.4b", "sizes", "score_by_size", "score_by_cost"} <= names
    assert any(remark.startswith("79m: not drawn: ") for remark in remarks)
