"""The report as a file: what stands in it, what cannot get out of its place, how large it is, when it is written."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.store.paths import Store
from sweep.cli import main
from sweep.page.curves import choose_curve_points, thin_curve
from sweep.page.drawing import choose_axis
from sweep.page.refresh import refresh_results
from sweep.page.tables import ColumnKind, PageColumn, PageTable
from sweep.page.write import build_policy, embed_json, write_page
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.sweep import synthetic_store
from tests.sweep.page.stores import GRIDS, build_store
from tests.sweep.synthetic_store import Grid, Written, finish, plan, toy

SMALL = Grid("small", branches=(0, 100), shares=(0.0, 0.5), epochs=(1, 2))


class PageReader(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw.append((self.cdata_elem, data))
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> PageReader:
    written = build_store(tmp_path_factory.mktemp("page"), GRIDS[72], "half")
    return PageReader(write(written).read_text())


def write(written: Written) -> Path:
    stored = open_sweep(written.store.root, written.sweep)
    return write_page(stored, write_tables(stored), now=1_790_050_000.0)


def test_it_needs_no_other_file_and_lets_nothing_in(page: PageReader) -> None:
    attributes = [(tag, name, value) for tag, found in page.elements for name, value in found.items()]
    assert [each for each in attributes if each[1] in {"src", "srcset", "action", "data", "poster", "style"}] == []
    assert [each for each in attributes if each[1].startswith("on")] == []
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "img", "object", "embed", "base", "form"} == set()
    links = [value for tag, name, value in attributes if name in {"href", "xlink:href"}]
    assert links
    assert [link for link in links if not str(link).startswith("#")] == []


def test_the_policy_names_the_program_and_the_style_by_their_content(page: PageReader) -> None:
    policy = next(found["content"] for tag, found in page.elements if found.get("http-equiv"))
    raw: dict[str, list[str]] = {}
    for tag, text in page.raw:
        raw.setdefault(tag, []).append(text)
    # the program is the last script; the data before it are no program
    assert policy == build_policy("".join(raw["style"]), raw["script"][-1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_tables_and_figures_stand_in_the_page_itself(page: PageReader) -> None:
    text = " ".join(page.words)
    assert "When should images enter pre-training?" in text
    assert "KeyError: 'image'" in text
    assert "tried again from the start" in text
    assert "uncorrectable ECC error" in text
    assert sum(tag == "svg" and "chart" in str(found.get("class")) for tag, found in page.elements) > 6
    assert sum(tag == "tr" and str(found.get("id", "")).startswith("cell-") for tag, found in page.elements) == 9


def test_the_hours_are_those_of_the_tables(tmp_path: Path) -> None:
    written = build_store(tmp_path, GRIDS[72], "half")
    stored = open_sweep(tmp_path, written.sweep)
    tables = write_tables(stored)
    text = write_page(stored, tables).read_text()
    used = sum(tables.jobs.column("used_a100_hours").to_pylist())
    row = re.search(r'<tr class="sum">(.*?)</tr>', text, re.DOTALL)
    assert row
    places = re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.DOTALL)
    assert places[0] == "all"
    done = tables.jobs.column("state").to_pylist().count("done")
    assert places[2] == f"{done}/{len(written.jobs)}"
    assert float(places[4]) == pytest.approx(used, rel=0.01)


def test_json_in_the_page_cannot_end_its_element_and_is_the_same_after_reading() -> None:
    hostile = {"a": ["</script><script>x()</script>", "<!--", "&lt;", "a\u2028b\u202ec", {"</": [1.5, None]}]}
    text = str(embed_json(hostile))
    assert re.search(r"[<>&\u2028\u202e]", text) is None
    found = json.loads(text)
    assert found["a"][:3] == hostile["a"][:3]
    assert found["a"][3] == "a\\u2028b\\u202ec"


def test_the_same_store_gives_the_same_page(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    assert write(written).read_bytes() == write(written).read_bytes()


def test_a_page_of_2710_jobs_is_smaller_than_two_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # 13,000 files
    written = build_store(tmp_path, GRIDS[2_710])
    assert len(written.jobs) == 2_710
    path = write(written)
    assert 500_000 < path.stat().st_size < 2 * 2**20
    data = read_data(path)
    assert sum(len(each[1]) for each in data["curves"].values()) <= 48_000
    assert len(data["curves"]) == 10 + 300 + 1_200


def read_data(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_a_thinned_curve_has_the_mean_of_each_part_and_its_highest_loss() -> None:
    steps, values = np.arange(1.0, 1_001.0), np.full(1_000, 2.0)
    values[700] = 50.0
    curve = thin_curve(steps, values, 10)
    assert len(curve.values) == 10
    assert curve.values[0] == 2.0
    assert curve.values.max() == pytest.approx(2.0 + 48 / 100, rel=0.02)
    assert curve.highest == (701.0, 50.0)
    assert curve.logged == 1_000
    few = thin_curve(steps[:4], values[:4], 10)
    assert few.steps.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert [choose_curve_points(runs) for runs in (0, 1, 1_510, 20_000)] == [64, 64, 31, 12]


def test_an_axis_has_round_ticks_within_its_ends() -> None:
    axis = choose_axis("", [0.013, 0.48])
    assert [name for _, name in axis.ticks] == ["0.0", "0.1", "0.2", "0.3", "0.4"] or len(axis.ticks) >= 3
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert choose_axis("", []).ticks
    assert choose_axis("", [float("nan"), 3.0]).low < 3.0


def test_a_word_that_comes_again_is_written_once() -> None:
    column = PageColumn("state", "state", ["done", "done", "failed", "done"])
    assert column.build_json() == {
        **{"name": "state", "title": "state", "kind": "text"},
        **{"words": ["done", "failed"], "at": [0, 0, 1, 0]},
    }
    numbers = PageTable("t", "", [PageColumn("x", "x", [1.0, None, float("inf"), -0.12345], ColumnKind.NUMBER, 3)])
    assert numbers.list_text_rows() == [["1.000"], [""], ["inf"], ["\N{MINUS SIGN}0.123"]]
    assert numbers.build_json()["columns"][0]["values"] == [1, None, "inf", -0.12345]


@pytest.mark.parametrize("state", ["empty", "failed"])
def test_a_sweep_without_results_has_a_page_that_says_so(state: str, tmp_path: Path) -> None:
    text = write(build_store(tmp_path, GRIDS[72], state)).read_text()
    assert "No model has a score yet" in text
    assert ("Nothing has run yet." in text) == (state == "empty")
    assert ("ValueError: no such field" in text) == (state == "failed")
    assert ("sweep resume medium" in text) == (state == "failed")


def read_heat_maps(path: Path) -> list[tuple[list[str], list[str]]]:
    """Of each table of the grid: heads of its columns, heads of its rows."""
    tables = re.findall(r'<table class="heat">(.*?)</table>', path.read_text(), re.DOTALL)
    return [tuple(re.findall(rf'<th scope="{kind}">(.*?)</th>', each) for kind in ("col", "row")) for each in tables]  # type: ignore[misc]


def test_a_grid_of_one_axis_names_its_only_row(tmp_path: Path) -> None:
    found = read_heat_maps(write(toy(tmp_path, Grid("line", shares=(0.1,), epochs=(1,)))))
    assert found == [(["0 %", "50 %", "100 %"], ["cells"])]


def test_a_grid_of_one_cell_is_named_by_it(tmp_path: Path) -> None:
    written = toy(tmp_path, Grid("one", branches=(0,), shares=(0.1,), epochs=(1,)))
    path = write(written)
    assert read_heat_maps(path) == [([written.cells[0]["name"]], ["cells"])]
    assert "1 cell, 1 fine-tuned model,\n3 jobs. As of" in path.read_text()


def test_a_cell_without_an_axis_and_an_axis_of_yes_and_no_say_so(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), Grid("own", branches=(0, 100), shares=(0.1,), epochs=(1,)))
    first, second = written.cells
    first["axes"] |= {"pretrain.qk_norm": True, "finetune.note": "a"}
    second["axes"] |= {"pretrain.qk_norm": False}
    synthetic_store.write_manifest(written)
    text = write(written).read_text()
    assert sorted(re.findall(r'<td class="wrap">([^<]*)</td>', text))[1:] == ["a, not set", "false, true"]
    assert "frozen" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_a_branch_point_as_a_step_is_no_axis_of_its_own_and_a_list_has_no_brackets(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), Grid("steps", branches=(0, 50), shares=(0.1,), epochs=(1,)))
    written.cells[1]["axes"] |= {"branch": 17.094, "branch_step": 100, "evaluate.vision_tasks": ["a", "b"]}
    written.cells[0]["axes"] |= {"evaluate.vision_tasks": ["a"]}
    synthetic_store.write_manifest(written)
    assert read_heat_maps(write(written)) == [(["0 %", "17.09 %"], ["a, b", "a"])]


def test_only_phases_that_ran_stand_below_the_times(tmp_path: Path) -> None:
    text = write(toy(tmp_path, Grid("short", branches=(0,), shares=(0.1,), epochs=(1,)))).read_text()
    times = text.partition('<section id="times">')[2].partition("</section>")[0]
    assert re.findall(r"</svg>(\w+)</li>", times) == 2 * ["pretrain", "finetune", "evaluate"]


def test_hours_have_one_unit_before_and_after_anything_ran(tmp_path: Path) -> None:
    for state in ("empty", "done"):
        text = write(build_store(tmp_path / state, GRIDS[3], state)).read_text()
        assert "A100-h own" in text
        assert "core-h" not in text


def test_the_command_says_where_the_page_is_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = toy(tmp_path / "store", SMALL)
    options = ["report", "small", "--store", str(written.store.root)]
    assert main([*options, "--out", str(tmp_path / "mine.html")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'mine.html'}\n"
    assert re.match(r"report of 8 models in 0\.[12] MiB; next: open ", printed.err.splitlines()[-1])
    assert main(options) == 0
    assert (written.store.locate_sweep("small").results / "report.html").exists()
    assert main([*options, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"sweep report: --out {tmp_path}: is a folder; give a file, such as {tmp_path / 'report.html'}"
    )


def test_a_round_renews_the_page_with_the_tables(tmp_path: Path) -> None:
    written = build_store(tmp_path, SMALL, "empty")
    stored = open_sweep(tmp_path, "small")
    assert refresh_results(stored) == ""
    finish(written)
    remark = refresh_results(stored)
    page = stored.paths.results / "report.html"
    assert remark == f"tables and report refreshed in {stored.paths.results} (report.html)"
    assert "8 models" in page.read_text() or "8 fine-tuned models" in page.read_text()
    assert refresh_results(stored) == ""


def test_a_page_loads_no_library_that_draws(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    program = (
        "import sys; from sweep.cli import main; code = main(sys.argv[1:]);"
        " assert 'jinja2' in sys.modules; assert 'matplotlib' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "report", "small", "--store", str(written.store.root)]
    subprocess.run(command, check=True, capture_output=True)


# What losses are told apart by.


def read_losses(tmp_path: Path, grid: Grid) -> tuple[list[str], list[set[str]]]:
    """The legend, and of each chart its lines' colours and dashes."""
    text = write(build_store(tmp_path, grid)).read_text()
    figure = text[text.index("<h3>Training losses") :].partition("</figure>")[0]
    charts = figure.partition('<ul class="legend">')[0].split('<svg class="chart"')[1:]
    return re.findall(r"</svg>([^<]*)</li>", figure), [set(re.findall(r'"l (s\d d\d)"', chart)) for chart in charts]


