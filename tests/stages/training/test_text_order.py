"""`text_order`: which text a run reads that begins at a trunk, by the ids of the samples themselves."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.checkpoint.files import Checkpoint, read_result_checkpoint
from stages.config import PretrainConfig
from stages.data.mixture import ContinuedOrder
from stages.data.order import ShardOrder
from stages.errors import ConfigError
from stages.job_file import JobFile, read_job
from stages.training.start import build_trajectory, find_continued_text
from tests.stages.ranks import RankServer, taken_by
from tests.stages.training.test_pretrain import StopAfter, numbers_of
from tests.stages.training.training_case import (
    CONTEXT,
    World,
    final_weights,
    image_config,
    make_world,
    run_here,
    same_bits,
    text_config,
    write_tar,
    write_text,
)

SHARDS, SHARD_SAMPLES = 3, 97
SAMPLES = SHARDS * SHARD_SAMPLES
BAD = (40, 111, 250)
TRUNK_STEPS, TRUNK_BATCH = 20, 4
STOPS = {20: 4, 80: 16, 100: None}
"""Percent of the trunk, and where its segment ends."""
SIGNED = {"name": "signed", "kind": "text", "revision": "1"}
STORED = Path(__file__).parents[2] / "fixtures" / "store-0.1" / "store" / "runs" / "pretrain"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With text whose sample n is n + 1 all over, whatever window is taken of it; some samples are too short."""
    world = make_world(tmp_path_factory.mktemp("world"))
    for shard in range(SHARDS):
        members = {}
        for row in range(SHARD_SAMPLES):
            number = shard * SHARD_SAMPLES + row
            length = 5 if number in BAD else CONTEXT + 1
            members[f"{row:06d}.json"] = json.dumps([number + 1] * length).encode()
        write_tar(world.data / "signed" / f"shard-{shard}.tar", members)
    write_text(world.data / "short", shards=1, sequences=24)
    return world


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def trunks(world: World, server: RankServer) -> dict[int, JobFile]:
    """The trunk's segments up to each branch point, each on two processes."""
    found: dict[int, JobFile] = {}
    parents: list[JobFile] = []
    for percent, stop in STOPS.items():
        config = text_config(
            TRUNK_STEPS, sources=[SIGNED], batch_sequences=TRUNK_BATCH, shuffle_shards=2, stop_step=stop
        )
        job = world.job(f"trunk-{percent}", "pretrain", config, parents)
        assert server.run(job, 2) == [0, 0]
        found[percent] = job
        parents = [job]
    return found


def text_ids(job: JobFile, ranks: int) -> list[int]:
    """Of the text samples that a run has learned from; rows of captions hold several tokens."""
    rows = [row for step in taken_by(job, range(ranks)).values() for row in step]
    return [row[0] - 1 for row in rows if len(set(row)) == 1 and row[0]]


def trunk_ids(trunks: dict[int, JobFile], percent: int) -> set[int]:
    return {number for at, job in trunks.items() if at <= percent for number in text_ids(job, 2)}


def stage_config(order: str, **changes: Any) -> dict[str, Any]:
    """Half text, half captions; another batch than the trunk's."""
    config = image_config(6, text_order=order, **{"batch_sequences": 8, **changes})
    return {**config, "sources": [{**SIGNED, "share": 0.5}, {"name": "captions", "kind": "captions", "share": 0.5}]}


@pytest.mark.parametrize(
    ("percent", "ranks", "workers", "changes"),
    [
        (20, 1, 0, {}),
        (20, 4, 0, {"batch_sequences": 12}),
        (80, 2, 1, {}),
        (100, 1, 2, {"context": 16}),
        (100, 4, 0, {"seed": 9, "shuffle_shards": 16}),
        (100, 2, 0, {"batch_sequences": TRUNK_BATCH}),
    ],
)
def test_text_goes_on_behind_all_that_the_trunk_has_read(
    world: World, server: RankServer, trunks: dict[int, JobFile], *,
    percent: int, ranks: int, workers: int, changes: dict[str, Any],
) -> None:  # fmt: skip
    name = f"{percent}-{ranks}-{workers}-{'-'.join(changes)}"
    before = trunk_ids(trunks, percent)
    assert len(before) == TRUNK_BATCH * (STOPS[percent] or TRUNK_STEPS)
    job = world.job(
        f"continue-{name}", "pretrain", stage_config("continue", **changes), [trunks[percent]], data_workers=workers
    )
    assert server.run(job, ranks) == [0] * ranks
    ids = text_ids(job, ranks)
    assert len(set(ids)) == len(ids) > 10
    assert not set(ids) & before
    # nothing is left out either: all good samples up to the last one that was read, but for those still in turn
    order = ShardOrder([SHARD_SAMPLES] * SHARDS, window=2, seed=124)
    good = [number for number in map(order.compute_sample, range(SAMPLES)) if number not in BAD]
    reached = len(before) + len(ids)
    assert len(set(good[: reached - 12]) - before - set(ids)) <= 2 * len(BAD)


@pytest.mark.parametrize("percent", [20, 100])
def test_anew_is_the_trunks_first_text_over_again(
    world: World, server: RankServer, trunks: dict[int, JobFile], percent: int
) -> None:
    job = world.job(f"anew-{percent}", "pretrain", stage_config("anew", shuffle_shards=2), [trunks[percent]])
    assert server.run(job, 1) == [0]
    ids = text_ids(job, 1)
    assert set(ids[:8]) <= trunk_ids(trunks, 100)
    assert set(ids) & trunk_ids(trunks, percent)


