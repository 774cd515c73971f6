"""Damaged and hostile shards: refused by name, or their bad samples counted; nothing runs or is written."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.data.captions import Captions
from stages.data.image_reader import EncoderImageReader
from stages.data.mixture import Mixture
from stages.data.sample import BadSampleError
from stages.data.shards import index_tar
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.data.mixture_run import MixtureRun
from tests.stages.training.training_case import CONTEXT, png, write_captions, write_tar, write_text, write_tokenizer

GOOD = json.dumps(list(range(CONTEXT + 1))).encode()


def text(folder: Path) -> TokenShards:
    return TokenShards("text", folder, context=CONTEXT, vocabulary=300, seed=0)


def captions(folder: Path, field: str = "") -> Captions:
    write_tokenizer(folder.parent / "tokenizer.json")
    spec = resolve_encoder_spec("patches-16-32")
    return Captions(
        "captions", folder, field=field, tokenizer=TextTokenizer(folder.parent / "tokenizer.json", 300),
        images=EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None),
    )  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 40_959))
def test_a_tar_cut_anywhere_is_refused(tmp_path: Path, at: int) -> None:
    write_text(tmp_path, shards=1, sequences=30)
    shard = tmp_path / "shard-0.tar"
    content = shard.read_bytes()
    assert len(content) == 40_960
    shard.write_bytes(content[:at])
    # 30 samples take 1,024 bytes each; one zero block behind them is enough
    if at < 30 * 1024 + 512:
        with pytest.raises(DataError, match=r"shard-0\.tar: (cut off|not a whole tar).*copy it again"):
            index_tar(shard)
    else:
        assert len(index_tar(shard)) == 30


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 40_959), byte=st.integers(1, 255))
def test_a_changed_byte_gives_an_error_or_a_bad_sample_and_nothing_else(tmp_path: Path, at: int, byte: int) -> None:
    write_text(tmp_path, shards=1, sequences=30)
    shard = tmp_path / "shard-0.tar"
    content = bytearray(shard.read_bytes())
    content[at] ^= byte
    shard.write_bytes(content)
    try:
        source = text(tmp_path)
        for index in range(source.size):
            source.read_document(index, 0)
    except (DataError, BadSampleError):
        return
    assert source.size == 30


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_usual_form_of_tar_is_read_as_tarfile_reads_it(tmp_path: Path, form: int) -> None:
    names = ["a.json", "sub/b.tar.json", f"{'long/' * 18}c.jpg", "d" * 90 + ".txt"]
    names += [] if form == tarfile.USTAR_FORMAT else ["e" * 200 + ".json", "é" * 80 + ".txt"]
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("sub")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = 500 * number, 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(entry, io.BytesIO(bytes(500 * number)))
    index = index_tar(path)
    with tarfile.open(path) as tar:
        expected = [(entry.name, entry.offset_data, entry.size) for entry in tar if entry.isfile()]
    found = [
        (f"{key}.{extension}", *index.find_member(number, extension))
        for number, key in enumerate(index.keys)
        for extension in index.list_extensions(number)
    ]
    assert found == expected


def test_links_devices_and_climbing_names_are_no_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(data / "shard.tar", "w") as tar:
        for kind, name in [
            (tarfile.SYMTYPE, "a.txt"), (tarfile.LNKTYPE, "b.txt"), (tarfile.CHRTYPE, "c.txt"),
            (tarfile.FIFOTYPE, "d.txt"),
        ]:  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "../secret.txt"
            tar.addfile(entry)
        for name in ("../../e.json", "/etc/f.json"):
            entry = tarfile.TarInfo(name)
            entry.size = len(GOOD)
            tar.addfile(entry, io.BytesIO(GOOD))
    source = text(data)
    assert source.size == 2
    assert all(source.read_document(index, 0) for index in range(2))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "secret.txt", "shard.tar"]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_code_and_pickles_among_the_members_are_never_looked_at(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    members = {
        "a.pyd": pickle.dumps(Trap(trap)), "a.pkl": pickle.dumps(Trap(trap)), "a.npz": b"PK", "a.pt": b"PK",
        "a.png": png("red"), "a.txt": b"a red square", "b.pickle": pickle.dumps(Trap(trap)),
    }  # fmt: skip
    write_tar(tmp_path / "data" / "shard.tar", members)
    source = captions(tmp_path / "data")
    assert source.read_document(0, 0) is not None
    with pytest.raises(BadSampleError, match="b: no image"):
        source.read_document(1, 0)
    assert not trap.exists()


def test_two_members_of_one_name_are_a_bad_sample_and_the_same_key_further_on_is_another_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("a.json", "a.json", "b.json", "a.json"):
            entry = tarfile.TarInfo(name)
            entry.size = len(GOOD)
            tar.addfile(entry, io.BytesIO(GOOD))
    source = text(tmp_path)
    assert source.size == 3
    assert source.read_document(1, 0) is not None
    assert source.read_document(2, 0) is not None
    with pytest.raises(BadSampleError, match=r"shard\.tar: a: a member of that name is there twice"):
        source.read_document(0, 0)


def seal_header(header: bytearray) -> bytes:
    """The header with a checksum that holds."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def build_tar(*members: tuple[str, bytes], size: bytes = b"", kind: bytes = b"0") -> bytes:
    """A tar of plain members; the first one's header gets another size field or kind."""
    blocks = b""
    for number, (name, content) in enumerate(members):
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        header = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
        if number == 0:
            header[156:157] = kind
            if size:
                header[124:136] = size.ljust(12, b"\0")
        blocks += seal_header(header) + content + bytes(-len(content) % 512)
    return blocks + bytes(1024)


