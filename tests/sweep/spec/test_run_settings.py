"""How jobs are carried out: told to the stages, but no part of a key."""

from pathlib import Path

import pytest

from jobs.job import Job
from stages.job_file import Settings
from sweep.cli import main
from sweep.errors import SweepFileError
from sweep.spec.run_settings import EvaluateRunFields, RunFields
from tests.sweep.small_sweep import SMALL, keys, planned, written


def jobs_by_phase(text: str, folder: Path) -> dict[str, Job]:
    return {job.phase: job for job in planned(folder, text).jobs}


def test_checkpoint_settings_reach_training_jobs_and_change_no_key(tmp_path: Path) -> None:
    given = SMALL + "checkpoints: {minutes: 3, keep: 5}\n"
    assert keys(planned(tmp_path / "a", given)) == keys(planned(tmp_path / "b"))
    jobs = jobs_by_phase(given, tmp_path / "a")
    assert jobs["trunk"].settings == jobs["finetune"].settings == {"checkpoint_minutes": 3, "keep_checkpoints": 5}
    assert jobs["evaluate"].settings == {}


def test_only_a_trunk_keeps_the_optimizers_moments_at_its_end(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SMALL, tmp_path)
    assert jobs["pretrain"].settings == {"keep_optimizer": False}
    assert "keep_optimizer" not in jobs["trunk"].settings


RUN = """\
settings:
  compile: true
  data_workers: 3
  loss_chunk_tokens: -1
  trackers: [tensorboard]
  phases:
    trunk: {parallel: fsdp, checkpoint_minutes: 30}
    finetune: {compile: false, branch_steps: [2, 5], local_cache: /scratch/cache}
  models:
    tiny: {micro_batch_tokens: 4096, phases: {pretrain: {attention: sdpa, loss_spikes_limit: 3}}}
    79m: {data_workers: 9}
checkpoints: {minutes: 5}
"""


def test_settings_go_from_wide_to_narrow_and_change_no_key(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SMALL + RUN, tmp_path / "a")
    assert planned(tmp_path / "auto", SMALL + RUN.replace("compile: true", "compile: auto"))
    wide = {"compile": True, "data_workers": 3, "loss_chunk_tokens": -1, "trackers": ["tensorboard"]}
    assert jobs["trunk"].settings == {**wide, "checkpoint_minutes": 30, "micro_batch_tokens": 4096}
    assert jobs["pretrain"].settings == {
        **wide, "checkpoint_minutes": 5, "micro_batch_tokens": 4096, "attention": "sdpa", "loss_spikes_limit": 3,
        "keep_optimizer": False,
    }  # fmt: skip
    assert jobs["finetune"].settings["compile"] is False
    assert jobs["finetune"].settings["branch_steps"] == [2, 5]
    assert jobs["evaluate"].settings == {"trackers": ["tensorboard"]}  # scores are shown where curves are
    assert keys(planned(tmp_path / "b", SMALL + RUN)) == keys(planned(tmp_path / "c"))


def test_the_stages_read_every_setting_under_its_name(tmp_path: Path) -> None:
    fields = {**RunFields.model_fields, **EvaluateRunFields.model_fields}
    del fields["feature_cache"]
    declared = {name: field.description for name, field in Settings.model_fields.items() if field.description}
    assert {name: field.description for name, field in fields.items()} == declared
    for phase, job in jobs_by_phase(SMALL + RUN + GPUS, tmp_path).items():
        read = Settings.read(job.settings, {})
        assert read.model_dump(include=set(job.settings), mode="json") == dict(job.settings), phase


GPUS = "resources: {nodes: 2, gpus_per_node: 4, gpu_type: h100}\n"
SLURM = SMALL.replace("backend: local", "backend: slurm")


def test_jobs_on_gpus_are_told_to_use_them_and_their_peak(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SLURM + GPUS, tmp_path)
    for phase in ("trunk", "pretrain", "finetune"):
        assert (jobs[phase].settings["device"], jobs[phase].settings["peak_tflops"]) == ("cuda", 989)
    assert jobs["evaluate"].settings == {"device": "cuda"}


def test_only_jobs_of_several_processes_are_told_how_they_share(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SLURM + GPUS + "settings: {parallel: fsdp}\n", tmp_path)
    assert {phase for phase, job in jobs.items() if "parallel" in job.settings} == {"trunk", "pretrain", "finetune"}


