"""`sweep data check` finds what a training job would skip or refuse, before it does."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.data.captions import Captions
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import BadSampleError, SampleSource
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.prepare.check import check_data_sets
from stages.prepare.findings import Action, CheckRequest, Findings, read_requests
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.training.training_case import (
    CONTEXT,
    conversation,
    make_world,
    png,
    write_conversations,
    write_tar,
    write_text,
)

ENCODER = "patches-16-32"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with whole data sets: text, captions, conversations and a tokenizer."""
    return make_world(tmp_path).data


def check(path: Path, kind: str = "", decode: str = "all", **settings: Any) -> Findings:
    return check_data_sets([request_of(path, kind, **settings)], workers=1, decode=decode)[0].findings


def request_of(path: Path, kind: str = "", **settings: Any) -> CheckRequest:
    defaults = {"context": CONTEXT, "vocabulary": 300, "encoder": ENCODER}
    return CheckRequest(name="set", path=str(path), kind=kind, **{**defaults, **settings})


def found(findings: Findings) -> dict[str, tuple[str, int]]:
    """Problem -> what a job does, how often."""
    return {kind: (str(problem.action), problem.count) for kind, problem in findings.problems.items()}


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def rewrite(path: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes] | None]) -> None:
    """A tar with its members changed."""
    members = members_of(path)
    write_tar(path, change(members) or members)


