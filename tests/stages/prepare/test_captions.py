"""Images and captions as people have them become shards: the same bytes each time, bad rows counted and named."""

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from stages.data.captions import Captions
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.prepare.captions import CaptionsRecipe, find_caption_inputs, prepare_captions
from tests.stages.prepare.text_inputs import contents
from tests.stages.training.training_case import document_of, picture_reader, write_tokenizer

COUNT = 11


def picture(number: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24 + number, 16), (20 * number, 100, 200)).save(buffer, form)
    return buffer.getvalue()


def name_of(number: int) -> str:
    return f"deep/{number:02d}.jpg" if number % 2 else f"{number:02d}.PNG"


def caption_of(number: int) -> str:
    return f'A "{number}",\nsecond line ü'


def write_images(folder: Path) -> Path:
    """Eleven images with their captions beside them."""
    (folder / "deep").mkdir(parents=True)
    for number in range(COUNT):
        path = folder / name_of(number)
        path.write_bytes(picture(number, "JPEG" if number % 2 else "PNG"))
        path.with_suffix(".txt").write_text(f" {caption_of(number)}\n")
    return folder


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("file_name", "caption")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def make(
    out: Path, *inputs: Path, workers: int = 1, bad_limit: int = 0, images: Path | None = None, **settings: Any
) -> bool:
    recipe = CaptionsRecipe(images=str(images.resolve()) if images else "", **{"shard_samples": 4, **settings})
    return prepare_captions(out, recipe, find_caption_inputs(inputs), workers=workers, bad_limit=bad_limit)


def members_of(out: Path) -> dict[str, bytes]:
    """Every member of every shard, by name."""
    found: dict[str, bytes] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file is not None
                assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, 0, "", "")
                assert entry.name not in found
                found[entry.name] = file.read()
    return found


def record_of(out: Path) -> Mapping[str, Any]:
    record: Mapping[str, Any] = json.loads((out / "dataset.json").read_text())
    return record


ROWS = [(name_of(number), caption_of(number)) for number in range(COUNT)]
EXPECTED = {
    name: content
    for number in range(COUNT)
    for name, content in [
        (f"{number:09d}.{'jpg' if number % 2 else 'png'}", picture(number, "JPEG" if number % 2 else "PNG")),
        (f"{number:09d}.txt", caption_of(number).encode()),
    ]
}


def write_table(kind: str, folder: Path) -> Path:
    """The rows in one form; images lie in `folder`/images."""
    path = folder / f"table.{kind}"
    lines = "".join(json.dumps({"id": 1, "text": caption, "image": name}) + "\n" for name, caption in ROWS)
    match kind:
        case "csv" | "tsv":
            return write_csv(path, ROWS)
        case "csv.gz":
            path.write_bytes(gzip.compress(write_csv(folder / "plain.csv", ROWS).read_bytes()))
        case "jsonl":
            path.write_text(lines)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "parquet":
            names, captions = zip(*ROWS, strict=True)
            parquet.write_table(pa.table({"image_path": names, "caption": captions}), path, row_group_size=3)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_kind_of_table_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    images = write_images(tmp_path / "images")
    assert make(tmp_path / "out", write_table(kind, tmp_path), images=images)
    assert members_of(tmp_path / "out") == EXPECTED
    counts = record_of(tmp_path / "out")["counts"]
    assert (counts["rows"], counts["samples"], counts["shards"], counts["bad_rows"]) == (COUNT, COUNT, 3, 0)


def test_a_folder_of_images_with_captions_beside_them(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "a.jpg").write_bytes(b"")
    (images / "._00.PNG").write_bytes(b"resource fork")
    assert make(tmp_path / "out", images)
    found = members_of(tmp_path / "out")
    assert sorted(found.values()) == sorted(EXPECTED.values())
    assert found["000000000.txt"] == caption_of(0).encode()


@pytest.mark.parametrize("both", [False, True])
def test_images_as_bytes_in_parquet(tmp_path: Path, both: bool) -> None:
    """A column of bytes, and one of `{bytes, path}` as the datasets library writes it."""
    pictures: list[Any] = [picture(number, "JPEG" if number % 2 else "PNG") for number in range(COUNT)]
    column = [{"bytes": each, "path": "any.gif"} for each in pictures] if both else pictures
    table = pa.table({"image": column, "text": [caption for _, caption in ROWS]})
    parquet.write_table(table.slice(0, 5), tmp_path / "0.parquet", row_group_size=2)
    parquet.write_table(table.slice(5), tmp_path / "1.parquet", row_group_size=100)
    assert make(tmp_path / "out", tmp_path / "0.parquet", tmp_path / "1.parquet")
    assert members_of(tmp_path / "out") == EXPECTED