def test_at_branch_0_there_is_nothing_to_go_on_from(world: World) -> None:
    runs = [world.run(f"alone-{order}", "pretrain", stage_config(order)) for order in ("continue", "anew")]
    assert same_bits(final_weights(runs[0]), final_weights(runs[1]))


def test_a_run_resumes_to_the_bit_without_its_parent(world: World, trunks: dict[int, JobFile]) -> None:
    """Where its text goes on stands in its own checkpoints: the trunk's may be gone by then."""
    config = stage_config("continue", seed=9)
    whole = world.run("whole", "pretrain", config, [trunks[80]])
    parent = world.root / "runs" / "pretrain" / "trunk-copy"
    shutil.copytree(trunks[80].run, parent)
    content = json.loads((parent / "job.json").read_text())
    (parent / "job.json").write_text(json.dumps({**content, "key": "trunk-copy"}))
    result = json.loads((parent / "result.json").read_text())
    (parent / "result.json").write_text(json.dumps({**result, "key": "trunk-copy"}))
    job = world.job("stopped", "pretrain", config, [read_job(parent / "job.json")])
    assert not run_here(job, StopAfter(3))
    shutil.rmtree(parent / "checkpoints")
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(whole))
    assert numbers_of(job) == numbers_of(whole)
    ends = [read_result_checkpoint(each.run).state["continued_text"] for each in (job, whole)]
    assert ends[0] == ends[1]
    assert (ends[0]["signed"]["seed"], ends[0]["signed"]["shuffle_shards"]) == (124, 2)


def test_another_name_of_the_same_text_changes_no_number(world: World, trunks: dict[int, JobFile]) -> None:
    """Neither where a run goes on behind its trunk, nor where it goes on from its own checkpoint."""
    (world.data / "letters").symlink_to(world.data / "signed")
    config = stage_config("continue", seed=9)
    renamed = {**SIGNED, "name": "letters", "identity": "signed", "share": 0.5}
    other = {**config, "sources": [renamed, *config["sources"][1:]]}
    runs = [world.run(f"named-{number}", "pretrain", each, [trunks[80]]) for number, each in enumerate((config, other))]
    stopped = world.job("named-2", "pretrain", config, [trunks[80]])
    assert not run_here(stopped, StopAfter(3))
    runs.append(world.run("named-2", "pretrain", other, [trunks[80]]))
    assert all(same_bits(final_weights(run), final_weights(runs[0])) for run in runs)
    states = [read_result_checkpoint(run.run).state for run in runs]
    assert all(state["trajectory"] == states[0]["trajectory"] for state in states)
    assert all(state["continued_text"].keys() == {"signed"} for state in states)
    sources = [json.loads(run.result.read_text())["sources"].keys() for run in runs]
    assert sources == [{"signed", "captions"}, {"letters", "captions"}, {"letters", "captions"}]


def test_a_second_run_goes_on_behind_the_first(world: World, server: RankServer, trunks: dict[int, JobFile]) -> None:
    first = world.job("first", "pretrain", stage_config("continue", seed=9), [trunks[20]])
    assert server.run(first, 1) == [0]
    second = world.job("second", "pretrain", stage_config("continue", seed=10), [first])
    assert server.run(second, 1) == [0]
    read = [trunk_ids(trunks, 20), set(text_ids(first, 1)), set(text_ids(second, 1))]
    assert all(len(ids) > 10 for ids in read)
    assert len(set.union(*read)) == sum(map(len, read))


def test_text_that_was_read_to_its_end_is_said_to_come_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"name": "short", "kind": "text"}
    trunk = world.run("short-trunk", "pretrain", text_config(15, sources=[source]))
    world.run("short-next", "pretrain", text_config(2, sources=[source], text_order="continue", seed=9), [trunk])
    assert "'short': goes on behind sample 12 of 24; all of it was read before, 2 times" in capsys.readouterr().err


def continued(state: dict[str, Any], **changes: Any) -> Any:
    config = PretrainConfig.model_validate({**stage_config("continue"), **changes})
    return find_continued_text(config, Checkpoint(Path("none"), state), "trunk")


def test_a_parent_that_says_no_position_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parent trunk does not say how far its text was read.*use text_order: anew"):
        continued({"step": 3, "engine": {"shard": 2}, "trajectory": {}})


def test_a_text_of_another_revision_is_refused_and_one_that_was_not_read_begins_at_its_start() -> None:
    parent = text_config(4, sources=[SIGNED])
    state = {"trajectory": build_trajectory(PretrainConfig.model_validate(parent)), "data": [{"cursors": [3, 3, 2, 2]}]}
    assert continued(state) == {"signed": ContinuedOrder(seed=124, shuffle_shards=16, position=10)}
    renamed = [{"name": "other", "kind": "text"}, {"name": "captions", "kind": "captions", "share": 0}]
    assert continued(state, sources=renamed) == {}
    revised = [{**SIGNED, "revision": "2"}, {"name": "captions", "kind": "captions", "share": 0}]
    with pytest.raises(ConfigError, match=r"has read revision '1' of signed.*'2'"):
        continued(state, sources=revised)


@pytest.mark.parametrize("path", sorted(STORED.glob("*/checkpoints/*/state.json")), ids=lambda path: path.parts[-4])
def test_a_trunk_of_version_0_1_is_continued_and_not_begun_anew(path: Path) -> None:
    """Its checkpoints do not name the fields that came later: a segment must not take it for another run."""
    stored = json.loads(path.read_text())["trajectory"]
    assert "loss_mean" not in stored
    assert build_trajectory(PretrainConfig.model_validate(stored)) == stored