@pytest.mark.parametrize(
    "size",
    [b"-0000001000", b"+0000000012", b"0000_000_02", b"00000000018", b"\xff" * 12, b"\x81" + bytes(11), "²".encode()],
)
def test_a_size_that_is_no_octal_number_is_refused_at_once(tmp_path: Path, size: bytes) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(build_tar(("a.json", GOOD), ("b.json", GOOD), size=size))
    with pytest.raises(DataError, match=r"shard\.tar: not a whole tar: no header at byte 0; copy it again"):
        index_tar(path)


def pax_record(key: bytes, value: bytes, length: bytes = b"") -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = next(size for size in range(len(rest), len(rest) + 9) if size == len(rest) + len(str(size)))
    return (length or str(size).encode()) + rest


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (pax_record(b"size", b"9" * 5000), "the size before byte 2048 is no number|the size before"),
        (pax_record(b"size", b"-5"), "is no number"),
        (pax_record(b"size", "²".encode()), "is no number"),
        (pax_record(b"path", b"a.json", length=b"9" * 5000), "malformed header"),
        (pax_record(b"path", b"a.json", length=b"3"), "malformed header"),
        (b"2 " * 200_000, "malformed header"),  # read record by record with a copy each time, it took minutes
        (b"not a record", "malformed header"),
    ],
    ids=["long size", "negative size", "superscript", "long length", "short length", "many records", "no record"],
)
def test_pax_records_that_are_none_are_refused_at_once(tmp_path: Path, records: bytes, message: str) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(build_tar(("pax", records), ("a.json", GOOD), kind=b"x"))
    with pytest.raises(DataError, match=message):
        index_tar(path)


