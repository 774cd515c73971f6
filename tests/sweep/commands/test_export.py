"""`sweep export`: a cell's model as a folder, the index of a sweep, and what is refused."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.store.paths import Store, write_json
from sweep.cli import main
from tests.stages.export.export_case import NORMED, make_run, write_tokenizer
from tests.sweep.synthetic_store import Grid, Written, finish, plan, result_of, write_manifest

GRID = Grid(branches=(0, 50), shares=(0.0, 0.25), epochs=(1, 2))
CELL = "2m-b50-i25-dense-s0"
PHASES = {"finetune": {"conversations": {"name": "talks", "kind": "conversations", "revision": "r7"}, "epochs": 1}}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A finished sweep whose cell CELL has models."""
    made = plan(Store(tmp_path / "store"), GRID)
    tokenizer = {"tokenizer": {"name": "bpe", "revision": "v1"}}
    for job in made.jobs.values():
        if job["phase"] == "finetune":
            job["config"] = {**PHASES["finetune"], **tokenizer}
        elif job["phase"] == "evaluate":
            job["config"] = {"tasks": "exams", "text_tasks": [{"name": "cloze"}], **tokenizer}
    write_manifest(made)
    locate(made, "bpe", write_tokenizer(tmp_path / "bpe"))
    finish(made)
    for key in (chain_of(made)["finetune"], cell_of(made)["pretrain"]):
        add_model(made, key)
    return made


def locate(made: Written, name: str, path: Path) -> None:
    """Adds a data set to the plan."""
    manifest = made.store.locate_sweep(made.sweep).manifest
    header, _, rest = manifest.read_text().partition("\n")
    manifest.write_text(json.dumps({**json.loads(header), "data": {name: str(path)}}) + "\n" + rest)


def cell_of(made: Written) -> dict[str, str]:
    return next(cell for cell in made.cells if cell["name"] == CELL)


def chain_of(made: Written) -> dict[str, str]:
    chains: list[dict[str, str]] = next(cell["chains"] for cell in made.cells if cell["name"] == CELL)
    return chains[0]


def add_model(made: Written, key: str) -> None:
    """A checkpoint for a finished job."""
    run = made.run(key)
    make_run(run.root, NORMED, None)
    name = json.loads(run.result.read_text())["checkpoint"]
    write_json(run.result, {**result_of(made, key), "checkpoint": name})


def export(made: Written, *words: str) -> int:
    return main(["export", made.sweep, *words, "--store", str(made.store.root)])


def test_a_model_is_exported_with_its_history(
    written: Written, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exports" / "mine"
    assert export(written, CELL, "--epochs", "1", "--out", str(out)) == 0
    assert capfd.readouterr().out == f"{out}\n"
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["eos_token_id"]) == ("olmoe", 0)
    card = (out / "README.md").read_text()
    key = chain_of(written)["finetune"]
    for line in (
        f"Key `{key}`", "| finetune | talks | conversations | r7 |", "| evaluate | exams | tasks | not named |",
        f"### finetune, job {key}", "| peak_lr | 0.0003 |",
        "| image_share | 0.25 |", "| cloze | text |", "| A100-hours, its own |", "| revision | abc123 |", "In: What is",
    ):  # fmt: skip
        assert line in card
    # fine-tune and evaluation on four H100, 180 s and 36 s, at 2.9 A100-hours an hour
    assert f"| A100-hours, its own | {4 * 216 / 3600 * 2.9:.4g} |" in card
    assert json.loads((out / "export.json").read_text())["key"] == key

    base = tmp_path / "exports" / "base"
    assert export(written, CELL, "--stage", "pretrain", "--out", str(base), "--dtype", "bfloat16") == 0
    assert json.loads((base / "config.json").read_text())["dtype"] == "bfloat16"
    assert "pre-trained, not fine-tuned" in (base / "README.md").read_text()

    assert export(written, "--index", "--out", str(out.parent)) == 0
    index = json.loads((out.parent / "index.json").read_text())
    assert (index["sweep"], len(index["models"])) == ("toy", 8)
    mine = next(model for model in index["models"] if model["key"] == key)
    assert mine["export"] == "mine"
    assert mine["axes"]["image_share"] == 0.25
    assert Path(mine["checkpoint"], "model.safetensors").exists()
    assert mine["checkpoint"].startswith(str(written.run(key).root))
    table = pq.read_table(out.parent / "index.parquet").to_pylist()
    assert [row["export"] for row in table if row["key"] == key] == ["mine"]
    assert f"| {CELL} | 1 | done |" in (out.parent / "README.md").read_text()


def test_a_partial_sweep_gives_a_partial_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(Store(tmp_path / "store"), GRID)
    finish(made, made.phase("trunk"))
    for _ in range(2):  # its own index it replaces
        assert export(made, "--index", "--out", str(tmp_path / "index")) == 0
    assert "8 models, 0 finished, 0 exported" in capsys.readouterr().err
    models = json.loads((tmp_path / "index" / "index.json").read_text())["models"]
    assert {(model["state"], model["export"], model["checkpoint"]) for model in models} == {("ready", None, None)}


@pytest.mark.parametrize("name", ["README.md", "index.json", "export.json"])
def test_an_index_replaces_nothing_of_others(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(Store(tmp_path / "store"), GRID)
    (tmp_path / name).write_text("mine")
    assert export(made, "--index", "--out", str(tmp_path)) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([CELL], 2, "fine-tunes of 1, 2 epochs: choose one with --epochs"),
        ([CELL, "--epochs", "3"], 2, "none of 3"),
        ([CELL.replace("i25", "i26"), "--epochs", "1"], 1, f"; did you mean {CELL}"),
        (["../../etc", "--epochs", "1"], 1, "no cell or job"),
        ([CELL, "--epochs", "2"], 1, "does not match its own record"),
        ([CELL, "--stage", "pretrain", "--epochs", "1"], 2, "--epochs chooses among fine-tunes"),
        ([CELL, "--index"], 2, "leave out CELL"),
        ([], 2, "give the CELL"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(
    words: list[str], code: int, said: str, written: Written, capfd: pytest.CaptureFixture[str]
) -> None:
    out = written.store.root / "out"
    assert export(written, *words, "--out", str(out)) == code
    printed = capfd.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not out.exists()


def test_an_unfinished_cell_is_told_with_its_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(Store(tmp_path / "store"), GRID)
    assert export(made, CELL, "--epochs", "1", "--out", str(tmp_path / "out")) == 1
    assert "is waiting, so there is no model to export; see `sweep status toy`" in capsys.readouterr().err


def test_a_sweep_name_is_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "../toy", CELL, "--out", str(tmp_path / "out"), "--store", str(tmp_path)]) == 1
    assert "not a safe name" in capsys.readouterr().err


def test_every_option_stands_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help", "--store", "--verbose"}
    text = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    assert {"--epochs", "--index", "--out"} < options
    assert {option for option in options if option not in text} == set()
