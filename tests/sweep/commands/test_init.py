"""`sweep init`: what it finds, what it writes, that the plan has nothing to add, and that nothing hangs or is lost."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.cli import main
from tests.stages.training.training_case import COLOURS, png
from tests.sweep.preflight.studies import write_data
from tests.sweep.small_sweep import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "data"
    folder.mkdir()
    write_data(folder)
    return folder


def run_init(folder: Path, *words: object) -> int:
    """Writes FOLDER/sweep.yaml and asks nothing."""
    return main(
        ["init", *map(str, words), "--out", str(folder / "sweep.yaml"), "--store", str(folder / "store"), "--yes"]
    )


def read_file(folder: Path) -> Any:
    return yaml.safe_load((folder / "sweep.yaml").read_text())


def plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the report, and what is remarked."""
    capsys.readouterr()
    code = main(["plan", str(folder / "sweep.yaml"), "--store", str(folder / "store"), "--json"])
    output, remarks = capsys.readouterr()
    return code, json.loads(output), remarks


@pytest.mark.parametrize(
    "machine",
    [
        ("--backend", "local", "--gpu-type", "none"),
        ("--backend", "slurm", "--gpu-type", "h100"),
        ("--backend", "slurm", "--gpu-type", "a100", "--model", "79m"),
    ],
    ids=["cores", "cluster", "model of the catalog"],
)
def test_the_written_file_plans_at_once_and_no_input_has_a_problem(
    machine: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_init(tmp_path, data, *machine) == 0
    output, remarks = capsys.readouterr()
    assert output == f"{tmp_path}/sweep.yaml\n"
    assert f"next: sweep plan {tmp_path}/sweep.yaml --store {tmp_path}/store" in remarks
    assert "lacks" not in remarks
    code, report, said = plan(tmp_path, capsys)
    assert code == 0, said
    assert report["inputs"] == []
    assert "correct what is told above" not in said
    assert len(report["cells"] if isinstance(report.get("cells"), list) else [0]) >= 1


def test_settings_fit_the_data(data: Path, tmp_path: Path) -> None:
    assert run_init(tmp_path, data, "--backend", "local", "--gpu-type", "none", "--name", "mine") == 0
    content = read_file(tmp_path)
    kinds = {entry["kind"] for entry in content["data"].values()}
    assert kinds == {"text", "captions", "conversations", "tokenizer", "tasks"}
    assert content["name"] == "mine"
    # of three sets of token shards the largest, and no sequence longer than it has
    assert content["data"][content["defaults"]["text"]]["path"] == str(data / "words")
    assert content["defaults"]["trunk"]["context"] == 64
    # the words are 2,600 tokens: no more than four passes over them, or two segments of two steps
    assert content["defaults"]["trunk"]["unit_tokens"] <= 4 * 2_600
    [model] = content["models"].values()
    assert model["vocabulary"] >= 256
    assert content["defaults"]["evaluate"]["text_tasks"] == [{"name": "sums", "limit": 200}]
    assert content["defaults"]["evaluate"]["vision_tasks"] == [{"name": "hues", "limit": 200}]


def test_places_may_be_named_by_their_kind(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--text", data / "made-64", "--captions", data / "pictures", "--conversations", data / "talks"]
    words += ["--tokenizer", data / "tokenizer.json", "--tasks", data / "exams"]
    assert run_init(tmp_path, *words, "--backend", "local", "--gpu-type", "none") == 0
    content = read_file(tmp_path)
    assert content["data"]["made-64"] == {"kind": "text", "path": str(data / "made-64")}
    assert len(content["data"]) == 5
    assert plan(tmp_path, capsys)[1]["inputs"] == []


def test_data_below_the_file_and_the_store_are_named_from_there(data: Path, tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "talks").symlink_to(data / "talks")
    words = ["--tokenizer", tmp_path / "near", "--conversations", tmp_path / "store" / "talks"]
    assert run_init(tmp_path, *words, "--backend", "local") == 0
    paths = {entry["kind"]: entry["path"] for entry in read_file(tmp_path)["data"].values()}
    assert paths["tokenizer"] == "near/tokenizer.json"
    assert paths["conversations"].startswith("$STORE/talks/")


def test_raw_texts_and_pictures_are_told_with_the_command_that_makes_data_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("A red square lies on a blue circle. " * 400)
    (tmp_path / "texts" / "b.jsonl").write_text('{"text": "words"}\n')
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        (tmp_path / "photos" / f"{colour}.png").write_bytes(png(colour))
        (tmp_path / "photos" / f"{colour}.txt").write_text(f"a {colour} picture")
    (tmp_path / "pairs.csv").write_text("image,caption\nphotos/red.png,a red picture\n")
    assert main(["init", ".", "--backend", "local", "--gpu-type", "none", "--yes"]) == 0
    told = capsys.readouterr().err
    made = [line.partition(": ")[2].split() for line in told.splitlines() if line.startswith("lacks ")]
    commands = {words[2]: words for words in made if words[:2] == ["sweep", "data"]}
    assert commands.keys() == {"tokenizer", "text", "captions"}
    assert commands["text"][3] == "texts"
    # they do make what the file names
    for name in ("tokenizer", "text"):
        assert main(commands[name][1:]) == 0, name
    assert main(["data", "captions", "photos", "--out", "data/captions"]) == 0
    capsys.readouterr()
    assert main(["plan", "sweep.yaml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {problem["setting"].rpartition(".")[2] for problem in report["inputs"]} == {"conversations", "tasks"}


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data as people have them, under names of their own; the folder is the working one."""
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "notes", "gauges", "talks"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    mine = tmp_path / "mine"
    for number in range(3):
        (mine / "texts" / f"{number}.txt").write_text("A red square lies on a blue circle. " * 200)
        (mine / "notes" / f"{number}.md").write_text("words")
    (mine / "texts" / "more.jsonl").write_text('{"title": "T", "body": "many words"}\n')
    (mine / "texts" / "read.rst").write_text("words")
    rows = ["filename,description"]
    for colour in COLOURS:
        (mine / "gauges" / f"{colour}.png").write_bytes(png(colour))
        rows.append(f"{colour}.png,a {colour} gauge")
    (mine / "gauges" / "captions.csv").write_text("\n".join(rows))
    (mine / "table.csv").write_text("\n".join(["picture,words", *(row for row in rows[1:])]))
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A square."}]
    (mine / "talks" / "all.jsonl").write_text(f"{json.dumps({'id': '1', 'conversations': turns})}\n" * 2)
    return mine


def find_commands(told: str) -> dict[str, str]:
    """Kind to what is said to make it."""
    lines = [line.removeprefix("lacks ") for line in told.splitlines() if line.startswith("lacks ")]
    return {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}


def test_data_under_unknown_names_are_told_with_the_very_command_that_makes_them(
    own_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "mine/texts", "mine/gauges", "mine/talks", "--backend", "local", "--yes"]) == 0
    told = capfd.readouterr().err
    assert "mine/gauges/captions.csv: images with captions, not yet in shards (columns filename, description)" in told
    assert "mine/talks/all.jsonl: conversations, not yet in one JSON list (JSON lines with id, conversations)" in told
    assert "mine/texts: texts, 4 files (3 .txt, 1 .jsonl; not read: 1 .rst)" in told
    commands = find_commands(told)
    assert (
        commands["captions"] == "sweep data captions mine/gauges/captions.csv --caption description --out data/captions"
    )
    assert commands["conversations"] == "jq -s . mine/talks/all.jsonl > mine/talks/all.json"
    assert commands["text"].startswith("sweep data text mine/texts --field body --tokenizer ")
    for kind in ("captions", "tokenizer"):  # what is said does make it
        assert main(commands[kind].split()[1:]) == 0
    said = capfd.readouterr().err
    assert "next: sweep data text mine/texts --field body --tokenizer data/tokenizer.json --out data/texts " in said


def test_a_table_whose_images_lie_elsewhere_is_told_with_their_folder(
    own_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--captions", "mine/table.csv", "--backend", "local", "--yes"]) == 0
    command = find_commands(capfd.readouterr().err)["captions"]
    assert command == (
        "sweep data captions mine/table.csv --image picture --caption words --images mine/gauges --out data/captions"
    )
    assert main(command.split()[1:]) == 0


def test_what_is_not_of_its_kind_or_not_read_is_told_by_what_it_holds(
    own_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (own_data / "prices.csv").write_text("day,price\n1,2\n")
    words = ["--captions", "mine/prices.csv", "--conversations", "mine/texts", "mine/notes", "mine/gauges/red.png"]
    assert main(["init", *words, "mine/texts", "--backend", "local", "--yes"]) == 0
    told = capfd.readouterr().err
    assert "mine/prices.csv: not used: nothing there is of kind captions: it has columns day, price; " in told
    assert "mine/texts: not used: nothing there is of kind conversations: it holds raw text; " in told
    assert "mine/notes: not used: 3 .md not read (" in told


def test_names_from_data_reach_neither_the_terminal_nor_the_file_raw(
    own_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (own_data / "odd.csv").write_text('filename,"A;$(touch GOT)","\x1b[31m"\ngauges/red.png,a red one,x\n')
    assert main(["init", "--captions", "mine/odd.csv", "--backend", "local", "--yes"]) == 0
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert find_commands(told)["captions"].startswith("sweep data captions mine/odd.csv --caption 'A;$(touch GOT)' ")
    assert read_file(own_data.parent)["name"] == "sweep"


def test_the_name_of_the_file_itself_is_quoted_and_on_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my\nepochs: [9] .yaml"
    assert main(["init", str(data), "--out", str(out), "--store", str(tmp_path / "store"), "--yes"]) == 0
    lines = out.read_text().splitlines()
    assert lines[1].startswith("# What it runs and costs: sweep plan 'my")
    assert lines[1].endswith("epochs: [9] .yaml'")
    odd = tmp_path / "bad\nname"
    odd.mkdir()
    (odd / "a.txt").write_text("some text\n")
    capsys.readouterr()
    main(["init", str(odd), "--out", str(tmp_path / "b.yaml"), "--store", str(tmp_path / "store"), "--yes"])
    assert capsys.readouterr().err.splitlines()[0].endswith("name ...")


def test_a_place_above_is_named_by_its_absolute_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "talks").symlink_to(data / "talks")
    monkeypatch.chdir(tmp_path / "here")
    words = ["--text", "../data/words", "--conversations", "../store/talks", "--store", "../store"]
    assert main(["init", *words, "--out", "../here/sweep.yaml", "--backend", "local", "--yes"]) == 0
    paths = {entry["kind"]: entry["path"] for entry in read_file(tmp_path / "here")["data"].values()}
    assert paths["text"] == str(tmp_path / "data" / "words")
    assert paths["conversations"].startswith("$STORE/talks/")
    assert paths["tokenizer"] == "data/tokenizer.json"


def test_a_limit_of_questions_says_why(data: Path, tmp_path: Path) -> None:
    assert run_init(tmp_path, data, "--backend", "local", "--gpu-type", "none") == 0
    limited = [line for line in (tmp_path / "sweep.yaml").read_text().splitlines() if "limit: 200" in line]
    assert len(limited) == 2
    assert all(
        line.endswith("  # the first 200 questions of each, for speed; without `limit` all are asked")
        for line in limited
    )


def test_what_is_there_is_never_written_over_unasked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text("precious")
    assert run_init(tmp_path, data) == 1
    assert "is there already; give another --out, or --replace" in capsys.readouterr().err
    assert (tmp_path / "sweep.yaml").read_text() == "precious"
    assert run_init(tmp_path, data / "tokenizer.json", "--backend", "local", "--replace") == 0
    assert read_file(tmp_path)["name"] == "sweep"


@pytest.mark.parametrize(
    "case",
    [
        (["empty"], "found nothing that a sweep can use"),
        (["none"], "there is nothing"),
        (["data/tokenizer.json", "--model", "80m"], "'80m' is not a model; models are"),
        (["data/tokenizer.json", "--gpu-type", "z100"], "'z100' is not a type of the catalog"),
        (["data/tokenizer.json", "--name", "../x"], "is not a plain word"),
        (["data/tokenizer.json", "--out", "none/sweep.yaml"], "there is no folder none"),
        (["odd;name"], "is not a plain path"),
    ],
)
def test_wrong_words_end_in_one_line(
    case: tuple[list[str], str],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, part = case
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd;name").mkdir()
    (tmp_path / "odd;name" / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    assert main(["init", *words, "--backend", "local", "--yes"]) in {1, 2}
    errors = capsys.readouterr().err
    assert part in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "sweep.yaml").exists()


def test_a_terminal_is_asked_and_its_answers_are_taken(data: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sweep", "init", str(data), "--out", "study.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200"}
    process = subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    answers = {"name of the sweep": "asked", "where jobs run": "local", "GPU type": "none", "model": "11m"}
    said = ""
    for question, answer in answers.items():
        while question not in said:
            assert select.select([ours], [], [], 120)[0], said
            said += os.read(ours, 4_096).decode()
        said = ""
        os.write(ours, f"{answer}\n".encode())
    assert process.wait(120) == 0
    os.close(ours)
    content = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert content["name"] == "asked"
    assert content["backend"] == "local"
    assert [model["like"] for model in content["models"].values()] == ["11m"]
    assert content["resources"]["gpus_per_node"] == 0


def test_without_a_terminal_no_question_hangs(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweep", "init", str(data / "tokenizer.json"), "--backend", "local"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        check=False,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sweep.yaml\n"
