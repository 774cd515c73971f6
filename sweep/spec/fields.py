"""The settings that a sweep file may give, with their types and limits, as pydantic classes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

SECTIONS = ("trunk", "pretrain", "finetune", "evaluate")
"""The phases of a chain; their settings have dotted names."""


def convert_whole_float(value: Any) -> Any:
    """An integer that was written as 1e9 or 2.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def convert_name_to_shares(value: Any) -> Any:
    """One data set's name, where a mapping of names to shares is meant."""
    return {value: 1.0} if isinstance(value, str) else value


def convert_name_to_list(value: Any) -> Any:
    """A name where a list of names is meant."""
    return [value] if isinstance(value, str) else value


def convert_name_to_task(value: Any) -> Any:
    """A task given by its name alone."""
    return {"name": value} if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(convert_whole_float), Field(ge=0, le=2**53)]
Count = Annotated[int, BeforeValidator(convert_whole_float), Field(gt=0, le=2**53)]
Rate = Annotated[float, Field(gt=0, le=100)]
Size = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Multiplier = Annotated[float, Field(gt=0, le=1e6)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+:/@=-]{0,120}$")]
Precision = Literal["bf16", "fp32"]


class Fields(BaseModel):
    """Base of all parts of a sweep file: unknown keys refused, no silent conversion, no NaN or Inf."""

    # defer_build: a class that is only part of another needs no validator of its own, and a plan starts sooner
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True)


class PhaseSettings(Fields):
    """What every phase has."""

    engine: Name | None = Field(None, description="the name of an engine of `engines`, or own")


class OptimizerSettings(PhaseSettings):
    """AdamW's numbers, in every training phase."""

    beta1: Share | None = Field(None, description="a number from 0 to 1")
    beta2: Share | None = Field(None, description="a number from 0 to 1")
    eps: Rate | None = Field(None, description="a number above 0")
    weight_decay: Size | None = Field(None, description="a number from 0 on")
    gradient_clip: Rate | None = Field(None, description="the largest global gradient norm, above 0")
    batch_sequences: Count | None = Field(None, description="the global batch in sequences, a whole number above 0")
    precision: Precision | None = Field(None, description="bf16 or fp32")


class PretrainingSettings(OptimizerSettings):
    """What the text trunk and the image-text run have in common."""

    unit_tokens: Count | None = Field(
        None, description="the tokens of multiplier 1, a whole number; default 20 x the model's parameters"
    )
    context: Count | None = Field(None, description="the tokens of a sequence, a whole number above 0")
    shuffle_shards: Count | None = Field(
        None, description="the shards whose samples are shuffled together, a whole number above 0"
    )
    final_lr: Size | None = Field(None, description="the learning rate at the end, from 0 on")
    z_loss: Size | None = Field(None, description="a number from 0 on")


class TrunkSettings(PretrainingSettings):
    """Text pre-training that cells share."""

    peak_lr: Rate | None = Field(None, description="the learning rate after the warmup, above 0")
    warmup_steps: Whole | None = Field(None, description="a whole number of optimizer steps")
    seed: Whole | None = Field(None, description="a whole number")


class PretrainSettings(PretrainingSettings):
    """Image-text pre-training. Its seed is the axis `seed`, its encoder the axis `encoder`."""

    restart_lr: Rate | None = Field(None, description="the peak learning rate of a run that warms up anew, above 0")
    restart_warmup_steps: Whole | None = Field(None, description="a whole number of optimizer steps")
    matched_branch: float | None = Field(
        None, gt=0, le=100, description="the branch point whose learning rate `lr_at_branch: matched` takes, in percent"
    )
    share_by: Literal["tokens", "samples"] | None = Field(None, description="tokens or samples")
    packing: Literal["packed", "padded"] | None = Field(None, description="packed or padded")
    optimizer_state: Literal["carried", "fresh"] | None = Field(None, description="carried or fresh")
    projector: Literal["linear", "gelu-mlp", "fused-gelu-mlp"] | None = Field(
        None, description="linear, gelu-mlp or fused-gelu-mlp"
    )
    encoder_revision: Revision | None = Field(None, description="a word that names the encoder's weights")


class FinetuneSettings(OptimizerSettings):
    """Fine-tuning; one run for each entry of the file's `epochs`."""

    conversations: Name | None = Field(None, description="the name of a data set of kind conversations")
    recipe: Literal["paper", "prismatic"] | None = Field(None, description="paper or prismatic")
    prompt: Literal["pure", "vicuna", "llava"] | None = Field(None, description="pure, vicuna or llava")
    peak_lr: Rate | None = Field(None, description="the learning rate after the warmup, above 0")
    warmup_ratio: Share | None = Field(None, description="the share of the steps that warm up, 0 to 1")
    final_lr: Size | None = Field(None, description="the learning rate at the end, from 0 on")
    max_length: Count | None = Field(None, description="the longest sequence in tokens")
    seed: Whole | None = Field(None, description="a whole number")


class TaskSetting(Fields):
    """One evaluation task."""

    name: Name = Field(description="the name of a task in the data set of kind tasks")
    revision: Revision = Field("", description="a word that names the task's data")
    limit: Count | None = Field(None, description="the number of documents to take, all without it")


