"""Finished jobs of a store tell the next plan how fast they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.store.paths import Store, write_json
from jobs.store.records import AttemptStart
from stages.config import LanguageModel, Vision
from stages.flops import count_step_flops, count_training_flops
from sweep.catalog import load_catalog
from sweep.cli import main
from sweep.cost.speed import (  # fmt: skip
    NOTHING_MEASURED,
    Measured,
    Startup,
    compute_median,
    estimate_speed,
    extract_speed_shape,
    load_measured_speeds,
    load_measured_startups,
)
from tests.sweep.small_sweep import SMALL, edited, keys, planned, written
from tests.sweep.synthetic_store import Grid, finish, plan

CATALOG = load_catalog()
SHAPE = CATALOG.models["79m"].shape
PEAK = 312e12


def run(
    store: Store,
    key: str,
    *,
    utilisation: float = 0.2,
    seconds: float = 600.0,
    gpus: tuple[int, ...] = (8,),
    gpu_type: str = "a100",
    cpus: int = 4,
    config: dict[str, Any] | None = None,
    **result: Any,
) -> None:
    """A finished run of the 79M model with that utilisation; an attempt for each entry of `gpus`."""
    paths = store.locate_run("pretrain", key)
    tokens = round(utilisation * PEAK * max(1, gpus[0]) * seconds / count_training_flops(SHAPE, 2_048))
    settings = result.pop("settings", {})
    write_json(paths.job, {"config": {"model": SHAPE.model_dump(), **(config or {})}, "settings": settings})
    write_json(paths.result, {"tokens": tokens, "seconds": seconds, "images": 0, **result})
    for number, count in enumerate(gpus):
        AttemptStart(
            attempt=f"a{number}", key=key, stage="pretrain", backend="slurm", host="n1", pid=1, pid_started=0,
            boot_id="", started_at=0, cpus=cpus, gpus=count, gpu_type=gpu_type if count else "",
        ).write(paths.locate_attempt(f"a{number}").start)  # fmt: skip


def found(store: Store) -> Measured:
    return load_measured_speeds(store, CATALOG)


def test_the_median_of_the_jobs_is_the_measured_speed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, utilisation in enumerate((0.2, 0.21, 0.22, 0.01, 0.23)):  # one node was slow
        run(store, f"a{number}", utilisation=utilisation)
    run(store, "b", gpu_type="h100")
    speeds = found(store)
    assert set(speeds) == {(extract_speed_shape(SHAPE), "a100", "bf16"), (extract_speed_shape(SHAPE), "h100", "bf16")}
    a100 = speeds[extract_speed_shape(SHAPE), "a100", "bf16"]
    assert a100.flops_per_second == pytest.approx(0.21 * PEAK, rel=1e-3)
    assert a100.jobs == 5


def test_a_speed_in_one_precision_says_nothing_of_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(store, "half", utilisation=0.3)
    run(store, "full", utilisation=0.05, config={"precision": "fp32"})
    shape, speeds = extract_speed_shape(SHAPE), found(store)
    assert speeds[shape, "a100", "bf16"].flops_per_second == pytest.approx(0.3 * PEAK, rel=1e-3)
    assert speeds[shape, "a100", "fp32"].flops_per_second == pytest.approx(0.05 * PEAK, rel=1e-3)
    only = {(shape, "a100", "bf16"): speeds[shape, "a100", "bf16"]}
    for gpu, precision in (("a100", "fp32"), ("h100", "bf16"), ("cpu", "bf16")):
        with_it, without = (
            estimate_speed(CATALOG, SHAPE, gpu, measured=each, precision=precision) for each in (only, NOTHING_MEASURED)
        )
        assert with_it == without


def test_start_up_is_what_attempts_take_beside_their_steps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, minutes in enumerate((3, 5, 4)):
        run(store, f"a{number}", seconds=600, finished_at=600 + 60 * minutes)
    run(store, "again", gpus=(8, 8), finished_at=90_000)  # two attempts: the time between them is no start-up
    run(store, "h", gpu_type="h100", finished_at=1_000)  # one job says too little
    assert load_measured_startups(store, CATALOG) == {("pretrain", "a100"): Startup(minutes=4, jobs=3)}


def test_what_says_little_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(store, "short", seconds=100)
    run(store, "several", gpus=(8, 4))
    run(store, "unknown", gpu_type="z9")
    run(store, "nothing", tokens=0)
    run(store, "odd", tokens="many")
    run(store, "torn")
    store.locate_run("pretrain", "torn").result.write_text('{"tokens": 1')
    run(store, "foreign", config={"model": {"d_model": 3}})
    (store.runs / "pretrain" / "empty").mkdir()
    assert found(store) == {}


def test_the_encoders_time_is_not_the_language_models(tmp_path: Path) -> None:
    store, eyes = Store(tmp_path), {"vision": {"encoder": "siglip-so400m-14-384"}}
    run(store, "text")
    without = found(store)[extract_speed_shape(SHAPE), "a100", "bf16"].flops_per_second
    run(store, "text", config=eyes, images=100_000)
    tokens = json.loads(store.locate_run("pretrain", "text").result.read_text())["tokens"]
    flops = count_step_flops(SHAPE, 2_048, tokens, Vision(encoder="siglip-so400m-14-384"), 100_000, encoded=0)
    encoding = 100_000 * 6.7e11 / (0.4 * PEAK)
    speed = found(store)[extract_speed_shape(SHAPE), "a100", "bf16"].flops_per_second
    assert speed == pytest.approx(flops / (8 * 600 - encoding), rel=0.02)
    assert speed > without
    # more time for images than for the language model: the guess of the encoder's speed would decide
    run(store, "text", config=eyes, images=900_000)
    assert found(store) == {}
    run(store, "text", config=eyes, images=100_000, settings={"feature_store": "../../../features"})
    assert found(store) == {}  # nobody knows how many of the images were encoded


def test_cores_are_measured_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(store, "a", gpus=(0,), cpus=4, utilisation=1e-3)
    assert found(store)[extract_speed_shape(SHAPE), "cpu", "bf16"].flops_per_second == pytest.approx(
        1e-3 * PEAK / 4, rel=1e-3
    )


def test_the_median_of_an_even_number_lies_between() -> None:
    assert (compute_median([3, 1]), compute_median([5, 1, 2]), compute_median([7])) == (2, 2, 7)


GPUS = """\
settings: {compile: true}
resources: {gpu_type: h100, gpus_per_node: 1}
"""
SYNTHETIC = edited(("tiny:\n    {d_model: 64, layers: 2, heads: 2, vocabulary: 512}", "2m:\n    {d_model: 192, layers: 4, heads: 6, vocabulary: 2048}"), ("model: tiny", "model: 2m"))  # fmt: skip # noqa: E501


def test_a_plan_says_what_it_has_measured_and_from_how_many_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, path = tmp_path / "store", str(written(tmp_path, SYNTHETIC + GPUS))
    before = planned(tmp_path / "before", SYNTHETIC + GPUS)
    finish(plan(Store(store), Grid(name="toy")))  # another sweep of the same store
    assert main(["plan", path, "--store", str(store), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (speed,) = report["speeds"]
    # two trunk segments and twelve image-text runs of 122,880 tokens: most of them in 359 seconds on 4 GPUs
    shape = LanguageModel(d_model=192, layers=4, heads=6, vocabulary=2_048)
    rate = 122_880 * count_training_flops(shape, 256) / (4 * 359)
    assert (speed["model"], speed["gpu_type"], speed["jobs"], speed["used"]) == ("2m", "h100", 14, True)
    assert speed["flops_per_second"] == pytest.approx(rate)
    assert speed["utilisation"] == pytest.approx(rate / 989e12)
    hours = sum(job.estimate.gpu_hours - job.estimate.startup_hours for job in before.jobs)
    working = report["total"]["gpu_hours"] - report["total"]["startup_hours"]
    assert working == pytest.approx(hours * speed["expected_flops_per_second"] / rate, rel=0.01)
    assert main(["plan", path, "--store", str(store)]) == 0
    output, remarks = capsys.readouterr()
    told = f"speed 2m in bf16 on h100: measured from 14 jobs: {100 * rate / 989e12:.2g} % (catalog 2.5 %)"
    assert told in " ".join(output.split())
    assert "the same as the stored plan" in remarks


def test_measurements_move_hours_and_limits_and_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, path = tmp_path / "store", str(written(tmp_path, SYNTHETIC + GPUS))
    assert main(["plan", path, "--store", str(store)]) == 0
    before = Store(store).locate_sweep("small").manifest.read_bytes()
    finish(plan(Store(store), Grid(name="toy")))
    capsys.readouterr()
    assert main(["plan", path, "--store", str(store)]) == 0
    assert "the same cells and jobs" in capsys.readouterr().err
    assert Store(store).locate_sweep("small").manifest.read_bytes() != before
    # nothing to explain: no key has moved
    assert not Store(store).locate_sweep("small").previous.exists()


def test_the_sweep_files_own_speed_goes_before_a_measured_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    text = SYNTHETIC + GPUS.replace("1}", "1, models: {2m: {tokens_per_second: 5000}}}")
    finish(plan(Store(store), Grid(name="toy")))
    assert main(["plan", str(written(tmp_path, text)), "--store", str(store)]) == 0
    assert "the sweep file's tokens_per_second, which goes before it" in capsys.readouterr().out
    assert keys(planned(tmp_path / "b", text)) == keys(planned(tmp_path / "c", SYNTHETIC))


def test_a_new_store_has_measured_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(Store(tmp_path / "none")) == {}
    assert main(["plan", str(written(tmp_path, SMALL)), "--store", str(tmp_path / "store")]) == 0
    assert "measured from" not in capsys.readouterr().out
