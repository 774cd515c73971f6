"""The formulas of `stages.gpu_memory` against a count over every tensor of our own training step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stages.config import LanguageModel, Vision
from stages.distributed import open_autocast, resolve_loss_chunk_tokens, resolve_micro_batch_tokens
from stages.evaluation import vision as vision_questions
from stages.gpu_memory import (
    ANSWERS_AT_ONCE,
    CONTEXT_BYTES,
    GPU_LOSS_CHUNK_TOKENS,
    GPU_MICRO_BATCH_TOKENS,
    LIKELIHOOD_LOGITS,
    QUESTIONS_AT_ONCE,
    EvaluationPass,
    GpuMemory,
    TrainingPass,
    compute_evaluation_memory,
    compute_host_memory,
    compute_training_memory,
    count_certain_host_memory,
    count_encoder_bytes,
    count_encoder_workspace,
    count_image_encoder_activations,
)
from stages.models import likelihood
from stages.models.attention import KeyValueCache, build_padding_mask
from stages.models.vlm import VLM
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import load_catalog
from tests.stages.memory_count import StorageCount, count_training_step, pretend_peers_on_gpus

SIGLIP = Vision(encoder="siglip-so400m-14-384")
GIB = 2**30


def find_shape(name: str) -> LanguageModel:
    return load_catalog().models[name].shape


def build_run(name: str, rows: int, passes: int = 1, **options: object) -> TrainingPass:
    return replace(TrainingPass(model=find_shape(name), rows=rows, length=2_048, passes=passes), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "run",
    [
        build_run("79m", 8, 3),
        build_run("79m", 8, 2, ranks=8),
        build_run("79m", 8, 1, ranks=8, sharded=True, recompute=True),
        build_run("79m", 8, 2, vision=SIGLIP, images=16, masked=True),
        build_run("79m", 8, 2, chunk_tokens=0),
        build_run("411m", 8, 2, ranks=8),
        build_run("411m", 8, 2, ranks=8, recompute=True),
        build_run("1.4b", 4, 1, ranks=64),
        build_run("1.4b", 2, 2, ranks=8, recompute=True, vision=SIGLIP, images=4, masked=True),
        build_run("1.4b", 4, 1, ranks=8, sharded=True),
        build_run("3b", 4, 1, ranks=64, sharded=True, recompute=True),
        build_run("3b", 1, 1, ranks=8),
        build_run("7b", 4, 1, ranks=64, sharded=True, recompute=True),
        build_run("7b", 1, 1, ranks=1),
    ],
    ids=lambda run: (
        f"{run.model.layers}x{run.model.d_model}-{run.ranks}{'-fsdp' * run.sharded}{'-recompute' * run.recompute}"
        f"-{run.rows}x{run.passes}{'-images' * (run.images > 0)}{'-whole-logits' * (not run.chunk_tokens)}"
    ),
)
def test_the_memory_of_a_step_is_what_a_count_over_all_tensors_gives(run: TrainingPass) -> None:
    frozen_encoder = count_encoder_bytes(run.vision)
    counted = count_training_step(run)
    assert compute_training_memory(run).counted - frozen_encoder == pytest.approx(counted, rel=0.05)


def test_a_weight_takes_20_bytes_under_ddp_with_several_passes_and_16_without() -> None:
    def count_bytes(ranks: int, passes: int) -> float:
        memory = compute_training_memory(build_run("1.4b", 1, passes, ranks=ranks, recompute=True))
        copies = 2 * 24 * (4 * 2_048**2 + 3 * 2_048 * 5_632)  # autocast's, of the blocks' matrices
        state = memory.gradients + memory.moments + memory.weights - copies
        return state / find_shape("1.4b").weights

    assert count_bytes(8, 2) == pytest.approx(20)
    assert count_bytes(8, 1) == pytest.approx(16)
    assert count_bytes(1, 2) == pytest.approx(16)


def test_a_block_of_the_1_4b_keeps_4_gib_a_sequence_of_all_layers() -> None:
    # 20 x 2,048 + 8 x 5,632 bytes, 32 of the norms' and 64 of the heads' sums, a position and layer
    one, two = (compute_training_memory(build_run("1.4b", rows)).activations for rows in (1, 2))
    blocks = 24 * 2_048 * (20 * 2_048 + 8 * 5_632 + 32 + 64)
    around = 2_048 * (2 * 2 * 2_048 + 4 * 8 + 4 * 2_048)  # the last norm, the batch, the embeddings
    assert two - one == blocks + around
    assert blocks / GIB == pytest.approx(3.94, abs=0.01)


def test_the_reserve_is_two_gib_and_a_twentieth() -> None:
    assert GpuMemory(weights=10 * GIB, workspace=10 * GIB).needed == 21 * GIB + CONTEXT_BYTES == 23 * GIB


def test_a_trained_encoder_has_gradients_and_a_frozen_one_only_weights() -> None:
    frozen = build_run("79m", 8, vision=SIGLIP, images=16)
    trained = replace(frozen, trains_encoder=True)
    assert trained.trained_weights - frozen.trained_weights == count_encoder_bytes(SIGLIP) // 4
    assert compute_training_memory(frozen).encoder >= count_encoder_bytes(SIGLIP)
    assert compute_training_memory(trained).encoder == 0
    assert compute_training_memory(trained).activations > compute_training_memory(frozen).activations


@pytest.fixture
def siglip(monkeypatch: pytest.MonkeyPatch) -> Callable[[], nn.Module]:
    """Makes a SigLIP whose weights have no values."""
    from transformers import PreTrainedModel, SiglipVisionModel

    from stages.vision import transformers_encoders

    monkeypatch.setattr(PreTrainedModel, "post_init", lambda _: None)
    spec = resolve_encoder_spec(SIGLIP.encoder)
    return lambda: transformers_encoders.wrap_siglip(
        spec, SiglipVisionModel(transformers_encoders.build_siglip_config(spec))
    )


@pytest.mark.parametrize("images", [4, 16])
def test_an_encoder_is_counted_too_at_work_and_in_training(siglip: Callable[[], nn.Module], images: int) -> None:
    spec, cpu = resolve_encoder_spec(SIGLIP.encoder), torch.device("cpu")
    with FakeTensorMode(), StorageCount() as storages:
        encoder = siglip()
        pixels = torch.zeros(images, 3, 384, 384, dtype=torch.uint8)
        before = storages.most = storages.now
        with torch.no_grad(), open_autocast("bf16", cpu):
            encoder(pixels)
        at_work = storages.most - before
        with open_autocast("bf16", cpu):
            features = encoder(pixels)
        kept = storages.now - before - 2 * spec.parameters  # autocast's copies are the weights'
        del features
    assert at_work < count_encoder_workspace(SIGLIP, images) < 1.25 * at_work
    assert count_image_encoder_activations(spec, 2) * images == pytest.approx(kept, rel=0.1)


def test_an_evaluation_is_counted_too() -> None:
    model, rows, length = find_shape("411m"), ANSWERS_AT_ONCE, 896
    with pretend_peers_on_gpus(1), FakeTensorMode(), StorageCount() as storages:
        vlm = VLM(model)
        with torch.inference_mode(), open_autocast("bf16", torch.device("cpu")):
            embeddings = torch.zeros(rows, length, model.d_model)
            mask = build_padding_mask(torch.ones(rows, length, dtype=torch.bool))
            hidden = vlm.lm.compute_hidden(embeddings, mask=mask, cache=KeyValueCache(capacity=length))
            vlm.lm.compute_logits(hidden[:, -1])
    expected = compute_evaluation_memory(EvaluationPass(model=model, answer_length=length)).counted
    assert expected == pytest.approx(storages.most, rel=0.1)


def test_a_node_holds_a_model_a_process_at_the_start_and_three_numbers_a_weight_at_a_checkpoint() -> None:
    assert count_certain_host_memory(1_000, processes=1, trains=True) == 12_000
    assert count_certain_host_memory(1_000, processes=8, trains=True) == 32_000
    assert count_certain_host_memory(1_000, processes=1, trains=False) == 4_000
    # 8 processes of 3 GiB, each with 4 workers of 1 GiB, and 1 GiB for features
    assert compute_host_memory(0, processes=8, workers=4, feature_cache_gib=1, trains=True) == 64 * GIB


def test_the_planner_and_the_stages_go_by_one_set_of_defaults() -> None:
    cuda = torch.device("cuda")
    assert resolve_micro_batch_tokens(0, cuda) == GPU_MICRO_BATCH_TOKENS == 16_384
    assert resolve_loss_chunk_tokens(-1, cuda) == GPU_LOSS_CHUNK_TOKENS == 2_048
    assert vision_questions.QUESTIONS_AT_ONCE == QUESTIONS_AT_ONCE
    assert vision_questions.IMAGES_AT_ONCE == ANSWERS_AT_ONCE
    assert likelihood.MAX_LOGITS == LIKELIHOOD_LOGITS
