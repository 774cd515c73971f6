"""What prismatic cannot do of what a fine-tune may ask for, so that a plan can say it. Torch-free."""

from collections.abc import Mapping

from stages.config import Engine, FinetuneConfig, LanguageModel, Vision
from stages.vision.specs import resolve_encoder_spec

ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
"""torch's own, which prismatic leaves as they are and has no setting for."""
OWN_ARGUMENTS: Mapping[str, type] = {
    "per_device_batch_size": int, "enable_gradient_checkpointing": bool, "reduce_in_full_precision": bool,
}  # fmt: skip
"""What `arguments` may say: the settings of prismatic's ModelConfig that do not follow from the job."""
MICRO_BATCH = 16
"""prismatic's usual number of examples that go through the model at once."""

VISION_BACKBONES: Mapping[str, str] = {
    "siglip-so400m-14-384": "siglip-vit-so400m-384px",
    "siglip-so400m-14-224": "siglip-vit-so400m",
    "dinov2-l-14-reg-224": "dinov2-vit-l",
    "siglip+dinov2": "dinosiglip-vit-so-384px",
    "siglip+dinov2-384": "dinosiglip-vit-so-384px",
    "siglip+dinov2-224": "dinosiglip-vit-so-224px",
}
"""Our encoders that prismatic has too: the same published weights, blocks and image size."""


def find_prismatic_problem(config: FinetuneConfig, engine: Engine) -> str:
    """Why prismatic cannot carry a fine-tune out, and what would do; empty if nothing is known against it."""
    if engine.command:
        return "command is for engines of kind command; prismatic's program is known"
    return find_arguments_problem(engine) or find_recipe_problem(config)


def find_arguments_problem(engine: Engine) -> str:
    """The same of `arguments` alone."""
    for name, value in engine.arguments.items():
        wanted = OWN_ARGUMENTS.get(name)
        if wanted is None:
            return f"arguments: {name} is unknown or follows from the job; prismatic takes {', '.join(OWN_ARGUMENTS)}"
        if type(value) is not wanted:
            return f"arguments.{name} is {value!r}; it is {'a whole number' if wanted is int else 'true or false'}"
    return ""


def find_recipe_problem(config: FinetuneConfig) -> str:
    """The same of the optimizer, the schedule and the batch."""
    for name, value in ADAMW.items():
        if (given := getattr(config.optimizer, name)) != value:
            return (
                f"prismatic's AdamW has {name} {value:g} and no setting for it, and {given:g} is asked for; "
                f"set finetune.{name}: {value:g}, or finetune.recipe: prismatic"
            )
    if config.final_lr:
        return f"prismatic's learning rate ends at 0; set finetune.final_lr to 0 (now {config.final_lr:g})"
    # Why: docs/decisions.md, D75
    if config.loss_mean != "tokens":
        return (
            "prismatic takes the mean over the targets of each device's part of a batch, not over sequences; "
            "set finetune.loss_mean: tokens"
        )
    micro = compute_micro_batch(config)
    if micro < 1 or config.batch_sequences % micro:
        return f"arguments.per_device_batch_size {micro} must divide the batch of {config.batch_sequences} examples"
    return ""


def compute_micro_batch(config: FinetuneConfig) -> int:
    """Examples that go through the model at once: as asked for, else the most up to MICRO_BATCH that fit evenly."""
    given = config.engine.arguments.get("per_device_batch_size") if config.engine else None
    if given is not None:
        return int(given)
    return next(n for n in range(MICRO_BATCH, 0, -1) if config.batch_sequences % n == 0)


def find_prismatic_model_problem(config: FinetuneConfig, model: LanguageModel, vision: Vision | None) -> str:
    """Why prismatic cannot fine-tune such a model, and what would do; empty if nothing is known against it."""
    if vision is None:
        return "the model sees no images, without which prismatic has none; give pre-training a vision"
    if config.precision == "bf16" and model.rotary_table != "bfloat16":
        # open_lm builds its table under autocast
        return "open_lm in bf16 builds its positions' angles in bfloat16; give the model rotary_table: bfloat16"
    return find_encoder_problem(config, vision)


def find_encoder_problem(config: FinetuneConfig, vision: Vision) -> str:
    """The same of the encoder."""
    if vision.encoder not in VISION_BACKBONES:
        return f"prismatic has no encoder {vision.encoder}; it has {', '.join(VISION_BACKBONES)}"
    if not vision.frozen:
        return "the model's encoder is trained, and prismatic takes the published weights; pre-train with it frozen"
    spec = resolve_encoder_spec(vision.encoder)
    if spec.parts and vision.transform == "letterbox":
        return "prismatic pads an image for each of two encoders in its own colour; take transform: resize-naive"
    if spec.image_tokens >= config.max_length:
        return f"max_length {config.max_length} has no room for an image of {spec.image_tokens} tokens and an answer"
    return ""
