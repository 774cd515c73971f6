"""prismatic's own configuration, from a job's. Pure; names of files are relative to the engine's folder."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages.config import FinetuneConfig, LanguageModel, Vision
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer
from stages.engines.installation import check_checkout, query_installation
from stages.engines.limits import MAIN_FILES
from stages.engines.prismatic.limits import VISION_BACKBONES, compute_micro_batch
from stages.errors import ConfigError
from stages.job_file import EngineSettings
from stages.vision.specs import resolve_encoder_spec

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


def build_config(config: FinetuneConfig, vision: Vision, *, start_tokens: int, images: Path) -> dict[str, Any]:
    """What its scripts/pretrain.py takes by `--config_path`: draccus' PretrainConfig.

    `start_tokens`: of the tokenizer's own start of text. `images`: the folder that images are named in.
    """
    components = [CONVERSATIONS, str(images)]
    return {
        "model": build_model_options(config, vision, start_tokens=start_tokens),
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


def build_model_options(config: FinetuneConfig, vision: Vision, *, start_tokens: int) -> dict[str, Any]:
    """The model's part: draccus' ModelConfig. The align stage's fields keep their defaults: it does not run."""
    arguments = config.engine.arguments if config.engine else {}
    return {
        "type": BASE,
        "model_id": RUN,
        "arch_specifier": vision.projector,
        "vision_backbone_id": VISION_BACKBONES[vision.encoder],
        "llm_backbone_id": BACKBONE,
        "image_resize_strategy": vision.transform,
        "llm_max_length": compute_text_length(config, vision, start_tokens=start_tokens),
        "finetune_epochs": config.epochs,
        "finetune_max_steps": None,
        "finetune_global_batch_size": config.batch_sequences,
        "finetune_per_device_batch_size": compute_micro_batch(config),
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


def compute_text_length(config: FinetuneConfig, vision: Vision, *, start_tokens: int) -> int:
    """prismatic's limit of a conversation, which counts text alone, so that with its image it has `max_length`.

    One more for the last target, and one for the start that prismatic wants where the tokenizer has none.
    """
    length = config.max_length - resolve_encoder_spec(vision.encoder).image_tokens + 1
    return length if start_tokens else length + 1


def build_start_settings(
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
        "prompt": TEMPLATES[config.prompt].dump_state(),
    }


# What is known to go wrong with prismatic's installation, parent or tokenizer, found before it starts.

MODULES = ("torch", "torchvision", "timm", "transformers", "huggingface_hub", "accelerate", "draccus", "jsonlines",
           "rich", "PIL", "numpy", "tqdm", "requests", "wandb", "yaml", "open_lm")  # fmt: skip
"""What scripts/pretrain.py imports at its start, and open_lm for the language model."""
TRIGGER_WORDS = ("True", "False", "Yes", "No", *(chr(ord("A") + i) for i in range(26)))
"""Words that prismatic's model encodes when it is built, and fails on where one is not a single token."""
OPEN_LM_ADVICE = (
    "; a checkout of open_lm may be named in PYTHONPATH behind prismatic's "
    "(environment: {PYTHONPATH: /opt/prismatic:/opt/open_lm})"
)


def check_installation(settings: EngineSettings) -> None:
    """ConfigError if the checkout is none of prismatic, or its interpreter or machine lacks what it needs."""
    check_checkout("prismatic", settings, MAIN_FILES["prismatic"])
    found = query_installation(
        "prismatic", settings, MODULES, versions=["timm"], gpu=True, environment={TOKEN_VARIABLE: ""},
        advice={"open_lm": OPEN_LM_ADVICE},
    )  # fmt: skip
    if found.parse_version("timm")[:1] >= (1,):
        raise ConfigError(
            f"engine prismatic: with timm {found.versions['timm']} its image features are lists, which its projector "
            "refuses; install timm==0.9.10"
        )
    if not found.has_gpu:
        raise ConfigError("engine prismatic: it trains on a GPU with bfloat16 only, and this machine shows it none")


def check_tokenizer(tokenizer: TextTokenizer, vocabulary: int) -> None:
    """ConfigError for a tokenizer that prismatic's model refuses, or that fills the model's vocabulary."""
    if split := [word for word in TRIGGER_WORDS if len(tokenizer.encode(word)) != 1]:
        raise ConfigError(f"{tokenizer.file}: prismatic wants one token for each of {', '.join(split[:5])}")
    if len(tokenizer.start_of_text) > 1:
        raise ConfigError(f"{tokenizer.file}: texts start with several tokens; prismatic has room for one")
    if max(Tokenizer.from_file(str(tokenizer.file)).get_vocab().values()) + 1 >= vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: prismatic needs a token for padding, and all {vocabulary} of the model's are taken"
        )
