import re
from dataclasses import replace

import pytest

from jobs.job import Estimate, Resources, index_by_key
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.snapshot import RunStatus
from jobs.store.paths import Store
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from sweep.canary.advice import iter_smaller_ways, suggest_memory
from tests.jobs import toy
from tests.sweep.small_sweep import shipped

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"


def ended(store: Store, message: str, failure: FailureClass = FailureClass.OUT_OF_MEMORY) -> RunStatus:
    """A run whose only attempt ended so."""
    run = store.locate_run("pretrain", "a")
    start = AttemptStart(
        attempt="1",
        key="a",
        stage="pretrain",
        backend="slurm",
        host="n1",
        pid=1,
        pid_started=1.0,
        boot_id="",
        started_at=1.0,
        job_id="7_1",
    )
    end = AttemptExit(attempt="1", key="a", ended_at=2.0, returncode=1, failure=failure, message=message)
    outcome = AttemptRecord(paths=run.locate_attempt("1"), start=start, end=end, recorded=True)
    return RunStatus(stage_folder=str(run.root.parent), key="a", outcomes=(outcome,))


def test_a_node_s_memory_is_to_be_raised_by_half_or_to_the_estimate(store: Store) -> None:
    job = toy.toy_job("a", resources=Resources(memory_gib=8))
    assert suggest_memory({"a": job}, job, ended(store, "Slurm: OUT_OF_MEMORY")) == (
        "it asked for 8 GiB a node: set `resources: {memory_gib: 12}` and plan again"
    )
    estimated = replace(job, estimate=Estimate(host_memory_bytes=20 << 30))
    assert "20.0 are estimated: set `resources: {memory_gib: 25}`" in suggest_memory(
        {"a": estimated}, estimated, ended(store, "Slurm: OUT_OF_MEMORY")
    )


def test_other_failures_need_no_memory(store: Store) -> None:
    job = toy.toy_job("a")
    assert suggest_memory({"a": job}, job, ended(store, CUDA, FailureClass.CODE)) == ""
    assert suggest_memory({"a": job}, job, RunStatus(stage_folder="x", key="a")) == ""


def test_a_gpu_s_memory_is_spared_by_settings_that_are_estimated_to_need_less(store: Store) -> None:
    jobs = index_by_key(shipped("paper").jobs)
    trunk = next(job for job in jobs.values() if job.phase == "trunk" and job.resources.nodes == 8)
    told = suggest_memory(jobs, trunk, ended(store, CUDA))
    planned = trunk.estimate.gpu_memory_bytes / 2**30
    assert told.startswith(f"{planned:.1f} GiB of each GPU were estimated; what needs less: `settings: {{")
    assert told.endswith("; plan again")
    needed = [float(number) for number in re.findall(r"\(([0-9.]+) GiB\)", told)]
    assert needed
    assert max(needed) <= 0.8 * planned + 0.1
    names = set(re.findall(r"settings: \{(\w+):", told))
    assert names <= {"micro_batch_tokens", "parallel", "activation_checkpointing"}


def test_a_fine_tune_s_model_is_that_of_the_run_below_it() -> None:
    jobs = index_by_key(shipped("paper").jobs)
    finetune = next(job for job in jobs.values() if job.phase == "finetune")
    assert list(iter_smaller_ways(jobs, finetune, on_slurm=True))


@pytest.mark.parametrize(
    "config", [{}, {"model": 3}, {"model": {"d_model": 64, "layers": 2, "heads": 2}, "unknown": 1}]
)
def test_a_job_that_no_formula_is_for_gets_a_general_line(store: Store, config: dict[str, object]) -> None:
    job = replace(toy.toy_job("a", resources=Resources(gpus_per_node=1)), config=config)
    assert suggest_memory({"a": job}, job, ended(store, CUDA)).startswith("it needs less of each GPU with a smaller")


def test_an_evaluation_has_no_setting_that_needs_less(store: Store) -> None:
    jobs = index_by_key(shipped("paper").jobs)
    evaluation = next(job for job in jobs.values() if job.phase == "evaluate")
    assert suggest_memory(jobs, evaluation, ended(store, CUDA)).endswith("take GPUs with more memory (`gpu_type`)")
