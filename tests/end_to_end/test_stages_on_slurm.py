"""The real stages through a real cluster: the same tables as on one machine."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.end_to_end.campaign import differences, prepare
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import Told, sweep
from tests.stages.demo.small_demo import make_small_demo

SMALL = Path(__file__).with_name("small.yaml")
NOT_THE_SAME_TWICE = {"cpu_hours_own", "cpu_hours_shared", "finished_at"}
OF_THE_BACKEND = {"code_revision"}
"""On Slurm it tells a changed checkout apart."""


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_a_sweep_of_real_stages_gives_the_same_table_through_slurm_as_on_one_machine(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=20 doubt=8 absent=4 look_again=1 cache=0 pace=0")
    data = make_small_demo(tmp_path / "data" / "demo").parent
    here, there = tmp_path / "here", tmp_path / "there"
    for store in (here, there):
        prepare(SMALL, store, data)
    assert told("submit", there, "--backend", "slurm").code == 0
    assert told("submit", here).code == 0
    wait_for("the end of the sweep", lambda: told("tick", there, "--json").json["complete"], seconds=400, every=1)
    told("results", here, "--no-figures")
    wait_for("Slurm's accounting of every job", lambda: is_accounted(there), seconds=60, every=1)
    assert differences(here, there, "small") == []
    assert table(there) == table(here)


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_two_nodes_train_one_model_with_the_numbers_of_one_process(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=20 doubt=8 absent=4 look_again=1 cache=0 pace=0")
    data = make_small_demo(tmp_path / "data" / "demo").parent
    one_cell = SMALL.read_text().replace("branch: [0, 50]", "branch: [0]").replace("epochs: [1, 2]", "epochs: [1]")
    alone, shared = tmp_path / "alone" / "small.yaml", tmp_path / "shared" / "small.yaml"
    for file, more in (
        (alone, ""),
        (shared, "settings: {parallel: fsdp}\nresources: {phases: {pretrain: {nodes: 2}}}\n"),
    ):
        file.parent.mkdir()
        file.write_text(one_cell.replace("backend: local", f"backend: {'slurm' if more else 'local'}") + more)
        prepare(file, file.parent / "store", data)
        assert told("submit", file.parent / "store").code == 0
    store = shared.parent / "store"
    wait_for("the end of the sweep", lambda: told("tick", store, "--json").json["complete"], seconds=120, every=1)
    one, two = pretrained(alone.parent / "store"), pretrained(store)
    assert two["sources"] == one["sources"]  # the same samples
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    steps = slurm.output("sacct", "-n", "-P", "-o", "JobID,NNodes,NTasks").splitlines()
    assert any(line.endswith("|2|2") for line in steps)  # srun's step of two tasks on two nodes


def pretrained(store: Path) -> dict[str, Any]:
    """result.json of the only pre-training."""
    [file] = (store / "runs" / "pretrain").glob("*/result.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def told(command: str, store: Path, *options: str) -> Told:
    return sweep(command, "small", *options, "--store", str(store))


def is_accounted(store: Path) -> bool:
    """Whether tables of now have the hours of every execution: sacct knows of an end some seconds after it."""
    assert told("results", store, "--no-figures").code == 0
    return not any(row["hours_remark"] for row in table(store))


def table(store: Path) -> list[dict[str, Any]]:
    """results.parquet without time and cost."""
    whole = pyarrow.parquet.read_table(store / "sweeps" / "small" / "results" / "results.parquet")
    rows: list[dict[str, Any]] = whole.drop_columns(sorted(NOT_THE_SAME_TWICE | OF_THE_BACKEND)).to_pylist()
    assert {row["state"] for row in rows} == {"done"}
    return rows
