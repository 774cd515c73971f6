"""Typed, torch-free configurations of the stages.

A configuration holds what changes a run's numbers and nothing else: no path, no node count, no partition. The planner
hashes it (defaults left out) into the job's key, so a new field needs a default that means "as before".
Data is named here (`Source`) and located in `job.json` (`data`: name -> path).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.schedule import Schedule

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$")]

FORMAT_VERSIONS = {"pretrain": 2, "finetune": 2, "evaluate": 2}
"""Raised when a stage's meaning changes for an unchanged configuration; enters every key of that stage."""


class StageConfig(BaseModel):
    """Base of all stage configurations: frozen, unknown fields refused, no NaN or Inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LanguageModel(StageConfig):
    """Shape of an OpenLM decoder (paper, section 2): pre-norm, SwiGLU, rotary, qk-norm, untied output."""

    d_model: Count
    layers: Count
    heads: Count
    vocabulary: Count = 50_432
    qk_norm: bool = True
    rotary_table: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: the positions' angles as open_lm builds them under bf16 autocast, to go on with a checkpoint of it."""

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
    revision: str = ""
    """Names the content of the weights."""
    transform: Literal["resize-naive", "letterbox"] = "resize-naive"
    """How an image becomes square (Prismatic's names): stretched, or padded with the encoder's mean colour."""
    projector: Literal["linear", "gelu-mlp", "fused-gelu-mlp"] = "gelu-mlp"
    frozen: bool = True


class Source(StageConfig):
    """One named data set and its share of the mixture. `revision` names its content; where it lies is not here."""

    name: Name
    kind: Literal["text", "captions", "conversations"]
    revision: str = ""
    field: str = ""
    """For captions: the sample's text field (`txt`) or a key of its JSON (`caption`, `orig_text`); empty is `txt`.
    Several, with commas between: one of them by chance, anew for each position of the run."""
    share: Share = 1.0


class Engine(StageConfig):
    """Another program that carries a stage out (`stages.engines`). Where it lies and what interpreter runs it change no
    number and are not here: `stages.job_file.EngineSettings`."""

    kind: Literal["command", "open_lm", "prismatic", "vla_foundry"]
    revision: str = ""
    """Names the content of the program's checkout."""
    command: tuple[str, ...] = ()
    """For `command`: the words behind the interpreter; the job's request comes after them."""
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$")], bool | int | float | str] = {}
    """The engine's own settings, with effect on its numbers."""


class Optimizer(StageConfig):
    """AdamW on all parameters, with gradient clipping by global norm (paper, section 2)."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.033, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)


class Tokenizer(StageConfig):
    """A named `tokenizers` file (tokenizer.json)."""

    name: Name
    revision: str = ""


class PretrainConfig(StageConfig):
    """Text or image-text pre-training, from scratch or from the parent's last checkpoint.

    A trunk segment is this configuration with one text source and a `stop_step` short of `schedule.total_steps`:
    its weights do not depend on where the trunk was cut before.
    """

    model: LanguageModel
    sources: tuple[Source, ...] = Field(min_length=1)
    share_by: Literal["tokens", "samples"] = "tokens"
    vision: Vision | None = None
    tokenizer: Tokenizer | None = None
    """Needed by sources that hold text rather than token ids (captions, conversations)."""
    context: Count = 2_048
    """Tokens of a sequence that the model sees at once."""
    packing: Literal["packed", "padded"] = "packed"
    """Image-text documents to a sequence: as many whole ones as fit, none seeing another; or one, and padding."""
    shuffle_shards: Count = 16
    """Shards whose samples are shuffled together; the shards themselves come in a new random order in each epoch."""
    batch_sequences: Count = 256
    """Global batch size, in sequences of `context` tokens."""
    schedule: Schedule
    stop_step: Count | None = None
    """Last step of this job; None is the schedule's end."""
    optimizer: Optimizer = Optimizer()
    z_loss: float = Field(default=1e-4, ge=0)
    optimizer_state: Literal["carried", "fresh"] = "carried"
    """Whether AdamW's moments of the parent go on or start anew (a change of data with a parent only)."""
    seed: int = Field(default=124, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    engine: Engine | None = None
    """Who trains in our stead."""

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
    batch_sequences: Count = 256
    peak_lr: float = Field(default=3e-4, gt=0)
    warmup_ratio: Share = 0.05
    final_lr: float = Field(default=0.0, ge=0)
    optimizer: Optimizer = Optimizer(weight_decay=0.1)
    max_length: Count = 2_048
    prompt: Literal["pure", "vicuna", "llava"] = "pure"
    """The words around questions and answers (`stages.data.prompts.TEMPLATES`); the evaluation takes the same."""
    seed: int = Field(default=7, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    engine: Engine | None = None
    """Who trains in our stead."""


class Task(StageConfig):
    """One evaluation task: an lm-eval task (text) or one of ours (vision), its data and an optional sample limit."""

    name: Name
    revision: str = ""
    limit: Count | None = None
    trusted: bool = False
    """Text tasks: lm-eval reads NAME.yaml itself and runs the code that it names; without such a file its own task of
    that name, with data from the hub or the user's cache. Otherwise a task file is data, and no network is used."""


class EvaluateConfig(StageConfig):
    """Scores of the parent's model; greedy decoding. Task files lie in the data set `tasks` names."""

    tasks: Name
    """Data set (a folder) that holds the local task files."""
    revision: str = ""
    tokenizer: Tokenizer
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()
    max_new_tokens: Count = 128
    context: Count = 2_048
    """Longest sequence that the model is given, in tokens; what lies further back is cut off."""
    precision: Literal["bf16", "fp32"] = "bf16"
    engine: Engine | None = None
    """Who evaluates in our stead."""


CONFIGS: dict[str, type[StageConfig]] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
}
"""Configuration class of each stage."""