def test_evaluations_get_the_gpus_that_they_are_given(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SLURM + GPUS, tmp_path / "wide")
    assert {phase: job.resources.gpus for phase, job in jobs.items()} == dict.fromkeys(jobs, 8)
    narrow = GPUS.replace("}", ", phases: {evaluate: {nodes: 1, gpus_per_node: 1}}}")
    jobs = jobs_by_phase(SLURM + narrow, tmp_path / "narrow")
    assert {phase for phase, job in jobs.items() if job.resources.gpus == 1} == {"evaluate"}


def test_evaluations_keep_their_documents_on_request(tmp_path: Path) -> None:
    wide = "settings: {phases: {evaluate: {log_samples: true}}}\n"
    jobs = jobs_by_phase(SMALL + wide, tmp_path / "a")
    assert {phase for phase, job in jobs.items() if "log_samples" in job.settings} == {"evaluate"}
    assert jobs["evaluate"].settings == {"log_samples": True}
    of_a_model = "settings: {models: {tiny: {compile: true, phases: {evaluate: {log_samples: true}}}}}\n"
    assert jobs_by_phase(SMALL + of_a_model, tmp_path / "b")["evaluate"].settings == {"log_samples": True}
    assert keys(planned(tmp_path / "c", SMALL + wide)) == keys(planned(tmp_path / "d"))


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("{nodes: 3, gpus_per_node: 8, gpu_type: a100}", "among 24 processes (nodes 3 x gpus_per_node 8"),
        ("{nodes: 3}", "among 3 processes (nodes 3,"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(resources: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SweepFileError) as caught:
        planned(tmp_path, f"{SLURM}resources: {{phases: {{trunk: {resources}}}}}\n")
    assert "trunk: batch_sequences 8 cannot be shared out evenly" in str(caught.value)
    assert said in str(caught.value)
    # one machine starts one process
    assert planned(tmp_path, f"{SMALL}resources: {{phases: {{trunk: {resources}}}}}\n")


WRONG = {
    "unknown": ("settings: {colour: red}", 24, ["settings.colour: is unknown"]),
    "near miss": ("settings: {compiled: true}", 24, ["did you mean compile?"]),
    "no choice": ("settings: {parallel: zero}", 24, ["'zero' is not one of the choices", "ddp or fsdp"]),
    "word for a choice": (
        "settings: {compile: 1}",
        24,
        ["'1' is not one of the choices", "auto, true or false"],
    ),
    "word for a switch": ("settings: {feature_cache: 1}", 24, ["feature_cache: 1 is neither true nor false"]),
    "below the least": ("settings: {data_workers: -2}", 24, ["-2 is out of range", "-1 as the device likes it"]),
    "a relative folder": ("settings: {local_cache: tmp/x}", 24, ["local_cache"]),
    "empty": ("settings: {compile: }", 24, ["settings.compile: is empty", "true or false"]),
    "unknown model": ("settings:\n  models:\n    tinny: {compile: true}", 26, ["did you mean tiny?"]),
    "evaluations": ("settings:\n  phases:\n    evaluate: {compile: true}", 26, ["phases.evaluate.compile: is unknown"]),
    "documents of a training": ("settings: {log_samples: true}", 24, ["settings.log_samples: is unknown"]),
    "no switch": (
        "settings:\n  phases:\n    evaluate: {log_samples: yes please}",
        26,
        ["settings.phases.evaluate.log_samples", "true or false"],
    ),
    "empty of evaluations": (
        "settings:\n  phases:\n    evaluate: {log_samples: }",
        26,
        ["settings.phases.evaluate.log_samples: is empty", "true or false"],
    ),
    "images of a trunk": (
        "settings:\n  phases:\n    trunk: {feature_cache: true}",
        26,
        ["settings.phases.trunk.feature_cache: means nothing to a trunk", "pretrain or finetune"],
    ),
    "a tracker": ("settings: {trackers: [comet]}", 24, ["'comet'"]),
    "a tracker alone": ("settings: {trackers: wandb}", 24, ["a list is wanted"]),
}


@pytest.mark.parametrize(("given", "line", "parts"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_ends_in_a_clear_line(
    given: str, line: int, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, f"{SMALL}{given}\n")
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"sweep plan: {path}:{line}: "), errors
    assert all(part in errors for part in parts), errors
    assert len(errors.splitlines()) == 1, errors
