"""What a sweep file asks of a cluster: which entry counts, what is refused, and that no key knows of it."""

from pathlib import Path

import pytest

from jobs.slurm.sbatch_options import build_sbatch_options
from sweep.cli import main
from sweep.plan.manifest import Manifest, read_manifest, write_manifest
from tests.sweep.small_sweep import SMALL, keys, planned, written

SLURM = """\
resources:
  memory_gib: 8
  retry_memory_gib: 16
  limit_minutes: 120
  partition: gpu
  setup: [module load cuda, source env/bin/activate]
  launcher: [apptainer, exec, --nv, image.sif]
  options: {exclusive: true, nice: 100, mail-type: FAIL}
  phases:
    evaluate: {setup: [], options: {nice: 0, hold: true}, retry_memory_gib: 12}
  models:
    tiny:
      launcher: [env]
      phases:
        finetune: {time_minutes: 30, launcher: []}
"""


def by_phase(manifest: Manifest, phase: str) -> list[str]:
    """sbatch's options of the first job of the phase."""
    return build_sbatch_options(next(job for job in manifest.jobs if job.phase == phase).resources)


def test_narrower_entries_go_over_wider_ones_and_options_are_joined(tmp_path: Path) -> None:
    manifest = planned(tmp_path, SMALL + SLURM)
    jobs = {job.phase: job.resources for job in manifest.jobs}
    assert jobs["trunk"].setup == ("module load cuda", "source env/bin/activate")
    assert jobs["trunk"].launcher == ("env",)
    assert jobs["finetune"].launcher == ()
    assert jobs["evaluate"].setup == ()
    assert (jobs["trunk"].retry_memory_gib, jobs["evaluate"].retry_memory_gib) == (16, 12)
    assert jobs["trunk"].options == {"partition": "gpu", "exclusive": "", "nice": "100", "mail-type": "FAIL"}
    assert jobs["evaluate"].options == {**jobs["trunk"].options, "nice": "0", "hold": ""}
    assert "--time=30" in by_phase(manifest, "finetune")
    assert by_phase(manifest, "trunk")[-4:] == ["--partition=gpu", "--exclusive", "--mail-type=FAIL", "--nice=100"]


def test_none_of_it_enters_a_key(tmp_path: Path) -> None:
    assert keys(planned(tmp_path / "a", SMALL + SLURM)) == keys(planned(tmp_path / "b", SMALL))


def test_the_manifest_gives_the_same_resources_back(tmp_path: Path) -> None:
    manifest = planned(tmp_path, SMALL + SLURM)
    write_manifest(tmp_path / "manifest.jsonl", manifest)
    assert read_manifest(tmp_path / "manifest.jsonl").jobs == manifest.jobs


WRONG: dict[str, tuple[str, list[str]]] = {
    "array": ("options: {array: 0-9}", ["array is not for sweep files", "arrays by themselves"]),
    "time": ("options: {time: '10'}", ["time is not for sweep files: use the field time_minutes"]),
    "partition": ("options: {partition: gpu}", ["use the field partition"]),
    "wrap": ("options: {wrap: id}", ["use `setup` for shell lines"]),
    "abbreviated": ("options: {dep: 'afterok:1'}", ["would be taken for --dependency; write sbatch's options out"]),
    "short option": ("options: {p: gpu}", ["is not a long option of sbatch"]),
    "newline in a name": ('options: {"a\\nb": "1"}', ["'a\\nb' is not a long option of sbatch"]),
    "newline": ('options: {licenses: "a\\n#SBATCH --array=1"}', ["holds a control character or a line break"]),
    "false": ("options: {exclusive: false}", ["exclusive: is false; give true for a flag"]),
    "list": ("options: [exclusive]", ["a mapping is wanted"]),
    "set-up option": ("setup: ['#SBATCH -p gpu']", ["is an option of the scheduler"]),
    "set-up of two lines": ('setup: ["module load x\\nid"]', ["one printable line is wanted"]),
    "set-up of one text": ("setup: module load x", ["a list is wanted"]),
    "launcher": ("launcher: [--nv]", ["a program is wanted first"]),
    "empty word": ("launcher: [srun, '']", ["is an empty word"]),
    "time above the limit": (
        "{time_minutes: 200, limit_minutes: 120}",
        ["time_minutes 200 is above limit_minutes 120"],
    ),
    "no more memory": ("{memory_gib: 8, retry_memory_gib: 8}", ["retry_memory_gib 8 is not above memory_gib 8"]),
    "quoted account": ("account: 'me; id'", ["is not a plain word"]),
}


@pytest.mark.parametrize(("text", "parts"), WRONG.values(), ids=WRONG)
def test_what_would_break_a_sweep_is_refused_with_its_line(
    text: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SMALL + f"resources: {text if text.startswith('{') else '{' + text + '}'}\n")
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"sweep plan: {path}:24: resources"), errors
    assert all(part in errors for part in parts), errors
    assert len(errors.splitlines()) == 1


def test_a_time_above_a_limit_of_another_entry_is_refused_at_the_narrower_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "    tiny:\n      phases:\n        trunk:\n          time_minutes: 300\n"
    path = written(tmp_path, f"{SMALL}resources:\n  limit_minutes: 120\n  models:\n{model}")
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    told = capsys.readouterr().err
    assert f"{path}:30: resources.models.tiny.phases.trunk.time_minutes: time_minutes 300 is above" in told
    assert len(told.splitlines()) == 1


def test_a_time_limit_without_a_partitions_limit_is_taken(tmp_path: Path) -> None:
    manifest = planned(tmp_path, SMALL + "resources: {time_minutes: 9999}\n")
    assert {job.resources.time_minutes for job in manifest.jobs} == {9_999}


def test_memory_of_a_retry_below_what_goes_with_the_gpu_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SMALL + "resources: {gpu_type: a100, gpus_per_node: 1, retry_memory_gib: 1}\n")
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    assert f"{path}:24: resources: retry_memory_gib is 1, and a job has" in capsys.readouterr().err


def test_gpus_of_a_type_that_is_none_are_told_with_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SMALL + "resources: {gpu_type: cpu, gpus_per_node: 2}\n")
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    assert f"{path}:24: resources: gpus_per_node is 2, and gpu_type is 'cpu'" in capsys.readouterr().err


def test_a_key_with_a_line_break_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, SMALL + 'resources: {options: {"a\\nb": [1]}}\n')
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
