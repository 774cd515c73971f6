from pathlib import Path

import pytest

from stages.data.shards import TarShards
from stages.errors import DataError
from tests.stages.training.training_case import write_tar, write_text


def test_a_member_name_that_climbs_out_is_only_a_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tar(data / "shard.tar", {"../../escaped.txt": b"[1]", "/tmp/escaped.json": b"[2]"})
    shards = TarShards(data)
    samples = [shards.find_sample(i) for i in range(shards.size)]
    assert [sample.read(sample.extensions[0]) for sample in samples] == [b"[1]", b"[2]"]
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "shard.tar"]


def test_the_old_manifest_key_and_missing_shards_are_understood(tmp_path: Path) -> None:
    write_text(tmp_path, shards=2, sequences=3)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("num_sequences", "num_chunks"))
    assert TarShards(tmp_path).size == 6
    (tmp_path / "shard-1.tar").unlink()
    with pytest.raises(DataError, match=r"shard-1\.tar: not a readable tar"):
        TarShards(tmp_path).find_sample(5)


def test_damaged_shards_and_manifests_end_in_an_error_that_names_them(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=50)
    shard = tmp_path / "shard-0.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"shard-0\.tar"):
        TarShards(tmp_path).find_sample(0)
    (tmp_path / "manifest.jsonl").write_text('{"shard": "../other", "num_sequences": 3}\n')
    with pytest.raises(DataError, match=r"manifest\.jsonl:1: shard '\.\./other'"):
        TarShards(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"shard": "x"\n')
    with pytest.raises(DataError, match=r"manifest\.jsonl:1"):
        TarShards(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no samples"):
        TarShards(empty)
