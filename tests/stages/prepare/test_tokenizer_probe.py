"""A tokenizer file that cannot encode, panics or takes exponential time is one error, whoever asks."""

import base64
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.prepare.check import check_data_sets
from stages.prepare.count import CountRequest, count_data_set
from stages.prepare.findings import CheckRequest
from stages.prepare.pool import iter_results
from stages.prepare.tokenizer_probe import check_tokenizer_speed
from tests.stages.data.tokenizer_kinds import KINDS, LLAMA_LIKE, byte_level


def changed(path: Path, **changes: object) -> Path:
    """A byte-level tokenizer with other parts."""
    content = json.loads(byte_level(path).read_text())
    path.write_text(json.dumps({**content, **changes}))
    return path


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
PANICS: Mapping[str, tuple[Mapping[str, object], str]] = {
    "a pattern that backtracks": ({"pre_tokenizer": SPLIT}, "retry-limit-in-match over"),
    "a normalizer that backtracks": ({"normalizer": REPLACE}, "retry-limit-in-match over"),
    "damaged tables": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(6)).decode()}},
        "index out of bounds",
    ),
    "pieces of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be non-zero"),
}


@pytest.mark.parametrize(("parts", "reason"), PANICS.values(), ids=PANICS.keys())
def test_a_panic_of_the_library_is_a_data_error(
    tmp_path: Path, parts: Mapping[str, object], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = changed(tmp_path / "t.json", **parts)
    tokenizer = TextTokenizer(file, 1_000)
    text = "a" * 40 + "!"
    for encode in (lambda: tokenizer.encode(text), lambda: tokenizer.encode_batch([text, text])):
        with pytest.raises(DataError, match=rf"t\.json: cannot encode text.*{reason}") as caught:
            encode()
        pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - as between processes


def encode_in_a_process(path: Path) -> list[int]:
    return TextTokenizer(path, 1_000).encode("a" * 40 + "!")


def test_a_panic_in_a_worker_is_the_same_error(tmp_path: Path) -> None:
    file = changed(tmp_path / "t.json", pre_tokenizer=SPLIT)
    with pytest.raises(DataError, match="cannot encode text"):
        list(iter_results(encode_in_a_process, [file, file], 2))


@pytest.mark.parametrize(("parts", "reason"), PANICS.values(), ids=PANICS.keys())
def test_the_probe_finds_it_beforehand(tmp_path: Path, parts: Mapping[str, object], reason: str) -> None:
    file = changed(tmp_path / "t.json", **parts)
    with pytest.raises(DataError, match=reason):
        check_tokenizer_speed(file)


def test_a_file_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    slow = {"type": "Sequence", "normalizers": [{**REPLACE, "pattern": {"Regex": "(b+)+c|(a+)+$"}}] * 2_000}
    content: dict[str, Any] = {"normalizer": slow}
    with pytest.raises(DataError, match=r"t\.json: it takes more than 2 s to encode a little plain text"):
        check_tokenizer_speed(changed(tmp_path / "t.json", **content), seconds=2)


def test_checking_and_counting_ask_the_probe(tmp_path: Path) -> None:
    file = changed(tmp_path / "tokenizer.json", pre_tokenizer=SPLIT)
    [report] = check_data_sets([CheckRequest(name="bpe", path=str(file), kind="tokenizer")], workers=1)
    assert "cannot encode text" in report.findings.problems["not readable"].examples[0]
    (tmp_path / "t.json").write_text('[{"conversations": []}]')
    counted = count_data_set(CountRequest(kind="conversations", path=str(tmp_path / "t.json"), tokenizer=str(file)))
    assert "cannot encode text" in counted.problem


@pytest.mark.parametrize("write", [*KINDS.values(), *LLAMA_LIKE.values()])
def test_usual_tokenizers_pass(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    check_tokenizer_speed(write(tmp_path / "t.json"))


def test_a_file_that_is_no_tokenizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match=r"t\.json: not a tokenizer file"):
        check_tokenizer_speed(tmp_path / "t.json")
