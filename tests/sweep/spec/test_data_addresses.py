"""Where a sweep file says that data lie: lists and patterns as webdataset writes them, refused where they cannot be."""

from pathlib import Path

import pytest

from jobs.store.job_file import build_job_content, read_planned_job
from sweep.cost.counts import DataUse, compute_use_digest, run_count
from sweep.errors import SweepFileError
from sweep.file_facts import is_present
from sweep.plan.manifest import write_manifest
from tests.stages.training.training_case import write_text
from tests.sweep.small_sweep import edited, keys, loaded, planned

PLACES = {
    "braces": ("'s3://bucket/{00000..01279}.tar'", "s3://bucket/{00000..01279}.tar"),
    "a pattern": ("shards/*.tar", "FOLDER/shards/*.tar"),
    "a list": ("[a, $STORE/b, 'https://host/{0..9}.tar']", "FOLDER/a::FOLDER/store/b::https://host/{0..9}.tar"),
    "webdataset's list": ("'a.tar::b.tar'", "FOLDER/a.tar::FOLDER/b.tar"),
    "a manifest": ("mine.jsonl", "FOLDER/mine.jsonl"),
}


@pytest.mark.parametrize(("given", "expected"), PLACES.values(), ids=PLACES)
def test_a_path_may_be_several_places_and_is_no_part_of_a_key(given: str, expected: str, tmp_path: Path) -> None:
    text = edited(("kind: text, path: data/words", f"kind: text, path: {given}"))
    assert loaded(tmp_path, text).data["words"].path == expected.replace("FOLDER", str(tmp_path))
    manifest = planned(tmp_path, text)
    assert keys(manifest) == keys(planned(tmp_path))
    write_manifest(tmp_path / "manifest.jsonl", manifest)
    job = read_planned_job(tmp_path / "manifest.jsonl", manifest.jobs[0].key)
    data = build_job_content(job, "a1")["data"]
    assert isinstance(data, dict)
    assert data["words"] == expected.replace("FOLDER", str(tmp_path))


WRONG = {
    "too many": ("'s3://b/{0..99999999}.tar'", "means 100,000,000 places; the most is 1,000,000"),
    "an open brace": ("'s3://b/{0..9.tar'", "a brace is not closed"),
    "climbing in a list": ("[a, ../b]", "climbs out of its folder"),
    "a command in a list": ("['a', 'pipe:cat x']", "is no address that is read here"),
    "an empty place": ("'a::'", "is empty"),
    "a list of other things": ("[a, 5]", "data.words.path"),
    "an empty list": ("[]", "data.words.path"),
    "a link to elsewhere": ("'s3://b/{a,b}/../c'", "climbs out of its place"),
}


@pytest.mark.parametrize(("given", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_address_ends_in_a_line_that_names_it(given: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SweepFileError) as caught:
        loaded(tmp_path, edited(("kind: text, path: data/words", f"kind: text, path: {given}")))
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/sweep.yaml:4: ")


def test_a_list_may_be_longer_than_any_path(tmp_path: Path) -> None:
    places = [f"a/{number:08d}/shards.tar" for number in range(400)]
    text = edited(("kind: text, path: data/words", f"kind: text, path: [{', '.join(places)}]"))
    data = loaded(tmp_path, text).data["words"]
    assert data.path == "::".join(f"{tmp_path}/{place}" for place in places)
    assert not is_present(data.path)
    assert compute_use_digest(DataUse(kind="text", path=data.path))
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    assert is_present(data.path)


def test_a_kind_that_lies_in_one_place_takes_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(SweepFileError, match="data of kind tokenizer lie in one"):
        loaded(tmp_path, edited(("path: data/tokenizer.json", "path: 'data/{a,b}.json'")))


def test_shards_of_a_pattern_are_counted_and_counted_again_when_they_change(tmp_path: Path) -> None:
    write_text(tmp_path / "a", shards=2, sequences=4)
    write_text(tmp_path / "b", shards=3, sequences=5)
    (tmp_path / "a" / "manifest.jsonl").unlink()
    use = DataUse(kind="text", path=f"{tmp_path}/{{a,b}}/*.tar")
    assert is_present(use.path)
    assert not is_present(f"{tmp_path}/c/*.tar")
    [count] = run_count([use])
    assert (count.samples, count.shards, count.opened_shards, count.problem) == (23, 5, 2, "")
    before = compute_use_digest(use)
    write_text(tmp_path / "a", shards=3, sequences=4)
    assert compute_use_digest(use) != before
