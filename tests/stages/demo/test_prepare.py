"""The demo's data set on disk: repeatable, whole or absent, readable by the training readers, chance levels right."""

import hashlib
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.config import Task
from stages.data.captions import read_field_captions
from stages.data.conversations import Conversations
from stages.data.prompts import PLAIN
from stages.data.shards import TarShards
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.demo import text as demo_text
from stages.demo.prepare import prepare_demo
from stages.demo.scenes import HELD_OUT
from stages.demo.text import DemoDocument, collect_documents
from stages.errors import DataError
from stages.evaluation.text_task import read_text_task
from stages.evaluation.vision_task import read_vision_task
from tests.stages.demo.small_demo import SMALL, make_small_demo


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return content


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small_demo: Path, tmp_path: Path) -> None:
    same, other = make_small_demo(tmp_path / "same"), make_small_demo(tmp_path / "other", seed=1)
    assert record(same)["digest"] == record(small_demo)["digest"]
    assert record(other)["digest"] != record(small_demo)["digest"]


def test_the_record_names_every_file_with_its_digest(small_demo: Path) -> None:
    files = {path.relative_to(small_demo).as_posix() for path in small_demo.rglob("*") if path.is_file()}
    named = record(small_demo)["files"]
    assert set(named) == files - {"dataset.json"}
    for name, facts in named.items():
        assert hashlib.sha256((small_demo / name).read_bytes()).hexdigest() == facts["sha256"]


