"""The settings that a sweep file may give, with their types and limits, as pydantic classes.

The section of a phase has the settings of its stage, which `stages.config` declares, and those of a class here, which
only the planner knows. A setting of a stage is not declared again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from stages.config import Precision
from sweep.phases import PHASES, Phase
from sweep.spec.yaml_source import format_given_value


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
AutoCount = Annotated[int, Field(ge=-1, le=2**53)]
"""A whole number; -1: as the device likes it."""
Rate = Annotated[float, Field(gt=0, le=100)]
Size = Annotated[float, Field(ge=0, le=1e6)]
Priority = Annotated[int, BeforeValidator(convert_whole_float), Field(ge=-1000, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Multiplier = Annotated[float, Field(gt=0, le=1e6)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+:/@=-]{0,120}$")]


@dataclass(frozen=True, slots=True, repr=False)
class BranchStep:
    """A branch point as the number of optimizer steps that the trunk has done: `{step: 813264}` in a sweep file."""

    step: int

    def __repr__(self) -> str:
        return f"{{step: {self.step}}}"


BranchPoint = float | BranchStep
"""Where a cell leaves the trunk: in percent of the text budget, or as a step."""


# Why: docs/decisions.md, D78
def convert_branch_point(given: Any, check_percent: ValidatorFunctionWrapHandler) -> BranchPoint:
    """`{step: N}` as a `BranchStep`; anything else must pass as a percentage."""
    if not isinstance(given, dict):
        percent: float = check_percent(given)
        return percent
    step = convert_whole_float(given.get("step"))
    if given.keys() != {"step"} or type(step) is not int or not 0 < step <= 2**53:
        raise ValueError(
            f"{format_given_value(given)} will not do: as a step of the trunk a branch point is {{step: N}}, N a whole "
            "number above 0"
        )
    return BranchStep(step)


class Fields(BaseModel):
    """Base of all parts of a sweep file: unknown keys refused, no silent conversion, no NaN or Inf."""

    # defer_build: a class that is only part of another needs no validator of its own, and a plan starts sooner
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True)


def make_fields(name: str, fields: Mapping[str, Any], base: type[Fields] = Fields) -> type[Fields]:
    """A class of `base` with more fields, each a type and a `Field`."""
    return create_model(name, __base__=base, __module__=base.__module__, **fields)


def make_phase_fields(name: str, kinds: Mapping[str, type[Fields]], what: str) -> type[Fields]:
    """A class with a field for each phase in `kinds`; `what` is given there, for messages."""
    return make_fields(
        name,
        {
            phase: (kind | None, Field(None, description=f"{what} of {PHASES[phase].jobs}"))
            for phase, kind in kinds.items()
        },
    )


# The settings that the stages declare.

SWEEP_TYPES: Mapping[tuple[Any, ...], Any] = {
    (int, Ge(0)): Whole,
    (int, Gt(0)): Count,
    (int, Ge(-1)): AutoCount,
    (float, Ge(0)): Size,
    (float, Gt(0)): Rate,
    (float, Ge(0), Le(1)): Share,
    (Precision,): Literal["bf16", "fp32", "auto"],
}
"""A type and its bounds in a configuration -> the type in a sweep file: with an upper bound, or with `auto`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSetting:
    """A field of a stage's configuration that a sweep file may set."""

    path: tuple[str, ...]
    """The fields that lead to it, `("optimizer", "beta1")`; the last one is the setting's name."""
    field: FieldInfo
    default: Any
    """None where the configuration requires a value."""

    @property
    def name(self) -> str:
        return self.path[-1]

    def build_field(self, narrower: Any = None) -> tuple[Any, Any]:
        """The field of the sweep file, which may be left out; its type is `narrower` where one is given."""
        kind = narrower or SWEEP_TYPES.get(
            (self.field.annotation, *self.field.metadata), self.field.rebuild_annotation()
        )
        notes = self.field.json_schema_extra
        return kind | None, Field(None, description=self.field.description, json_schema_extra=notes)


def list_stage_settings(config: type[BaseModel], part: BaseModel | None = None) -> list[StageSetting]:
    """The described fields of a configuration, then those of its described parts (optimizer, schedule).

    `part`: the value that a part has by default, which goes over its class's own defaults.
    """
    settings: list[StageSetting] = []
    nested: list[StageSetting] = []
    for name, field in config.model_fields.items():
        if not field.description:
            continue
        default = getattr(part, name) if part is not None else None if field.is_required() else field.default
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested += [replace(each, path=(name, *each.path)) for each in list_stage_settings(kind, default)]
        else:
            settings.append(StageSetting(path=(name,), field=field, default=default))
    return settings + nested


def list_phase_settings(phase: Phase) -> dict[str, StageSetting]:
    """The settings of a phase that its stage declares, by name."""
    return {each.name: each for each in list_stage_settings(phase.config) if each.name not in phase.without}