def test_losses_differ_in_colour_and_dashes_by_the_axes_that_vary(tmp_path: Path) -> None:
    grid = Grid("toy", models=("2m", "9m"), branches=(50,), shares=(0.1, 0.5), epochs=(1,))
    legend, (trunks, pretrains, finetunes) = read_losses(tmp_path, grid)
    assert legend == ["image share 10 %", "image share 50 %", "model 2m", "model 9m"]
    assert trunks == {"s7 d0", "s7 d1"}  # each serves both image shares
    assert pretrains == finetunes == {"s0 d0", "s1 d0", "s0 d1", "s1 d1"}


def test_losses_of_one_cell_need_no_legend(tmp_path: Path) -> None:
    legend, lines = read_losses(tmp_path, Grid("toy", branches=(50,), shares=(0.1,), epochs=(1,)))
    assert (legend, lines) == ([], [{"s0 d0"}] * 3)


def test_an_axis_of_many_values_has_the_dashes_for_itself(tmp_path: Path) -> None:
    shares = tuple(place / 10 for place in range(10))
    legend, lines = read_losses(tmp_path, Grid("toy", branches=(0, 100), shares=shares, epochs=(1,)))
    assert legend[:2] == ["images start at 0 %", "images start at 100 %"]
    assert len(legend) == 2  # ten dashes would not be told apart
    assert lines[1] == {"s0 d0", "s1 d0"}


def test_effects_have_their_values_in_the_axis_own_words(tmp_path: Path) -> None:
    text = write(build_store(tmp_path, Grid("toy", branches=(50,), shares=(0.0, 0.25), epochs=(1, 2)))).read_text()
    assert "image share 0 % → 25 %" in text
    assert "fine-tuning epochs 1 epoch → 2 epochs" not in text
    assert "fine-tuning epochs 1 → 2" in text
