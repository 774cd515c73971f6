"""What vla_foundry (TRI-ML) cannot do, so that a plan can say it before anything runs. Torch-free."""

from collections.abc import Mapping

from stages.config import Engine, PretrainConfig, Source, Vision
from stages.vision.specs import UnknownEncoderError, resolve_encoder_spec

CHECKPOINTS = "num_checkpoints"
MICRO_BATCH = "hparams.per_gpu_batch_size"
RECOMPUTE = "hparams.grad_checkpointing"
ARGUMENTS: Mapping[str, type[int] | type[bool]] = {CHECKPOINTS: int, MICRO_BATCH: int, RECOMPUTE: bool}
"""Its fields that do not follow from a job. Any other is refused: vla_foundry itself passes over fields that it does
not know, and over misspelt ones, without an error."""


def find_vla_foundry_problem(config: PretrainConfig, engine: Engine, phase: str) -> str:
    """Why vla_foundry cannot carry this out, and what would do; empty if nothing is known against it."""
    if engine.command:
        return "command is for engines of kind command; vla_foundry's program is known"
    return (
        find_arguments_problem(config, engine)
        or find_precision_problem(config)
        or find_loss_problem(config)
        or find_windows_problem(config, engine)
        or (find_images_problem(config, engine) if uses_images(config) else find_text_problem(config, phase))
    )


def select_source(config: PretrainConfig) -> Source:
    """The one data set; `find_vla_foundry_problem` has found nothing."""
    return next(source for source in config.sources if source.share > 0)


def uses_images(config: PretrainConfig) -> bool:
    """Whether it sees images."""
    return any(source.share > 0 and source.kind != "text" for source in config.sources)


def compute_window_steps(config: PretrainConfig) -> int:
    """Optimizer steps between two of its checkpoints; `find_vla_foundry_problem` has found nothing."""
    checkpoints = config.engine.arguments.get(CHECKPOINTS, 1) if config.engine else 1
    return config.schedule.total_steps // int(checkpoints)


def find_arguments_problem(config: PretrainConfig, engine: Engine) -> str:
    """Settings of its own."""
    for name, value in engine.arguments.items():
        if name not in ARGUMENTS:
            return f"arguments: {name} is none that can be given; those are {', '.join(ARGUMENTS)}"
        if type(value) is not ARGUMENTS[name] or (type(value) is int and value < 1):
            wanted = "true or false" if ARGUMENTS[name] is bool else "a whole number above 0"
            return f"arguments.{name} is {value!r}; it is {wanted}"
    micro = int(engine.arguments.get(MICRO_BATCH, config.batch_sequences))
    if config.batch_sequences % micro:
        return f"arguments.{MICRO_BATCH} {micro} does not divide batch_sequences {config.batch_sequences}"
    return ""


# Why: docs/decisions.md, D62
def find_precision_problem(config: PretrainConfig) -> str:
    """What weights and angles are kept in, and the schedule's form."""
    if config.precision != "fp32":
        # its main.py moves a model that one process trains to bfloat16 as a whole: weights, moments and updates
        return "vla_foundry in bf16 keeps the weights themselves in bfloat16, which loses updates; set precision: fp32"
    if config.model.rotary_table != "float32":
        return "vla_foundry builds its positions' angles in float32; give the model rotary_table: float32"
    if config.schedule.final_lr > config.schedule.peak_lr:
        return (
            f"final_lr {config.schedule.final_lr:g} is above the peak {config.schedule.peak_lr:g}; its rates only fall"
        )
    return ""


def find_loss_problem(config: PretrainConfig) -> str:
    """What its loss is a mean over."""
    if config.loss_mean != "tokens":
        return (
            "vla_foundry takes the mean over the targets of each device's batch, not over sequences; "
            "set pretrain.loss_mean: tokens"
        )
    return ""


def find_windows_problem(config: PretrainConfig, engine: Engine) -> str:
    """It saves at the end of its checkpoint windows only, which are all of one length: a segment must end at one."""
    windows, total = int(engine.arguments.get(CHECKPOINTS, 1)), config.schedule.total_steps
    if total % windows:
        return (
            f"the run has {total} steps, which {windows} checkpoints do not divide; set arguments.{CHECKPOINTS} to a "
            f"divisor, or unit_tokens so that there are {total - total % windows}"
        )
    if config.last_step % (total // windows):
        return (
            f"a cell branches off at step {config.last_step}, and vla_foundry saves every {total // windows} steps "
            f"only; set arguments.{CHECKPOINTS} so that a window ends there"
        )
    return ""


def find_text_problem(config: PretrainConfig, phase: str) -> str:
    """Of a run on token shards."""
    if sum(source.share > 0 for source in config.sources) != 1:
        return "vla_foundry takes one text data set; name one as text"
    if phase != "trunk":
        return (
            "vla_foundry trains a model without images here, which has no projector; set image_share: 1, or engine: own"
        )
    return ""


def find_images_problem(config: PretrainConfig, engine: Engine) -> str:
    """Of a run on captioned images."""
    used = [source for source in config.sources if source.share > 0]
    if len(used) != 1 or used[0].kind != "captions":
        return "vla_foundry takes one data set of captions and nothing else; set image_share: 1, instruction_share: 0"
    if used[0].field not in {"", "txt"}:
        return f"captions in {used[0].field!r}: vla_foundry reads the text file only; set the data set's field to txt"
    if config.packing != "padded":
        return "vla_foundry puts one captioned image into a sequence; set pretrain.packing: padded"
    if engine.arguments.get(RECOMPUTE):
        return f"arguments.{RECOMPUTE}: its timm encoders have none; take it out"
    return find_vision_problem(config.vision, config.context) if config.vision else ""


def find_vision_problem(vision: Vision, context: int) -> str:
    """Encoders and projectors that its model does not have."""
    try:
        spec = resolve_encoder_spec(vision.encoder)
    except UnknownEncoderError as error:
        return str(error)
    if spec.architecture not in {"siglip", "patches"}:
        return (
            f"encoder {vision.encoder}: vla_foundry hands on all of an encoder's tokens, class and registers too, and "
            "takes one timm encoder; take one of SigLIP's, or patches"
        )
    if vision.projector != "linear":
        return f"projector {vision.projector}: vla_foundry's is one linear layer; set pretrain.projector: linear"
    if vision.transform != "resize-naive":
        return f"image_transform {vision.transform}: its processor stretches images; set image_transform: resize-naive"
    if context <= spec.image_tokens:
        return f"context {context} has no room for the {spec.image_tokens} tokens of an image and a caption"
    return ""
