"""open_lm's own configuration files, from a job's configuration. Pure; paths are relative to the engine's folder."""

from typing import Any

from stages.config import LanguageModel, PretrainConfig
from stages.engines.limits import epoch_steps

NAME = "run"
"""open_lm's name of the run; its files lie in logs/NAME."""
PRECISIONS = {"bf16": "amp_bfloat16", "fp32": "fp32"}


def model_file(model: LanguageModel, context: int) -> dict[str, Any]:
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


def options(config: PretrainConfig, *, data_key: str, log_steps: int) -> dict[str, Any]:
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
        "train_num_samples": epoch_steps(config) * config.step_tokens,
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
