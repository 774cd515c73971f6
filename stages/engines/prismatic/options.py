"""prismatic's own configuration, from a job's. Pure; names of files are relative to the engine's folder."""

from pathlib import Path
from typing import Any

from stages.config import FinetuneConfig, LanguageModel, Vision
from stages.data.prompts import TEMPLATES
from stages.engines.prismatic.limits import VISION_BACKBONES, prismatic_batch
from stages.vision.specs import encoder_spec

RUN = "run"
"""prismatic's run_id; its files lie in runs/RUN."""
CONFIG, START, STARTER = "config.json", "start.json", "start.py"
PROJECTOR, LANGUAGE_MODEL, CONVERSATIONS = "projector.pt", "language_model.pt", "conversations.json"
BACKBONE = "open_lm"
"""The language model's id, which start.py adds to prismatic's registry."""
BASE = "one-stage+7b"
"""Of prismatic's named models, for draccus: every field that counts is given, and overrides it."""
TOKEN_VARIABLE = "PRISMATIC_NO_TOKEN"  # noqa: S105 - the name of a variable that is empty
"""prismatic reads a hub token, or fails, also where nothing needs one."""


def config_file(config: FinetuneConfig, vision: Vision, *, start_tokens: int, images: Path) -> dict[str, Any]:
    """What its scripts/pretrain.py takes by `--config_path`: draccus' PretrainConfig.

    `start_tokens`: of the tokenizer's own start of text. `images`: the folder that images are named in.
    """
    components = [CONVERSATIONS, str(images)]
    return {
        "model": model_options(config, vision, start_tokens=start_tokens),
        "dataset": {
            "type": "llava-v15",
            "dataset_id": config.conversations.name,
            "align_stage_components": components,
            "finetune_stage_components": components,
            "dataset_root_dir": ".",
        },
        "stage": "finetune",
        "pretrained_checkpoint": PROJECTOR,
        "run_id": RUN,
        "run_root_dir": "runs",
        "seed": config.seed,
        "hf_token": TOKEN_VARIABLE,
        "trackers": ["jsonl"],  # its default asks for an account of W&B, and waits 210 seconds at the end
    }


def model_options(config: FinetuneConfig, vision: Vision, *, start_tokens: int) -> dict[str, Any]:
    """The model's part: draccus' ModelConfig. The align stage's fields keep their defaults: it does not run."""
    arguments = config.engine.arguments if config.engine else {}
    return {
        "type": BASE,
        "model_id": RUN,
        "arch_specifier": vision.projector,
        "vision_backbone_id": VISION_BACKBONES[vision.encoder],
        "llm_backbone_id": BACKBONE,
        "image_resize_strategy": vision.transform,
        "llm_max_length": text_length(config, vision, start_tokens=start_tokens),
        "finetune_epochs": config.epochs,
        "finetune_max_steps": None,
        "finetune_global_batch_size": config.batch_sequences,
        "finetune_per_device_batch_size": prismatic_batch(config),
        "finetune_learning_rate": config.peak_lr,
        "finetune_weight_decay": config.optimizer.weight_decay,
        "finetune_max_grad_norm": config.optimizer.gradient_clip,
        "finetune_lr_scheduler_type": "linear-warmup+cosine-decay",
        "finetune_warmup_ratio": config.warmup_ratio,
        "finetune_train_strategy": "fsdp-full-shard",
        "enable_gradient_checkpointing": arguments.get("enable_gradient_checkpointing", True),
        "enable_mixed_precision_training": config.precision == "bf16",
        "reduce_in_full_precision": arguments.get("reduce_in_full_precision", False),
    }


def text_length(config: FinetuneConfig, vision: Vision, *, start_tokens: int) -> int:
    """prismatic's limit of a conversation, which counts text alone, so that with its image it has `max_length`.

    One more for the last target, and one for the start that prismatic wants where the tokenizer has none.
    """
    length = config.max_length - encoder_spec(vision.encoder).image_tokens + 1
    return length if start_tokens else length + 1


def start_file(
    config: FinetuneConfig, model: LanguageModel, *, tokenizer: Path, end_of_text: str, start_of_text: int | None
) -> dict[str, Any]:
    """What start.py needs beside prismatic's own configuration.

    `start_of_text`: the token before every conversation; None where the tokenizer has none.
    """
    return {
        "language_model": LANGUAGE_MODEL,
        "shape": {
            "dim": model.d_model,
            "n_layers": model.layers,
            "n_heads": model.heads,
            "vocab_size": model.vocabulary,
            "seq_len": config.max_length,
            "apply_qk_norm": model.qk_norm,
        },
        "tokenizer": str(tokenizer),
        "end_of_text": end_of_text,
        "start_of_text": start_of_text,
        "prompt": TEMPLATES[config.prompt].state(),
    }
