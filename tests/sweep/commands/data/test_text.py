from pathlib import Path

import pytest

from sweep.cli import main
from tests.stages.prepare.text_inputs import lines_of
from tests.stages.training.training_case import write_tokenizer


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
    assert printed.err == f"sweep data: {tmp_path}/t.json: there is no such tokenizer file\n"