def test_a_global_header_may_hold_a_comment_and_no_name(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(build_tar(("pax", pax_record(b"comment", b"of git archive")), ("a.json", GOOD), kind=b"g"))
    assert index_tar(path).keys == ["a"]
    path.write_bytes(build_tar(("pax", pax_record(b"path", b"z.json")), ("a.json", GOOD), kind=b"g"))
    with pytest.raises(DataError, match="gives all members one name or size"):
        index_tar(path)


def build_parts(*parts: tuple[bytes, str, bytes]) -> bytes:
    """A tar of (kind, name, content)."""
    return b"".join(build_tar((name, content), kind=kind)[:-1024] for kind, name, content in parts) + bytes(1024)


PATH = pax_record(b"path", b"b.json")


@pytest.mark.parametrize(
    ("parts", "keys"),
    [
        ([(b"X", "pax", PATH), (b"0", "a.json", GOOD)], ["b"]),
        ([(b"x", "pax", pax_record(b"path", b"b.json/")), (b"0", "a.json", GOOD)], ["b"]),
        ([(b"x", "pax", pax_record(b"size", b"5")), (b"L", "long", b"b.json\0"), (b"0", "a.json", b"[1]  ")], ["b"]),
        ([(b"x", "pax", PATH), (b"\0", "folder/", b""), (b"0", "a.json", GOOD)], ["a"]),
    ],
    ids=["of Solaris", "a slash behind a file", "a size before a long name", "an old folder"],
)
def test_what_stands_before_a_header_is_read_as_tarfile_reads_it(
    tmp_path: Path, parts: list[tuple[bytes, str, bytes]], keys: list[str]
) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(build_parts(*parts))
    assert index_tar(path).keys == keys
    with tarfile.open(path) as tar:
        assert [entry.name.partition(".")[0] for entry in tar if entry.isreg()] == keys


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(b"x", "pax", pax_record(b"GNU.sparse.size", b"9")), (b"0", "a.json", GOOD)], "a sparse file"),
        ([(b"x", "pax", pax_record(b"GNU.sparse.map", b"0,9")), (b"0", "a.json", GOOD)], "a sparse file"),
        ([(b"x", "pax", pax_record(b"GNU.sparse.name", b"b")), (b"0", "a.json", GOOD)], "a sparse file"),
        ([(b"g", "pax", pax_record(b"GNU.sparse.size", b"9")), (b"0", "a.json", GOOD)], "gives all members one"),
        ([(b"L", "long", b""), (b"L", "long", b"b.json\0"), (b"0", "a.json", GOOD)], "a second path of one file"),
        ([(b"x", "pax", PATH), (b"x", "pax", PATH), (b"0", "a.json", GOOD)], "a second path of one file"),
        ([(b"0", "a.json", GOOD), (b"L", "long", b"b.json\0")], r"cut off: it ends in the header before 'b\.json'"),
        ([(b"0", "a.json", GOOD), (b"K", "link", b"")], "cut off: it ends in the header before 'a file'"),
        ([(b"L", "long", b"long/\0"), (b"0", "a.json", GOOD)], r"folder 'long/' has \d+ bytes"),
    ],
    ids=[
        "sparse 0.0", "sparse 0.1", "sparse name", "sparse for all", "two long names", "two names", "no file behind",
        "no link behind", "a folder with content",
    ],
)  # fmt: skip
def test_a_header_that_would_lose_a_member_or_its_bytes_refuses_the_tar(
    tmp_path: Path, parts: list[tuple[bytes, str, bytes]], message: str
) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(build_parts(*parts))
    with pytest.raises(DataError, match=message):
        index_tar(path)


@pytest.mark.parametrize("zeros", [512, 1024, 10_240])
def test_what_lies_behind_the_end_of_a_tar_refuses_it(tmp_path: Path, zeros: int) -> None:
    """tarfile and webdataset stop at the first zero block; the second tar's samples would be lost without a word."""
    path = tmp_path / "shard.tar"
    first = build_tar(("a.json", GOOD))[:-1024]
    path.write_bytes(first + bytes(zeros) + build_tar(("b.json", GOOD)))
    at = len(first) + zeros
    with pytest.raises(DataError, match=rf"shard\.tar: more follows its end, at byte {at}: two tars joined"):
        index_tar(path)
    path.write_bytes(first + bytes(3 << 20))
    assert index_tar(path).keys == ["a"]


def test_hard_links_are_told_of_as_samples_may_be_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("a.json", "b.json"):
            entry = tarfile.TarInfo(name)
            if name == "b.json":
                entry.type, entry.linkname = tarfile.LNKTYPE, "a.json"
                tar.addfile(entry)
            else:
                entry.size = len(GOOD)
                tar.addfile(entry, io.BytesIO(GOOD))
    source = text(tmp_path)
    assert source.size == 1
    assert source.read_document(0, 0) is not None
    assert capsys.readouterr().err == (
        f"{tmp_path}/shard.tar: 1 hard links are not read; webdataset passes over them too; write the tar with"
        " --hard-dereference\n"
    )


def test_a_long_name_that_its_header_cuts_short_refuses_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    long = build_tar(("long", b"long/" * 30 + b"a.json\0"), kind=b"L", size=b"00000000001")[:-1024]
    path.write_bytes(long + build_tar(("a.json", GOOD)))
    with pytest.raises(DataError, match="the name at byte 512 is longer than its header says"):
        index_tar(path)


