"""The same shards, read here by offset and by webdataset as a stream, give the same samples, member for member."""

import io
import re
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.data.shards import TarShards, index_tar, split_member_name
from stages.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from webdataset.handlers import ignore_and_continue
    from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

Sample = tuple[str, dict[str, bytes]]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def write_members(path: Path, names: Sequence[str], form: int = tarfile.GNU_FORMAT) -> None:
    """A tar whose members' contents tell them apart. A name with a slash behind it is a folder."""
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name.rstrip("/"))
            content = f"{number}: {name}".encode() * (number % 3)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def read_as_webdataset(path: Path) -> list[Sample]:
    """All samples of a tar, as `webdataset.WebDataset` reads it; of two members of one name it keeps the first."""
    with path.open("rb") as file:
        members = ({**member, "__url__": str(path)} for member in tar_file_iterator(file))
        samples = list(group_by_keys(members, handler=ignore_and_continue))
    return [
        (sample["__key__"], {name: content for name, content in sample.items() if name not in {"__key__", "__url__"}})
        for sample in samples
    ]


def read_by_offset(path: Path) -> list[Sample]:
    shards = TarShards(path)
    samples = [shards.find_sample(number) for number in range(shards.size)]
    keys = index_tar(path).keys
    return [
        (key, {extension: sample.read(extension) for extension in sample.extensions})
        for key, sample in zip(keys, samples, strict=True)
    ]


ODD = {
    "notes beside": ["README", "LICENSE", "a.jpg", "a.txt", "b.jpg", "b.txt", "Makefile"],
    "macOS": ["._a.jpg", ".DS_Store", "a.jpg", "a.txt", "pictures/", "pictures/._b.jpg", "pictures/b.jpg"],
    "capitals": ["a.JPG", "a.Txt", "b.jpg", "b.TXT"],
    "several dots": ["a.b.c.jpg", "a.b.d", "v1.0/a.jpg", "v1.0/a.txt", "v1.0/.hidden"],
    "scattered": ["a.jpg", "b.jpg", "a.txt", "b.txt"],
    "a key again": ["a.txt", "b.txt", "a.txt"],
    "notes of webdataset": [
        "__index__",
        "__notes__/a.txt",
        "__notes__",
        "__a.txt",
        "__a__.txt",
        "__/b.txt",
        "___/c.txt",
    ],
    "dots and slashes": ["./a.jpg", "./a.txt", "a.jpg", "/b.txt", "../c.txt", "d//e.txt", "d//.txt", "f..txt", "g."],
    "long names": ["deep/" * 30 + "a.txt", "x" * 150 + ".json", "é" * 60 + ".txt"],
}


@pytest.mark.parametrize("names", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("form", FORMATS[1:], ids=["gnu", "pax"])
def test_odd_archives_give_the_samples_of_webdataset(tmp_path: Path, names: list[str], form: int) -> None:
    path = tmp_path / "shard.tar"
    write_members(path, names, form)
    assert read_by_offset(path) == read_as_webdataset(path)


NAMES = st.lists(st.text("ab._/A", min_size=1, max_size=8).filter(lambda name: name.strip("/") != ""), max_size=14)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, form=st.sampled_from(FORMATS))
def test_generated_archives_give_the_samples_of_webdataset(tmp_path: Path, names: list[str], form: int) -> None:
    path = tmp_path / "shard.tar"
    write_members(path, names, form)
    index, expected = index_tar(path), read_as_webdataset(path)
    assert index.keys == [key for key, _ in expected]
    if not expected:
        with pytest.raises(DataError, match="no samples"):
            TarShards(path)
        return
    whole = [number for number in range(len(index)) if number not in index.repeated]
    shards = TarShards(path)
    for number in whole:  # the others are bad samples, at which webdataset stops
        sample = shards.find_sample(number)
        assert {each: sample.read(each) for each in sample.extensions} == expected[number][1]


@settings(max_examples=2_000, deadline=None)
@given(name=st.text("ab._/A", max_size=12))
@example(name="a/.b")
@example(name="a.b/.c")
@example(name="__a__/b.c")
@example(name="__")
def test_a_member_name_is_split_by_webdatasets_rule(name: str) -> None:
    base, extension = base_plus_ext(name)
    is_note = "/" not in name and name.startswith("__") and name.endswith("__")
    if base is None or is_note or re.match(r"__[^/]*__($|/)", name):
        assert split_member_name(name) is None
    else:
        assert split_member_name(name) == (base, extension.lower())
