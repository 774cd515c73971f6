"""Conversations as training documents: the loss, the images, and records that are none."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from stages.data.conversations import Conversations, find_conversation_file, read_records
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import BadSampleError
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from tests.stages.training.training_case import (
    COLOURS,
    World,
    conversation,
    document_of,
    make_world,
    picture_reader,
    png,
    write_conversations,
    write_tar,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tokenizer(world: World) -> TextTokenizer:
    return TextTokenizer(world.data / "tokenizer.json", 300)


@pytest.fixture
def images() -> EncoderImageReader:
    return picture_reader()


def open_conversations(
    path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, length: int = 64
) -> Conversations:
    return Conversations("conversations", path, tokenizer=tokenizer, images=images, max_length=length)


def test_the_loss_of_a_conversation_is_on_the_answers_alone(
    world: World, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    document = document_of(open_conversations(world.data / "conversations", tokenizer, images), 2)
    learned = [token for token, is_learned in zip(document.tokens, document.learned, strict=True) if is_learned]
    end = tokenizer.end_of_text
    assert learned == [*tokenizer.encode(" blue"), end, *tokenizer.encode(" yes"), end]
    tokens = np.asarray(document.tokens)
    asked: list[int] = tokens[~np.asarray(document.learned)].tolist()
    assert tokenizer.decode(asked) == "In: What colour is it?\nOut:In: Sure?\nOut:"
    assert document.image_tokens == 4


def test_the_image_mark_is_taken_out_of_answers_and_an_empty_answer_is_its_end(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    """As Prismatic's prompt builders treat every turn."""
    write_conversations(tmp_path, 1)
    turns = [("human", "<image>\nWhat?"), ("gpt", "<image> red"), ("human", "Sure?"), ("gpt", " ")]
    record = {**conversation(0), "conversations": [{"from": who, "value": text} for who, text in turns]}
    (tmp_path / "conversations.json").write_text(json.dumps([record]))
    document = document_of(open_conversations(tmp_path, tokenizer, images), 0)
    learned = [token for token, is_learned in zip(document.tokens, document.learned, strict=True) if is_learned]
    end = tokenizer.end_of_text
    assert learned == [*tokenizer.encode(" red"), end, *tokenizer.encode(" "), end]


