"""Data sets in several places: the samples of their shards, one after the other, with manifests or without."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.data.conversations import Conversations
from stages.data.shard_sets import JoinedFolders, open_shards
from stages.data.shards import LocalFolder, TarShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError, MissingMountError
from stages.job_file import read_job
from stages.training.pretrain import open_shard_folder
from tests.stages.data.test_remote import Server, serving
from tests.stages.training.training_case import (
    World,
    conversation,
    document_of,
    final_weights,
    make_world,
    picture_reader,
    run_here,
    same_bits,
    text_config,
    write_conversations,
    write_text,
    write_tokenizer,
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two folders of two and three shards, without manifests."""
    write_text(tmp_path / "a", shards=2, sequences=4)
    write_text(tmp_path / "b", shards=3, sequences=5)
    for manifest in tmp_path.rglob("manifest.jsonl"):
        manifest.unlink()
    return tmp_path


def find_no_cache() -> Path:
    raise AssertionError("nothing is elsewhere")


def wheres(folder: object) -> list[str]:
    found = TarShards(folder)  # type: ignore[arg-type]
    return [found.find_sample(number).where for number in range(found.size)]


def test_an_address_of_several_places_has_the_samples_of_all_in_its_order(shards: Path) -> None:
    together = open_shards(f"{shards}/b/*.tar::{shards}/a", find_no_cache)
    assert wheres(together) == wheres(shards / "b") + wheres(shards / "a")
    assert wheres(pickle.loads(pickle.dumps(together))) == wheres(together)  # noqa: S301
    some = open_shards(f"{shards}/{{b,a}}/shard-{{1,0}}.tar", find_no_cache)
    assert [where.partition(":")[0] for where in wheres(some)] == [
        *["shard-1.tar"] * 5, *["shard-0.tar"] * 5, *["shard-1.tar"] * 4, *["shard-0.tar"] * 4,
    ]  # fmt: skip


