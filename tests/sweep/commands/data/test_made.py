"""From what people have to a sweep file, by the command line alone."""

from pathlib import Path

import pytest
import yaml

from sweep.cli import main
from tests.stages.prepare.test_captions import ROWS, write_csv, write_images
from tests.stages.prepare.text_inputs import DOCUMENTS, lines_of
from tests.sweep.small_sweep import SMALL


def entry_of(said: str) -> dict[str, dict[str, object]]:
    """The lines for the sweep file, as YAML reads them."""
    lines = said.splitlines()
    start = lines.index("in the sweep file:") + 1
    found: dict[str, dict[str, dict[str, object]]] = yaml.safe_load("\n".join(lines[start : start + 2]))
    return found["data"]


def test_what_the_commands_print_makes_a_sweep_file_whose_data_are_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(lines_of(DOCUMENTS * 3))
    write_images(tmp_path / "photos")
    table = write_csv(tmp_path / "pairs.csv", ROWS)
    commands = [
        ["tokenizer", f"{tmp_path}/corpus.jsonl", "--out", f"{tmp_path}/tokenizer.json", "--vocabulary", "400"],
        ["text", f"{tmp_path}/corpus.jsonl", "--tokenizer", f"{tmp_path}/tokenizer.json", "--out", f"{tmp_path}/words",
         "--context", "64", "--workers", "1"],
        ["captions", str(table), "--images", f"{tmp_path}/photos", "--out", f"{tmp_path}/pairs", "--workers", "1"],
    ]  # fmt: skip
    entries: dict[str, dict[str, object]] = {}
    for command, made, said in zip(
        commands,
        ["tokenizer.json", "words", "pairs"],
        ["400 tokens", "sequences of 65", "11 samples in 1 shard"],
        strict=True,
    ):
        assert main(["data", *command]) == 0
        printed = capfd.readouterr()
        assert printed.out == f"{tmp_path}/{made}\n"
        assert said in printed.err
        assert "\nnext: " in printed.err
        entries |= entry_of(printed.err)
    assert {entry["kind"] for entry in entries.values()} == {"tokenizer", "text", "captions"}
    sweep = yaml.safe_load(SMALL)
    for name in ("words", "pictures", "bpe"):
        del sweep["data"][name]
    sweep["data"] |= entries
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    main(["data", "check", f"{tmp_path}/sweep.yaml", "--workers", "1", "--store", f"{tmp_path}/store"])
    rows = {line.split()[0]: line.split() for line in capfd.readouterr().out.splitlines() if line.strip()}
    for name in entries:
        assert rows[name][-1] == "nothing", rows[name]


def test_the_manifest_of_shards_by_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "photos")
    assert main(["data", "captions", f"{tmp_path}/photos", "--out", f"{tmp_path}/set", "--workers", "1"]) == 0
    before = (tmp_path / "set" / "manifest.jsonl").read_bytes()
    (tmp_path / "set" / "manifest.jsonl").unlink()
    capfd.readouterr()
    assert main(["data", "manifest", f"{tmp_path}/set/shard-{{000000..000000}}.tar", "--workers", "1"]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path}/set/manifest.jsonl\n"
    assert (tmp_path / "set" / "manifest.jsonl").read_bytes() == before
    assert entry_of(printed.err) == {"set": {"kind": "captions", "path": f"{tmp_path}/set"}}
    (tmp_path / "set" / "shard-000000.tar").write_bytes(b"no tar")
    assert main(["data", "manifest", f"{tmp_path}/set", "--workers", "1", "--replace"]) == 1
    assert "damaged: " in capfd.readouterr().err
