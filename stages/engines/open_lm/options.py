"""open_lm's own configuration files, from a job's configuration. Pure; paths are relative to the engine's folder."""

from pathlib import Path
from typing import Any

from stages.config import LanguageModel, PretrainConfig
from stages.engines.installation import check_checkout, query_installation
from stages.engines.limits import MAIN_FILES, compute_epoch_steps
from stages.errors import ConfigError
from stages.job_file import EngineSettings

NAME = "run"
"""open_lm's name of the run; its files lie in logs/NAME."""
PRECISIONS = {"bf16": "amp_bfloat16", "fp32": "fp32"}


def build_model_options(model: LanguageModel, context: int) -> dict[str, Any]:
    """The JSON that its `--model` takes."""
    return {
        "hidden_dim": model.d_model,
        "n_layers": model.layers,
        "n_heads": model.heads,
        "seq_len": context,
        "vocab_size": model.vocabulary,
        "post_embed_norm": False,
        "weight_tying": False,
        "model_norm": "gain_only_lp_layer_norm",
        "qk_norm": model.qk_norm,
    }


def build_options(config: PretrainConfig, *, data_key: str, log_steps: int) -> dict[str, Any]:
    """The JSON that its `--config` takes, in the types that it insists on.

    `train_num_samples` counts tokens of an epoch, `epochs` those of the whole trunk: its schedule goes over their
    product, also where the job stops before.
    """
    arguments = (
        {name.replace("-", "_"): value for name, value in config.engine.arguments.items()} if config.engine else {}
    )
    optimizer, schedule = config.optimizer, config.schedule
    return {
        "epochs": 1,
        "attn_name": "torch_attn",
        **arguments,
        "model": "model.json",
        "name": NAME,
        "logs": "logs",
        "resume": "latest",
        "dataset_manifest": ["data/manifest.jsonl"],
        "data_key": data_key,
        "train_num_samples": compute_epoch_steps(config) * config.step_tokens,
        "global_batch_size": config.batch_sequences,
        "workers": 1,  # with 0 it divides by zero; with more it leaves out what they cannot share evenly
        "data_tolerate_error_p": 0.0,  # else an epoch may end steps too early, and still be saved
        "precision": PRECISIONS[config.precision],
        "qk_norm": config.model.qk_norm,
        "model_norm": "gain_only_lp_layer_norm",
        "lr": schedule.peak_lr,
        "lr_scheduler": "cosine",
        "lr_cooldown_end": schedule.final_lr,
        "warmup": schedule.warmup_steps,
        "wd": optimizer.weight_decay,
        "beta1": optimizer.beta1,
        "beta2": optimizer.beta2,
        "eps": optimizer.eps,
        "grad_clip_norm": optimizer.gradient_clip,
        "z_loss_coefficient": config.z_loss,
        "log_every_n_steps": log_steps,
        "seed": config.seed,
    }


# What is known to go wrong with an installation of open_lm, found before it starts.

MODULES = ("torch", "numpy", "pandas", "webdataset", "braceexpand", "PIL", "fsspec", "tqdm", "yaml", "huggingface_hub",
           "transformers")  # fmt: skip
"""What `open_lm.main` imports at its start."""
LAST_WEBDATASET = (0, 2, 86)
"""The last one with which open_lm's branch `main` reads past its first shard; later ones hand it an end-of-shard marker
without a file name (KeyError: 'fname')."""


def check_installation(settings: EngineSettings) -> None:
    """ConfigError if the checkout is none of open_lm, or its interpreter lacks what it needs."""
    check_checkout("open_lm", settings, MAIN_FILES["open_lm"])
    model = Path(settings.checkout) / "open_lm" / "model.py"
    with_xformers = b"import xformers" in model.read_bytes()
    advice = {"xformers": ", or take open_lm's branch prismatic_openlm, which needs no xformers"}
    found = query_installation(
        "open_lm", settings, [*MODULES, *(["xformers"] if with_xformers else [])], versions=["webdataset"],
        advice=advice,
    )  # fmt: skip
    if with_xformers and found.parse_version("webdataset") > LAST_WEBDATASET:
        raise ConfigError(
            f"engine open_lm: this checkout fails with webdataset {found.versions['webdataset']} at the end of the "
            "first shard; install webdataset==0.2.86, or take the branch prismatic_openlm"
        )
