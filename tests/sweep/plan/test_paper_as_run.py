"""The authors' own run: the start rates and the 279 models of their evaluation script (manifests/paper-as-run.yaml)."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job
from stages.config import FinetuneConfig, PretrainConfig
from sweep.plan.manifest import Cell, index_jobs
from tests.sweep.small_sweep import MANIFESTS, edited, planned, shipped

MANIFEST = shipped("paper-as-run")
JOBS = index_jobs(MANIFEST)
MODELS = Path(__file__).parents[2] / "fixtures" / "paper_models.tsv"
TOTAL = 4_119_287
STEPS = {"0": 0, "20": 813_264, "40": 1_666_010, "60": 2_481_280, "80": 3_297_840, "100": TOTAL}
"""The branch points' names to the trunk's steps."""
RATES = {
    813_264: 0.009080349589287376,
    1_666_010: 0.006499974971416897,
    2_481_280: 0.0034466737184832607,
    3_297_840: 0.0009788970261355868,
}
RATES_154M = {
    86_016: 0.0027302113853274333,
    170_217: 0.002032983979588796,
    254_724: 0.001150377107417605,
    340_499: 0.000388134179188036,
}
"""The start rates that the script prints, by step."""


def pretraining(job: Job) -> PretrainConfig:
    return PretrainConfig.model_validate(dict(job.config))


def branch_step(cell: Cell) -> int:
    parents = JOBS[cell.pretrain].parents
    return pretraining(JOBS[parents[0]]).last_step if parents else 0


def test_the_four_start_rates_are_the_scripts_to_ten_digits() -> None:
    rates: dict[int, set[float]] = {step: set() for step in STEPS.values()}
    for cell in MANIFEST.cells:
        schedule = pretraining(JOBS[cell.pretrain]).schedule
        step = branch_step(cell)
        rates[step].add(schedule.peak_lr)
        assert schedule.warmup_steps == (5_000 if step in {0, TOTAL} else 0)
    assert rates == {
        0: {3e-3},
        **{step: {float(f"{rate:.10g}")} for step, rate in RATES.items()},
        TOTAL: {3e-3},
    }


def test_the_four_start_rates_of_the_154m_trunk_are_the_scripts_to_ten_digits(tmp_path: Path) -> None:
    text = (MANIFESTS / "paper-as-run.yaml").read_text()
    steps = ", ".join(f"{{step: {step}}}" for step in RATES_154M)
    head, _, rest = text.partition("blocks:\n")
    blocks = f"blocks:\n  - axes: {{branch: [0, {steps}, 100], image_share: [0.1]}}\n"
    smaller = edited(
        ("model: 1.4b", "model: 154m"),
        ("peak_lr: 1.0e-2 ", "peak_lr: 3.0e-3 "),
        ("    warmup_steps: 5000 ", "    warmup_steps: 400 "),
        ("restart_warmup_steps: 5000", "restart_warmup_steps: 1000"),
        text=head + blocks + rest[rest.index("\nepochs:") :],
    )
    found = planned(tmp_path, smaller)
    trunk = [pretraining(job) for job in found.jobs if job.phase == "trunk"]
    assert [each.last_step for each in trunk] == [*RATES_154M, 439_674]
    schedules = [pretraining(job).schedule for job in found.jobs if job.phase == "pretrain"]
    rates = [3e-3, *(float(f"{rate:.10g}") for rate in RATES_154M.values()), 3e-3]
    assert [schedule.peak_lr for schedule in schedules] == rates
    assert [schedule.warmup_steps for schedule in schedules] == [1_000, 0, 0, 0, 0, 1_000]


def test_the_trunk_is_the_scripts() -> None:
    trunk = [pretraining(job) for job in MANIFEST.jobs if job.phase == "trunk"]
    assert [each.last_step for each in trunk] == sorted(STEPS.values())[1:]
    schedule = trunk[0].schedule
    assert TOTAL == 20 * 1_439_795_200 * 150 // 2_048 // 512
    assert (schedule.total_steps, schedule.peak_lr, schedule.final_lr, schedule.warmup_steps) == (
        TOTAL, 1e-2, 3e-5, 5_000,
    )  # fmt: skip
    assert (trunk[0].batch_sequences, trunk[0].context, trunk[0].optimizer.weight_decay) == (512, 2_048, 0.01)
    assert all(later.schedule == earlier.schedule for earlier, later in pairwise(trunk))


def test_the_image_text_runs_are_the_scripts() -> None:
    for cell in MANIFEST.cells:
        run = pretraining(JOBS[cell.pretrain])
        assert (run.batch_sequences, run.context, run.optimizer.weight_decay, run.seed) == (256, 1_024, 0.033, 124)
        assert run.share_by == "samples"
        assert run.schedule.final_lr == 3e-5
        assert run.schedule.total_steps == 20 * 1_439_795_200 // (256 * 1_024)
        assert all(tuning(chain.finetune).seed == 7 for chain in cell.chains)


def tuning(key: str) -> FinetuneConfig:
    return FinetuneConfig.model_validate(dict(JOBS[key].config))


def read_models() -> list[dict[str, str]]:
    lines = [line for line in MODELS.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def test_each_of_the_279_models_is_a_fine_tuned_model_of_the_plan() -> None:
    cells = {cell.name: cell for cell in MANIFEST.cells}
    keys: list[str] = []
    epochs: Counter[int] = Counter()
    for model in read_models():
        cell = cells[model["cell"]]
        run = pretraining(JOBS[cell.pretrain])
        shares = {"datacompdr": model["captions"], "llava": model["instructions"], "dclm": model["text"]}
        assert {source.name: source.share for source in run.sources} == {
            name: float(share) for name, share in shares.items() if float(share)
        }
        assert run.model.parameters == 1_439_795_200
        assert branch_step(cell) == STEPS[model["branch"]]
        chains = {chain.epochs: chain for chain in cell.chains}
        for number in map(int, model["epochs"].split()):
            assert tuning(chains[number].finetune).epochs == number
            assert JOBS[chains[number].finetune].parents == (cell.pretrain,)
            keys.append(chains[number].finetune)
            epochs[number] += 1
    assert len(keys) == len(set(keys)) == 279
    assert len(read_models()) == len({model["cell"] for model in read_models()}) == 69
    assert epochs == {1: 68, 2: 68, 3: 69, 4: 69, 5: 5}


def test_five_epochs_are_had_by_the_five_cells_that_had_them() -> None:
    listed = {model["cell"] for model in read_models() if "5" in model["epochs"].split()}
    assert {cell.name for cell in MANIFEST.cells if len(cell.chains) == 5} == listed
    assert {len(cell.chains) for cell in MANIFEST.cells} == {4, 5}


@pytest.mark.parametrize("name", ["20", "40", "60", "80"])
def test_a_cell_tells_its_branch_point_in_percent_and_as_a_step(name: str) -> None:
    axes: list[Any] = [cell.axes for cell in MANIFEST.cells if branch_step(cell) == STEPS[name]]
    assert len(axes) == 13
    percent = {"20": 19.7428, "40": 40.4441, "60": 60.2357, "80": 80.0585}[name]
    assert {(round(each["branch"], 4), each["branch_step"]) for each in axes} == {(percent, STEPS[name])}
