"""`precision: auto` is settled by the plan, so that keys are of what runs."""

from pathlib import Path

import pytest

from sweep.catalog import load_catalog
from sweep.plan import grid as grid_module
from sweep.plan.grid import Grid, expand_grid, resolve_precisions
from sweep.plan.manifest import Manifest
from sweep.plan.planner import build_manifest
from tests.sweep.small_sweep import SMALL, edited, keys, loaded, planned

AUTO = "\n".join(
    f"  {phase}.precision: auto" for phase in ("trunk", "pretrain", "finetune", "evaluate")
)  # appended to `defaults`


def with_precision(value: str, more: str = "", backend: str = "local") -> str:
    given = f"defaults:\n{AUTO.replace('auto', value)}\n"
    return edited(("defaults:\n", given), ("backend: local", f"backend: {backend}")) + more


def settled(tmp_path: Path, text: str) -> tuple[Grid, Manifest]:
    sweep, catalog = loaded(tmp_path, text), load_catalog()
    grid = resolve_precisions(sweep, expand_grid(sweep), catalog)
    return grid, build_manifest(sweep, grid, catalog)


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_on_this_machine_auto_is_what_its_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, chosen: str
) -> None:
    monkeypatch.setattr(grid_module, "has_cpu_bf16", lambda: native)
    grid, manifest = settled(tmp_path / "a", with_precision("auto"))
    assert keys(manifest) == keys(planned(tmp_path / "b", with_precision(chosen)))
    (remark,) = (line for line in grid.remarks if "precision" in line)
    why = f"this machine's processor has {'' if native else 'no '}bfloat16"
    assert remark.startswith(f"precision auto is {chosen} ({why}): trunk of tiny, pretrain of tiny")


def test_on_a_cluster_it_is_what_the_gpu_type_has_and_fp32_on_cores_that_nobody_knows(tmp_path: Path) -> None:
    gpus = "resources: {gpu_type: h100, gpus_per_node: 1}\n"
    _, manifest = settled(tmp_path / "a", with_precision("auto", gpus))
    assert keys(manifest) == keys(planned(tmp_path / "b", SMALL + gpus))  # bf16, the default
    grid, manifest = settled(tmp_path / "c", with_precision("auto", backend="slurm"))
    assert keys(manifest) == keys(planned(tmp_path / "d", with_precision("fp32", backend="slurm")))
    assert any("which processors the nodes have is not known here" in line for line in grid.remarks)


def test_without_auto_nothing_is_said(tmp_path: Path) -> None:
    grid, _ = settled(tmp_path, with_precision("fp32"))
    assert not any("precision" in line for line in grid.remarks)
