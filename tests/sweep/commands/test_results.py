"""`sweep results` as a user meets it: files, report, remarks, figures."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jobs.store.paths import Store
from sweep.cli import main
from tests.sweep.results.results_run import command
from tests.sweep.synthetic_store import START, Grid, Written, finish, plan, toy, write_attempt, write_manifest

GRID = Grid(branches=(0, 100), shares=(0.0, 0.5), epochs=(1, 2), seeds=(0, 1))
TABLES = {
    *(f"{name}.parquet" for name in ("results", "jobs", "metrics", "cells", "summary", "differences", "contrasts")),
    "summary.txt",
}
FIGURES = {
    *("overview", "score_by_branch", "score_by_image_share", "score_by_epochs", "heat_map", "text_against_vision"),
    *("tasks", "tasks_by_branch", "loss", "learning_rate", "score_by_cost"),
}
PRINTED = {f"{name}.{form}" for name in ("table_tasks", "table_seeds") for form in ("csv", "md", "tex")}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Written:
    written = toy(tmp_path_factory.mktemp("done"), GRID)
    assert main(["results", "toy", "--store", str(written.store.root)]) == 0
    return written


def results_folder(written: Written) -> Path:
    return written.store.locate_sweep(written.sweep).results


def figures_folder(written: Written) -> Path:
    return results_folder(written) / "figures"


def test_it_writes_tables_summary_and_figures_and_nothing_else(done: Written) -> None:
    assert {path.name for path in results_folder(done).iterdir()} == {*TABLES, "figures"}
    assert {path.name for path in figures_folder(done).iterdir()} == {
        *(f"{name}.{form}" for name in FIGURES for form in ("png", "pdf", "svg")),
        *PRINTED,
        "captions.md",
    }


def test_the_figures_show_something(done: Written) -> None:
    for name in FIGURES:
        with Image.open(figures_folder(done) / f"{name}.png") as image:
            grey = image.convert("L")
            assert image.width in {990, 2070}  # 3.3 and 6.9 inches at 300 dots an inch
            inked = sum(grey.histogram()[:200]) / (image.width * image.height)
            colours = image.convert("RGB").getcolors(maxcolors=2**24)
        assert 0.005 < inked < 0.5, name
        assert colours is not None
        assert len(colours) > 50, name


def test_the_same_results_give_the_same_figures(done: Written, capsys: Capture) -> None:
    before = {path.name: path.read_bytes() for path in figures_folder(done).iterdir()}
    command(done, capsys)
    assert {path.name: path.read_bytes() for path in figures_folder(done).iterdir()} == before


def test_formats_are_those_asked_for(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(branches=(0, 100), shares=(0.5,), epochs=(1,)))
    command(written, capsys, "--figure-formats", "png")
    command(written, capsys, "--figure-formats", "svg,pdf")
    assert {path.suffix for path in figures_folder(written).glob("overview.*")} == {".svg", ".pdf"}


def test_an_unknown_format_is_wrong_usage(done: Written, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        command(done, capsys, "--figure-formats", "png,jpg")
    assert stop.value.code == 2
    assert "'jpg' is no format of figures; take some of png, pdf, svg" in capsys.readouterr().err


def test_every_figure_has_its_caption(done: Written) -> None:
    captions = (figures_folder(done) / "captions.md").read_text()
    assert all(f"**{name}**" in captions for name in FIGURES)
    assert "mean over 2 seeds; bars: standard deviation over the seeds" in captions.lower()


def test_the_summary_is_on_stdout_and_the_remarks_on_stderr(done: Written, capsys: Capture) -> None:
    code, out, err = command(done, capsys, "--no-figures", "--top", "3")
    assert code == 0
    lines = out.splitlines()
    assert re.split(r"  +", lines[0]) == [
        "cell",
        "epochs",
        "vision",
        "held-out",
        "text",
        "bits/byte",
        "A100-h own",
        "shared",
    ]
    assert lines[1].startswith("2m-b100-i50-dense-s1")
    assert lines[5] == "Scores are accuracy above chance; chance: vision 0.275, held-out 0.3, text 0.25."
    assert lines[6] == "Not the study's vision score: over tasks of its own: count_val, shapes_val."
    assert lines[9].split() == ["A100-hours", "phase", "done", "planned", "of", "done", "used", "wasted"]
    assert err.splitlines()[1].startswith("branch 0 % -> 100 %: vision +0.0")


def test_the_summary_file_shows_all_models_what_each_axis_does_and_the_hours(done: Written, capsys: Capture) -> None:
    _, out, _ = command(done, capsys, "--no-figures")
    models, notes, hours = out.split("\n\n")
    parts = (results_folder(done) / "summary.txt").read_text().split("\n\n")
    assert [parts[0], parts[1], parts[-1]] == [models, notes, hours]
    titles = [part.splitlines()[0].split("  ")[0] for part in parts[2:-1]]
    assert titles == [
        *("branch, against 100 %", "image share, against 0 %", "epochs, against 1"),
        "Mean differences between cells that are equal in all else.",
        "2m: branch 0 % against 100 %, at",
        "epochs: cells that are best there",
    ]
    assert parts[2].splitlines()[1].startswith("0 %                        4  -0.0")


def test_the_best_model_is_named_with_its_error(done: Written, capsys: Capture) -> None:
    _, _, err = command(done, capsys, "--no-figures", "--top", "3")
    assert err.splitlines()[0].startswith("best vision score: 2m-b100-i50-dense-s1, 2 epochs: 0.4")


def test_the_best_model_comes_first(done: Written, capsys: Capture) -> None:
    _, out, _ = command(done, capsys, "--no-figures")
    scores = [float(re.split(r"  +", line)[2].split()[0]) for line in out.splitlines()[1:17]]
    assert len(scores) == 16
    assert scores == sorted(scores, reverse=True)


def test_json_holds_every_row(done: Written, capsys: Capture) -> None:
    code, out, _ = command(done, capsys, "--no-figures", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["sweep"], report["models"], report["finished"], report["states"]) == ("toy", 16, 16, {"done": 16})
    assert report["best"]["cell"] == "2m-b100-i50-dense-s1"
    assert len(report["rows"]) == 16
    assert report["rows"][0]["versions"]["torch"] == "2.13.0"
    assert report["rows"][0]["finished_at"].endswith("+00:00")
    assert {Path(file).name for file in report["files"]} == TABLES


def test_json_has_no_nan(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(branches=(0,), shares=(0.5,), epochs=(1,)))
    result = written.run(written.phase("finetune")[0]).result
    result.write_text(result.read_text().replace('"loss": 2.5', '"loss": NaN'))
    _, out, _ = command(written, capsys, "--no-figures", "--json")
    assert json.loads(out, parse_constant=pytest.fail)["rows"][0]["finetune_loss"] is None


def test_the_document_names_every_field_of_the_json(done: Written, capsys: Capture) -> None:
    _, out, _ = command(done, capsys, "--no-figures", "--json")
    text = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    section = re.split(r"^## ", text.split("## results\n")[1], flags=re.MULTILINE)[0]
    assert all(f"`{name}`" in section for name in json.loads(out))


def test_csv_holds_the_flat_columns(done: Written, capsys: Capture) -> None:
    _, out, _ = command(done, capsys, "--no-figures", "--csv")
    found = list(csv.DictReader(io.StringIO(out)))
    assert len(found) == 16
    assert float(found[0]["branch"]) == 0.0
    assert "scores" not in found[0]


def test_csv_has_a_column_for_each_override(tmp_path: Path, capsys: Capture) -> None:
    written = plan(Store(tmp_path), Grid(branches=(0, 50), shares=(0.5,), epochs=(1,)))
    written.cells[0]["axes"] |= {"finetune.peak_lr": 2e-5, "finetune.optimizer": "adamw"}
    written.cells[1]["axes"] |= {"text": ["novels"]}
    write_manifest(written)
    found = list(csv.DictReader(io.StringIO(command(written, capsys, "--no-figures", "--csv")[1])))
    assert [(row["finetune.peak_lr"], row["finetune.optimizer"], row["text"]) for row in found] == [
        ("2e-05", "adamw", ""),
        ("", "", '["novels"]'),
    ]


def test_a_partial_sweep_says_what_is_missing(tmp_path: Path, capsys: Capture) -> None:
    written = plan(Store(tmp_path), GRID)
    chain = written.cells[0]
    finish(written, [chain["pretrain"], chain["chains"][0]["finetune"], chain["chains"][0]["evaluate"]])
    code, out, err = command(written, capsys)
    assert code == 0
    models, chances, hours = out.split("\n\n")
    assert len(models.splitlines()) == 1 + 1
    assert chances.startswith("Scores are accuracy above chance")
    assert hours.splitlines()[-1].split() == ["all", "3/41", "41.0", "3.00", "1.86", "-"]
    assert "missing: 15 of 16 models (15 ready)" in err
    assert "some figures are not drawn, as they compare what this sweep does not vary (-v says which)" in err
    why = "score_by_branch, score_by_image_share, score_by_epochs, heat_map, tasks_by_branch: scores for fewer than two"
    assert why not in err
    assert why in command(written, capsys, "-v")[2]
    assert {path.name for path in results_folder(written).iterdir()} == {*TABLES, "figures"}
    assert {path.name for path in figures_folder(written).glob("*.png")} == {"loss.png", "learning_rate.png"}


def test_a_sweep_without_scores_has_an_empty_summary(tmp_path: Path, capsys: Capture) -> None:
    written = plan(Store(tmp_path), GRID)
    code, out, err = command(written, capsys)
    assert (code, out) == (0, "")
    assert "missing: 16 of 16 models" in err
    assert command(written, capsys, "--no-figures", "--csv")[1].startswith("sweep,cell,")


def test_figures_that_the_results_no_longer_allow_are_removed(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(branches=(0, 100), shares=(0.5,), epochs=(1,)))
    folder = figures_folder(written)
    folder.mkdir(parents=True)
    (folder / "score_by_epochs.png").write_bytes(b"old")
    (folder / "mine.png").write_bytes(b"kept")
    command(written, capsys, "--figure-formats", "png")
    names = {path.name for path in folder.glob("*.png")}
    assert {"score_by_branch.png", "overview.png", "mine.png"} <= names
    assert "score_by_epochs.png" not in names


def test_several_models_have_a_set_of_figures_each_and_some_together(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(models=("2m", "9m"), branches=(0, 100), shares=(0.5,), epochs=(1,)))
    command(written, capsys, "--figure-formats", "png")
    names = {path.name for path in figures_folder(written).glob("*.png")}
    assert names == {
        *(
            f"{name}-{model}.png"
            for name in (
                "score_by_branch",
                "overview",
                "text_against_vision",
                "tasks",
                "tasks_by_branch",
                "loss",
                "learning_rate",
            )
            for model in ("2m", "9m")
        ),
        *("sizes.png", "score_by_cost.png"),  # both models have the same number of parameters: no score by size
    }


def test_words_on_an_axis_are_points_without_lines(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(branches=(0,), shares=(0.1, 0.5), epochs=(1,), captions=("dense", "short")))
    command(written, capsys, "--figure-formats", "png")
    assert (figures_folder(written) / "score_by_captions.png").is_file()


def test_a_summary_of_no_models_is_wrong_usage(done: Written, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        command(done, capsys, "--top", "0")
    assert stop.value.code == 2


@pytest.mark.parametrize("name", ["nosuch", "../up", "a b"])
def test_an_unknown_sweep_is_one_line(tmp_path: Path, capsys: Capture, name: str) -> None:
    assert main(["results", name, "--store", str(tmp_path)]) in {1, 2}
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert name in printed.err


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    written = plan(Store(tmp_path), GRID)
    results_folder(written).write_text("a file where the folder should be")
    code, out, err = command(written, capsys)
    assert (code, out) == (1, "")
    assert "results" in err
    assert "Traceback" not in err


def test_hours_that_are_not_known_are_shown_as_such(tmp_path: Path, capsys: Capture) -> None:
    written = toy(tmp_path, Grid(branches=(0,), shares=(0.1, 0.5), epochs=(1,)))
    write_attempt(written, written.phase("finetune")[0], "a2", START, 60, gpu_type="tpu")
    _, out, _ = command(written, capsys, "--no-figures")
    assert [re.split(r"  +", line)[-2] for line in out.splitlines()[1:3]] == ["1.86", "?"]


def test_a_sweep_without_gpus_shows_core_hours(tmp_path: Path, capsys: Capture) -> None:
    written = plan(Store(tmp_path), Grid(branches=(0,), shares=(0.5,), epochs=(1,)))
    finish(written, gpus=0)
    _, out, _ = command(written, capsys, "--no-figures")
    assert re.split(r"  +", out.splitlines()[0])[-2:] == ["core-h own", "shared"]
    assert re.split(r"  +", out.splitlines()[1])[-2] == f"{2 * (360 + 180 + 36) / 3600:.2f}"


def test_without_its_packages_it_says_what_to_install(done: Written) -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(['pyarrow'])); import sweep.cli; sys.exit(sweep.cli.main())"
    arguments = ["results", "toy", "--store", str(done.store.root)]
    ended = subprocess.run([sys.executable, "-c", hide, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == ("sweep results: tables and figures need pyarrow: pip install 'sweep-vlm[report]'\n")


def test_a_round_of_cron_goes_on_without_the_packages_of_tables(done: Written) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow'])); from pathlib import Path;"
        " from sweep.commands.tick import refresh_tables; from sweep.stored_sweep import open_sweep;"
        " print(refresh_tables(open_sweep(Path(sys.argv[1]), 'toy')))"
    )
    command = [sys.executable, "-c", program, str(done.store.root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == (
        "tables are not refreshed: tables and figures need pyarrow: pip install 'sweep-vlm[report]'\n"
    )