def test_whole_data_sets_have_no_problem(data: Path) -> None:
    reports = check_data_sets(
        [
            request_of(data / "text"),
            request_of(data / "captions", tokenizer=str(data / "tokenizer.json")),
            request_of(data / "captions", field="caption"),
            request_of(data / "conversations", tokenizer=str(data / "tokenizer.json")),
            request_of(data / "tokenizer.json", "tokenizer"),
        ],
        workers=2,
        decode="all",
    )
    assert [report.findings.is_clean for report in reports] == [True] * 5
    assert [report.request.kind for report in reports] == ["text", "captions", "captions", "conversations", "tokenizer"]
    text, captions, _, talks, _ = (report.findings for report in reports)
    assert (text.shards, text.samples, text.tokens, text.shortest) == (2, 200, 200 * 33, 33)
    assert (captions.samples, captions.images, captions.decoded) == (24, 24, 24)
    assert captions.tokens > 24
    assert (talks.shards, talks.samples, talks.images) == (1, 10, 10)


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (-1_024, "mark of the tar's end is missing"),
        (512 * 30 + 100, "no header at byte|it ends in"),
        (512 * 31 + 20, "it ends in|no header"),
        (100, "no header at byte 0"),
    ],
)
def test_a_torn_tar_is_refused_wherever_it_is_torn(keep: int, says: str, data: Path) -> None:
    path = data / "text" / "shard-1.tar"
    content = path.read_bytes()
    end = content.rstrip(b"\0")
    path.write_bytes(content[: 512 * -(-len(end) // 512)] if keep < 0 else content[:keep])
    findings = check(data / "text")
    assert found(findings) == {"torn tar": ("refuse", 1)}
    assert findings.samples == 100
    with pytest.raises(DataError, match=says):
        bad_samples(text_source(data))


def test_a_manifest_that_lies_is_told_of_and_one_that_names_what_is_not_there_refused(data: Path) -> None:
    manifest = data / "text" / "manifest.jsonl"
    lines = [{"shard": "shard-0", "num_sequences": 99}, {"shard": "gone", "num_sequences": 100}]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    assert found(check(data / "text")) == {
        "wrong count": ("note", 1),
        "missing shard": ("refuse", 1),
        "manifest without a last newline": ("note", 1),
        "shard not in the manifest": ("note", 1),
    }
    manifest.write_text("nonsense\n")
    assert found(check(data / "text")) == {"not readable": ("refuse", 1)}


def test_sequences_that_training_skips_are_skipped_here_and_no_others(data: Path) -> None:
    write_tar(
        data / "text" / "shard-1.tar",
        {
            "good.json": json.dumps(list(range(33))).encode(),
            "long.json": json.dumps(list(range(200))).encode(),
            "short.json": json.dumps(list(range(32))).encode(),
            "large.json": json.dumps([300] * 33).encode(),
            "negative.json": json.dumps([-1] * 33).encode(),
            "huge.json": json.dumps([1 << 70] * 33).encode(),
            "words.json": json.dumps(["a"] * 33).encode(),
            "cut.json.gz": zlib.compress(b"[1, 2]", wbits=31)[:-4],
            "other.npy": b"\x93NUMPY",
        },
    )
    (data / "text" / "manifest.jsonl").unlink()
    findings = check(data / "text", "text")
    assert found(findings) == {
        "no manifest": ("note", 1),
        "too short": ("skip", 1),
        "token id outside the vocabulary": ("skip", 2),
        "no list of token ids": ("skip", 4),
        "pickle or program": ("note", 1),
    }
    assert skipped(findings) == len(bad_samples(text_source(data)))
    assert findings.problems["too short"].examples == ["shard-1.tar: short: 32 tokens; context 32 needs 33"]


def text_source(data: Path) -> TokenShards:
    return TokenShards("text", data / "text", context=CONTEXT, vocabulary=300, seed=0)


def skipped(findings: Findings) -> int:
    return sum(problem.count for problem in findings.problems.values() if problem.action is Action.SKIP)


def bad_samples(source: SampleSource) -> list[str]:
    """What training says of the samples that it skips."""
    bad = []
    for index in range(source.size):
        try:
            source.read_document(index, index)
        except BadSampleError as error:
            bad.append(str(error))
    return bad


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    coded = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def spoil_captions(members: dict[str, bytes]) -> None:
    members["00000.png"] = members["00000.png"][:60]
    members["00001.png"] = bomb()
    members["00002.png"] = b"no image at all"
    members["00003.txt"] = b"  \n"
    del members["00004.txt"], members["00005.png"], members["00006.json"]
    members["00007.json"] = b"{broken"
    members["00008.json"] = b'{"caption": ["", 3]}'


@pytest.mark.parametrize(
    ("field", "problems"),
    [
        ("txt", {"empty caption": 1, "missing txt": 1}),
        ("caption", {"missing json": 1, "empty or missing caption": 2}),
        ("caption,txt", {"empty or missing caption": 1}),
    ],
)
def test_captioned_images_that_training_skips_are_skipped_here_and_no_others(
    field: str, problems: dict[str, int], data: Path
) -> None:
    rewrite(data / "captions" / "shard-0.tar", spoil_captions)
    findings = check(data / "captions", "captions", field=field)
    skips = {kind: count for kind, (action, count) in found(findings).items() if action == "skip"}
    assert skips == {"broken or oversized image": 3, "missing image": 1, **problems}
    spec = resolve_encoder_spec(ENCODER)
    images = EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)
    tokenizer = TextTokenizer(data / "tokenizer.json", 300)
    source = Captions("captions", data / "captions", field=field, tokenizer=tokenizer, images=images)
    assert skipped(findings) == len(bad_samples(source))


def test_images_are_decoded_as_far_as_is_asked_for(data: Path) -> None:
    rewrite(data / "captions" / "shard-0.tar", spoil_captions)
    decoded = {decode: check(data / "captions", decode=decode) for decode in ("all", "sample", "none")}
    assert [decoded[decode].decoded for decode in decoded] == [21, 2, 0]
    assert "broken or oversized image" not in decoded["none"].problems


def test_a_member_that_is_there_twice_is_skipped_and_a_key_that_comes_again_is_named(data: Path) -> None:
    with tarfile.open(data / "captions" / "shard-0.tar", "a") as tar:
        for name, content in (
            ("00003.png", png("red")), ("00003.txt", b"again"), ("x.png", png("red")), ("x.txt", b"x"), ("x.txt", b"y"),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    problems = found(check(data / "captions"))
    assert problems["duplicate member"] == ("skip", 1)
    assert problems["scattered files"] == ("note", 1)


class Explosive:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_odd_members_are_named_and_nothing_of_them_is_followed_unpacked_or_run(data: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    with tarfile.open(data / "captions" / "shard-0.tar", "a") as tar:
        for name, content in (
            ("../../climber.txt", b"x"),
            ("/root.txt", b"x"),
            ("evil.pyd", pickle.dumps(Explosive(mark))),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for kind, name in (
            (tarfile.SYMTYPE, "link.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.CHRTYPE, "device.png"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    before = sorted(tmp_path.rglob("*"))
    findings = check(data / "captions")
    assert found(findings) == {
        "no manifest": ("note", 1),
        "name that climbs out": ("note", 2),
        "pickle or program": ("note", 1),
        "link": ("note", 1),
        "hard link": ("skip", 1),
        "device or pipe": ("note", 1),
        "missing image": ("skip", 3),
    }
    assert sorted(tmp_path.rglob("*")) == before
    assert not mark.exists()


def test_conversations_that_are_none_and_images_that_are_missing_are_found(data: Path) -> None:
    records: list[Any] = [conversation(number) for number in range(8)]
    records[1] = "no object"
    records[2]["conversations"] = records[2]["conversations"][:1]
    records[3]["conversations"][1]["from"] = "robot"
    records[4]["image"] = "images/none.png"
    records[5]["image"] = "../../../etc/passwd"
    records[6]["image"] = "images/broken.png"
    records[7]["conversations"][0]["value"] = "<image>\n" + "What? " * 100
    (data / "conversations" / "images" / "broken.png").write_bytes(b"broken")
    (data / "conversations" / "conversations.json").write_text(json.dumps(records))
    expected = {"no conversation": ("skip", 3), "missing image": ("skip", 2), "broken or oversized image": ("skip", 1)}
    assert found(check(data / "conversations")) == expected
    with_tokens = check(data / "conversations", tokenizer=str(data / "tokenizer.json"))
    assert found(with_tokens) == {**expected, "no answer within the context": ("skip", 1)}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"[" * 100_000])
def test_a_conversation_file_that_is_none_is_refused(content: bytes, data: Path) -> None:
    (data / "conversations" / "conversations.json").write_bytes(content)
    assert found(check(data / "conversations")) == {"not readable": ("refuse", 1)}


def test_what_is_not_there_or_could_be_anything_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (data / "nothing", tmp_path / "empty"):
        assert found(check(path)) == {"not readable": ("refuse", 1)}
    assert found(check(data / "tokenizer.json", "tokenizer", vocabulary=299)) == {"not readable": ("refuse", 1)}
    remote = check_data_sets([CheckRequest(name="far", path="s3://bucket/data", kind="text")], workers=1)
    assert found(remote[0].findings) == {"not looked at": ("note", 1)}


def test_a_manifest_is_written_where_there_is_none_and_all_tars_are_whole(data: Path) -> None:
    manifest = data / "text" / "manifest.jsonl"
    before = manifest.read_text()
    manifest.unlink()
    torn = data / "text" / "shard-1.tar"
    content = torn.read_bytes()
    torn.write_bytes(content[:2_000])
    report = check_data_sets([request_of(data / "text")], workers=1, write_manifests=True)[0]
    assert found(report.findings)["manifest not written"] == ("note", 1)
    assert not manifest.exists()
    torn.write_bytes(content)
    report = check_data_sets([request_of(data / "text")], workers=1, write_manifests=True)[0]
    assert found(report.findings) == {"manifest written": ("note", 1)}
    assert manifest.read_text() == before


def test_the_kind_is_guessed_from_the_files(data: Path) -> None:
    write_text(data / "more", shards=1, sequences=2)
    shutil.copy(data / "more" / "shard-0.tar", data / "one.tar")
    paths = [data / "more", data / "one.tar", data / "captions", data / "conversations" / "conversations.json"]
    reports = check_data_sets([request_of(path) for path in paths], workers=1)
    assert [report.request.kind for report in reports] == ["text", "text", "captions", "conversations"]
    assert all(report.findings.is_clean for report in reports)


def test_requests_that_are_none_are_refused() -> None:
    with pytest.raises(Exception, match="not a list of requests"):
        read_requests('[{"name": "a"}]')


def test_several_places_are_checked_as_one_data_set(tmp_path: Path) -> None:
    write_text(tmp_path / "a", shards=2, sequences=4)
    write_text(tmp_path / "b", shards=2, sequences=5)
    (tmp_path / "b" / "manifest.jsonl").unlink()
    torn = tmp_path / "b" / "shard-1.tar"
    torn.write_bytes(torn.read_bytes()[:700])
    address = f"{tmp_path}/a::{tmp_path}/b/shard-{{0..1}}.tar"
    [report] = check_data_sets([CheckRequest(name="words", path=address)], workers=1)
    assert (report.request.kind, report.findings.samples) == ("text", 2 * 4 + 5)
    assert list(report.findings.problems) == ["torn tar"]
    [absent] = check_data_sets([CheckRequest(name="words", path=f"{tmp_path}/c/*.tar")], workers=1)
    assert "no file has such a name" in absent.findings.problems["not readable"].examples[0]


def test_conversations_of_several_files_are_checked_together(tmp_path: Path) -> None:
    write_conversations(tmp_path / "a", 3)
    write_conversations(tmp_path / "b", 2)
    address = f"{tmp_path}/{{a,b}}/conversations.json"
    [report] = check_data_sets([CheckRequest(name="talks", path=address)], workers=1)
    assert (report.findings.samples, report.findings.is_clean) == (5, True)


def test_compressed_tars_beside_shards_are_noted(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=4)
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "x.tar.gz").touch()
    [report] = check_data_sets([CheckRequest(name="words", path=str(tmp_path))], workers=1)
    assert "x.tar.gz: samples are read by their place" in report.findings.problems["not read"].examples[0]


def test_shards_elsewhere_that_a_manifest_names_are_noted_and_not_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "words.jsonl"
    manifest.write_text('{"shard": "http://127.0.0.1:9/shard-1", "num_sequences": 4}\n')
    findings = check(manifest, "text")
    assert found(findings) == {"not looked at": ("note", 1)}
    assert "http://127.0.0.1:9/shard-1.tar: not a local path" in findings.problems["not looked at"].examples[0]