def test_what_is_made_is_what_training_reads(tmp_path: Path) -> None:
    make(tmp_path / "out", write_images(tmp_path / "images"))
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 300)
    source = Captions("made", tmp_path / "out", field="", tokenizer=tokenizer, images=picture_reader())
    assert source.size == COUNT
    assert tokenizer.decode(list(document_of(source, 0).tokens)) == caption_of(0)


def test_several_captions_go_to_a_json_with_their_names(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    table = write_csv(tmp_path / "t.csv", [(*row, "another") for row in ROWS], ("file", "caption", "alt"))
    make(tmp_path / "out", table, images=images, captions=("caption", "alt"))
    assert json.loads(members_of(tmp_path / "out")["000000003.json"]) == {"caption": caption_of(3), "alt": "another"}
    assert record_of(tmp_path / "out")["field"] == "caption,alt"


def test_lists_of_captions_are_kept_as_lists(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    rows = [{"image": name, "caption": [caption, " two "] if number else [caption]}
            for number, (name, caption) in enumerate(ROWS)]  # fmt: skip
    (tmp_path / "images" / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(tmp_path / "out", tmp_path / "images" / "t.jsonl")
    found = members_of(tmp_path / "out")
    assert found["000000000.txt"] == caption_of(0).encode()
    assert json.loads(found["000000001.json"]) == {"captions": [caption_of(1), "two"]}
    assert record_of(tmp_path / "out")["field"] == "captions,txt"
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 300)
    source = Captions("made", tmp_path / "out", field="captions,txt", tokenizer=tokenizer, images=picture_reader())
    assert {tokenizer.decode(list(document_of(source, 1, at).tokens)) for at in range(20)} == {caption_of(1), "two"}


def test_an_object_of_json_lines_may_lack_what_others_have(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n' + write_table("jsonl", tmp_path).read_text())
    make(tmp_path / "out", tmp_path / "t.jsonl", images=images, bad_limit=1)
    record = record_of(tmp_path / "out")
    assert record["counts"]["samples"] == COUNT
    assert record["bad_rows"] == [f"{tmp_path}/t.jsonl:1: no column of images; it has id; name one with --image"]
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"t\.jsonl: no column of images"):
        make(tmp_path / "none", tmp_path / "t.jsonl", images=images, bad_limit=1)


BAD_ROWS = {
    "climbing": ("../secret.png", "x", "lies outside the data set"),
    "climbing within": ("deep/../../secret.png", "x", "lies outside the data set"),
    "absolute": ("/etc/hostname", "x", "lies outside the data set"),
    "an address": ("https://host/a.jpg", "x", "is an address; fetch the images first"),
    "absent": ("none.png", "x", "there is no image 'none.png'"),
    "a folder": ("deep", "x", "there is no image 'deep'"),
    "no caption": ("00.PNG", "  ", "no caption in caption"),
    "no image": (" ", "x", "no path of an image in 'file_name'"),
    "no picture": ("words.png", "x", "no JPEG, PNG, WEBP image"),
    "cut off": ("cut.png", "x", "a damaged image"),
    "another format": ("a.gif", "x", "no JPEG, PNG, WEBP image; convert it"),
    "a zero byte": ("a\0b.png", "x", ""),
    "a pipe": ("pipe.png", "x", "there is no image 'pipe.png'"),
}


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    images = write_images(tmp_path / "images")
    (tmp_path / "secret.png").write_bytes(picture(1))
    (images / "words.png").write_text("no picture")
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    (images / "cut.png").write_bytes(noise.getvalue()[:1_000])
    (images / "a.gif").write_bytes(picture(1, "GIF"))
    os.mkfifo(images / "pipe.png")
    table = write_csv(tmp_path / "t.csv", [(name, caption) for name, caption, _ in BAD_ROWS.values()] + ROWS)
    with table.open("a") as file:
        file.write("one column\n")
    make(tmp_path / "out", table, images=images, bad_limit=len(BAD_ROWS) + 1)
    record, said = record_of(tmp_path / "out"), capsys.readouterr().err
    assert record["counts"]["bad_rows"] == len(BAD_ROWS) + 1
    assert record["counts"]["samples"] == COUNT
    for number, (_, _, reason) in enumerate(BAD_ROWS.values(), start=2):
        assert any(line.startswith(f"{table}:{number}: ") and reason in line for line in record["bad_rows"]), reason
        assert f"left out: {table}:{number}: " in said
    assert "1 columns; the header has 2" in said
    assert b"secret" not in b"".join(members_of(tmp_path / "out").values())
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"bad rows, the limit is 3; mend the input, name the folder .* --images DIR"):
        make(tmp_path / "again", table, images=images, bad_limit=3)
    assert not (tmp_path / "again").exists()


def test_images_of_other_endings_are_passed_over_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images")
    (images / "deep" / "a.gif").write_bytes(picture(1, "GIF"))
    make(tmp_path / "out", images)
    assert f"{images}: passed over 1 .gif; images are jpg, " in capsys.readouterr().err
    assert record_of(tmp_path / "out")["counts"]["samples"] == COUNT


def test_a_table_that_was_refused_blocks_no_corrected_command(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    table = write_csv(tmp_path / "t.csv", ROWS, header=("file_name", "said"))
    with pytest.raises(DataError, match="no column of captions; it has file_name, said; name one with --caption"):
        make(tmp_path / "out", table, images=images)
    with pytest.raises(DataError, match=r"no row can be used; .*name the folder of the images with --images DIR"):
        make(tmp_path / "out", table, captions=("said",), bad_limit=COUNT)  # rows are listed, and none has its image
    make(tmp_path / "out", table, images=images, captions=("said",))
    assert members_of(tmp_path / "out") == EXPECTED


def test_an_absolute_path_below_the_folder_of_images_is_one_of_its_images(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    table = write_csv(tmp_path / "t.csv", [(f"{images}/{name}", caption) for name, caption in ROWS])
    make(tmp_path / "out", table, images=images)
    assert members_of(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "a,b\n1,2\n", "no column of images; it has a, b; name one with --image"),
        ("t.csv", "image,b\n1,2\n", "no column of captions"),
        ("t.csv", "image,image\n", "must name the columns, each once"),
        ("t.csv", "", "must name the columns"),
        ("t.xlsx", "", "not a kind of table that is read here"),
        ("t.jsonl.xz", "", "not a kind of table that is read here"),
        ("t.parquet", "no", "not a readable parquet file"),
        ("t.csv.gz", "no", "cut off or damaged"),
        ("t.csv", "image,caption\n", "no row can be used"),
        ("t.jsonl", "[1,\n2]\n", "not JSON, an object a line"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        make(tmp_path / "out", tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_the_bytes_depend_neither_on_workers_nor_on_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, table = write_images(tmp_path / "images"), write_table("csv", tmp_path)
    make(tmp_path / "one", table, images=images)
    make(tmp_path / "two", table, images=images, workers=2)
    expected = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == expected
    assert not make(tmp_path / "one", table, images=images)

    class PulledPlugError(BaseException):
        """In the place of a kill."""

    calls = 0
    original = Path.replace

    def cutting(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise PulledPlugError
        return original(self, target)

    moment, ended = 1, False
    while not ended:
        calls = 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", cutting)
            try:
                make(tmp_path / "cut", table, images=images)
                ended = True
            except PulledPlugError:
                assert not (tmp_path / "cut").exists()
        make(tmp_path / "cut", table, images=images)
        assert contents(tmp_path / "cut") == expected
        shutil.rmtree(tmp_path / "cut")
        moment += 1
    assert moment > 10


def test_work_begun_with_other_settings_is_not_mixed(tmp_path: Path) -> None:
    images, table = write_images(tmp_path / "images"), write_table("csv", tmp_path)
    make(tmp_path / "out", table, images=images)
    with pytest.raises(DataError, match="made with other settings: shard_samples was 4 and is 5"):
        make(tmp_path / "out", table, images=images, shard_samples=5)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"no data set of `sweep data captions`"):
        make(tmp_path / "strange", table, images=images)


def test_a_kill_of_the_program_leaves_nothing_and_the_next_start_goes_on(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    table = write_csv(tmp_path / "t.csv", ROWS * 60)
    command = [sys.executable, "-m", "stages.prepare", "captions", str(table), "--images", str(images)]
    command += ["--shard-samples=20", "--workers=1"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    done = tmp_path / ".out.unfinished" / "shards"
    deadline = time.monotonic() + 60
    while (not done.exists() or len(list(done.iterdir())) < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    make(tmp_path / "out", table, images=images, shard_samples=20)
    make(tmp_path / "undisturbed", table, images=images, shard_samples=20)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
