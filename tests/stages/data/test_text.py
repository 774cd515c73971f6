import gzip
import json
from pathlib import Path

import pytest

from stages.data.sample import BadSampleError
from stages.data.text import TokenShards
from tests.stages.training.training_case import CONTEXT, World, document_of, write_tar, write_text


def test_token_ids_are_used_as_they_are(world: World) -> None:
    source = TokenShards("text", world.data / "text", context=CONTEXT, vocabulary=300, seed=0)
    assert source.size == 200
    document = document_of(source, 130)
    assert list(document.tokens) == [(7 * 130 + i) % 250 for i in range(CONTEXT + 1)]
    assert document.length == CONTEXT


def test_a_long_sequence_gives_a_window_by_seed_and_position(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=1, length=100)
    source = TokenShards("text", tmp_path, context=CONTEXT, vocabulary=300, seed=0)
    starts = {int(document_of(source, 0, position).tokens[0]) for position in range(400)}
    assert starts == set(range(100 - CONTEXT))
    assert list(document_of(source, 0, 5).tokens) == list(document_of(source, 0, 5).tokens)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not gzip", "unreadable"),
        (gzip.compress(b"[1, 2"), "unreadable"),
        (gzip.compress(b'{"a": 1}'), "no list"),
        (gzip.compress(b"[1, 2, 3]"), "3 tokens; context 32 needs 33"),
        (gzip.compress(json.dumps([300] * 33).encode()), "outside 0..299"),
        (gzip.compress(json.dumps([-1] * 33).encode()), "outside 0..299"),
        (gzip.compress(json.dumps([1.5] * 33).encode()), "no list"),
        (gzip.compress(b" " * (1 << 26) + b"[]"), "more than"),
    ],
    # a gzip header holds the time: ids made of the bytes would differ between pytest-xdist's workers
    ids=["not-gzip", "torn-json", "an-object", "too-short", "too-large-an-id", "negative-id", "fractions", "a-bomb"],
)
def test_a_bad_token_sample_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    write_tar(tmp_path / "shard.tar", {"key.json.gz": content})
    source = TokenShards("text", tmp_path, context=CONTEXT, vocabulary=300, seed=0)
    with pytest.raises(BadSampleError, match=f"shard.tar: key: .*{reason}"):
        source.read_document(0, 0)
