"""A tokenizer trained on text: deterministic, whole, and one that everything else takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.data.prompts import PLAIN
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.errors import ConfigError, DataError
from stages.prepare.inputs import find_inputs
from stages.prepare.tokenizer_probe import check_tokenizer_speed
from stages.prepare.train_tokenizer import TokenizerRecipe, TrainedTokenizer, train_tokenizer
from tests.stages.prepare.text_inputs import DOCUMENTS, lines_of, write_inputs


def train(out: Path, *inputs: Path, vocabulary: int = 320, bad_limit: int = 0, **settings: object) -> TrainedTokenizer:
    recipe = TokenizerRecipe(vocabulary=vocabulary, **{"txt": "blank-line", **settings})  # type: ignore[arg-type]
    return train_tokenizer(out, recipe, find_inputs(inputs), bad_limit=bad_limit)


def test_any_text_comes_back_and_the_stages_take_it(tmp_path: Path) -> None:
    write_inputs(tmp_path / "texts")
    made = train(tmp_path / "tokenizer.json", tmp_path / "texts", special=("<s>", "<|endoftext|>"))
    assert (made.documents, made.vocabulary, made.is_new) == (len(DOCUMENTS), 320, True)
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", made.vocabulary)
    check_tokenizer(tokenizer, PLAIN)
    check_tokenizer_speed(tmp_path / "tokenizer.json")
    text = "".join(map(chr, range(32, 600))) + "中文 \n\t end"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.end_of_text == 0
    assert len(tokenizer.encode(DOCUMENTS[3])) < len(DOCUMENTS[3].encode()) * 0.7
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert (vocabulary["<|endoftext|>"], vocabulary["<s>"]) == (0, 1)


def test_the_same_text_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    write_inputs(tmp_path / "texts")
    found = set()
    for threads in ("1", "2", "7"):
        out = tmp_path / f"{threads}.json"
        command = [sys.executable, "-m", "stages.prepare", "tokenizer", str(tmp_path / "texts"), "--out", str(out)]
        command += ["--vocabulary", "500", "--txt", "line"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "RAYON_NUM_THREADS": threads})
        found.add(out.read_bytes())
    assert len(found) == 1


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    write_inputs(tmp_path / "texts")
    train(tmp_path / "t.json", tmp_path / "texts")
    before = (tmp_path / "t.json").read_bytes()
    assert not train(tmp_path / "t.json", tmp_path / "texts").is_new
    with pytest.raises(DataError, match="is another tokenizer"):
        train(tmp_path / "t.json", tmp_path / "texts", vocabulary=300)
    assert (tmp_path / "t.json").read_bytes() == before


def test_what_cannot_be_trained_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of(["some text"]) + b"no json\n")
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(ConfigError, match="--vocabulary 257 has no room for 256 bytes and 2 special tokens; 259"):
        train(tmp_path / "t.json", tmp_path / "a.jsonl", vocabulary=257, special=("<s>",))
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON.*the limit is 0"):
        train(tmp_path / "t.json", tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no text in the inputs"):
        train(tmp_path / "t.json", tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="is a folder; give the file to write"):
        train(tmp_path, tmp_path / "a.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]
    assert train(tmp_path / "t.json", tmp_path / "a.jsonl", bad_limit=1).bad == 1
