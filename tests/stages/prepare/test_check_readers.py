"""Samples are read as a job reads them: what a check of the files alone calls clean may be bad for every job."""

from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError
from stages.prepare.check import check_data_sets
from stages.prepare.check_readers import Reading, ReadingReport, check_readings, select_indices
from stages.prepare.findings import CheckRequest
from tests.stages.training.training_case import (
    CONTEXT,
    MODEL,
    VISION,
    World,
    conversation,
    finetune_config,
    image_config,
    make_world,
    run_here,
    write_tar,
)
from tests.sweep.preflight.studies import rewrite, write_exams

LENGTH = 60
"""A pure prompt, an image and an answer fit; the many words before a question of the vicuna prompt do not."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def reading_of(world: World, stage: str, config: dict[str, Any], kind: str, data: str) -> Reading:
    names = (data, "tokenizer")
    paths = {path.stem: str(path) for path in world.data.iterdir() if path.stem in names}
    return Reading(
        name=f"{stage}: {data}", stage=stage, kind=kind, data=data, config=config, vocabulary=300, vision=VISION,
        paths=paths,
    )  # fmt: skip


def read(reading: Reading, most: int = 0, **how: Any) -> ReadingReport:
    (report,) = check_readings([reading], most=most, seed=how.get("seed", 0), workers=how.get("workers", 1))
    return report


def problems(report: ReadingReport) -> dict[str, tuple[str, int]]:
    return {kind: (str(each.action), each.count) for kind, each in report.findings.problems.items()}


def test_what_the_prompt_makes_too_long_is_found_though_the_files_are_clean(world: World) -> None:
    folder = world.data / "conversations"
    files = CheckRequest(
        name="talks", path=str(folder), kind="conversations", context=LENGTH, vocabulary=300,
        tokenizer=str(world.data / "tokenizer.json"), encoder=VISION["encoder"],
    )  # fmt: skip
    assert check_data_sets([files], workers=1)[0].findings.is_clean
    pure = finetune_config(max_length=LENGTH)
    assert problems(read(reading_of(world, "finetune", pure, "conversations", "conversations"))) == {}
    vicuna = {**pure, "prompt": "vicuna"}
    report = read(reading_of(world, "finetune", vicuna, "conversations", "conversations"))
    assert problems(report) == {"bad sample": ("skip", 10)}
    assert (report.render_json()["of"], report.render_json()["skipped"]) == (10, 10)
    parent = world.run("p", "pretrain", image_config(steps=2))
    with pytest.raises(DataError, match="every sample is bad"):
        run_here(world.job("f", "finetune", vicuna, [parent]))


def test_malformed_records_count_and_do_not_end_the_check(world: World) -> None:
    file = world.data / "conversations" / "conversations.json"
    rewrite(file, lambda records: [*records, {"id": "no turns"}, conversation(1) | {"image": "images/none.png"}])
    report = read(reading_of(world, "finetune", finetune_config(), "conversations", "conversations"))
    assert problems(report) == {"no conversation": ("skip", 1), "bad sample": ("skip", 1)}
    assert report.samples == 12


def test_captions_and_text_are_read_with_context_field_and_vocabulary(world: World) -> None:
    config = image_config()
    text, captions = config["sources"]
    alone: dict[str, Any] = {**config, "sources": [{**captions, "share": 1.0, "field": "alt"}]}
    report = read(reading_of(world, "pretrain", alone, "captions", "captions"), most=5)
    assert problems(report) == {"bad sample": ("skip", 5)}
    assert (report.samples, report.findings.samples) == (24, 5)
    small = {**config, "sources": [{**text, "share": 1.0}], "model": {**MODEL, "vocabulary": 100}, "vision": None}
    found = problems(read(reading_of(world, "pretrain", small, "text", "text"), workers=2))
    beyond = sum(max((7 * row + place) % 250 for place in range(CONTEXT + 1)) >= 100 for row in range(200))
    assert found == {"bad sample": ("skip", beyond)}


def test_a_reader_that_cannot_be_opened_is_a_refusal(world: World) -> None:
    config = {**finetune_config(), "max_length": 4}
    found = read(reading_of(world, "finetune", config, "conversations", "conversations"))
    assert problems(found) == {"not readable": ("refuse", 1)}


def test_an_evaluation_is_read_with_its_images(world: World) -> None:
    folder = write_exams(world.data / "exams")
    (folder / "images" / "red.png").write_bytes(b"no image")
    config = {
        "tasks": "exams", "tokenizer": {"name": "tokenizer"}, "text_tasks": [{"name": "sums"}],
        "vision_tasks": [{"name": "hues"}],
    }  # fmt: skip
    report = read(reading_of(world, "evaluate", config, "tasks", "exams"))
    assert problems(report) == {"question without its image": ("refuse", 1)}
    assert (report.findings.samples, report.findings.decoded) == (10, 5)


def test_the_same_samples_are_chosen_each_time() -> None:
    assert select_indices(1_000, 5, 7) == select_indices(1_000, 5, 7) != select_indices(1_000, 5, 8)
    assert select_indices(5, 0, 0) == select_indices(5, 9, 0) == [0, 1, 2, 3, 4]


def test_data_of_an_address_are_not_looked_at(world: World) -> None:
    write_tar(world.data / "far" / "0.tar", {"a.json": b"[]"})
    config = {**image_config(), "sources": [{"name": "far", "kind": "text"}]}
    reading = reading_of(world, "pretrain", config, "text", "far")
    report = read(reading.model_copy(update={"paths": {**reading.paths, "far": "https://example.org/far"}}))
    assert problems(report) == {"not looked at": ("note", 1)}
