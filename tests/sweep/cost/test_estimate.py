from dataclasses import replace
from pathlib import Path

import pytest

from jobs.job import Estimate
from stages.config import LanguageModel, Vision
from stages.flops import compute_image_cost, count_training_flops
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import Placement, load_catalog
from sweep.cost.estimate import (
    SourceUse,
    compute_images_by_source,
    count_packed_images,
    estimate_evaluate,
    estimate_finetune,
    estimate_pretrain,
    plan_resources,
)
from sweep.cost.speed import Speed, estimate_speed
from sweep.errors import SweepError

CATALOG = load_catalog()
SIGLIP = Vision(encoder="siglip-so400m-14-384")
A100 = CATALOG.gpus["a100"]


def shape(name: str) -> LanguageModel:
    return CATALOG.models[name].shape


def a100(name: str) -> Speed:
    return estimate_speed(CATALOG, shape(name), "a100", name=name)


def mix(image_share: float) -> tuple[SourceUse, ...]:
    captions = SourceUse(image_share, with_images=True, text_tokens=CATALOG.find_dataset("datacompdr").text_tokens)
    return (captions, SourceUse(1 - image_share))


def image_text_run(name: str, context: int = 2_048, image_share: float = 0.1) -> Estimate:
    tokens = 20 * shape(name).parameters
    images = count_packed_images(tokens, mix(image_share), image_tokens=729, context=context)
    return estimate_pretrain(
        shape(name), tokens=tokens, context=context, speed=a100(name), images=images, vision=SIGLIP
    )


def finetune(name: str, epochs: int = 1) -> Estimate:
    llava = CATALOG.find_dataset("llava")
    return estimate_finetune(
        shape(name),
        epochs=epochs,
        examples=llava.samples,
        text_tokens=llava.text_tokens,
        vision=SIGLIP,
        speed=a100(name),
    )


@pytest.mark.parametrize(("name", "a100_hours"), [("1.4b", 106_000), ("79m", 1_200)])
def test_the_papers_trunks_cost_what_the_paper_says(name: str, a100_hours: float) -> None:
    trunk = estimate_pretrain(shape(name), tokens=150 * 20 * shape(name).parameters, context=2_048, speed=a100(name))
    assert trunk.a100_hours == pytest.approx(a100_hours, rel=0.05)
    assert trunk.encoder_a100_hours == 0


@pytest.mark.parametrize("context", [1_024, 2_048])
@pytest.mark.parametrize(("name", "a100_hours"), [("1.4b", 707), ("79m", 8)])
def test_an_image_text_run_costs_what_the_paper_implies(name: str, a100_hours: float, context: int) -> None:
    for share in (0.01, 0.1, 1.0):
        run = image_text_run(name, context, share)
        assert run.a100_hours - run.encoder_a100_hours == pytest.approx(a100_hours, rel=0.1)


def test_the_encoder_is_told_apart_and_grows_with_the_images() -> None:
    runs = [image_text_run("79m", image_share=share) for share in (0.05, 0.1)]
    assert runs[0].encoder_a100_hours > 0
    # a little less than twice as much, for the padding behind images
    assert 1.95 < runs[1].encoder_a100_hours / runs[0].encoder_a100_hours < 2
    unpadded = 0.1 * runs[1].tokens / (729 + 13)
    assert runs[1].encoder_flops / resolve_encoder_spec(SIGLIP.encoder).flops == pytest.approx(unpadded, rel=0.05)


def test_a_fine_tune_epoch_at_1_4b_takes_sixteen_a100_hours() -> None:
    assert finetune("1.4b").a100_hours == pytest.approx(16, rel=0.05)
    assert finetune("1.4b", epochs=4).a100_hours == pytest.approx(4 * finetune("1.4b").a100_hours)


def test_the_documents_table_is_what_the_code_computes() -> None:
    table = (Path(__file__).parents[3] / "docs" / "estimates.md").read_text()
    runs = {(name, context): image_text_run(name, context) for name in ("1.4b", "79m") for context in (1_024, 2_048)}
    lm_only = {key: run.a100_hours - run.encoder_a100_hours for key, run in runs.items()}
    expected = {
        "LM only, context 2,048 | 707 A100-hours": f"{lm_only['1.4b', 2_048]:.0f}",
        "LM only, context 1,024 | 707 A100-hours": f"{lm_only['1.4b', 1_024]:.0f}",
        "LM only, context 2,048 | 8 A100-hours": f"{lm_only['79m', 2_048]:.2f}",
        "LM only, context 1,024 | 8 A100-hours": f"{lm_only['79m', 1_024]:.2f}",
        "with 10 % images, 1.4B |": f"{runs['1.4b', 2_048].encoder_a100_hours:.2f}",
        "with 10 % images, 79M |": f"{runs['79m', 2_048].encoder_a100_hours:.2f}",
        "epoch, 1.4B, with SigLIP | 16 A100-hours": f"{finetune('1.4b').a100_hours:.1f}",
        "epoch, 1.4B, LM only |": f"{finetune('1.4b').a100_hours - finetune('1.4b').encoder_a100_hours:.1f}",
        "epoch, 79M, with SigLIP |": f"{finetune('79m').a100_hours:.2f}",
    }
    assert [row for row, value in expected.items() if f"{row} | {value} |" not in table] == []


