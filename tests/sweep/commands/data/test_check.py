"""`sweep data text` and `sweep data check`: what a user gives, and what is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from sweep.cli import main
from sweep.commands.data import PARTS
from sweep.report.data_check import found, report_table, sweep_requests, verdict
from tests.stages.prepare.text_inputs import lines_of
from tests.stages.training.training_case import write_captions, write_conversations, write_text, write_tokenizer
from tests.sweep.small_sweep import edited, written

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


def test_text_becomes_shards_that_the_check_likes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "-a.jsonl").write_bytes(lines_of([f"Document {n} is a red square." for n in range(50)]))
    command = ["data", "text", f"{tmp_path}/-a.jsonl", "--tokenizer", f"{tmp_path}/tokenizer.json"]
    command += ["--out", f"{tmp_path}/out", "--context", "31", "--workers", "1"]
    assert main(command) == 0
    assert capfd.readouterr().out == f"{tmp_path}/out\n"
    assert main(["data", "check", f"{tmp_path}/out", "--context", "31", "--vocabulary", "300", "--workers", "1"]) == 0
    printed = capfd.readouterr()
    header, _, row = printed.out.splitlines()
    assert header.split() == ["data", "kind", "shards", "samples", "tokens", "images", "decoded", "found"]
    assert row.split()[:3] == ["out", "text", "1"]
    assert row.split()[-1] == "nothing"
    assert printed.err == "1 data set: nothing would be skipped or refused\n"


def test_an_error_of_the_preparation_is_one_line_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        "data",
        "text",
        f"{tmp_path}/none.jsonl",
        "--tokenizer",
        f"{tmp_path}/t.json",
        "--out",
        f"{tmp_path}/out",
    ]
    assert main(command) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {tmp_path}/t.json: there is no such tokenizer file\n"


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
    requests = {request["name"]: request for request in sweep_requests(sweep_file, sweep_file.parent / "store")}
    assert {name: request["kind"] for name, request in requests.items()} == {
        "words": "text", "pictures": "captions", "talks": "conversations", "bpe": "tokenizer", "exams": "tasks",
    }  # fmt: skip
    assert (requests["words"]["context"], requests["words"]["vocabulary"]) == (64, 512)
    assert requests["pictures"]["encoder"] == "patches-16-64"
    assert requests["talks"]["context"] == 2_048
    assert requests["talks"]["tokenizer"] == str(sweep_file.parent / "data" / "tokenizer.json")


def test_the_shortest_and_the_longest_context_of_the_jobs_decide(tmp_path: Path) -> None:
    text = edited(("trunk: {context: 64,", "trunk: {context: 128,"))
    requests = {request["name"]: request for request in sweep_requests(written(tmp_path, text), tmp_path / "store")}
    assert requests["words"]["context"] == 128
    assert requests["pictures"]["context"] == 64


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
    assert "--context is not for a sweep file" in capsys.readouterr().err


def test_a_check_that_ends_without_a_report_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_captions(tmp_path / "pictures", 2)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("no tokenizer")
    assert main(["data", "check", f"{tmp_path}/pictures", "--tokenizer", str(tokenizer), "--workers", "1"]) == 1
    printed = capfd.readouterr().err
    assert "not a tokenizer file" in printed
    assert "sweep data: the check ended without a report" in printed


def test_the_report_names_each_problem_with_what_a_job_does() -> None:
    problem: dict[str, Any] = {"kind": "torn tar", "action": "refuse", "count": 1_200, "examples": ["a.tar: cut off"]}
    counts = dict.fromkeys(("shards", "samples", "tokens", "images", "decoded"), 0)
    report = {"name": "dclm", "kind": "text", **counts, "shards": 2_000, "clean": False, "problems": [problem]}
    assert report_table([report]) == [
        "data  kind  shards  samples  tokens  images  decoded         found",
        "------------------------------------------------------------------",
        "dclm  text   2,000        -       -       -        -  1,200 refuse",
        "",
        "dclm: 1,200 x torn tar (refuse: a job ends with an error)",
        "  a.tar: cut off",
        "  and 1,199 more",
    ]
    assert found({**report, "problems": []}) == "nothing"
    assert verdict([report]) == "1 data set: something would be skipped or refused in dclm"
