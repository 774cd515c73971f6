import json

import pytest

from jobs.store.paths import RunPaths, Store, write_json
from jobs.store.results import check_result, read_finished_at

GOOD = {"format": 1, "key": "k", "stage": "pretrain", "files": {"checkpoints/m": 3}}


@pytest.fixture
def run(store: Store) -> RunPaths:
    paths = store.locate_run("pretrain", "k")
    paths.checkpoints.mkdir(parents=True)
    (paths.checkpoints / "m").write_text("abc")
    return paths


def test_a_whole_result_is_valid(run: RunPaths) -> None:
    write_json(run.result, GOOD)
    check = check_result(run, "k")
    assert check.valid
    assert check.content == GOOD


def test_no_result_is_no_problem(store: Store) -> None:
    assert check_result(store.locate_run("pretrain", "other"), "k").problem == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON"),
        ('{"format": 1,', "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        (json.dumps(GOOD | {"files": {"a\0b": 4}}), "is no file name"),
        (json.dumps(GOOD | {"files": {"\udc00": 4}}), "\ufffd is missing"),
        (json.dumps(GOOD | {"files": {"a" * 300: 4}}), "is no file name"),
        (json.dumps(GOOD | {"format": 0}), "format 0; this version reads 1"),
        (json.dumps(GOOD | {"key": "other"}), "key 'other' is not this run's k"),
        (json.dumps({"format": 1, "key": "k"}), "`files` is missing"),
        (json.dumps(GOOD | {"files": {"checkpoints/m": 4}}), "has 3 bytes, not 4"),
        (json.dumps(GOOD | {"files": {"gone": 4}}), "gone is missing"),
        (json.dumps(GOOD | {"files": {"../../k/result.json": 4}}), "outside the run's folder"),
        (json.dumps(GOOD | {"files": {"/etc/passwd": 4}}), "outside the run's folder"),
    ],
)
def test_a_result_that_does_not_hold_is_told(run: RunPaths, content: str, words: str) -> None:
    run.result.write_text(content)
    check = check_result(run, "k")
    assert not check.valid
    assert words in check.problem
    assert str(run.result) in check.problem


def test_a_result_cut_anywhere_is_not_valid(run: RunPaths) -> None:
    write_json(run.result, GOOD)
    whole = run.result.read_bytes()
    for cut in range(2, len(whole) + 1):  # without its last newline it is still whole
        run.result.write_bytes(whole[:-cut])
        assert not check_result(run, "k").valid


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("1e9", 1e9),
        ("7", 7.0),
        ("1e999", 0.0),
        ("9" * 400, 0.0),
        ("NaN", 0.0),
        ("-1", 0.0),
        ("true", 0.0),
        ('"7"', 0.0),
    ],
)
def test_an_end_that_is_no_time_is_not_said(word: str, seconds: float) -> None:
    assert read_finished_at(json.loads(f'{{"finished_at": {word}}}')) == seconds
    assert read_finished_at({}) == 0.0