def test_siglip_beside_the_language_model_on_1024_tokens() -> None:
    image = resolve_encoder_spec(SIGLIP.encoder).flops
    # the stated 0.07x and 1.3x count six FLOPs for every parameter, the embedding too, and no attention
    assert image / (1_024 * 6 * shape("1.4b").parameters) == pytest.approx(0.07, abs=0.005)
    assert image / (1_024 * 6 * shape("79m").parameters) == pytest.approx(1.3, abs=0.05)
    # by our own count the small model is a third cheaper: a third of it is the embedding
    assert image / (1_024 * count_training_flops(shape("1.4b"), 1_024)) == pytest.approx(0.075, abs=0.001)
    assert image / (1_024 * count_training_flops(shape("79m"), 1_024)) == pytest.approx(1.82, abs=0.01)


def test_images_by_tokens_count_no_padding() -> None:
    sources = (SourceUse(0.25, with_images=True, text_tokens=71), SourceUse(0.75))
    # two samples of 800 tokens fill 1,600 of a sequence's 2,000; 1,000 images are 800,000 tokens in 500 sequences,
    # and three times as many tokens of text are 1,200 sequences
    images = count_packed_images(1_700 * 2_000, sources, image_tokens=729, context=2_000)
    assert images == pytest.approx(1_000)


def test_images_by_samples_take_a_text_sequence_for_one() -> None:
    sources = (SourceUse(0.25, with_images=True, text_tokens=71), SourceUse(0.75))
    # of 4,000 samples, 1,000 images are in 500 sequences, and 3,000 are text sequences
    images = count_packed_images(3_500 * 2_000, sources, image_tokens=729, context=2_000, share_by="samples")
    assert images == pytest.approx(1_000)


def test_several_image_sources_add_up() -> None:
    both = (SourceUse(0.4, with_images=True, text_tokens=71), SourceUse(0.6, with_images=True, text_tokens=271))
    # 0.4 parts of 800 tokens and 0.6 of 1,000: 500 and 600 samples, two a sequence
    assert count_packed_images(550 * 2_000, both, image_tokens=729, context=2_000) == pytest.approx(1_100)


def test_padded_sequences_hold_one_sample_each() -> None:
    sources = (SourceUse(0.25, with_images=True, text_tokens=71), SourceUse(0.75))
    # 1,000 images are 800,000 tokens in 1,000 sequences, and three times as many tokens of text are 1,200 sequences
    images = compute_images_by_source(2_200 * 2_000, sources, image_tokens=729, context=2_000, packing="padded")
    assert images == pytest.approx((1_000, 0))


def test_a_sample_is_no_longer_than_the_context() -> None:
    sources = (SourceUse(1.0, with_images=True, text_tokens=5_000),)
    assert count_packed_images(1_024, sources, image_tokens=729, context=1_024) == 1


def test_a_trained_encoder_costs_three_forwards_and_is_kept() -> None:
    frozen = compute_image_cost(SIGLIP.encoder, "gelu-mlp", True, 2_048)
    trained = compute_image_cost(SIGLIP.encoder, "gelu-mlp", False, 2_048)
    assert trained.encoder_flops == 3 * frozen.encoder_flops
    assert trained.weights - frozen.weights == resolve_encoder_spec(SIGLIP.encoder).parameters


def test_a_checkpoint_holds_the_optimizer_where_a_child_carries_it_on() -> None:
    kept = [
        estimate_pretrain(shape("79m"), tokens=1, context=2_048, speed=a100("79m"), carries_optimizer=carries)
        for carries in (False, True)
    ]
    assert [each.checkpoint_bytes for each in kept] == [4 * shape("79m").weights, 12 * shape("79m").weights]
    projector = 1_152 * 512 + 512 + 512 * 512 + 512
    assert finetune("79m").checkpoint_bytes == 4 * (shape("79m").weights + projector)


def test_a_faster_gpu_takes_fewer_hours_and_as_many_a100_hours() -> None:
    slow, fast = (
        estimate_pretrain(
            shape("79m"), tokens=10**9, context=2_048, speed=estimate_speed(CATALOG, shape("79m"), gpu, name="79m")
        )
        for gpu in ("a100", "h100")
    )
    assert fast.gpu_hours == pytest.approx(slow.gpu_hours / 2.9)
    assert fast.a100_hours == pytest.approx(slow.a100_hours)


def test_cpu_work_is_core_hours_and_no_a100_hours() -> None:
    tiny = LanguageModel(d_model=192, layers=4, heads=6, vocabulary=2_048)
    speed = estimate_speed(CATALOG, tiny, "cpu", tokens_per_second=8_000, context=256)
    run = estimate_pretrain(tiny, tokens=8_000 * 3_600, context=256, speed=speed)
    assert run.cpu_hours == pytest.approx(1)
    assert (run.gpu_hours, run.a100_hours, run.encoder_a100_hours) == (0, 0, 0)