class TextTaskSetting(TaskSetting):
    """One text task."""

    trusted: StrictBool = Field(
        False, description="true or false: whether lm-eval reads the task itself and runs the code that it names"
    )


TextTasks = list[Annotated[TextTaskSetting, BeforeValidator(convert_name_to_task)]]
VisionTasks = list[Annotated[TaskSetting, BeforeValidator(convert_name_to_task)]]


class EvaluateSettings(PhaseSettings):
    """Evaluation of each fine-tuned model."""

    tasks: Name | None = Field(None, description="the name of a data set of kind tasks")
    text_tasks: TextTasks | None = Field(
        None, description="a list of tasks, each a name or {name, limit, revision, trusted}"
    )
    vision_tasks: VisionTasks | None = Field(
        None, description="a list of tasks, each a name or {name, limit, revision}"
    )
    max_new_tokens: Count | None = Field(None, description="the longest answer in tokens")
    context: Count | None = Field(None, description="the longest sequence that the model is given, in tokens")
    precision: Precision | None = Field(None, description="bf16 or fp32")


def nest_dotted_names(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """`{"trunk.seed": 1}` as `{"trunk": {"seed": 1}}`; ValueError if a setting is given both ways."""
    result: dict[Any, Any] = {}
    for name, value in given.items():
        section, dot, setting = name.partition(".") if isinstance(name, str) else (name, "", "")
        part = {setting: value} if dot else value
        if isinstance(part, dict) and isinstance(result.get(section), dict):
            both = part.keys() & result[section].keys()
            if both:
                raise ValueError(f"{section}.{min(both)} is given twice, nested and dotted; keep one")
            part = {**result[section], **part}
        result[section] = part
    return result


def check_shares_sum(shares: dict[str, float]) -> dict[str, float]:
    """Shares of the text; ValueError if they are not the whole of it."""
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of text add up to {sum(shares.values()):g}; they must add up to 1")
    return shares


TextShares = Annotated[dict[Name, Share], BeforeValidator(convert_name_to_shares), AfterValidator(check_shares_sum)]


WeightNames = Annotated[list[Name], BeforeValidator(convert_name_to_list), Field(min_length=1, max_length=9)]


class LayerFields(Fields):
    """A partial point: every field may be left out. Dotted names stand for nested ones."""

    branch: float | None = Field(None, ge=0, le=100, description="a percentage of the text budget, 0 to 100")
    image_share: Share | None = Field(None, description="a share from 0 to 1")
    instruction_share: Share | None = Field(None, description="a share of the image part, 0 to 1")
    text: TextShares | None = Field(
        None, description="the name of a data set of kind text, or names with shares that add up to 1"
    )
    captions: Name | None = Field(None, description="the name of a data set of kind captions")
    instructions: Name | None = Field(None, description="the name of a data set of kind conversations")
    tokenizer: Name | None = Field(None, description="the name of a data set of kind tokenizer")
    encoder: Name | None = Field(None, description="the name of a vision encoder")
    freeze_encoder: StrictBool | None = Field(None, description="true or false")
    encoder_weights: WeightNames | None = Field(
        None, description="the name of a data set of kind encoder, or a list of names, one for each part of the encoder"
    )
    image_transform: Literal["resize-naive", "letterbox"] | None = Field(None, description="resize-naive or letterbox")
    amount: Multiplier | None = Field(None, description="a multiple of 1x Chinchilla, above 0")
    text_multiplier: Multiplier | None = Field(None, description="a multiple of 1x Chinchilla, above 0")
    lr_at_branch: Literal["auto", "continue", "restart", "matched"] | None = Field(
        None, description="auto, continue, restart or matched"
    )
    # Why: docs/decisions.md, D10
    seed: Whole | None = Field(None, description="a whole number, the seed of the image-text run")
    trunk: TrunkSettings | None = Field(None, description="settings of the text trunk")
    pretrain: PretrainSettings | None = Field(None, description="settings of the image-text run")
    finetune: FinetuneSettings | None = Field(None, description="settings of the fine-tunes")
    evaluate: EvaluateSettings | None = Field(None, description="settings of the evaluations")

    @model_validator(mode="before")
    @classmethod
    def _nest_dots(cls, given: Any) -> Any:
        return nest_dotted_names(given) if isinstance(given, dict) else given


class PointFields(LayerFields):
    """A partial point with its model."""

    model: Name | None = Field(None, description="the name of a model of the catalog or of `models`")


def convert_axis_values(given: Any) -> Any:
    """`{branch: [0, 20]}` as `{branch: [{branch: 0}, {branch: 20}]}`: a value of an axis is checked as a setting."""
    if not isinstance(given, dict):
        return given
    for name in given.keys() & set(SECTIONS):
        raise ValueError(f"{name} is a group of settings; name one of them, such as {name}.precision")
    return {
        name: [{name: value} for value in values] if isinstance(values, list) else values
        for name, values in given.items()
    }


AxisValues = dict[str, Annotated[list[PointFields], Field(min_length=1)]]
