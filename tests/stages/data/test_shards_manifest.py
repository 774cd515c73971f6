"""open_lm's manifests: read, refused where they cannot be right, and borne with where they say too much."""

import json
from pathlib import Path

import pytest

from stages.data.mixture import Mixture
from stages.data.shards import TarShards, read_manifest
from stages.data.text import TokenShards
from stages.errors import DataError
from tests.stages.data.mixture_run import MixtureRun
from tests.stages.training.training_case import CONTEXT, write_tar, write_text


def text(folder: Path) -> TokenShards:
    return TokenShards("text", folder, context=CONTEXT, vocabulary=300, seed=0)


MANIFESTS = {
    "missing": ('{"shard": "shard-7", "num_sequences": 10}', r"shard-7\.tar: not a readable tar"),
    "climbing": ('{"shard": "../x", "num_sequences": 10}', r"manifest\.jsonl:1: shard '\.\./x'"),
    "absolute": ('{"shard": "/etc/passwd", "num_sequences": 1}', r"manifest\.jsonl:1: shard '/etc"),
    "address": ('{"shard": "http://x", "num_sequences": 1}', r"manifest\.jsonl:1: shard 'http"),
    "negative": ('{"shard": "shard-0", "num_sequences": -1}', r"with -1 samples"),
    "a fraction": ('{"shard": "shard-0", "num_sequences": 1.5}', r"with 1\.5 samples"),
    "no number": ('{"shard": "shard-0"}', r"manifest\.jsonl:1: a line like"),
    "no object": ("[]", r"manifest\.jsonl:1: a line like"),
    "twice": ('{"shard": "shard-0", "num_sequences": 10}\n' * 2, r"'shard-0\.tar' is named twice"),
    "nothing": ("\n", "no samples"),
}


@pytest.mark.parametrize(("content", "reason"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_cannot_be_right_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    write_text(tmp_path, shards=1, sequences=10)
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(DataError, match=reason):
        TarShards(tmp_path).find_sample(0)


@pytest.mark.parametrize(("promised", "used"), [(16, 10), (9, 9)])
def test_what_a_manifest_promises_too_much_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], promised: int, used: int
) -> None:
    write_text(tmp_path, shards=2, sequences=10)
    lines = [json.dumps({"shard": f"shard-{number}", "num_sequences": promised}) for number in range(2)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    mixture = Mixture([text(tmp_path)], [1.0], by="tokens", context=CONTEXT, stripes=2, seed=0, bad_samples_limit=0)
    run = MixtureRun(mixture)
    first = [int(sequence.tokens[0]) for _ in range(used) for sequence in run.take_batch()]
    assert len(set(first)) >= 2 * used - 4  # two stripes: one may be a few samples ahead at the end of the pass
    assert set(first) <= {7 * number % 250 for number in range(20)}
    assert run.progress[0].bad == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"10 samples; its manifest.jsonl says {promised}" in said[0]


def test_an_empty_shard_that_was_promised_samples_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "shard-0.tar", {})
    (tmp_path / "manifest.jsonl").write_text('{"shard": "shard-0", "num_sequences": 10}')
    with pytest.raises(DataError, match=r"shard-0\.tar: no samples; its manifest\.jsonl says 10"):
        TarShards(tmp_path).find_sample(3)


def test_a_manifest_may_end_without_a_newline_and_have_empty_lines() -> None:
    lines = b'{"shard": "00000001", "num_sequences": 3}\n\r\n{"shard": "b.tar", "num_chunks": 4, "size": 1}'
    assert read_manifest("x", lines) == (["00000001.tar", "b.tar"], [3, 4])
