import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.data.captions import Captions
from stages.data.collate import collate, document_mask
from stages.data.conversations import Conversations
from stages.data.images import PictureReader
from stages.data.mixture import Mixture
from stages.data.order import shuffled
from stages.data.packing import join
from stages.data.sample import NO_LOSS, BadSampleError, Document, Source
from stages.data.shards import TarShards
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.vision.image_input import Picture
from tests.stages.training.training_case import (
    CONTEXT,
    World,
    document_of,
    make_world,
    picture_reader,
    png,
    write_tar,
    write_text,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tokenizer(world: World) -> TextTokenizer:
    return TextTokenizer(world.data / "tokenizer.json", 300)


@pytest.fixture
def images() -> PictureReader:
    return picture_reader()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_every_pass_of_the_order_holds_each_sample_once(size: int) -> None:
    passes = [[shuffled(epoch * size + i, size, seed=7) for i in range(size)] for epoch in range(3)]
    for order in passes:
        assert sorted(order) == list(range(size))
    if size >= 64:
        assert passes[0] != passes[1] != list(range(size))
        assert passes[0] != [shuffled(i, size, seed=8) for i in range(size)]


def test_the_order_reaches_every_place_about_equally_often() -> None:
    counts = Counter(shuffled(0, 10, seed) for seed in range(5000))
    assert all(400 < counts[place] < 600 for place in range(10))


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
        source.document(0, 0)


def test_a_member_name_that_climbs_out_is_only_a_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tar(data / "shard.tar", {"../../escaped.txt": b"[1]", "/tmp/escaped.json": b"[2]"})
    shards = TarShards(data)
    samples = [shards.sample(i) for i in range(shards.size)]
    assert [sample.read(sample.extensions[0]) for sample in samples] == [b"[1]", b"[2]"]
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "shard.tar"]


def test_the_old_manifest_key_and_missing_shards_are_understood(tmp_path: Path) -> None:
    write_text(tmp_path, shards=2, sequences=3)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("num_sequences", "num_chunks"))
    assert TarShards(tmp_path).size == 6
    (tmp_path / "shard-1.tar").unlink()
    with pytest.raises(DataError, match=r"shard-1\.tar: not a readable tar"):
        TarShards(tmp_path).sample(5)


def test_damaged_shards_and_manifests_end_in_an_error_that_names_them(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=50)
    shard = tmp_path / "shard-0.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"shard-0\.tar"):
        TarShards(tmp_path).sample(0)
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


def test_a_caption_follows_its_image_and_ends_with_end_of_text(
    world: World, tokenizer: TextTokenizer, images: PictureReader
) -> None:
    source = Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=images)
    document = document_of(source, 1)
    assert tokenizer.decode(list(document.tokens[:-1])) == "a green square again"
    assert document.tokens[-1] == tokenizer.end_of_text
    sequence = join([document], source=0)
    assert sequence.length == 4 + len(document.tokens) - 1
    assert sequence.targets.tolist() == [NO_LOSS] * 3 + list(
        document.tokens
    )  # the last image position predicts the first word
    named = Captions("captions", world.data / "captions", field="caption", tokenizer=tokenizer, images=images)
    assert tokenizer.decode(list(document_of(named, 1).tokens)) == "it is green"


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        ({"a.txt": b"text"}, "", "no image"),
        ({"a.png": b"no image at all", "a.txt": b"text"}, "", "not a usable image"),
        ({"a.png": png("red")[:60], "a.txt": b"text"}, "", "not a usable image"),
        ({"a.png": png("red"), "a.txt": b"  "}, "", "no caption in txt"),
        ({"a.png": png("red"), "a.json": b'{"caption": 3}'}, "caption", "no caption in caption"),
        ({"a.png": png("red"), "a.json": b"{"}, "caption", "unreadable"),
        ({"a.png": png("red"), "a.txt": b"x"}, "caption", "no caption in caption"),
    ],
)
def test_a_bad_captioned_image_says_why(
    tmp_path: Path, world: World, members: dict[str, bytes], field: str, reason: str
) -> None:
    write_tar(tmp_path / "shard.tar", members)
    tokenizer = TextTokenizer(world.data / "tokenizer.json", 300)
    images = picture_reader()
    source = Captions("captions", tmp_path, field=field, tokenizer=tokenizer, images=images)
    with pytest.raises(BadSampleError, match=reason):
        source.document(0, 0)


def test_a_tokenizer_must_fit_the_model(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="beyond the model's vocabulary of 200"):
        TextTokenizer(world.data / "tokenizer.json", 200)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer file"):
        TextTokenizer(tmp_path, 300)


def test_a_position_sees_its_own_document_alone() -> None:
    sequence = join([Document(list(range(length)), [True] * length) for length in (3, 4)], source=0)
    batch = collate([sequence], length=7)
    assert batch.tokens.tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    assert batch.targets.tolist() == [1, 2, 1, 2, 3]
    assert batch.target_positions is not None
    assert batch.target_positions.tolist() == [0, 1, 2, 3, 4]
    assert batch.documents is not None
    mask = document_mask(batch.documents)[0, 0]
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[:2, :2] = expected[2:5, 2:5] = expected[5:, 5:] = True  # padding sees padding, so that no row is empty
    assert torch.equal(mask, expected.tril())


class CountedReads:
    """Pictures that are counted instead of decoded."""

    image_tokens = 4

    def __init__(self) -> None:
        self.reads = 0

    def read(self, where: str, content: Callable[[], bytes]) -> Picture:  # noqa: ARG002 - a reader's form
        self.reads += 1
        return Picture(where)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_an_image_is_decoded_only_for_the_sequence_that_it_is_in(
    world: World, tokenizer: TextTokenizer, packing: str
) -> None:
    counted = CountedReads()
    source = Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=counted)
    data = Mixture([source], [1.0], by="tokens", context=CONTEXT, lanes=4, seed=0, bad_samples_limit=0, packing=packing)
    sequences = [sequence for _ in range(6) for sequence in data.next_batch()]
    assert counted.reads == sum(sequence.samples for sequence in sequences) == data.progress[0].images
    batch = collate(sequences, CONTEXT)
    assert batch.image_positions is not None
    assert batch.image_positions.shape == (counted.reads, 4)
    if packing == "packed":
        assert counted.reads > 24
        assert batch.documents is not None
    else:
        assert counted.reads == 24
        assert batch.documents is None
        assert (batch.tokens[:, -1] == 0).all()


@pytest.mark.parametrize("kind", ["text", "captions", "conversations"])
def test_what_does_not_fit_is_said_to(world: World, tokenizer: TextTokenizer, images: PictureReader, kind: str) -> None:
    sources: dict[str, Source] = {
        "text": TokenShards("text", world.data / "text", context=CONTEXT, vocabulary=300, seed=0),
        "captions": Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=images),
        "conversations": Conversations(
            "conversations", world.data / "conversations", tokenizer=tokenizer, images=images, max_length=64
        ),
    }
    whole = document_of(sources[kind], 0)
    assert sources[kind].document(0, 0, whole.length - 1) is None
    assert sources[kind].document(0, 0, whole.length) is not None