def test_chosen_shards_take_their_counts_of_a_manifest_that_names_them(shards: Path) -> None:
    lines = [{"shard": "shard-0", "num_sequences": 3}, {"shard": "shard-9", "num_sequences": 7}]
    (shards / "b" / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    folder = open_shards(f"{shards}/b/shard-*.tar", find_no_cache)
    assert folder.load_manifest() == (["shard-0.tar", "shard-1.tar", "shard-2.tar"], [3, 5, 5])


def test_a_manifest_named_by_itself_may_name_shards_anywhere(shards: Path) -> None:
    lines = [(f"{shards}/b/shard-2.tar", 5), ("shard-1", 4), (f"{shards}/b/shard-0", 5)]
    manifest = shards / "a" / "mine.jsonl"
    manifest.write_text("".join(json.dumps({"shard": name, "num_sequences": n}) + "\n" for name, n in lines))
    found = open_shards(str(manifest), find_no_cache)
    assert isinstance(found, JoinedFolders)
    assert [str(part.path) for part in found.parts if isinstance(part, LocalFolder)] == [
        f"{shards}/b", f"{shards}/a", f"{shards}/b",
    ]  # fmt: skip
    assert len(wheres(found)) == 14
    manifest.write_text('{"shard": "../b/shard-0.tar", "num_sequences": 1}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl:1: shard '\.\./b"):
        open_shards(str(manifest), find_no_cache)


def test_a_job_reads_a_list_and_patterns_as_it_reads_one_folder(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    whole = world.run("a" * 16, "pretrain", text_config(4))
    job = world.job("b" * 16, "pretrain", text_config(4))
    names = sorted(path.name for path in (world.data / "text").glob("*.tar"))
    (world.data / "text" / "manifest.jsonl").unlink(missing_ok=True)
    content = json.loads((job.run / "job.json").read_text())
    content["data"]["text"] = f"{world.data}/text/{names[0]}::../../../data/text/shard-{{1..1}}.tar"
    (job.run / "job.json").write_text(json.dumps(content))
    job = read_job(job.run / "job.json")
    assert run_here(job)
    assert same_bits(final_weights(whole), final_weights(job))


def test_a_place_that_is_missing_may_be_this_nodes_fault(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    world.data.mkdir(parents=True)
    job = world.job("c" * 16, "pretrain", text_config(4))
    content = json.loads((job.run / "job.json").read_text())
    for address, reason in [
        (f"{shards}/a/shard-{{0..2}}.tar", r"there is no .*/a/shard-2\.tar"),
        (f"{shards}/none/*.tar", "no file has such a name"),
        (
            "::".join([f"{shards}/a/shard-0.tar", *(f"{shards}/x{number:0100d}.tar" for number in range(60))]),
            "there is no",
        ),
    ]:
        content["data"] = {"text": address}
        (job.run / "job.json").write_text(json.dumps(content))
        for variable, kind in [("", DataError), ("n1", MissingMountError)]:
            if variable:
                monkeypatch.setenv("SLURMD_NODENAME", variable)
            else:
                monkeypatch.delenv("SLURMD_NODENAME", raising=False)
            with pytest.raises(DataError, match=reason) as caught:
                open_shard_folder(read_job(job.run / "job.json"), "text")
            assert type(caught.value) is kind


@pytest.fixture
def address(shards: Path) -> Iterator[str]:
    with serving(shards) as root:
        yield root


def test_remote_shards_that_are_named_need_no_manifest_and_are_counted_once(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    folder = open_shards(f"{address}/{{a,b}}/shard-{{0,1}}.tar", lambda: cache)
    assert len(wheres(folder)) == 2 * 4 + 2 * 5
    assert "counting 2 shards" in capsys.readouterr().err
    for copy in cache.rglob("*.tar"):
        copy.unlink()
    Server.asked.clear()
    again = open_shards(f"{address}/b/shard-{{0,1}}.tar", lambda: cache)
    assert again.load_manifest()[1] == [5, 5]
    assert [path for path in Server.asked if path.endswith(".tar")] == []


def test_remote_shards_that_are_named_take_the_manifests_counts(address: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "manifest.jsonl").write_text('{"shard": "shard-1", "num_sequences": 4}\n')
    folder = open_shards(f"{address}/a/shard-{{1,0}}.tar", lambda: tmp_path / "cache")
    assert folder.load_manifest() == (["shard-1.tar", "shard-0.tar"], [4, 4])
    assert [path for path in Server.asked if path.endswith(".tar")] == ["/a/shard-0.tar"]


def test_a_remote_folder_without_a_manifest_says_what_to_do(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sweep data manifest.*/a/\{00000\.\.01279\}\.tar"):
        open_shards(f"{address}/a", lambda: tmp_path / "cache").load_manifest()


def test_conversations_of_several_files_follow_each_other(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 300)
    for name in ("a", "b"):
        write_conversations(tmp_path / name, 3)
    (tmp_path / "b" / "images" / "red.png").unlink()  # each file's images lie beside it
    (tmp_path / "a" / "conversations.json").write_text(json.dumps([conversation(0), conversation(1)]))
    source = Conversations(
        "talks", [tmp_path / "a", tmp_path / "b" / "conversations.json"], tokenizer=tokenizer,
        images=picture_reader(), max_length=64,
    )  # fmt: skip
    assert source.size == 5
    assert document_of(source, 0).image_tokens == 4
    with pytest.raises(ValueError, match=r"there is no image 'images/red\.png'"):
        document_of(source, 2)


def test_compressed_tars_in_a_folder_are_told(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shards / "a" / "shard-7.tar.gz").touch()
    assert len(wheres(shards / "a")) == 8
    assert "shard-7.tar.gz is not read: samples are read by their place" in capsys.readouterr().err
    for tar in (shards / "a").glob("*.tar"):
        tar.unlink()
    (shards / "a" / "x.tgz").touch()
    with pytest.raises(DataError, match=r"shard-7\.tar\.gz and 1 more are not read"):
        TarShards(shards / "a")
