"""Cells and jobs as a command line names them."""

from pathlib import Path

import pytest

from jobs.store.paths import Store
from sweep.errors import NotPlannedError, UsageError
from sweep.plan.manifest import Manifest
from sweep.selection import select_cells
from sweep.stored_sweep import StoredSweep
from sweep.submit.cancel import select_own_jobs
from tests.sweep.small_sweep import planned


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return planned(tmp_path_factory.mktemp("plan"))


def test_a_name_a_unique_beginning_and_a_pattern_name_cells(plan: Manifest) -> None:
    name = "mtiny-b50-i20-c0-x1"
    assert select_cells(plan, [name]).cells == {name}
    assert select_cells(plan, ["mtiny-b50-i2"]).cells == {name}
    assert select_cells(plan, ["mtiny-b50-*"]).cells == {name, "mtiny-b50-i0-c0-x1"}
    assert select_cells(plan, ["mtiny-b*-i0-*", name]).cells == {
        "mtiny-b0-i0-c0-x1", "mtiny-b50-i0-c0-x1", "mtiny-b100-i0-c0-x1", name,
    }  # fmt: skip


def test_a_key_and_its_unique_beginning_name_a_job(plan: Manifest) -> None:
    key = plan.cells[0].pretrain
    for word in (key, key[:9]):
        assert select_cells(plan, [word]).keys == {key}


def test_what_is_kept_has_whole_names_and_patterns_as_they_are(plan: Manifest) -> None:
    key = plan.cells[0].pretrain
    kept = select_cells(plan, ["mtiny-b50-i2", "mtiny-b0-*", key[:9], "mtiny-b50-i2"])
    assert kept.words == ("mtiny-b50-i20-c0-x1", "mtiny-b0-*", key)


@pytest.mark.parametrize(
    ("word", "kind", "told"),
    [
        ("mtiny-b5", UsageError, "is the beginning of 2 cells, such as mtiny-b50-i0-c0-x1, mtiny-b50-i20-c0-x1"),
        ("mtiny-b5", UsageError, "or 'mtiny-b5*' for all of them"),
        ("other-*", NotPlannedError, "has no cell like 'other-*'; `sweep list small` shows its 6"),
        ("mtiny-b51-i0-c0-x1", NotPlannedError, "did you mean mtiny-b50-i0-c0-x1"),
        ("zz", NotPlannedError, "has no cell or job 'zz'; `sweep list small` shows its cells"),
    ],
)
def test_a_word_that_means_nothing_or_several_is_told(
    plan: Manifest, word: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as found:
        select_cells(plan, [word])
    assert told in str(found.value)


def test_a_cell_has_its_trunk_where_a_report_wants_the_whole_chain(plan: Manifest, tmp_path: Path) -> None:
    stored = StoredSweep(Store(tmp_path), plan)
    phases = [job.phase for job in stored.select_jobs(["mtiny-b100-i0"])]
    assert phases == ["pretrain", "finetune", "evaluate", "finetune", "evaluate"]
    assert [job.phase for job in stored.select_chains(["mtiny-b100-i0"])] == ["trunk", "trunk", *phases]
    assert [job.phase for job in stored.select_chains(["mtiny-b100-i0"], "trunk")] == ["trunk", "trunk"]


def test_cancelling_a_cell_leaves_the_trunks(plan: Manifest, tmp_path: Path) -> None:
    stored = StoredSweep(Store(tmp_path), plan)
    assert "trunk" not in {job.phase for job in select_own_jobs(stored, ["mtiny-b100-*"])}
    assert {job.phase for job in select_own_jobs(stored, ["mtiny-b100-*"], "evaluate")} == {"evaluate"}
    assert len(select_own_jobs(stored, [])) == len(plan.jobs)
