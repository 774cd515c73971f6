"""Predicted utilisation, against a count by hand."""

from dataclasses import replace

import pytest

from stages.config import LanguageModel
from stages.gpu_memory import TrainingPass
from sweep.catalog import GpuType, load_catalog
from sweep.cost.roofline import COMPILED, EAGER, compute_step_seconds, predict_utilisation

MODEL = LanguageModel(d_model=256, layers=1, heads=2, vocabulary=1_024)
"""A feed-forward width of 768, and 1,376,256 weights that a gradient is reduced of."""
RUN = TrainingPass(model=MODEL, rows=4, length=512, chunk_tokens=2_048)
"""2,048 positions in one pass and one chunk."""


def build_gpu(**changes: float) -> GpuType:
    """1 TFLOP/s and 1 TB/s, of which four fifths count."""
    gpu = GpuType(
        name="x", factor=1, cpus=1, host_memory_gib=1, startup_minutes={}, source="of this test", startup_source="none",
        peak_tflops=1.0, bandwidth_gbs=1_000.0, matmul_share=1.0,
    )  # fmt: skip
    return replace(gpu, **changes)  # type: ignore[arg-type]  # all of them are numbers


def count_flops() -> float:
    matrices = 4 * 256**2 + 3 * 256 * 768 + 1_024 * 256
    return 2_048 * 6.0 * matrices


def test_with_endless_bandwidth_only_products_and_attention_take_time() -> None:
    seconds = compute_step_seconds(RUN, build_gpu(bandwidth_gbs=1e12), EAGER)
    # scores and weighted sum, half of the square: 2 x 512 x 256 FLOPs a position, 3.5 times, at 0.55 of the speed
    attention = 3.5 * 2_048 * 2 * 512 * 256 / 0.55
    assert seconds == pytest.approx((count_flops() + attention) / 1e12, rel=1e-6)


def test_with_endless_arithmetic_only_traffic_takes_time() -> None:
    seconds = compute_step_seconds(RUN, build_gpu(peak_tflops=1e12), EAGER)
    elementwise = 2_048 * (272 * 256 + 36 * 768)
    logits = 2_048 * 40 * 1_024 + 10 * 1_024 * 256
    products = 3 * 2 * sum(2_048 * (k + m) + k * m for k, m in ((256, 768), (256, 256), (256, 1_536), (768, 256)))
    products += 3 * 2 * (2_048 * (256 + 1_024) + 256 * 1_024)
    cast = 12 * (4 * 256**2 + 3 * 256 * 768 + 1_024 * 256)
    optimizer = 40 * MODEL.weights
    assert seconds == pytest.approx((elementwise + logits + products + cast + optimizer) / 0.8e12, rel=1e-6)


def test_the_utilisation_is_useful_work_over_the_peak() -> None:
    gpu = build_gpu()
    useful = count_flops() + 2_048 * 6 * 256 * 512
    for compiled, traffic in ((False, EAGER), (True, COMPILED)):
        predicted = predict_utilisation(RUN, gpu, compiled=compiled)
        assert predicted == pytest.approx(useful / 1e12 / compute_step_seconds(RUN, gpu, traffic))


def test_recomputation_is_no_useful_work() -> None:
    plain, again = (predict_utilisation(run, build_gpu(), compiled=True) for run in (RUN, replace(RUN, recompute=True)))
    assert plain is not None
    assert again is not None
    assert 3 / 4 * 0.99 < again / plain < 1


def test_an_optimizer_step_weighs_less_the_more_rows_a_gpu_has() -> None:
    gpu, model = load_catalog().gpus["a100"], load_catalog().models["1.4b"].shape
    found = [
        predict_utilisation(TrainingPass(model=model, rows=rows, length=2_048), gpu, compiled=False) or 0.0
        for rows in (1, 2, 4, 8)
    ]
    assert found == sorted(found)
    assert found[2] > 1.25 * found[0]


def test_the_table_of_the_page_is_what_is_predicted() -> None:
    """docs/estimates.md: eager and compiled, in percent."""
    gpus, models = load_catalog().gpus, load_catalog().models
    rows = {"79m": (8, 8), "411m": (8, 2), "1.4b": (4, 1)}
    found = {
        (name, gpu): tuple(
            round(100 * (predict_utilisation(
                TrainingPass(model=models[name].shape, rows=rows[name][0], length=2_048, passes=rows[name][1]),
                gpus[gpu], compiled=compiled,
            ) or 0))
            for compiled in (False, True)
        )
        for name in rows for gpu in ("a100", "h100")
    }  # fmt: skip
    assert found == {
        ("79m", "a100"): (29, 47), ("79m", "h100"): (18, 33),
        ("411m", "a100"): (42, 54), ("411m", "h100"): (29, 41),
        ("1.4b", "a100"): (50, 58), ("1.4b", "h100"): (36, 44),
    }  # fmt: skip


def test_nothing_is_predicted_of_a_gpu_of_unknown_bandwidth() -> None:
    assert predict_utilisation(RUN, build_gpu(bandwidth_gbs=0.0), compiled=True) is None
    assert predict_utilisation(RUN, load_catalog().gpus["cpu"], compiled=True) is None