def test_hidden_tars_are_no_shards(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=3)
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "._shard-0.tar").write_bytes(b"\0\5\x16\7 of macOS")
    assert text(tmp_path).size == 3


BAD_IDS = {
    "nested": b"[[1, 2]]", "strings": b'["1"]', "bools": b"[1, true]", "floats": b"[1, 2.0]", "exponents": b"[1e3]",
    "null": b"[null]", "a number": b"7", "huge": b"[" + b"9" * 30 + b"]", "very huge": b"[" + b"9" * 5000 + b"]",
    "deep": b"[" * 100_000, "nan": b"[NaN]", "not text": b"\xff\xfe\x00", "empty": b"", "empty list": b"[]",
    "negative": GOOD.replace(b"[0", b"[-1"), "too large": GOOD.replace(b"[0", b"[300"), "one short": GOOD[:-5] + b"]",
}  # fmt: skip


@pytest.mark.parametrize("content", BAD_IDS.values(), ids=BAD_IDS.keys())
@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_token_ids_are_bad_samples(tmp_path: Path, content: bytes, compressed: bool) -> None:
    name = "a.json.gz" if compressed else "a.json"
    write_tar(tmp_path / "shard.tar", {name: gzip.compress(content) if compressed else content})
    with pytest.raises(BadSampleError, match=r"^shard\.tar: a: "):
        text(tmp_path).read_document(0, 0)


def test_gzip_files_may_be_several_and_padded_but_not_damaged(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD[:40]) + gzip.compress(GOOD[40:]) + bytes(100)
    wrong_sum = bytearray(gzip.compress(GOOD))
    wrong_sum[-6] ^= 1
    members = {"a.json.gz": whole, "b.json.gz": bytes(wrong_sum), "c.json.gz": whole[:-140], "d.json.gz": whole + b"x"}
    write_tar(tmp_path / "shard.tar", members)
    source = text(tmp_path)
    assert source.read_document(0, 0) is not None
    for index in (1, 2, 3):
        with pytest.raises(BadSampleError, match="unreadable"):
            source.read_document(index, 0)


def bomb_png(width: int, height: int) -> bytes:
    """A small file whose header claims any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bad_captioned_images_are_counted_once_and_the_others_are_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_captions(data, 40)
    with tarfile.open(data / "shard-0.tar", "a") as tar:
        for name, content in {
            "bomb.png": bomb_png(50_000, 50_000), "bomb.txt": b"a bomb", "torn.jpg": png("red")[:60],
            "torn.txt": b"torn", "mute.png": png("red"), "blind.txt": b"no image",
            "script.png": b"#!/bin/sh\ntouch /tmp/x", "script.txt": b"x",
        }.items():  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    mixture = Mixture([captions(data)], [1.0], by="samples", context=CONTEXT, stripes=4, seed=0, bad_samples_limit=5)
    run = MixtureRun(mixture)
    for _ in range(30):
        run.take_batch()
    assert sorted(run.progress[0].bad) == [40, 41, 42, 43, 44]
    assert run.progress[0].samples >= 80


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", {"raw"}),
        ("caption", {"regenerated"}),
        ("caption, txt", {"regenerated", "raw"}),
        ("syn_text", {"one", "two"}),
        ("syn_text,orig_text", {"one", "two", "original"}),
        ("nothing,txt", {"raw"}),  # what a sample lacks is not chosen
    ],
)
def test_a_caption_is_chosen_by_seed_and_position_among_what_there_is(
    tmp_path: Path, field: str, expected: set[str]
) -> None:
    members = {
        "a.jpg.txt": b"never", "a.png": png("red"), "a.txt": b" raw\n",
        "a.json": json.dumps({"caption": "regenerated", "orig_text": "original"}).encode(),
        "a.syn.json": json.dumps({"syn_text": ["one", "two", " ", 3]}).encode(),
    }  # fmt: skip
    write_tar(tmp_path / "data" / "shard.tar", members)
    source = captions(tmp_path / "data", field)
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 300)

    def text_at(position: int) -> str:
        document = source.read_document(0, position)
        assert document is not None
        return tokenizer.decode(list(document.tokens))

    assert {text_at(position) for position in range(60)} == expected
    assert [text_at(position) for position in range(20)] == [text_at(position) for position in range(20)]
