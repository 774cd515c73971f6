"""The stages on a GPU: what the CPU's tests cannot show. Skipped where there is none.

Bits are not compared: attention's backward adds up in no fixed order on CUDA, so that two runs of the same job differ.
"""

import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoint import load_model
from stages.config import Optimizer
from stages.data.packing import PackedSequence, collate, document_mask
from stages.data.sample import Document
from stages.demo.corpus import VOCABULARY
from stages.device import compute_device
from stages.generation import greedy
from stages.loss import token_loss
from stages.optimizer import AdamW
from stages.vlm import VLM
from tests.stages.small_model import PATCHES, SMALL_MODEL
from tests.stages.training_case import World, result_of, schedule, start

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

CONTEXT = 128
MODEL = {"d_model": 64, "layers": 2, "heads": 2, "vocabulary": VOCABULARY}
TOKENIZER = {"name": "tokenizer"}


def pretrain_config(steps: int) -> dict[str, Any]:
    sources = [{"name": "text", "kind": "text", "share": 0.5}, {"name": "captions", "kind": "captions", "share": 0.5}]
    return {
        "model": MODEL, "sources": sources, "vision": {"encoder": "patches-16-64"}, "tokenizer": TOKENIZER,
        "context": CONTEXT, "batch_sequences": 8, "schedule": schedule(steps), "precision": "bf16",
    }  # fmt: skip


FINETUNE: dict[str, Any] = {
    "conversations": {"name": "conversations", "kind": "conversations"}, "tokenizer": TOKENIZER,
    "epochs": 1, "batch_sequences": 8, "max_length": CONTEXT, "precision": "bf16",
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    "tasks": "tasks", "tokenizer": TOKENIZER, "context": CONTEXT, "max_new_tokens": 3, "precision": "bf16",
    "text_tasks": [{"name": "cloze", "limit": 8}, {"name": "text_loss", "limit": 4}],
    "vision_tasks": [{"name": "shapes_val", "limit": 10}],
}  # fmt: skip


@pytest.fixture
def world(small_demo: Path, tmp_path: Path) -> World:
    (tmp_path / "data").symlink_to(small_demo)
    return World(tmp_path)


def test_a_chain_trains_and_is_scored_in_bf16(world: World) -> None:
    base = world.run("base", "pretrain", pretrain_config(20))
    tuned = world.run("tuned", "finetune", FINETUNE, [base])
    scored = world.run("scored", "evaluate", EVALUATE, [tuned])
    assert result_of(base)["images"] > 0
    assert all(math.isfinite(result_of(job)["loss"]) for job in (base, tuned))
    assert set(result_of(scored)["scores"]) == {"cloze", "text_loss", "shapes_val"}
    assert str(load_model(tuned.run).vlm.lm.output.weight.device) == "cpu"


def test_a_killed_run_goes_on_where_it_was(world: World) -> None:
    undisturbed = world.run("undisturbed", "pretrain", pretrain_config(60))
    job = world.job("killed", "pretrain", pretrain_config(60), checkpoint_steps=2)
    process = start(job)
    while process.poll() is None and not any(job.checkpoints.glob("step-*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start(job)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    for name in ("steps", "tokens", "sources", "images"):
        assert result_of(job)[name] == result_of(undisturbed)[name]
    assert result_of(job)["loss"] == pytest.approx(result_of(undisturbed)["loss"], rel=0.02)


def losses_of_three_steps(device: torch.device) -> list[float]:
    """In float32, on two packed documents with an image each."""
    torch.manual_seed(1)
    vlm = VLM(SMALL_MODEL, PATCHES).to(device)
    optimizer = AdamW(vlm.named_weights(), Optimizer())
    sequence = PackedSequence(source=0)
    for number in range(2):
        features = torch.linspace(-1, 1, 16 * 768).view(16, 768)
        sequence.add(Document([5 + number, 6, 7, 8], [True] * 4, features))
    batch = collate([sequence], length=64).to(device)
    assert batch.documents is not None
    assert batch.target_positions is not None
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        embeddings = vlm.embed(batch.tokens, batch.features, batch.image_positions)
        hidden = vlm.lm.hidden(embeddings, mask=document_mask(batch.documents)).flatten(0, 1)
        logits = vlm.lm.logits(hidden[batch.target_positions])
        loss, _ = token_loss(logits, batch.targets, count=len(batch.targets), z_loss=1e-4)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step(1e-3)
        losses.append(loss.item())
    return losses


def test_training_in_float32_is_the_cpus_but_for_rounding() -> None:
    assert losses_of_three_steps(compute_device()) == pytest.approx(
        losses_of_three_steps(torch.device("cpu")), rel=1e-3
    )


@pytest.mark.parametrize("with_images", [False, True])
def test_greedy_answers_in_float32_are_the_cpus(with_images: bool) -> None:
    torch.manual_seed(2)
    vlm = VLM(SMALL_MODEL, PATCHES)
    features = torch.rand(3, 16, 768) if with_images else None
    prompts = [[5, 6, 7], [8], [9, 10]]

    def answers() -> list[list[int]]:
        return greedy(vlm, prompts, max_new_tokens=4, stop_token=0, features=features)

    on_the_cpu = answers()
    vlm.to(compute_device())
    assert answers() == on_the_cpu
