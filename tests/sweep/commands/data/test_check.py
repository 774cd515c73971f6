"""`sweep data check`: what a user gives, and what is shown."""

import json
from pathlib import Path

import pytest

from sweep.cli import main
from sweep.preflight.readings import format_cell_lines
from sweep.report.data_check import PathSettings, build_requests
from tests.stages.training.training_case import write_captions, write_conversations, write_text, write_tokenizer
from tests.sweep.preflight.studies import write_exams
from tests.sweep.small_sweep import edited, written


def test_what_would_be_skipped_is_shown_and_is_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_text(tmp_path / "text", shards=1, sequences=5, length=33)
    command = ["data", "check", f"{tmp_path}/text", "--context", "64", "--workers", "1"]
    assert main(command) == 1
    printed = capfd.readouterr()
    assert "text: 5 x too short (skip: a job leaves it out, up to its bad_samples_limit)" in printed.out
    assert "  shard-0.tar: 000000: 33 tokens; context 64 needs 65" in printed.out
    assert "  and 2 more" in printed.out
    assert printed.err == "1 data set: something would be skipped or refused in text\n"
    assert main([*command, "--json"]) == 1
    report = json.loads(capfd.readouterr().out)
    assert report["format"] == 1
    assert report["data"][0]["problems"][0]["count"] == 5


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """The small sweep's file, with its data beside it; the exams are missing."""
    write_text(tmp_path / "data" / "words", shards=2, sequences=10, length=65)
    write_captions(tmp_path / "data" / "pictures", 6)
    write_conversations(tmp_path / "data" / "talks", 6)
    write_tokenizer(tmp_path / "data" / "tokenizer.json")
    return written(tmp_path)


def test_a_sweep_files_data_are_checked_by_what_its_jobs_ask_of_them(sweep_file: Path) -> None:
    found = build_requests(str(sweep_file), sweep_file.parent / "store", PathSettings())
    requests = {request["name"]: request for request in found.requests}
    assert {name: request["kind"] for name, request in requests.items()} == {
        "words": "text", "pictures": "captions", "talks": "conversations", "bpe": "tokenizer", "exams": "tasks",
    }  # fmt: skip
    assert (requests["words"]["context"], requests["words"]["vocabulary"]) == (64, 512)
    assert requests["pictures"]["encoder"] == "patches-16-64"
    assert requests["talks"]["context"] == 2_048
    assert requests["talks"]["tokenizer"] == str(sweep_file.parent / "data" / "tokenizer.json")


def test_a_sweep_file_is_checked_whole(sweep_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [
        "data",
        "check",
        str(sweep_file),
        "--store",
        f"{sweep_file.parent}/store",
        "--decode",
        "none",
        "--workers",
        "1",
    ]
    assert main(command) == 1
    printed = capfd.readouterr()
    rows = {line.split()[0]: line.split()[-1] for line in printed.out.splitlines()[2:7]}
    assert rows == {"words": "nothing", "pictures": "note", "talks": "nothing", "bpe": "nothing", "exams": "refuse"}
    assert printed.err == "5 data sets: something would be skipped or refused in exams\n"


def test_options_that_a_sweep_file_answers_are_wrong_usage(
    sweep_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(sweep_file), "--context", "5"]) == 2
    assert "--context cannot be given for a sweep file" in capsys.readouterr().err


def test_a_check_that_ends_without_a_report_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_captions(tmp_path / "pictures", 2)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("no tokenizer")
    assert main(["data", "check", f"{tmp_path}/pictures", "--tokenizer", str(tokenizer), "--workers", "1"]) == 1
    printed = capfd.readouterr().err
    assert "not a tokenizer file" in printed
    assert "sweep data check: the check ended without a report" in printed


def test_cells_say_what_their_jobs_would_skip(sweep_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two prompts: with one of them no answer fits, which no look at the files alone can tell."""
    write_exams(sweep_file.parent / "data" / "exams")
    changes = (
        ("[cloze]", "[sums]"),
        ("[shapes]", "[hues]"),
        ("finetune: {batch_sequences: 8}", "finetune: {batch_sequences: 8, max_length: 64}"),
        ("branch: [0, 50, 100]", "branch: [0]"),
        ("image_share: [0, 0.2]", "image_share: [0.2]\n      finetune.prompt: [pure, vicuna]"),
        ("encoder: patches-16-64", "encoder: patches-16-32"),
    )
    sweep_file.write_text(edited(*changes))
    command = ["data", "check", str(sweep_file), "--store", f"{sweep_file.parent}/store", "--workers", "1"]
    assert main([*command, "--json", "--samples", "4"]) == 1
    printed = capfd.readouterr()
    assert printed.err.endswith("5 data sets: something would be skipped or refused in talks\n")
    report = json.loads(printed.out)
    assert all(each["clean"] for each in report["data"])
    skipped = {cell: found["finetune: talks"] for cell, found in report["cells"].items()}
    assert [found["skipped"] for found in skipped.values()] == [0, 4]
    assert {found["of"] for found in skipped.values()} == {6}
    assert {"pretrain: words", "pretrain: pictures", "evaluate: exams"} < {*next(iter(report["cells"].values()))}
    pure, vicuna = report["cells"]
    assert format_cell_lines(report["cells"]) == [
        f"{pure}: every example that was read is used",
        f"{vicuna}: finetune: talks: would skip 4 of 4 examples, about 6 of all 6",
    ]
