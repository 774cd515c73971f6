import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from stages.config import Vision
from stages.data.captions import Captions
from stages.data.conversations import Conversations
from stages.data.images import FeatureCache
from stages.data.order import shuffled
from stages.data.packing import PackedSequence, collate, document_mask
from stages.data.sample import NO_LOSS, BadSampleError, Document
from stages.data.tar_shards import TarShards
from stages.data.text import TokenShards
from stages.data.text_tokenizer import TextTokenizer
from stages.errors import DataError
from stages.vision import load_encoder
from tests.stages.training_case import (
    COLOURS,
    CONTEXT,
    World,
    conversation,
    make_world,
    png,
    write_conversations,
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
def images() -> FeatureCache:
    return FeatureCache(load_encoder(Vision(encoder="patches-16-32")), limit_gib=0.1)


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
    document = source.document(130, position=0)
    assert document.tokens == [(7 * 130 + i) % 250 for i in range(CONTEXT + 1)]
    assert document.length == CONTEXT


def test_a_long_sequence_gives_a_window_by_seed_and_position(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=1, length=100)
    source = TokenShards("text", tmp_path, context=CONTEXT, vocabulary=300, seed=0)
    starts = {source.document(0, position).tokens[0] for position in range(400)}
    assert starts == set(range(100 - CONTEXT))
    assert source.document(0, 5).tokens == source.document(0, 5).tokens


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
    assert [shards.read(i).members for i in range(shards.size)] == [{"txt": b"[1]"}, {"json": b"[2]"}]
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "shard.tar"]


def test_the_old_manifest_key_and_missing_shards_are_understood(tmp_path: Path) -> None:
    write_text(tmp_path, shards=2, sequences=3)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("num_sequences", "num_chunks"))
    assert TarShards(tmp_path).size == 6
    (tmp_path / "shard-1.tar").unlink()
    with pytest.raises(DataError, match=r"shard-1\.tar: not a readable tar"):
        TarShards(tmp_path).read(5)


def test_damaged_shards_and_manifests_end_in_an_error_that_names_them(tmp_path: Path) -> None:
    write_text(tmp_path, shards=1, sequences=50)
    shard = tmp_path / "shard-0.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"shard-0\.tar"):
        [TarShards(tmp_path).read(i) for i in range(50)]
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
    world: World, tokenizer: TextTokenizer, images: FeatureCache
) -> None:
    source = Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=images)
    document = source.document(1, 0)
    assert tokenizer.decode(document.tokens[:-1]) == "a green square again"
    assert document.tokens[-1] == tokenizer.end_of_text
    sequence = PackedSequence(source=0)
    sequence.add(document)
    text = len(document.tokens)
    assert sequence.length == 4 + text - 1
    assert sequence.targets == [NO_LOSS] * 3 + document.tokens  # the last image position predicts the first word
    named = Captions("captions", world.data / "captions", field="caption", tokenizer=tokenizer, images=images)
    assert tokenizer.decode(named.document(1, 0).tokens) == "it is green"


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
    images = FeatureCache(load_encoder(Vision(encoder="patches-16-32")), limit_gib=0)
    source = Captions("captions", tmp_path, field=field, tokenizer=tokenizer, images=images)
    with pytest.raises(BadSampleError, match=reason):
        source.document(0, 0)


def open_conversations(path: Path, tokenizer: TextTokenizer, images: FeatureCache, length: int = 64) -> Conversations:
    return Conversations("conversations", path, tokenizer=tokenizer, images=images, max_length=length)


def test_the_loss_of_a_conversation_is_on_the_answers_alone(
    world: World, tokenizer: TextTokenizer, images: FeatureCache
) -> None:
    document = open_conversations(world.data / "conversations", tokenizer, images).document(2, 0)
    learned = [token for token, is_learned in zip(document.tokens, document.learned, strict=True) if is_learned]
    end = tokenizer.end_of_text
    assert learned == [*tokenizer.encode(" blue"), end, *tokenizer.encode(" yes"), end]
    asked = [token for token, is_learned in zip(document.tokens, document.learned, strict=True) if not is_learned]
    assert tokenizer.decode(asked) == "In: What colour is it?\nOut:In: Sure?\nOut:"
    assert document.image_tokens == 4


def test_images_may_lie_in_a_tar_beside_the_conversations(
    tmp_path: Path, tokenizer: TextTokenizer, images: FeatureCache
) -> None:
    write_tar(tmp_path / "images.tar", {f"images/{colour}.png": png(colour) for colour in COLOURS})
    (tmp_path / "conversations.json").write_text(json.dumps([conversation(0)]))
    assert open_conversations(tmp_path, tokenizer, images).document(0, 0).image_tokens == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": None}, "conversations must be a list"),
        ({"conversations": [{"from": "human", "value": "alone"}]}, "conversations must be a list"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]}, "turn 0 must come from"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}]}, "turn 1 has no text"),
        ({"conversations": ["a", "b"]}, "turn 0 must come from"),
        ({"image": 5}, "image must be a path"),
        ({"image": None}, "<image> in the text, and no image"),
    ],
)
def test_malformed_conversations_are_left_out_and_told(
    tmp_path: Path, tokenizer: TextTokenizer, images: FeatureCache, change: dict[str, object], reason: str
) -> None:
    write_conversations(tmp_path, 1)
    records = [{**conversation(0), **change}, conversation(1), "no object"]
    (tmp_path / "conversations.json").write_text(json.dumps(records))
    source = open_conversations(tmp_path, tokenizer, images)
    assert source.size == 1
    assert len(source.malformed) == 2
    assert "record 0" in source.malformed[0]
    assert reason in source.malformed[0]
    source.check_malformed(limit=2)
    with pytest.raises(DataError, match="2 malformed records; the limit is 1"):
        source.check_malformed(limit=1)


@pytest.mark.parametrize(
    ("image", "reason"), [("images/none.png", "there is no image"), ("../secret.png", "lies outside the data set")]
)
def test_an_image_that_is_missing_or_climbs_out_is_a_bad_sample(
    tmp_path: Path, tokenizer: TextTokenizer, images: FeatureCache, image: str, reason: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png("red"))
    write_conversations(tmp_path / "set", 1)
    (tmp_path / "set" / "conversations.json").write_text(json.dumps([{**conversation(0), "image": image}]))
    with pytest.raises(BadSampleError, match=reason):
        open_conversations(tmp_path / "set", tokenizer, images).document(0, 0)


def test_a_conversation_too_long_to_answer_is_a_bad_sample(
    world: World, tokenizer: TextTokenizer, images: FeatureCache
) -> None:
    path = world.data / "conversations"
    assert open_conversations(path, tokenizer, images, length=30).document(0, 0).length == 30
    with pytest.raises(BadSampleError, match="no answer within 6 tokens"):
        open_conversations(path, tokenizer, images, length=6).document(0, 0)


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[1]"])
def test_a_file_without_conversations_is_an_error(
    tmp_path: Path, tokenizer: TextTokenizer, images: FeatureCache, content: str
) -> None:
    (tmp_path / "conversations.json").write_text(content)
    with pytest.raises(DataError, match=r"conversations\.json"):
        open_conversations(tmp_path, tokenizer, images)


def test_a_tokenizer_must_fit_the_model(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="beyond the model's vocabulary of 200"):
        TextTokenizer(world.data / "tokenizer.json", 200)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer file"):
        TextTokenizer(tmp_path, 300)


def test_a_position_sees_its_own_document_alone() -> None:
    sequence = PackedSequence(source=0)
    for length in (3, 4):
        sequence.add(Document(list(range(length)), [True] * length))
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