def test_images_may_lie_in_a_tar_beside_the_conversations(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    write_tar(tmp_path / "images.tar", {f"images/{colour}.png": png(colour) for colour in COLOURS})
    (tmp_path / "conversations.json").write_text(json.dumps([conversation(0)]))
    assert document_of(open_conversations(tmp_path, tokenizer, images), 0).image_tokens == 4


@pytest.mark.parametrize(
    ("member", "image"),
    [
        ("images/red.PNG", "images/red.PNG"),
        ("./images/red.png", "images/red.png"),
        ("images/red.png", "./images//red.png"),
        ("images/red", "images/red"),
        ("images/.red.png", "images/.red.png"),
    ],
)
def test_an_image_in_a_tar_is_found_by_its_own_name(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, member: str, image: str
) -> None:
    write_tar(tmp_path / "images.tar", {member: png("red")})
    (tmp_path / "conversations.json").write_text(json.dumps([{**conversation(0), "image": image}]))
    assert document_of(open_conversations(tmp_path, tokenizer, images), 0).image_tokens == 4


def test_a_folder_of_images_may_be_a_link_to_another_disk(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    write_conversations(tmp_path / "set", 1)
    (tmp_path / "set" / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "elsewhere")
    assert document_of(open_conversations(tmp_path / "set", tokenizer, images), 0).image_tokens == 4


def test_tars_beside_conversations_are_open_only_while_one_is_read(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    for number in range(40):
        write_tar(tmp_path / f"{number:02d}.tar", {f"images/{number}.png": png("red")})
    records = [{**conversation(0), "image": f"images/{number}.png"} for number in range(40)]
    (tmp_path / "conversations.json").write_text(json.dumps(records))
    source = open_conversations(tmp_path, tokenizer, images)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert all(document_of(source, number).image_tokens == 4 for number in range(40))
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": None}, "conversations must be a list"),
        ({"conversations": [{"from": "human", "value": "alone"}]}, "conversations must be a list"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]}, "turn 0 must come from"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": 5}]}, "turn 1 has no text"),
        ({"conversations": ["a", "b"]}, "turn 0 must come from"),
        ({"conversations": [{"from": "system", "value": "a"}, {"from": "gpt", "value": "b"}]}, "turn 0 must come from"),
        (
            {"conversations": [{"from": ["human"], "value": "a"}, {"from": "gpt", "value": "b"}]},
            "turn 0 must come from",
        ),
        ({"conversations": [{"from": "human", "value": 7}, {"from": "gpt", "value": "b"}]}, "turn 0 has no text"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt"}]}, "turn 1 has no text"),
        ({"conversations": [{"from": "human", "value": "\ud800"}, {"from": "gpt", "value": "b"}]}, "half a character"),
        ({"conversations": {"from": "human", "value": "a"}}, "conversations must be a list"),
        ({"image": 5}, "image must be a path"),
        ({"image": ["images/red.png"]}, "image must be a path"),
        ({"image": "\udcff.png"}, "image holds half a character"),
        ({"image": None}, "<image> in the text, and no image"),
    ],
)
def test_malformed_conversations_are_left_out_and_told(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, change: dict[str, object], reason: str
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
    ("image", "reason"),
    [
        ("images/none.png", "there is no image"),
        ("../secret.png", "lies outside the data set"),
        ("/etc/hostname", "lies outside the data set"),
        ("images", "there is no image"),
        ("zero\0.png", "is no file name"),
        ("long" * 2_000, "is no file name"),
        ("torn.png", "not a usable image"),
        ("text.png", "not a usable image"),
    ],
)
def test_an_image_that_is_missing_or_climbs_out_is_a_bad_sample(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, image: str, reason: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png("red"))
    write_conversations(tmp_path / "set", 1)
    (tmp_path / "set" / "torn.png").write_bytes(png("red")[:60])
    (tmp_path / "set" / "text.png").write_bytes(b"no image at all")
    (tmp_path / "set" / "conversations.json").write_text(json.dumps([{**conversation(0), "image": image}]))
    with pytest.raises(BadSampleError, match=reason):
        open_conversations(tmp_path / "set", tokenizer, images).read_document(0, 0)


def test_an_image_on_a_mount_that_fails_is_no_bad_sample(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_conversations(tmp_path / "set", 1)
    (tmp_path / "set" / "conversations.json").write_text(json.dumps([{**conversation(0), "image": "cat.png"}]))
    source = open_conversations(tmp_path / "set", tokenizer, images)
    measure = Path.stat

    def fail_at_images(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "cat.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return measure(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", fail_at_images)
    with pytest.raises(OSError, match="Input/output error"):
        source.read_document(0, 0)


def test_a_conversation_too_long_to_answer_is_a_bad_sample(
    world: World, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    path = world.data / "conversations"
    assert document_of(open_conversations(path, tokenizer, images, length=30), 0).length == 30
    with pytest.raises(BadSampleError, match="no answer within 6 tokens"):
        open_conversations(path, tokenizer, images, length=6).read_document(0, 0)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"[1]", b"", b"\xff\xfe[", b"[" * 100_000, b"[{}, {}"])
def test_a_file_without_conversations_is_an_error(
    tmp_path: Path, tokenizer: TextTokenizer, images: EncoderImageReader, content: bytes
) -> None:
    (tmp_path / "conversations.json").write_bytes(content)
    with pytest.raises(DataError, match=r"conversations\.json"):
        open_conversations(tmp_path, tokenizer, images)


@pytest.mark.parametrize("name", ["talks.json", "talks.jsonl"])
def test_json_lines_in_place_of_json_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("".join(json.dumps(conversation(number)) + "\n" for number in range(3)))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=r"conversations are read from one plain JSON list; .*jq -s"):
            read_records(find_conversation_file(path))


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.xz", "a.parquet"])
def test_conversations_in_a_form_that_is_not_read_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"0 JSON files \({name} is not read"):
        find_conversation_file(tmp_path)
    with pytest.raises(DataError, match=rf"{name}: not a format that is read"):
        find_conversation_file(tmp_path / name)
