"""Text to token shards: what is in them, that the bytes depend on inputs and recipe alone, and what is refused."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.prepare import pieces
from stages.prepare.pieces import encode_documents, split_parts
from tests.stages.data.tokenizer_kinds import KINDS, LLAMA_LIKE, byte_level
from tests.stages.prepare.text_inputs import (
    DOCUMENTS,
    contents,
    lines_of,
    make,
    recipe_in,
    sequences_of,
    write_inputs,
    write_lines,
)


def test_every_token_of_every_document_is_in_one_sequence_but_for_less_than_a_sequence(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    tokenizer = TextTokenizer(Path(recipe.tokenizer), 300)
    write_inputs(tmp_path / "texts")
    assert make(tmp_path / "out", recipe, tmp_path / "texts")
    expected = Counter(token for text in DOCUMENTS for token in [*tokenizer.encode(text), tokenizer.end_of_text])
    sequences = sequences_of(tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"]
    found = Counter(token for sequence in sequences for token in sequence)
    assert {len(sequence) for sequence in sequences} == {16}
    assert not found - expected
    assert (expected - found).total() == counts["dropped_tokens"] < 16
    assert counts["tokens"] == expected.total()
    assert (counts["documents"], counts["sequences"]) == (60, len(sequences))


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    write_inputs(tmp_path / "texts")
    make(tmp_path / "one", recipe, tmp_path / "texts", workers=1)
    make(tmp_path / "two", recipe, tmp_path / "texts", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_training_reads_what_was_made(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    make(tmp_path / "out", recipe, write_lines(tmp_path / "a.jsonl"))
    manifest = (tmp_path / "out" / "manifest.jsonl").read_text()
    source = TokenShards("text", tmp_path / "out", context=15, vocabulary=300, seed=0)
    assert manifest.endswith("\n")
    assert source.shard_sizes[:2] == [16, 16]
    assert source.size == len(sequences_of(tmp_path / "out"))
    assert all(source.read_document(index, index) is not None for index in range(source.size))


def test_sequences_are_shuffled_across_documents_by_the_seed(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl")
    made = []
    for seed in (0, 1):
        make(tmp_path / f"seed-{seed}", recipe_in(tmp_path, seed=seed), text)
        made.append(sequences_of(tmp_path / f"seed-{seed}"))
    one, other = made
    assert sorted(one) == sorted(other)
    assert one != other
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 300)
    stream = [token for text in DOCUMENTS for token in [*tokenizer.encode(text), 0]]
    first_shard = [place_of(sequence, stream) for sequence in one[:16]]
    assert max(first_shard) - min(first_shard) > len(stream) // 2


def place_of(sequence: Sequence[int], stream: Sequence[int]) -> int:
    """Where a sequence begins in a stream of tokens; 0 for one that was joined of two ends."""
    return next((at for at in range(len(stream)) if stream[at : at + len(sequence)] == sequence), 0)


def test_empty_documents_are_counted_and_left_out(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", ["", *DOCUMENTS, ""])
    make(tmp_path / "out", recipe_in(tmp_path), text)
    counts = json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"]
    assert (counts["documents"], counts["empty_documents"]) == (60, 2)


def test_a_complete_data_set_is_kept_and_other_settings_are_refused(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl")
    assert make(tmp_path / "out", recipe_in(tmp_path), text)
    before = contents(tmp_path / "out")
    assert not make(tmp_path / "out", recipe_in(tmp_path), text)
    with pytest.raises(DataError, match="made with other settings: context was 15 and is 31"):
        make(tmp_path / "out", recipe_in(tmp_path, context=31), text)
    text.write_bytes(lines_of(DOCUMENTS[1:]))
    with pytest.raises(DataError, match=r"a\.jsonl has changed since"):
        make(tmp_path / "out", recipe_in(tmp_path), text)
    assert contents(tmp_path / "out") == before


def test_a_damaged_result_is_not_taken_for_a_complete_one(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl")
    make(tmp_path / "out", recipe_in(tmp_path), text)
    (tmp_path / "out" / "shard-000001.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar is missing or damaged"):
        make(tmp_path / "out", recipe_in(tmp_path), text)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and no data set"):
        make(tmp_path / "out", recipe_in(tmp_path), write_lines(tmp_path / "a.jsonl"))
    (tmp_path / "out" / "notes.txt").unlink()
    assert make(tmp_path / "out", recipe_in(tmp_path), tmp_path / "a.jsonl")


def test_too_many_bad_lines_in_all_pieces_together_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([lines_of(DOCUMENTS[n : n + 9]) + b"{}" for n in range(0, 54, 9)]))
    with pytest.raises(DataError, match="5 bad lines, the limit is 4"):
        make(tmp_path / "out", recipe_in(tmp_path), tmp_path / "a.jsonl", bad_limit=4)
    assert make(tmp_path / "out", recipe_in(tmp_path), tmp_path / "a.jsonl", bad_limit=6)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(told) == 6
    assert f"{tmp_path}/a.jsonl:10: no field 'text'" in told[0]


def test_less_text_than_one_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the whole input is \d+ tokens; one sequence is 1001"):
        make(tmp_path / "out", recipe_in(tmp_path, context=1_000), write_lines(tmp_path / "a.jsonl", ["a"]))


def test_ids_beyond_sixteen_bits_are_kept(tmp_path: Path) -> None:
    recipe, wide = recipe_in(tmp_path), recipe_in(tmp_path, vocabulary=65_537)
    assert (recipe.token_type, wide.token_type) == ("<u2", "<u4")
    text = write_lines(tmp_path / "a.jsonl")
    make(tmp_path / "narrow", recipe, text)
    make(tmp_path / "wide", wide, text)
    assert sequences_of(tmp_path / "narrow") == sequences_of(tmp_path / "wide")


def test_long_documents_are_encoded_in_parts_that_change_no_token(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(Path(recipe_in(tmp_path).tokenizer), 300)
    text = "\n".join(DOCUMENTS)
    for longest in (50, 99, 400):
        parts = [part for part, _ in split_parts(text, longest)]
        assert "".join(parts) == text
        assert max(map(len, parts)) <= longest
        assert [id for part in parts for id in tokenizer.encode(part)] == tokenizer.encode(text)
    assert [part for part, _ in split_parts("x" * 25, 10)] == ["x" * 10, "x" * 10, "x" * 5]
    stream = [token for ids in encode_documents(tokenizer, [text, "a"]) for token in ids]
    assert stream == [*tokenizer.encode(text), 0, *tokenizer.encode("a"), 0]


@pytest.mark.parametrize("name", [*LLAMA_LIKE, "prefix", "byte-level"])
def test_parts_of_a_long_document_give_the_tokens_of_the_whole(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Llama-like tokenizer begins each text that it encodes with a blank: parts would have one token more each."""
    path = (LLAMA_LIKE | KINDS).get(name, byte_level)(tmp_path / "tokenizer.json")
    if name == "prefix":
        content = json.loads(path.read_text())
        content["pre_tokenizer"]["add_prefix_space"] = True
        path.write_text(json.dumps(content))
    tokenizer = TextTokenizer(path, 100_000)
    text = "\n".join(f"Red, and dark-blue {number} cars\n\n (left, right)?" for number in range(30))
    monkeypatch.setattr(pieces, "split_parts", lambda text: split_parts(text, 90))
    [*parts] = encode_documents(tokenizer, [text, "short", text], joined=True)
    joined = [token for ids in parts for token in ids]
    end = tokenizer.end_of_text
    whole = tokenizer.encode(text)
    assert len(parts) > 30
    assert joined == [*whole, end, *tokenizer.encode("short"), end, *whole, end]
    apart = [token for ids in encode_documents(tokenizer, [text]) for token in ids]
    assert (apart == [*whole, end]) is (not tokenizer.marks_beginnings)


def test_data_sets_of_tokenizers_that_mark_no_beginnings_keep_their_settings(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    assert "joined_parts" not in recipe.build_settings([])
    assert replace(recipe, joined_parts=True).build_settings([])["joined_parts"] is True