def test_a_complete_data_set_is_left_alone_and_a_damaged_one_made_again(small_demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small_demo, folder)
    assert not prepare_demo(folder, 0, lambda _: None, SMALL)
    (folder / "tokenizer.json").unlink()
    (tmp_path / ".data.unfinished").mkdir()  # what a killed preparation leaves
    assert prepare_demo(folder, 0, lambda _: None, SMALL)
    assert record(folder)["digest"] == record(small_demo)["digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "data"]


def test_other_data_is_never_overwritten(small_demo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose this")
    with pytest.raises(DataError, match="not a demo data set and not empty"):
        prepare_demo(tmp_path / "mine", 0, lambda _: None, SMALL)
    with pytest.raises(DataError, match="seed 0; wanted is 'demo', revision 1, seed 5"):
        prepare_demo(small_demo, 5, lambda _: None, SMALL)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_held_out_pairs_are_never_said_in_training(small_demo: Path) -> None:
    said = []
    for path in (small_demo / "captions").glob("*.tar"):
        with tarfile.open(path) as tar:
            contents = {member.name: tar.extractfile(member) for member in tar}
            said += [file.read().decode() for name, file in contents.items() if file and name.endswith("txt")]
    assert len(said) == SMALL.captioned_images
    pairs = {tuple(found) for text in said for found in re.findall(r"(?=\b(\w+) (\w+?)(?:es|s)?\b)", text)}
    assert ("red", "star") in pairs  # the search does find pairs
    assert not pairs & HELD_OUT
    for example in json.loads((small_demo / "conversations" / "conversations.json").read_text()):
        for asked, answered in zip(example["conversations"][::2], example["conversations"][1::2], strict=True):
            words = set(re.findall(r"\w+", f"{asked['value']} {answered['value']}"))
            assert not any({colour, shape} <= words for colour, shape in HELD_OUT)


def test_the_chance_level_is_that_of_always_giving_the_commonest_trained_answer(small_demo: Path) -> None:
    trained: dict[str, Counter[str]] = {}
    for example in json.loads((small_demo / "conversations" / "conversations.json").read_text()):
        for asked, answered in zip(example["conversations"][::2], example["conversations"][1::2], strict=True):
            trained.setdefault(asked_kind(asked["value"]), Counter())[answered["value"]] += 1
    for name in ("shapes_val", "shapes_heldout"):
        task = json.loads((small_demo / "tasks" / f"{name}.json").read_text())
        asked = rows(small_demo / "tasks" / f"{name}.jsonl")
        best = {kind: min(c for c in counts if counts[c] == max(counts.values())) for kind, counts in trained.items()}
        assert task["chance"] == pytest.approx(sum(row["answers"] == [best[row["kind"]]] for row in asked) / len(asked))
        for kind, level in task["chance_by_kind"].items():
            of_kind = [row["answers"] == [best[kind]] for row in asked if row["kind"] == kind]
            assert level == pytest.approx(sum(of_kind) / len(of_kind))
        assert record(small_demo)["chance"][name]["all"] == task["chance"]


def asked_kind(text: str) -> str:
    if "background" in text:
        return "background"
    if "many" in text:
        return "count"
    return "shape" if "Which shape" in text else "colour"


def test_the_training_readers_read_it(small_demo: Path) -> None:
    tokenizer = TextTokenizer(small_demo / "tokenizer.json", demo_text.VOCABULARY)
    text = TokenShards("text", small_demo / "text", context=demo_text.CONTEXT, vocabulary=demo_text.VOCABULARY, seed=0)
    document = text.read_document(0, 0)
    assert document is not None
    first: list[int] = list(document.tokens)
    assert text.size > 1_000
    assert len(first) == demo_text.CONTEXT + 1
    assert len(re.findall(r"[a-z]{2,}", tokenizer.decode(first))) > 30
    captions = TarShards(small_demo / "captions")
    assert captions.size == SMALL.captioned_images
    for index in range(captions.size):
        sample = captions.find_sample(index)
        regenerated, raw, plain = (read_field_captions(sample, name) for name in ("caption", "orig_text", "txt"))
        assert regenerated == plain != raw
        assert sample.read("png").startswith(b"\x89PNG")
    path = small_demo / "conversations"
    talks = Conversations("talks", path, tokenizer=tokenizer, images=None, max_length=demo_text.CONTEXT)
    assert (talks.size, talks.malformed) == (SMALL.conversation_images, [])


def test_words_of_the_answers_are_single_tokens(small_demo: Path) -> None:
    tokenizer = TextTokenizer(small_demo / "tokenizer.json", demo_text.VOCABULARY)
    answers = {row["answers"][0] for row in rows(small_demo / "tasks" / "shapes_val.jsonl")}
    lengths = [len(tokenizer.encode(PLAIN.format_answer(answer))) for answer in answers]
    assert sum(lengths) / len(lengths) < 1.5
    assert (tokenizer.encode("<|endoftext|>"), tokenizer.end_of_text) == ([0], 0)


@pytest.fixture(scope="module")
def found() -> list[DemoDocument]:
    return collect_documents(())


def test_training_and_held_out_text_share_no_paragraph(found: list[DemoDocument]) -> None:
    held_out = [document for document in found if demo_text.is_held_out(document)]
    assert 0.03 < len(held_out) / len(found) < 0.10
    paragraphs = Counter(text for document in found for text in document.paragraphs)
    assert max(paragraphs.values()) == 1


def test_the_evaluation_readers_read_its_tasks(small_demo: Path) -> None:
    tasks = small_demo / "tasks"
    for name in ("shapes_val", "shapes_heldout"):
        vision = read_vision_task(tasks, Task(name=name))
        assert len(vision.questions) == 2 * SMALL.question_images
        assert all(vision.resolve_image(question).is_file() for question in vision.questions)
    cloze, loss = read_text_task(tasks, Task(name="cloze")), read_text_task(tasks, Task(name="text_loss"))
    assert (cloze.metric, cloze.chance, loss.metric, loss.is_loss) == ("acc", 0.25, "bits_per_byte", True)


def test_one_ending_of_a_cloze_question_follows_in_the_text_and_the_others_are_its_words(
    small_demo: Path, found: list[DemoDocument]
) -> None:
    texts = " ".join(document.text.replace("\n", " ") for document in found)
    questions = rows(small_demo / "tasks" / "cloze.jsonl")
    assert len(questions) > 50
    for row in questions:
        assert f"{row['context']} {row['endings'][row['gold']]}" in texts
        assert len(set(row["endings"])) == 4
        assert len({tuple(sorted(ending.split())) for ending in row["endings"]}) == 1
    golds = Counter(row["gold"] for row in questions)
    assert max(golds.values()) / len(questions) < 0.45


def test_no_question_of_a_conversation_gives_away_the_answer_of_another(small_demo: Path) -> None:
    for example in json.loads((small_demo / "conversations" / "conversations.json").read_text()):
        turns = [turn["value"] for turn in example["conversations"]]
        assert len(turns) == 4
        assert turns[1] not in turns[2]
        assert turns[3] not in turns[0]