STAGE_SETTINGS: Mapping[str, Mapping[str, StageSetting]] = {
    name: list_phase_settings(phase) for name, phase in PHASES.items()
}
"""For each phase the settings that its stage declares, by name."""


# The settings that only the planner knows. A class for each phase that has any.


class OwnSettings(Fields):
    """Base of the classes; `phase` says whose settings they are."""

    phase: ClassVar[str] = ""


UnitTokens = Annotated[
    Count | None,
    Field(
        description="the tokens of multiplier 1, a whole number; default 20 x the model's parameters",
        json_schema_extra={"unit": "tokens", "default": "20 x the model's parameters"},
    ),
]


class TrunkSettings(OwnSettings):
    """Text pre-training that cells share."""

    phase = "trunk"

    unit_tokens: UnitTokens = None


RESTARTS = "branch 0 or 100, or `lr_at_branch: restart`, unless the model is of the catalog"


class PretrainSettings(OwnSettings):
    """Image-text pre-training. Its seed is the axis `seed`, its encoder the axis `encoder`."""

    phase = "pretrain"

    unit_tokens: UnitTokens = None
    restart_lr: Rate | None = Field(
        None,
        description="the peak learning rate of a run that warms up again, above 0",
        json_schema_extra={"needed": RESTARTS},
    )
    restart_warmup_steps: Whole | None = Field(
        None,
        description="the warmup of a run that warms up again, a whole number of optimizer steps",
        json_schema_extra={"unit": "steps", "needed": RESTARTS},
    )
    matched_branch: Annotated[float, Field(gt=0, le=100), WrapValidator(convert_branch_point)] | None = Field(
        None,
        description="the branch point whose learning rate `lr_at_branch: matched` takes, in percent or as {step: N}",
        json_schema_extra={"unit": "percent"},
    )
    projector: Literal["linear", "gelu-mlp", "fused-gelu-mlp"] | None = Field(
        None,
        description="the layers between encoder and language model: linear, gelu-mlp or fused-gelu-mlp",
        json_schema_extra={
            "default": "`gelu-mlp`; of two encoders together `fused-gelu-mlp`",
            "values": {"linear": "one layer", "gelu-mlp": "two layers", "fused-gelu-mlp": "three layers"},
        },
    )
    encoder_revision: Revision | None = Field(
        None, description="a word that names the version of the encoder's weights; changing it makes new keys"
    )


ONLY_ONE = "the only one of its kind"


class FinetuneSettings(OwnSettings):
    """Fine-tuning; one run for each entry of the file's `epochs`."""

    phase = "finetune"

    conversations: Name | None = Field(
        None,
        description="the name of a data set of kind conversations",
        json_schema_extra={"default": ONLY_ONE, "needed": "several data sets of that kind"},
    )
    recipe: Literal["paper", "prismatic"] | None = Field(
        None,
        description="settings of fine-tunes that belong together: paper or prismatic",
        json_schema_extra={"values": {"paper": "as the paper trained", "prismatic": "as Prismatic's scripts do"}},
    )


class TaskSetting(Fields):
    """One evaluation task."""

    name: Name = Field(description="the name of a task in the data set of kind tasks")
    revision: Revision = Field("", description="a word that names the task's data")
    limit: Count | None = Field(
        None,
        description="the number of documents to take, all without it",
        json_schema_extra={"unit": "documents", "default": "all"},
    )


class TextTaskSetting(TaskSetting):
    """One text task."""

    trusted: StrictBool = Field(
        False, description="true or false: whether lm-eval reads the task itself and runs the code that it names"
    )


TextTasks = list[Annotated[TextTaskSetting, BeforeValidator(convert_name_to_task)]]
VisionTasks = list[Annotated[TaskSetting, BeforeValidator(convert_name_to_task)]]


class EvaluateSettings(OwnSettings):
    """Evaluation of each fine-tuned model."""

    phase = "evaluate"

    tasks: Name | None = Field(
        None,
        description="the name of a data set of kind tasks",
        json_schema_extra={"default": ONLY_ONE, "needed": "several data sets of that kind"},
    )
    text_tasks: TextTasks | None = Field(
        None, description="a list of tasks, each a name or {name, limit, revision, trusted}"
    )
    vision_tasks: VisionTasks | None = Field(
        None, description="a list of tasks, each a name or {name, limit, revision}"
    )


OWN_SETTINGS: Mapping[str, type[OwnSettings]] = {
    kind.phase: kind for kind in (TrunkSettings, PretrainSettings, FinetuneSettings, EvaluateSettings)
}

# The whole of a layer: axes, and a section for each phase.


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


EVERY_CELL = "every cell: as an axis, in `set` or in `defaults`"