def test_evaluation_counts_every_request_once_forward() -> None:
    task = CATALOG.find_task("vqav2", with_image=True, limit=1_000)
    answered = estimate_evaluate(shape("1.4b"), tasks=(task,), vision=SIGLIP, speed=a100("1.4b"))
    assert answered.tokens == 1_000 * (729 + task.text_tokens)
    # 214,354 questions are about 40,504 images, so the first 1,000 are about 189
    assert answered.encoder_flops == 189 * resolve_encoder_spec(SIGLIP.encoder).flops
    assert answered.checkpoint_bytes == 0
    text = CATALOG.find_task("copa", with_image=False)
    chosen = estimate_evaluate(shape("1.4b"), tasks=(text,), vision=SIGLIP, speed=a100("1.4b"))
    assert (chosen.tokens, chosen.encoder_flops) == (100 * 2 * text.text_tokens, 0)


def test_evaluation_runs_at_the_stated_part_of_trainings_speed() -> None:
    tasks = (CATALOG.find_task("gqa", with_image=True),)
    slow = estimate_evaluate(shape("79m"), tasks=tasks, vision=SIGLIP, speed=a100("79m"))
    full = estimate_evaluate(
        shape("79m"), tasks=tasks, vision=SIGLIP, speed=replace(a100("79m"), evaluate_efficiency=1)
    )
    assert slow.a100_hours == pytest.approx(full.a100_hours / 0.25)


ONE_NODE = Placement(nodes=1, gpus_per_node=8, gpu_type="a100")


def attempts(gpu_hours: float, place: Placement) -> tuple[int, int]:
    """Time limit in minutes, and restarts."""
    resources = plan_resources(Estimate(gpu_hours=gpu_hours), place, A100, 10)
    return resources.time_minutes, resources.restarts


def test_a_job_asks_for_its_estimate_with_a_margin_and_start_up() -> None:
    assert attempts(16, ONE_NODE) == (10 + 2 * 60 * 1.25, 0)
    assert attempts(16, replace(ONE_NODE, nodes=2)) == (10 + 1 * 60 * 1.25, 0)


def test_a_job_beyond_the_limit_is_planned_with_restarts() -> None:
    minutes, restarts = attempts(800, ONE_NODE)
    assert minutes == 1_440
    # 100 hours and a quarter, in attempts of a day less start-up, restore and save
    assert restarts == 5
    assert (restarts + 1) * (1_440 - 10 - 5 - 10) >= 100 * 60 * 1.25 > restarts * (1_440 - 10 - 5 - 10)


def test_a_given_time_limit_is_taken_and_restarts_follow_from_it() -> None:
    assert attempts(8, replace(ONE_NODE, time_minutes=600)) == (600, 0)
    assert attempts(80, replace(ONE_NODE, time_minutes=120)) == (120, 7)


def test_cores_and_memory_go_with_the_gpus_unless_given() -> None:
    place = Placement(nodes=2, gpus_per_node=4, gpu_type="a100", options={"partition": "big"})
    resources = plan_resources(Estimate(gpu_hours=1), place, A100, 10)
    assert (resources.cpus, resources.memory_gib, resources.gpus) == (48, 480, 8)
    assert resources.options == {"partition": "big"}
    asked = plan_resources(Estimate(gpu_hours=1), replace(place, cpus=7, memory_gib=30), A100, 10)
    assert (asked.cpus, asked.memory_gib) == (7, 30)


def test_a_cpu_job_takes_its_core_hours_over_its_cores() -> None:
    resources = plan_resources(Estimate(cpu_hours=2), Placement(cpus=2), CATALOG.gpus["cpu"], 0.2)
    assert (resources.time_minutes, resources.gpus, resources.gpu_type) == (1 + 75, 0, "")


@pytest.mark.parametrize("part", ["a100-1g.10gb", "h100-shard.1of2"])
def test_several_parts_of_gpus_are_refused_and_one_has_its_share_of_cores(part: str) -> None:
    gpu = CATALOG.gpus[part]
    with pytest.raises(SweepError, match=f"gpu_type {part} is a part of a GPU: .* set gpus_per_node: 1, or gpu_type"):
        plan_resources(Estimate(gpu_hours=1), replace(ONE_NODE, gpu_type=part), gpu, 10)
    resources = plan_resources(Estimate(gpu_hours=1), replace(ONE_NODE, gpu_type=part, gpus_per_node=1), gpu, 10)
    assert (resources.gpu_type, resources.cpus, resources.gpus) == (part, gpu.cpus, 1)


def test_gpus_of_no_type_are_refused() -> None:
    with pytest.raises(SweepError, match="gpus_per_node is 8, and gpu_type is 'cpu'; name the GPU type"):
        plan_resources(Estimate(cpu_hours=2), Placement(gpus_per_node=8), CATALOG.gpus["cpu"], 0.2)
