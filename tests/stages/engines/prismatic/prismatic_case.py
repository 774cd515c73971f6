"""A fine-tune for prismatic: its configuration, a tokenizer that prismatic takes, a parent with SigLIP's features."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.checkpoint.files import save_checkpoint
from stages.config import FinetuneConfig, LanguageModel, Vision
from stages.engines.prismatic.options import TRIGGER_WORDS
from stages.files import write_json
from stages.job_file import JobFile
from stages.models.vlm import VLM
from tests.stages.training.training_case import World, finetune_config

MODEL = {"d_model": 32, "layers": 2, "heads": 2, "vocabulary": 400}
VISION = {"encoder": "siglip-so400m-14-384"}
OPTIMIZER = {"beta2": 0.999, "weight_decay": 0.1}
ENGINE = {"kind": "prismatic", "revision": "1", "arguments": {"per_device_batch_size": 2}}


def config(**changes: Any) -> dict[str, Any]:
    return finetune_config(**{"engine": ENGINE, "optimizer": OPTIMIZER, "max_length": 800, **changes})


def typed(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate(config(**changes))


def write_words(path: Path, start: bool = False) -> None:
    """A tokenizer with prismatic's words as single tokens; `start`: it begins each text with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=["<|endoftext|>", "<s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*TRIGGER_WORDS, "True", "False", "In: What colour is it?\nOut: red"] * 3, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    if start:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))


def write_parent_run(world: World) -> JobFile:
    """A finished pre-training of a model with SigLIP's features, random weights; the frozen encoder is not in it."""
    torch.manual_seed(1)
    vlm = VLM(LanguageModel.model_validate(MODEL), Vision.model_validate(VISION))
    run = world.root / "runs" / "pretrain" / "parent"
    state = {"format": 1, "stage": "pretrain", "step": 5, "model": vlm.lm.config.model_dump(mode="json"),
             "vision": Vision.model_validate(VISION).model_dump(mode="json"), "tokenizer": None}  # fmt: skip
    checkpoint = save_checkpoint(run / "checkpoints", state, vlm.collect_weights(), None)
    write_json(run / "result.json", {"format": 1, "checkpoint": checkpoint.relative_to(run).as_posix()})
    return world.job("parent", "pretrain", {"model": MODEL, "sources": [{"name": "t", "kind": "text"}],
                     "schedule": {"peak_lr": 1.0, "final_lr": 0.1, "warmup_steps": 0, "total_steps": 5}})  # fmt: skip


def made_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return VLM(LanguageModel.model_validate(MODEL), Vision.model_validate(VISION)).collect_weights()


def made_parts() -> dict[str, dict[str, torch.Tensor]]:
    """Weights as prismatic names them."""
    weights = made_weights()
    projector = {name: tensor for name, tensor in weights.items() if name.startswith("projector.")}
    language = {f"llm.model.{name}": tensor for name, tensor in weights.items() if name not in projector}
    return {"projector": projector, "llm_backbone": language}