class AxisFields(Fields):
    """The settings of no single phase. Dotted names stand for nested ones."""

    branch: Annotated[float, Field(ge=0, le=100), WrapValidator(convert_branch_point)] | None = Field(
        None,
        description="where images enter: a percentage of the text budget, 0 to 100, or {step: N} of the trunk",
        json_schema_extra={"unit": "percent", "needed": EVERY_CELL},
    )
    image_share: Share | None = Field(
        None,
        description="the part of image data in the image-text run, a share from 0 to 1",
        json_schema_extra={"needed": EVERY_CELL},
    )
    instruction_share: Share | None = Field(
        None, description="the part of instruction data in the image data, a share of the image part, 0 to 1"
    )
    text: TextShares | None = Field(
        None,
        description="the name of a data set of kind text, or names with shares that add up to 1",
        json_schema_extra={"default": ONLY_ONE, "needed": "several data sets of that kind"},
    )
    captions: Name | None = Field(
        None,
        description="the name of a data set of kind captions",
        json_schema_extra={"default": ONLY_ONE, "needed": "several data sets of that kind"},
    )
    instructions: Name | None = Field(
        None,
        description="the name of a data set of kind conversations, for the image-text run",
        json_schema_extra={"default": ONLY_ONE, "needed": "`instruction_share` above 0 and several of that kind"},
    )
    tokenizer: Name | None = Field(
        None,
        description="the name of a data set of kind tokenizer",
        json_schema_extra={"default": ONLY_ONE, "needed": "several data sets of that kind"},
    )
    encoder: Name | None = Field(None, description="the name of a vision encoder")
    freeze_encoder: StrictBool | None = Field(
        None, description="true or false: whether the encoder's weights stay as they are"
    )
    encoder_weights: WeightNames | None = Field(
        None,
        description="the name of a data set of kind encoder, or a list of names, one for each part of the encoder",
        json_schema_extra={"default": "by the data sets' own `encoder`", "needed": "several data sets of one encoder"},
    )
    image_transform: Literal["resize-naive", "letterbox"] | None = Field(
        None,
        description="how an image becomes square: resize-naive or letterbox",
        json_schema_extra={
            "values": {"resize-naive": "stretched", "letterbox": "padded with the encoder's mean colour"}
        },
    )
    amount: Multiplier | None = Field(
        None,
        description="the budget of the image-text run, a multiple of 1x Chinchilla (20 tokens a parameter), above 0",
    )
    text_multiplier: Multiplier | None = Field(
        None, description="the budget of the text trunk, a multiple of 1x Chinchilla, above 0"
    )
    lr_at_branch: Literal["auto", "continue", "restart", "matched"] | None = Field(
        None,
        description="the learning rate of the image-text run: auto, continue, restart or matched",
        json_schema_extra={
            "values": {
                "auto": "between 0 and 100 % at the trunk's rate without warmup, at 0 and 100 % a restart",
                "continue": "at the trunk's rate everywhere",
                "restart": "a warmup to `pretrain.restart_lr` everywhere",
                "matched": "the trunk's rate at `pretrain.matched_branch`, whatever the branch point",
            }
        },
    )
    # Why: docs/decisions.md, D10
    seed: Whole | None = Field(None, description="a whole number, the seed of the image-text run")

    @model_validator(mode="before")
    @classmethod
    def _nest_dots(cls, given: Any) -> Any:
        return nest_dotted_names(given) if isinstance(given, dict) else given


def build_section(phase: Phase) -> type[Fields]:
    """The class of a phase's section."""
    fields = {name: setting.build_field() for name, setting in STAGE_SETTINGS[phase.name].items()}
    if phase.has_engine:
        fields["engine"] = (Name | None, Field(None, description="the name of an engine of `engines`, or own"))
    return make_fields(f"{phase.name.capitalize()}Section", fields, OWN_SETTINGS.get(phase.name, Fields))


if TYPE_CHECKING:
    LayerFields = AxisFields
else:
    LayerFields = make_fields(
        "LayerFields",
        {
            name: (build_section(phase) | None, Field(None, description=f"settings of {phase.section}"))
            for name, phase in PHASES.items()
        },
        AxisFields,
    )


class PointFields(LayerFields):
    """A partial point with its model."""

    model: Name | None = Field(
        None,
        description="the name of a model of the catalog or of `models`",
        json_schema_extra={"needed": EVERY_CELL},
    )


def convert_axis_values(given: Any) -> Any:
    """`{branch: [0, 20]}` as `{branch: [{branch: 0}, {branch: 20}]}`: a value of an axis is checked as a setting."""
    if not isinstance(given, dict):
        return given
    for name in given.keys() & PHASES.keys():
        raise ValueError(f"{name} is a group of settings; name one of them, such as {name}.precision")
    if "branch.step" in given:
        raise ValueError("branch.step is no axis; give steps as values of branch: [{step: 1000}, {step: 2000}]")
    return {
        name: [{name: value} for value in values] if isinstance(values, list) else values
        for name, values in given.items()
    }


AxisValues = dict[str, Annotated[list[PointFields], Field(min_length=1)]]
