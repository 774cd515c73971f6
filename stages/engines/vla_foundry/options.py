"""vla_foundry's own configuration file, from a job's configuration. Pure; paths are relative to the engine's folder."""

from typing import Any

from stages.config import LanguageModel, PretrainConfig
from stages.engines.installation import check_checkout, query_installation
from stages.engines.limits import MAIN_FILES
from stages.engines.vla_foundry.limits import CHECKPOINTS, MICRO_BATCH, RECOMPUTE, uses_images
from stages.errors import ConfigError
from stages.job_file import EngineSettings
from stages.vision.specs import resolve_encoder_spec

NAME = "run"
"""vla_foundry's name of the run; its files lie in runs/NAME."""
DATA, ENCODER, PROCESSOR = "data", "encoder", "processor"
"""Folders that it is given: shards with their manifest, a timm encoder, a processor of transformers."""


def build_options(config: PretrainConfig, *, log_steps: int, start: str | None, weights_only: bool) -> dict[str, Any]:
    """The tree that its `--config_path` takes.

    `total_train_samples` are those of the whole trunk: its schedule goes over them, also where the job stops before.
    `start`: the checkpoint from which it goes on, `weights_only` as a new run.
    """
    arguments = config.engine.arguments if config.engine else {}
    model = (
        build_vlm_options(config) if uses_images(config) else build_transformer_options(config.model, config.context)
    )
    if start:
        model |= {"resume_from_checkpoint": start, "resume_weights_only": weights_only}
    return {
        "name": NAME,
        "save_path": "runs",
        "wandb": False,
        "db_logging": False,
        "log_every_n_steps": log_steps,
        "total_train_samples": config.schedule.total_steps * config.batch_sequences,
        "num_checkpoints": arguments.get(CHECKPOINTS, 1),
        "data": build_data_options(config),
        "hparams": build_hyper_parameters(config) | {
            "per_gpu_batch_size": arguments.get(MICRO_BATCH, config.batch_sequences),
            "grad_checkpointing": arguments.get(RECOMPUTE, False),
        },
        "model": model,
    }  # fmt: skip


def build_hyper_parameters(config: PretrainConfig) -> dict[str, Any]:
    """`hparams`: rates and AdamW. It leaves norms and biases out of the weight decay."""
    optimizer, schedule = config.optimizer, config.schedule
    return {
        "precision": "fp32",
        "global_batch_size": config.batch_sequences,
        "seed": config.seed,
        "lr": schedule.peak_lr,
        "lr_scheduler": "cosine",
        "warmup": str(schedule.warmup_steps),  # below 1 it would be a share of the steps
        "lr_cooldown_end": schedule.final_lr,
        "wd": optimizer.weight_decay,
        "beta1": optimizer.beta1,
        "beta2": optimizer.beta2,
        "eps": optimizer.eps,
        "loss_function": "cross_entropy",
        "z_loss_coefficient": config.z_loss,
        "grad_clip_norm": optimizer.gradient_clip,
        "torchcompile": False,
    }


def build_transformer_options(model: LanguageModel, context: int) -> dict[str, Any]:
    """Its `build_transformer_options`, with which our language model shares weights and function."""
    return {
        "type": "transformer",
        "norm_type": "gain_only_lp_layer_norm",
        "norm_eps": 1e-5,
        "ffn_type": "swiglu",
        "qk_norm": model.qk_norm,
        "positional_embedding_type": "rotary",
        "attn_name": "torch_attn",
        "hidden_dim": model.d_model,
        "n_layers": model.layers,
        "n_heads": model.heads,
        "vocab_size": model.vocabulary,
        "post_embed_norm": False,
        "weight_tying": False,
        "cast_output_to_float32": True,
        "max_seq_len": context,
        "is_causal": True,
    }


def build_vlm_options(config: PretrainConfig) -> dict[str, Any]:
    """Its `build_vlm_options`: an encoder of timm, a linear projector without a bias, and the transformer."""
    vision = config.vision
    assert vision is not None  # noqa: S101 - a configuration with images has one
    spec = resolve_encoder_spec(vision.encoder)
    return {
        "type": "vlm",
        "vit": {
            "type": "vit_hf",
            "hf_pretrained": f"local-dir:{ENCODER}",
            "hidden_dim": spec.feature_width,
            "projector_pixel_shuffle_factor": 1,
            "freeze": vision.frozen or spec.architecture == "patches",
        },
        "transformer": build_transformer_options(config.model, config.context),
    }


def build_data_options(config: PretrainConfig) -> dict[str, Any]:
    """Shards in the manifest's order, by one worker: more of them would leave out what they cannot share evenly."""
    shared = {
        "dataset_manifest": [f"{DATA}/manifest.jsonl"],
        "dataset_weighting": [1.0],
        "allow_multiple_epochs": False,
        "num_workers": 1,
        "seq_len": config.context,
        "shuffle": False,
        "dataloader_in_order": True,
    }
    if not uses_images(config) or config.vision is None:
        return {"type": "text", "dataset_modality": ["text"], **shared}
    spec = resolve_encoder_spec(config.vision.encoder)
    return {
        "type": "image_caption",
        "dataset_modality": ["image_caption"],
        **shared,
        "processor": PROCESSOR,
        "processor_kwargs": {"add_special_tokens": False},
        "img_num_tokens": spec.image_tokens,
        "image_size": spec.image_size,
        "augmentation": {"enabled": False},
    }


# What is known to go wrong with an installation of vla_foundry, found before it starts.

MODULES = ("torch", "torchvision", "numpy", "PIL", "yaml", "fsspec", "tqdm", "webdataset", "draccus", "einops",
           "transformers", "timm", "diffusers", "open_clip", "tifffile", "boto3", "botocore", "tdigest_rs",
           "scipy")  # fmt: skip
"""What `vla_foundry.main` imports at its start, whatever it trains."""
FIRST_TIMM = (1, 0, 16)
"""The first one that reads a network's shape from a folder (`local-dir:`); vla_foundry's own pin is older."""


def check_installation(settings: EngineSettings, *, images: bool) -> None:
    """ConfigError if the checkout is none of vla_foundry, or its interpreter lacks what it needs."""
    check_checkout("vla_foundry", settings, MAIN_FILES["vla_foundry"])
    found = query_installation("vla_foundry", settings, MODULES, versions=["timm"])
    if images and found.parse_version("timm") < FIRST_TIMM:
        first = ".".join(map(str, FIRST_TIMM))
        raise ConfigError(
            f"engine vla_foundry: {settings.python} has timm {found.versions['timm'] or '(of no version)'}, which "
            f"reads no encoder from a folder; install timm {first} or a later one there"
        )
