"""What every figure holds to, as it is drawn: sizes, fonts, free labels, grey, hollow points."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sweep.cli import main
from sweep.results.figures.gallery import FigureData, iter_entries
from sweep.results.figures.style import (
    DOUBLE_COLUMN,
    SINGLE_COLUMN,
    SMALL,
    DrawnFigure,
    OmittedFigure,
    apply_style,
    select_style,
    start_figure,
)
from sweep.results.figures.tasks import build_bar_look
from tests.oracle.stored import unpack
from tests.sweep.results.figures.conftest import Entries
from tests.sweep.results.figures.rendered import compute_grey, find_faults, is_marked, list_points

MODELS = ("1.4b", "79m")
AXES = ("branch", "image_share", "epochs")
VARIED_AT_ONE_SIZE = ("instruction_share", "captions", "encoder", "freeze_encoder", "amount", "lr_at_branch")
OF_EACH_SIZE = (
    "overview",
    "heat_map",
    "text_against_vision",
    "tasks",
    "tasks_by_branch",
    "loss",
    "learning_rate",
    "differences",
    "differences_by_mix",
    *(f"score_by_{axis}" for axis in AXES),
)
FIGURES = (
    *(f"{name}-{model}" for model in MODELS for name in OF_EACH_SIZE),
    *(f"score_by_{axis}-1.4b" for axis in VARIED_AT_ONE_SIZE),
    *("sizes", "score_by_size", "score_by_cost"),
)


def figure(entries: Entries, name: str) -> Figure:
    entry = entries[name]
    assert isinstance(entry, DrawnFigure), entry
    return entry.figure


def panels(entries: Entries, name: str) -> list[Axes]:
    return [axes for axes in figure(entries, name).axes if axes.get_title(loc="left")]


def marked(axes: Axes) -> list[Line2D]:
    """Lines of points: neither caps of error bars nor lines without markers."""
    return [line for line in axes.lines if is_marked(line) and line.get_marker() not in {"_", "|", 2, 3}]


def hollow(line: Line2D) -> bool:
    return to_hex(line.get_markerfacecolor()) == "#ffffff"


def test_a_study_in_which_all_varies_gives_every_figure(entries: Entries) -> None:
    assert {name for name, entry in entries.items() if isinstance(entry, DrawnFigure)} == set(FIGURES)
    omitted = {name for name, entry in entries.items() if isinstance(entry, OmittedFigure)}
    assert omitted == {*(f"score_by_{axis}-79m" for axis in VARIED_AT_ONE_SIZE), "table_seeds-79m"}


@pytest.mark.parametrize("name", FIGURES)
def test_no_label_covers_a_point_or_another_label_or_leaves_the_page(entries: Entries, name: str) -> None:
    assert find_faults(figure(entries, name)) == []


def test_the_figures_of_the_stored_sweep_hold_to_the_same(tmp_path: Path) -> None:
    store = unpack(tmp_path)
    assert main(["results", "kept", "--store", str(store), "--no-figures"]) == 0
    folder = store / "sweeps" / "kept" / "results"
    data = FigureData(
        sweep="kept",
        rows=pq.read_table(folder / "results.parquet").to_pylist(),
        jobs=pq.read_table(folder / "jobs.parquet", columns=["key", "parents"]).to_pylist(),
        metrics=folder / "metrics.parquet",
        contrasts=folder / "contrasts.parquet",
    )
    faults: dict[str, list[str]] = {}
    with apply_style():
        for _, entry in iter_entries(data):
            if isinstance(entry, DrawnFigure):
                entry.figure.draw_without_rendering()
                faults[entry.name] = find_faults(entry.figure)
    assert {"overview", "score_by_branch", "loss", "learning_rate"} <= faults.keys()
    assert [each for each in faults.values() if each] == []


def test_a_label_over_a_point_or_label_or_edge_would_be_found(style: None) -> None:
    drawn, (axes,) = start_figure(1, heading="heading")
    axes.plot([0, 1], [0, 1], "o")
    axes.text(1, 1, "covering", ha="center", va="center")
    axes.text(0.5, 0.2, "one")
    axes.text(0.5, 0.2, "other")
    drawn.text(0.9, 0.5, "a text that leaves the page")
    drawn.draw_without_rendering()
    faults = find_faults(drawn)
    assert "'covering' over a marker" in faults
    assert "'one' over 'other'" in faults
    assert "'a text that leaves the page' beyond the page" in faults


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_as_wide_as_one_column_or_two(entries: Entries, name: str) -> None:
    width, height = figure(entries, name).get_size_inches()
    assert width in {SINGLE_COLUMN, DOUBLE_COLUMN}
    assert 2 < height < 9


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_of_seven_or_eight_points(entries: Entries, name: str) -> None:
    sizes = {float(text.get_fontsize()) for text in figure(entries, name).findobj(Text) if text.get_text().strip()}
    assert min(sizes) >= SMALL
    assert max(sizes) <= 8


@pytest.mark.parametrize("name", FIGURES)
def test_both_axes_of_every_panel_are_named(entries: Entries, name: str) -> None:
    for axes in panels(entries, name) or figure(entries, name).axes[:1]:
        assert axes.get_ylabel() or name.startswith("differences")  # its ticks are words
        assert axes.get_xlabel() or name.startswith("tasks")


@pytest.mark.parametrize("name", FIGURES)
def test_the_legend_stands_outside_of_the_panels(entries: Entries, name: str) -> None:
    drawn = figure(entries, name)
    assert not any(axes.get_legend() for axes in drawn.axes)
    for legend in drawn.legends:
        box = legend.get_window_extent()
        assert not any(axes.get_window_extent().overlaps(box) for axes in drawn.axes)


@pytest.mark.parametrize("model", MODELS)
def test_points_at_100_percent_are_hollow_and_all_others_are_not(entries: Entries, model: str) -> None:
    for axes in panels(entries, f"score_by_branch-{model}"):
        places: dict[bool, list[int]] = {True: [], False: []}
        for line in marked(axes):
            places[hollow(line)] += [round(across) for across, _ in list_points(line)]
        assert set(places[True]) <= {99, 100, 101}
        assert len(places[True]) == 4  # one for each image share
        assert len(places[False]) == 12
        assert max(places[False]) <= 81
    labels = [text.get_text() for text in figure(entries, f"score_by_branch-{model}").legends[0].get_texts()]
    assert labels[-1] == "hollow: images after all text"


def test_the_line_of_100_percent_is_hollow_where_branch_points_are_lines(entries: Entries) -> None:
    axes = panels(entries, "score_by_image_share-1.4b")[0]
    assert [hollow(line) for line in marked(axes)] == [False, False, False, True]


def test_every_model_is_a_point_in_the_scatters(entries: Entries, study: object) -> None:
    drawn = figure(entries, "text_against_vision-79m").axes[0]
    assert sum(len(list_points(line)) for line in marked(drawn)) == 4 * 4 * 2
    cost = figure(entries, "score_by_cost").axes[0]
    assert sum(len(list_points(line)) for line in marked(cost)) == 2 * 32 + 11


def test_the_heat_map_has_a_number_for_each_field(entries: Entries) -> None:
    vision, text = panels(entries, "heat_map-79m")
    assert len(vision.texts) == len(text.texts) == 4 * 4
    # branch 0, share 0: 0.2 + 0.02 * 2 epochs + 0.0001 * seed 0
    assert vision.texts[0].get_text() == "0.240"


def test_the_chance_level_is_named_in_the_margin(entries: Entries) -> None:
    for name in ("score_by_branch-79m", "score_by_branch-1.4b", "sizes"):
        for axes in panels(entries, name):
            (label,) = [text for text in axes.texts if "chance" in text.get_text()]
            assert label.get_window_extent().x0 > axes.get_window_extent().x1


def test_a_far_chance_level_does_not_flatten_the_points(entries: Entries) -> None:
    vision, text = panels(entries, "score_by_branch-1.4b")
    assert vision.get_ylim()[0] > 0.2  # scores of 0.34 to 0.51: zero is far below
    assert "below" in vision.texts[-1].get_text()
    assert text.get_ylim()[0] < 0  # scores of 0.09 to 0.2
    assert text.texts[-1].get_text() == "chance\n(acc. 0.32)"


def test_a_panel_for_each_of_two_sizes_and_axes(entries: Entries) -> None:
    assert [axes.get_xlabel() for axes in panels(entries, "sizes")] == 2 * [
        "text before images (%)",
        "image share of the mix (%)",
    ]
    labels = [text.get_text() for text in figure(entries, "sizes").legends[0].get_texts()]
    assert labels[:2] == ["79m", "1.4b"]  # by size, not by letters


def test_sizes_are_placed_by_the_logarithm_of_their_parameters(entries: Entries) -> None:
    axes = panels(entries, "score_by_size")[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["79M", "1.4B"]
    assert axes.get_xticks() == pytest.approx([7.8972, 9.1583], abs=1e-4)


def test_tasks_have_a_bar_for_each_image_share(entries: Entries) -> None:
    vision, text = panels(entries, "tasks-79m")
    assert [label.get_text() for label in vision.get_xticklabels()] == [
        *("vqav2", "gqa", "textvqa", "refcoco", "ocid_ref", "pope", "vizwiz")
    ]
    assert sum(isinstance(patch, Rectangle) for patch in vision.patches) == 7 * 4
    assert sum(isinstance(patch, Rectangle) for patch in text.patches) == 9 * 4


def test_each_task_that_has_a_chance_level_is_shown_against_the_branch_point(entries: Entries) -> None:
    shown = panels(entries, "tasks_by_branch-79m")
    assert len(shown) == 6 + 9  # without vizwiz
    first = [up for _, up in list_points(shown[0].lines[0])]
    # no images, two epochs: 0.24, 0.26, 0.32, 0.34 above chance in every vision task
    assert first == pytest.approx([0.24, 0.26, 0.32, 0.34])


def test_learning_rates_are_those_logged_and_branch_points_lie_on_the_trunk(entries: Entries) -> None:
    trunk, runs = panels(entries, "learning_rate-79m")
    assert [list_points(line)[0][0] for line in marked(trunk)] == [20, 80, 100]
    assert [list_points(line)[0][1] for line in marked(trunk)] == pytest.approx([0.8, 0.2, 0.0])
    assert [hollow(line) for line in marked(trunk)] == [False, False, True]
    assert len(runs.lines) == 4
    assert [up for _, up in list_points(runs.lines[0])[:2]] == pytest.approx([0.99, 0.98])


def test_losses_have_a_panel_for_the_trunk_and_for_each_source(entries: Entries) -> None:
    titles = [axes.get_title(loc="left") for axes in panels(entries, "loss-79m")]
    assert titles == ["Text trunk", "Image-text runs: captions", "Image-text runs: text"]


def test_differences_are_signed_as_their_labels_say_and_marked_by_significance(entries: Entries) -> None:
    axes = panels(entries, "differences-79m")[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [
        *("branch point: 0 vs 100 %", "branch point: 20 vs 100 %", "branch point: 80 vs 100 %"),
        *("image share: 1 vs 0 %", "image share: 10 vs 0 %", "image share: 50 vs 0 %"),
    ]
    points = marked(axes)
    values = [list_points(line)[0][0] for line in points]
    assert values == pytest.approx([-9, -7, -1, 0.1, 1, 5])
    assert [hollow(line) for line in points] == [False, False, True, True, True, False]
    bars = [line for line in axes.lines if len(list_points(line)) == 2 and line.get_color() == "black"]
    assert [across for across, _ in list_points(bars[0])] == pytest.approx([-9.6, -8.4])


def test_the_contrast_of_the_study_has_a_line_for_each_mix(entries: Entries) -> None:
    axes = panels(entries, "differences_by_mix-79m")[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "0 % images",
        "1 % images",
        "10 % images",
        "50 % images",
    ]
    entry = entries["differences_by_mix-79m"]
    assert isinstance(entry, DrawnFigure)
    assert entry.caption == (
        "Images from 80 % minus images from 100 % of the text, mean over the epochs. Bars: 95 % intervals, paired by "
        "question; they hold the sampling of questions; not in them: the noise of one draw of trunk, "
        "image-text run, fine-tune."
    )


# Readable in grey and for colour-blind readers.


@pytest.mark.parametrize("count", range(2, 9))
def test_series_differ_in_marker_and_lightness_without_their_hue(count: int) -> None:
    looks = [select_style(index, count) for index in range(count)]
    assert len({look.marker for look in looks}) == count
    greys = [compute_grey(look.colour) for look in looks]
    assert greys == sorted(greys)
    assert all(later - earlier > 0.05 for earlier, later in pairwise(greys))
    assert greys[-1] < 0.8  # still seen on white


def test_six_lines_differ_in_their_dashes_and_six_bars_in_their_hatches() -> None:
    assert len({str(select_style(index, 6).line) for index in range(6)}) == 6
    assert len({build_bar_look(index, 6)["hatch"] for index in range(6)}) == 6


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_series_of_a_panel_look_alike_without_colour(entries: Entries, name: str) -> None:
    for legend in figure(entries, name).legends:
        looks: Sequence[tuple[object, ...]] = [
            (handle.get_marker(), handle.get_linestyle(), hollow(handle))
            if isinstance(handle, Line2D)
            else (getattr(handle, "get_hatch", lambda: None)(),)
            for handle in legend.legend_handles
        ]
        assert all(one != other for one, other in combinations(looks, 2))


def test_settings_of_the_user_do_not_show(style: None) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}), apply_style():
        assert matplotlib.rcParams["font.size"] == 7.5
        assert matplotlib.rcParams["svg.fonttype"] == "none"
        assert matplotlib.rcParams["pdf.fonttype"] == 42
