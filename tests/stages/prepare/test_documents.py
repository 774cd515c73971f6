"""Documents of text files: every format, any division into pieces, and lines that are none."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from stages.errors import DataError
from stages.prepare import documents as document_files
from stages.prepare.documents import BadLines, DocumentReader
from stages.prepare.inputs import TextRule, divide_inputs, find_inputs
from tests.stages.prepare.text_inputs import DOCUMENTS, lines_of, write_inputs, write_lines


def read(*paths: Path, rule: TextRule = "blank-line", piece_bytes: int = 1 << 20, limit: int = 0) -> list[str]:
    return read_with_bad(*paths, rule=rule, piece_bytes=piece_bytes, limit=limit)[0]


def read_with_bad(
    *paths: Path, rule: TextRule = "blank-line", piece_bytes: int = 1 << 20, limit: int = 100, field: str = "text"
) -> tuple[list[str], list[str]]:
    """Documents, and the bad lines' places and reasons."""
    bad = BadLines(limit)
    reader = DocumentReader(field, rule, bad)
    return [
        text for piece in divide_inputs(find_inputs(paths), rule, piece_bytes) for text in reader.read(piece)
    ], bad.examples


def test_every_format_gives_its_documents(tmp_path: Path) -> None:
    write_inputs(tmp_path / "texts")
    assert read(tmp_path / "texts") == DOCUMENTS


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 65, 66, 67, 300, 1_000])
def test_a_file_cut_anywhere_gives_each_document_once(piece_bytes: int, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", DOCUMENTS[:20])
    assert read(path, piece_bytes=piece_bytes) == DOCUMENTS[:20]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "\n", "\n\n\n"])
def test_paragraphs_of_a_file_cut_anywhere_are_read_once(before: str, ending: str, tmp_path: Path) -> None:
    text = f"{before}one\ntwo\n\nthree\n\n\n\nfour\nfive\nsix\n\nseven"
    (tmp_path / "a.txt").write_bytes(text.replace("\n", ending).encode())
    for piece_bytes in range(1, 60):
        assert read(tmp_path / "a.txt", piece_bytes=piece_bytes) == ["one\ntwo", "three", "four\nfive\nsix", "seven"]


def test_a_text_file_is_one_document_or_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\n\ntwo\n")
    assert read(tmp_path, rule="file") == ["one\n\ntwo\n"]
    assert read(tmp_path, rule="line", piece_bytes=3) == ["one", "two"]


def test_bad_lines_are_named_with_file_and_line_wherever_the_file_is_cut(tmp_path: Path) -> None:
    good = json.dumps({"text": "good"}).encode()
    rows = [good, b"{", good, b'{"body": 1}', b'{"text": 3}', b'{"text": "\\ud800"}', b"", b'{"text": "\xff"}', b"[1]"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*rows, b"[" * 100_000, good]))
    for piece_bytes in (10, 20, 33, 1 << 20):
        documents, bad = read_with_bad(tmp_path, piece_bytes=piece_bytes)
        assert documents == ["good"] * 3
        assert [each.split(": ")[0] for each in bad] == [f"{tmp_path}/a.jsonl:{n}" for n in (2, 4, 5, 6, 8, 9, 10)]
    reasons = [
        "not JSON",
        "no field 'text'; it has body",
        "no string but int",
        "half a surrogate",
        "not UTF-8",
        "object",
    ]
    assert all(reason in each for reason, each in zip(reasons, bad, strict=False))


def test_bad_lines_of_compressed_files_have_their_line_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines_of(["a", "b"]) + b"{}\n"))
    assert read_with_bad(tmp_path)[1] == [f"{tmp_path}/a.jsonl.gz:3: no field 'text'; it has none"]


def test_bad_rows_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    values = pa.array([b"good", None, b"\xff", b"fine"], pa.binary()).view(pa.binary())
    texts = pa.StringArray.from_buffers(4, values.buffers()[1], values.buffers()[2], values.buffers()[0])
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2)
    documents, bad = read_with_bad(tmp_path, piece_bytes=1)
    assert documents == ["good", "fine"]
    assert [each.split(": ")[0] for each in bad] == [f"{tmp_path}/a.parquet:2", f"{tmp_path}/a.parquet:3"]


def test_one_bad_line_more_than_the_limit_is_an_error_that_shows_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 3)
    assert len(read_with_bad(tmp_path, limit=3)[1]) == 3
    with pytest.raises(DataError, match=r"a\.jsonl:3: not JSON.*3 bad lines, the limit is 2.*--bad-limit"):
        read(tmp_path, limit=2)


def test_a_line_beyond_the_limit_of_memory_is_a_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "MAX_LINE_BYTES", 100)
    write_lines(tmp_path / "a.jsonl", ["short", "long " * 40, "short again"])
    documents, bad = read_with_bad(tmp_path)
    assert documents == ["short", "short again"]
    assert "a.jsonl:2: longer than" in bad[0]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_cut_off_file_is_refused_and_not_taken_for_a_short_one(name: str, keep: float, tmp_path: Path) -> None:
    whole = {
        "a.jsonl.gz": gzip.compress(lines_of(DOCUMENTS)),
        "a.jsonl.zst": zstandard.ZstdCompressor().compress(lines_of(DOCUMENTS)),
        "a.parquet": lines_of(DOCUMENTS),
    }[name]
    (tmp_path / name).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match=rf"{name}: "):
        read(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cut off or damaged"):
        read(tmp_path)
    (tmp_path / "a.jsonl.gz").unlink()
    (tmp_path / "a.jsonl.zst").write_bytes(b"not zstandard")
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: cut off or damaged"):
        read(tmp_path)


def test_inputs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "a.csv").write_text("text\n")
    for paths, message in (
        ([tmp_path / "none"], "no such file or folder"),
        ([tmp_path / "a.csv"], "not a kind of text file"),
        ([tmp_path, tmp_path / "a.jsonl"], "given twice"),
    ):
        with pytest.raises(DataError, match=message):
            find_inputs(paths)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match="no text files in this folder"):
        find_inputs([tmp_path])


def test_a_parquet_file_without_the_column_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text'; it has body"):
        read(tmp_path)
    assert read_with_bad(tmp_path, field="body")[0] == ["a"]


@pytest.mark.parametrize("name", ["b.jsonl.xz", "b.json.bz2", "b.csv", "b.parquet.gz", "sub/b.warc.gz", "b.zip"])
def test_text_of_another_form_in_a_folder_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "a.jsonl")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{name}: a form of text that is not read here"):
        find_inputs([tmp_path])


def test_other_files_in_a_folder_are_passed_over_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "a.jsonl")
    for name in ("README.md", "LICENSE", ".a.jsonl.xz"):
        (tmp_path / name).touch()
    assert [Path(each.path).name for each in find_inputs([tmp_path])] == ["a.jsonl"]
    assert capsys.readouterr().err == (
        f"{tmp_path}: reads 1 .jsonl; passed over 1 without an ending, 1 .md: LICENSE (and 1 more); to have "
        "plain text read, copy it to NAME.txt\n"
    )


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_in_place_of_json_lines_is_named(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}], indent=indent))
    with pytest.raises(DataError, match=r"jq -c \.\[\]"):
        read(tmp_path / "a.json")
