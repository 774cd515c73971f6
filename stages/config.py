"""The stages, and their typed, torch-free configurations.

A configuration holds what changes a run's numbers and nothing else: no path, no node count, no partition. The planner
hashes it (defaults left out) into the job's key, so a new field needs a default that means "as before".
Data is named here (`Source`) and located in `job.json` (`data`: name -> path). Keys hold a data set's identity in place
of its name (`name_by_identity`).

A field with a description is a setting of the sweep file: name, type, bounds, default, description, unit and what its
values mean stand here and nowhere else (`sweep.spec.fields` derives its part of the file, and docs/settings.md shows
it). A described field that is a configuration itself
(`optimizer`, `schedule`) contributes its own described fields. The planner works out the fields without a description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from stages.schedule import Schedule

Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["bf16", "fp32"]
"""Of matrix products; weights and optimizer are float32 in both."""
# the planner makes one of the two of `auto`: a configuration says what runs
PRECISIONS = "the precision of matrix products: bf16, fp32, or auto: bf16 where the device has it, else fp32"
PRECISION_NOTES: JsonDict = {
    "values": {
        "bf16": "bfloat16. A device without it imitates it, several times as slow as `fp32`; the job's log says so",
        "fp32": "float32",
        "auto": "`bf16` where the device has it, else `fp32`. `plan` decides it and says why",
    }
}
"""Beside a description: the unit, what each value means, and when a sweep file must give the setting (`needed`)."""
BATCH = "the global batch in sequences, a whole number above 0"
CONTEXT = "the tokens of a sequence, a whole number above 0"
LOSS_MEANS = "what the loss is a mean over: tokens or sequences"
LOSS_MEAN_NOTES: JsonDict = {
    "values": {
        "tokens": "one mean over all targets of a batch",
        "sequences": "the mean over its sequences, each with the mean over its own targets",
    }
}
TOKENS: JsonDict = {"unit": "tokens"}
SEQUENCES: JsonDict = {"unit": "sequences"}
SHAPE: JsonDict = {"needed": "a model that is not `like` another"}
LossMean = Literal["tokens", "sequences"]
Count = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$")]


class StageConfig(BaseModel):
    """Base of all stage configurations: frozen, unknown fields refused, no NaN or Inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LanguageModel(StageConfig):
    """Shape of an OpenLM decoder (paper, section 2): pre-norm, SwiGLU, rotary, qk-norm, untied output."""

    d_model: Count = Field(description="the width, a whole number", json_schema_extra=SHAPE)
    layers: Count = Field(description="the number of blocks, a whole number above 0", json_schema_extra=SHAPE)
    heads: Count = Field(description="the attention heads of a block, a whole number above 0", json_schema_extra=SHAPE)
    vocabulary: Count = Field(default=50_432, description="the number of token ids", json_schema_extra=TOKENS)
    qk_norm: bool = Field(default=True, description="true or false: whether queries and keys are normalised")
    rotary_table: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="the precision of the positions' angles, float32 or bfloat16",
        json_schema_extra={
            "values": {
                "float32": "exact",
                "bfloat16": "as open_lm computes them under bf16 autocast, so that one of its checkpoints can go on",
            }
        },
    )

    @model_validator(mode="after")
    def _check_head_width(self) -> "LanguageModel":
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise ValueError(
                f"d_model {self.d_model} must be heads ({self.heads}) times an even number, for rotary positions"
            )
        return self

    @property
    def feed_forward_width(self) -> int:
        """SwiGLU hidden size: 8/3 of the width, rounded up to a multiple of 256 (open_lm's rule)."""
        return 256 * ((int(8 * self.d_model / 3) + 255) // 256)

    @property
    def parameters(self) -> int:
        """Weights as the paper's tables count them: embedding and output layer included, qk-norm gains left out.

        Token budgets (20 x parameters x multiplier) go by this number.
        """
        block = 4 * self.d_model**2 + 3 * self.d_model * self.feed_forward_width + 2 * self.d_model
        return self.layers * block + self.d_model + 2 * self.vocabulary * self.d_model

    @property
    def weights(self) -> int:
        """All weights that a checkpoint holds."""
        return self.parameters + (2 * self.d_model * self.layers if self.qk_norm else 0)


class Vision(StageConfig):
    """How images enter the language model: an encoder (see `stages.vision.specs`) and a projector to its width."""

    encoder: Name
    weights: tuple[Name, ...] = ()
    """Data sets (folders of transformers) with the encoder's weights, one for each of its parts; none where it has none
    or brings its own."""
    identities: tuple[str, ...] = ()
    """As `Source.identity`, of each of the weights; empty where all are known by their names."""
    revision: str = ""
    """Names the content of the weights."""
    transform: Literal["resize-naive", "letterbox"] = "resize-naive"
    """How an image becomes square (Prismatic's names): stretched, or padded with the encoder's mean colour."""
    projector: Literal["linear", "gelu-mlp", "fused-gelu-mlp"] = "gelu-mlp"
    frozen: bool = True


class Source(StageConfig):
    """One named data set and its share of the mixture. Where it lies is not here."""

    name: Name
    kind: Literal["text", "captions", "conversations"]
    identity: str = ""
    """What keys and checkpoints know the data set by, whatever its name; empty: the name itself."""
    revision: str = ""
    field: str = ""
    """For captions: the sample's text field (`txt`) or a key of its JSON (`caption`, `orig_text`); empty is `txt`.
    Several, with commas between: one of them by chance for each position of the run."""
    share: Share = 1.0


BUILT_IN_ENGINES = ("command", "open_lm", "prismatic", "vla_foundry")
"""Kinds of engines that need no plug-in (`stages.engines.kinds`)."""


class Engine(StageConfig):
    """Another program that carries a stage out (`stages.engines`). Where it lies and what interpreter runs it change no
    number and are not here: `stages.job_file.EngineSettings`."""

    kind: Name
    revision: str = ""
    """Names the content of the program's checkout."""
    plugin: str = ""
    """Of a kind that is not built in: the package that registers it, and the version of its numbers (PACKAGE:1)."""
    command: tuple[str, ...] = ()
    """For `command`: the words behind the interpreter; the job's request comes after them."""
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$")], bool | int | float | str] = {}
    """The engine's own settings, with effect on its numbers."""

    @model_validator(mode="after")
    def _check_kind(self) -> "Engine":
        if not self.plugin and self.kind not in BUILT_IN_ENGINES:
            raise ValueError(
                f"kind {self.kind} is none of {', '.join(BUILT_IN_ENGINES)}, and no package is named for it (plugin)"
            )
        return self


class Optimizer(StageConfig):
    """AdamW on all parameters, with gradient clipping by global norm (paper, section 2)."""

    beta1: Share = Field(default=0.9, description="AdamW's decay of the first moment, a number from 0 to 1")
    beta2: Share = Field(default=0.95, description="AdamW's decay of the second moment, a number from 0 to 1")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon, a number above 0")
    weight_decay: float = Field(default=0.033, ge=0, description="AdamW's weight decay, a number from 0 on")
    gradient_clip: float = Field(default=1.0, gt=0, description="the largest global gradient norm, above 0")


class Tokenizer(StageConfig):
    """A named `tokenizers` file (tokenizer.json)."""

    name: Name
    identity: str = ""
    """What keys know the file by instead of its name, as `Source.identity`; empty: they know it by its name."""
    revision: str = ""


class PretrainConfig(StageConfig):
    """Text or image-text pre-training, from scratch or from the parent's last checkpoint.

    A trunk segment is this configuration with one text source and a `stop_step` short of `schedule.total_steps`:
    its weights do not depend on where the trunk was cut before.
    """

    model: LanguageModel
    sources: tuple[Source, ...] = Field(min_length=1)
    share_by: Literal["tokens", "samples"] = Field(
        default="tokens",
        description="what the shares of a mixture count: tokens or samples",
        json_schema_extra={"values": {"tokens": "tokens of text and of images, without padding", "samples": "samples"}},
    )
    vision: Vision | None = None
    # needed by sources that hold text rather than token ids (captions, conversations)
    tokenizer: Tokenizer | None = None
    context: Count = Field(default=2_048, description=CONTEXT, json_schema_extra=TOKENS)
    batch_sequences: Count = Field(default=256, description=BATCH, json_schema_extra=SEQUENCES)
    packing: Literal["packed", "padded"] = Field(
        default="packed",
        description="how image-text pairs fill a sequence: packed or padded",
        json_schema_extra={
            "values": {"packed": "as many whole pairs as fit, none seeing another", "padded": "one, and padding"}
        },
    )
    # the shards themselves come in a new random order in each epoch
    shuffle_shards: Count = Field(
        default=16,
        description="the shards whose samples are shuffled together, a whole number above 0",
        json_schema_extra={"unit": "shards"},
    )
    schedule: Schedule = Field(description="the learning rate of each step")
    stop_step: Count | None = None
    """Last step of this job; None is the schedule's end."""
    optimizer: Optimizer = Field(default=Optimizer(), description="AdamW's numbers")
    z_loss: float = Field(default=1e-4, ge=0, description="the weight of the z-loss, a number from 0 on")
    loss_mean: LossMean = Field(default="tokens", description=LOSS_MEANS, json_schema_extra=LOSS_MEAN_NOTES)
    text_order: Literal["continue", "anew"] = Field(
        default="anew",
        description="where the text of a run behind a trunk begins: continue or anew",
        json_schema_extra={
            "values": {"continue": "behind the text that the trunk has read", "anew": "from the beginning again"}
        },
    )
    # of effect only where the data changes
    optimizer_state: Literal["carried", "fresh"] = Field(
        default="carried",
        description="what becomes of the trunk's AdamW moments: carried or fresh",
        json_schema_extra={"values": {"carried": "they go on", "fresh": "they start at 0"}},
    )
    seed: int = Field(default=124, ge=0, description="a whole number, the seed of the weights and of the data's order")
    precision: Precision = Field(default="bf16", description=PRECISIONS, json_schema_extra=PRECISION_NOTES)
    engine: Engine | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> "PretrainConfig":
        total = sum(source.share for source in self.sources)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the sources add up to {total:g}; they must add up to 1")
        if self.stop_step is not None and self.stop_step > self.schedule.total_steps:
            raise ValueError(f"stop_step {self.stop_step} lies beyond total_steps {self.schedule.total_steps}")
        with_images = any(source.kind != "text" for source in self.sources)
        if with_images and (self.vision is None or self.tokenizer is None):
            raise ValueError("sources with images need both vision and tokenizer")
        return self

    @property
    def last_step(self) -> int:
        return self.schedule.total_steps if self.stop_step is None else self.stop_step

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step, image tokens included."""
        return self.batch_sequences * self.context


class FinetuneConfig(StageConfig):
    """Prismatic's single-stage fine-tune on conversations (paper, section 5); the model is the parent's."""

    conversations: Source
    tokenizer: Tokenizer
    epochs: Count
    batch_sequences: Count = Field(default=256, description=BATCH, json_schema_extra=SEQUENCES)
    peak_lr: float = Field(default=3e-4, gt=0, description="the learning rate after the warmup, above 0")
    warmup_ratio: Share = Field(default=0.05, description="the share of the steps that warm up, 0 to 1")
    final_lr: float = Field(default=0.0, ge=0, description="the learning rate at the end, from 0 on")
    optimizer: Optimizer = Field(default=Optimizer(weight_decay=0.1), description="AdamW's numbers")
    max_length: Count = Field(
        default=2_048, description="the longest sequence in tokens, its image included", json_schema_extra=TOKENS
    )
    loss_mean: LossMean = Field(default="tokens", description=LOSS_MEANS, json_schema_extra=LOSS_MEAN_NOTES)
    # `stages.data.prompts.TEMPLATES`; the evaluation takes the same
    prompt: Literal["pure", "vicuna", "llava"] = Field(
        default="pure",
        description="the words around questions and answers, here and in the evaluation: pure, vicuna or llava",
        json_schema_extra={
            "values": {
                "pure": "`In: ... Out: ...`",
                "vicuna": "`USER: ... ASSISTANT: ...` behind a system prompt that speaks of a user",
                "llava": "the same behind a system prompt that speaks of a human",
            }
        },
    )
    seed: int = Field(default=7, ge=0, description="a whole number, the seed of the data's order")
    precision: Precision = Field(default="bf16", description=PRECISIONS, json_schema_extra=PRECISION_NOTES)
    engine: Engine | None = None


class Task(StageConfig):
    """One evaluation task: an lm-eval task (text) or one of ours (vision), its data and an optional sample limit."""

    name: Name
    identity: str = ""
    """Of the task's file and data; empty: known by the name within its folder."""
    revision: str = ""
    limit: Count | None = None
    plugin: str = ""
    """Vision tasks: the package that registers the task's family, and the version of its numbers (PACKAGE:1); empty for
    a family that is built in, or where the plan did not see the task's file."""
    trusted: bool = False
    """Text tasks: lm-eval reads NAME.yaml itself and runs the code that it names; without such a file its own task of
    that name, with data from the hub or the user's cache. Otherwise a task file is data, and no network is used."""


class EvaluateConfig(StageConfig):
    """Scores of the parent's model; greedy decoding. Task files lie in the data set `tasks` names."""

    tasks: Name
    """Data set (a folder) that holds the local task files."""
    identity: str = ""
    """As `Source.identity`, of the folder; its tasks may have identities of their own."""
    revision: str = ""
    tokenizer: Tokenizer
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()
    max_new_tokens: Count = Field(default=128, description="the longest answer in tokens", json_schema_extra=TOKENS)
    # what lies further back is cut off
    context: Count = Field(
        default=2_048, description="the longest sequence that the model is given, in tokens", json_schema_extra=TOKENS
    )
    precision: Precision = Field(default="bf16", description=PRECISIONS, json_schema_extra=PRECISION_NOTES)
    engine: Engine | None = None


# Why: docs/decisions.md, D142
def name_by_identity(content: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a configuration (or of a checkpoint's record of one) with each data set under its identity.

    What is left holds no name that a user may change without changing the data. Configurations of versions without
    identities come out as they are.
    """
    named = rename_by_identity(content, "tasks")
    for part in ("tokenizer", "conversations"):
        if named.get(part):
            named[part] = rename_by_identity(named[part], "name")
    if named.get("sources"):
        named["sources"] = [rename_by_identity(source, "name") for source in named["sources"]]
    if named.get("vision"):
        vision = dict(named["vision"])
        identities = vision.pop("identities", ())
        named["vision"] = {**vision, "weights": list(identities)} if identities else vision
    return named


def rename_by_identity(content: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A part of a configuration whose `field` is a data set's name."""
    named = {name: value for name, value in content.items() if name != "identity"}
    return {**named, field: content["identity"]} if content.get("identity") else named


def find_engine(config: StageConfig) -> Engine | None:
    """The other program that carries the job out; None: its stage does."""
    found = getattr(config, "engine", None)
    return found if isinstance(found, Engine) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A function of (job, stop flag), by the name of its module. Only the job that runs it imports the module."""

    config: type[StageConfig]
    version: int
    """Raised when the stage's meaning changes for an unchanged configuration; enters every key of the stage."""
    module: str
    """Has the function `run`."""
    many_processes: bool = False
    """Whether several processes may share one job."""


# Why: docs/decisions.md, D52
STAGES: dict[str, Stage] = {
    "pretrain": Stage(config=PretrainConfig, version=2, module="stages.training.pretrain", many_processes=True),
    "finetune": Stage(config=FinetuneConfig, version=2, module="stages.training.finetune", many_processes=True),
    "evaluate": Stage(config=EvaluateConfig, version=2, module="stages.evaluation.run", many_processes=True),
}
