import pytest

from stages.config import LanguageModel
from stages.flops import count_training_flops
from sweep.catalog import load_catalog
from sweep.cost.speed import Measurement, estimate_reference_utilisation, estimate_speed, extract_speed_shape

CATALOG = load_catalog()

# published hours: model, GPU type, tokens, GPU-hours (the paper's table at M=150; Gadre et al. at M=1; DCLM on H100)
PUBLISHED = [
    ("1.4b", "a100", 4_319_385_600_000, 106_000),
    ("79m", "a100", 236_742_144_000, 1_200),
    ("11m", "a100", 20 * 10_569_312, 0.3),
    ("154m", "a100", 20 * 153_677_376, 12),
    ("411m", "a100", 20 * 411_616_256, 75),
    ("7b", "a100", 20 * 6_889_410_560, 17_000),
    ("411m", "h100", 8.2e9, 26),
    ("1.4b", "h100", 28e9, 240),
    ("3b", "h100", 55.9e9, 740),
    ("7b", "h100", 138e9, 3_700),
]


@pytest.mark.parametrize(("name", "gpu", "tokens", "gpu_hours"), PUBLISHED)
def test_speeds_give_back_the_published_hours(name: str, gpu: str, tokens: float, gpu_hours: float) -> None:
    shape = CATALOG.models[name].shape
    speed = estimate_speed(CATALOG, shape, gpu, name=name)
    assert tokens * count_training_flops(shape, 2_048) / speed.flops_per_second / 3_600 == pytest.approx(
        gpu_hours, rel=0.005
    )


def test_a_model_without_a_figure_lies_between_its_neighbours() -> None:
    utilisation, basis = estimate_reference_utilisation(CATALOG.models, CATALOG.models["3b"].shape.parameters, "3b")
    assert 0.301 < utilisation < 0.3128
    assert basis == "interpolated between 1.4b and 7b on a100"


def test_interpolation_meets_the_figures_and_ends_at_the_ends() -> None:
    shapes = {name: model.shape.parameters for name, model in CATALOG.models.items()}
    assert estimate_reference_utilisation(CATALOG.models, shapes["411m"])[0] == 0.2406
    assert estimate_reference_utilisation(CATALOG.models, 1_000) == (0.0275, "as 11m on a100")
    assert estimate_reference_utilisation(CATALOG.models, 10**12) == (0.301, "as 7b on a100")


def test_a_gpu_type_without_a_figure_goes_by_its_factor() -> None:
    shape = CATALOG.models["79m"].shape
    a100, b200 = (estimate_speed(CATALOG, shape, gpu, name="79m") for gpu in ("a100", "b200"))
    assert b200.flops_per_second == pytest.approx(7.2 * a100.flops_per_second)
    assert b200.basis == "79m on a100, catalog, times b200's factor 7.2"


def test_a_measured_speed_goes_before_the_catalog() -> None:
    shape = CATALOG.models["79m"].shape
    measured = {(extract_speed_shape(shape), "a100", "bf16"): Measurement(flops_per_second=6e13, jobs=3)}
    speed = estimate_speed(CATALOG, shape, "a100", name="79m", measured=measured)
    assert (speed.flops_per_second, speed.basis) == (6e13, "measured from 3 jobs")
    assert estimate_speed(CATALOG, shape, "h100", name="79m", measured=measured).basis.startswith(
        "79m on a100, catalog"
    )


def test_tokens_a_second_go_before_everything() -> None:
    shape = LanguageModel(d_model=192, layers=4, heads=6, vocabulary=2_048)
    speed = estimate_speed(CATALOG, shape, "cpu", tokens_per_second=8_000, context=256)
    assert speed.flops_per_second == 8_000 * count_training_flops(shape, 256)
    assert speed.basis == "8000 tokens/s, given"


def test_a_cpu_has_a_speed_and_no_a100_hours() -> None:
    shape = LanguageModel(d_model=192, layers=4, heads=6, vocabulary=2_048)
    speed = estimate_speed(CATALOG, shape, "cpu")
    assert (speed.is_gpu, speed.factor) == (False, 0)
    # the measured decoder trained at 7,700 to 9,200 tokens a second
    assert 6_000 < speed.flops_per_second / count_training_flops(shape, 256) < 10_000


def test_an_encoders_speed_does_not_depend_on_the_language_model() -> None:
    speeds = {
        estimate_speed(CATALOG, model.shape, "a100", name=name).encoder_flops_per_second
        for name, model in CATALOG.models.items()
    }
    assert speeds == {0.4 * 312e12}
