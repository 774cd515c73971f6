"""A point's stage configurations, by the rules of the paper (sections 2 to 5). Pure; torch-free."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from stages.config import (  # fmt: skip
    EvaluateConfig,
    FinetuneConfig,
    LanguageModel,
    PretrainConfig,
    Source,
    Task,
    Tokenizer,
    Vision,
)
from stages.schedule import Schedule
from stages.vision.specs import resolve_encoder_spec
from sweep.errors import ConfigProblemError
from sweep.spec.data import ROLES, DataSet, EncoderWeightsError, build_content_revision, resolve_encoder_weights
from sweep.spec.engines import OWN_ENGINE
from sweep.spec.fields import STAGE_SETTINGS, BranchPoint, BranchStep

Values = Mapping[str, Any]
"""A value for every setting (`sweep.spec.settings.BASE`)."""


def build_trunk_config(values: Values, shape: LanguageModel, data: Mapping[str, DataSet]) -> PretrainConfig:
    """The whole text trunk, from its first step to 100 %."""
    sources = build_text_sources(values, data)
    settings = collect_settings(values, "trunk")
    settings["schedule"] = build_schedule(
        values, "trunk", shape, values["text_multiplier"],
        peak_lr=require_setting(values, "trunk.peak_lr"),
        warmup_steps=require_setting(values, "trunk.warmup_steps"),
    )  # fmt: skip
    return PretrainConfig(model=shape, sources=sources, **settings)


def build_pretrain_config(
    values: Values, shape: LanguageModel, data: Mapping[str, DataSet], trunk: PretrainConfig | None
) -> PretrainConfig:
    """The image-text run. `trunk` is the whole trunk that it starts from or takes its learning rate from."""
    sources = build_mixture(values, data)
    with_images = any(source.kind != "text" for source in sources)
    if with_images:
        check_context_length("pretrain.context", values)
    peak_lr, warmup_steps = compute_restart(values, trunk)
    vision = build_vision(values, data)
    tokenizer = build_tokenizer(values, data) if with_images else None
    settings = collect_settings(values, "pretrain")
    settings["schedule"] = build_schedule(
        values, "pretrain", shape, values["amount"], peak_lr=peak_lr, warmup_steps=warmup_steps
    )
    # Why: docs/decisions.md, D74
    # one meaning, one key: without images there is nothing to pack and every sequence has as many targets; without a
    # parent there is no state to carry and no text that it has read
    if not with_images:
        settings |= {"packing": "packed", "loss_mean": "tokens"}
    if values["branch"] == 0:
        settings |= {"optimizer_state": "carried", "text_order": "anew"}
    if not any(source.kind == "text" for source in sources):
        settings["text_order"] = "anew"
    check_text_order(settings["text_order"], trunk)
    return PretrainConfig(
        model=shape, sources=sources, vision=vision, tokenizer=tokenizer, seed=values["seed"], **settings
    )


def check_text_order(text_order: str, trunk: PretrainConfig | None) -> None:
    """ConfigProblemError where a text is to go on behind a trunk whose checkpoints do not say how far it is read."""
    if text_order == "continue" and trunk is not None and trunk.engine is not None:
        raise ConfigProblemError(
            f"pretrain.text_order: continue needs the trunk's place in its text, which a checkpoint of an engine of "
            f"kind {trunk.engine.kind} does not hold; set trunk.engine: {OWN_ENGINE}, or pretrain.text_order: anew"
        )


def check_context_length(setting: str, values: Values) -> None:
    """ConfigProblemError where an image alone fills a sequence: every sample would be a bad one."""
    tokens = resolve_encoder_spec(values["encoder"]).image_tokens
    if tokens >= values[setting]:
        raise ConfigProblemError(
            f"{setting} {values[setting]} has no room for an image and its text: {values['encoder']} makes {tokens} "
            f"tokens of an image; raise it, or take an encoder with fewer"
        )


def build_finetune_config(values: Values, data: Mapping[str, DataSet], epochs: int) -> FinetuneConfig:
    """One fine-tune of `epochs` epochs, with a schedule of its own."""
    check_context_length("finetune.max_length", values)
    return FinetuneConfig(
        conversations=build_source(values, data, "finetune.conversations"),
        tokenizer=build_tokenizer(values, data),
        epochs=epochs,
        **collect_settings(values, "finetune"),
    )


def build_evaluate_config(values: Values, data: Mapping[str, DataSet]) -> EvaluateConfig:
    """The evaluation of one fine-tuned model."""
    tasks = find_data_set(values, data, "evaluate.tasks")
    text_tasks, vision_tasks = values["evaluate.text_tasks"], values["evaluate.vision_tasks"]
    files = [*(f"{each.name}.yaml" for each in text_tasks), *(f"{each.name}.json" for each in vision_tasks)]
    identity, identities = identify_tasks(tasks, files)
    return EvaluateConfig(
        tasks=tasks.name,
        identity=identity,
        revision=tasks.revision,
        tokenizer=build_tokenizer(values, data),
        text_tasks=build_tasks(text_tasks, "yaml", identities),
        vision_tasks=build_tasks(vision_tasks, "json", identities),
        **collect_settings(values, "evaluate"),
    )


def collect_settings(values: Values, phase: str) -> dict[str, Any]:
    """The settings that the phase's stage declares, as fields of its configuration.

    What the planner works out (data, schedule) is written out by the functions below; every other setting passes here.
    """
    fields: dict[str, Any] = {}
    for name, setting in STAGE_SETTINGS[phase].items():
        part = fields
        for step in setting.path[:-1]:
            part = part.setdefault(step, {})
        part[name] = values[f"{phase}.{name}"]
    return fields


# Learning rate and length of a run.

CHINCHILLA_TOKENS_PER_PARAMETER = 20
"""Tokens a parameter at multiplier 1 (paper, section 2)."""


def compute_branch_step(branch: BranchPoint, total_steps: int) -> int:
    """Optimizer steps of the trunk that are done at the branch point; those of a percentage are rounded down.

    ConfigProblemError for a step behind the trunk's last one.
    """
    if isinstance(branch, BranchStep):
        if branch.step > total_steps:
            raise ConfigProblemError(
                f"branch point {branch} lies behind the trunk's {total_steps:,} steps; take 1 to {total_steps:,}, of "
                "which the last is 100 %"
            )
        return branch.step
    return math.floor(total_steps * branch / 100 + 1e-9)


def compute_restart(values: Values, trunk: PretrainConfig | None) -> tuple[float, int]:
    """Peak learning rate and warmup steps of the image-text run (paper, section 4).

    auto: between 0 and 100 % it goes on at the trunk's rate, without warmup; at 0 and 100 % (the trunk's last step) it
    warms up again.
    matched: the trunk's rate at `pretrain.matched_branch`, whatever the branch point, so that two branch points differ
    in the text that they have seen and not in the learning rate.
    """
    branch, mode = values["branch"], values["lr_at_branch"]
    if mode == "restart" or (mode == "auto" and is_at_an_end(branch, trunk)):
        return require_setting(values, "pretrain.restart_lr"), require_setting(values, "pretrain.restart_warmup_steps")
    if trunk is None:  # `needs_trunk`
        raise ConfigProblemError("lr_at_branch: continue has nothing to go on from at branch 0; take auto or restart")
    if mode == "matched":
        warmup = 0 if branch != 0 else require_setting(values, "pretrain.restart_warmup_steps")
        return compute_trunk_lr(trunk, values["pretrain.matched_branch"]), warmup
    return compute_trunk_lr(trunk, branch), 0


def is_at_an_end(branch: BranchPoint, trunk: PretrainConfig | None) -> bool:
    """Whether none of the trunk comes before the images, or all of it."""
    if isinstance(branch, BranchStep):
        return trunk is not None and branch.step == trunk.schedule.total_steps
    return branch in {0, 100}


def needs_trunk(values: Values) -> bool:
    """Whether the image-text run has a parent, or takes its learning rate from a trunk."""
    return bool(values["branch"] != 0 or values["lr_at_branch"] == "matched")


def compute_trunk_lr(trunk: PretrainConfig, branch: BranchPoint) -> float:
    """The trunk's learning rate at the branch point, the same on every machine."""
    rate = trunk.schedule.compute_lr(compute_branch_step(branch, trunk.schedule.total_steps))
    # cos differs in its last digit between C libraries; a key must not
    # Why: docs/decisions.md, D2
    rounded = float(f"{rate:.10g}")
    if rounded <= 0:
        raise ConfigProblemError(
            f"the trunk's learning rate at {describe_branch_point(branch)} is 0; set trunk.final_lr above 0, or "
            "lr_at_branch: restart"
        )
    return rounded


def describe_branch_point(branch: BranchPoint) -> str:
    """`80 %` or `step 813,264`."""
    return f"step {branch.step:,}" if isinstance(branch, BranchStep) else f"{branch} %"


def build_schedule(
    values: Values, section: str, shape: LanguageModel, multiplier: float, *, peak_lr: float, warmup_steps: int
) -> Schedule:
    """Steps are whole batches of the token budget."""
    unit = values[f"{section}.unit_tokens"] or CHINCHILLA_TOKENS_PER_PARAMETER * shape.parameters
    budget = math.floor(unit * multiplier + 1e-6)
    step_tokens = values[f"{section}.batch_sequences"] * values[f"{section}.context"]
    if budget < step_tokens:
        raise ConfigProblemError(
            f"{section}: the budget of {budget:,} tokens is less than one step of {step_tokens:,}; "
            f"lower {section}.batch_sequences or {section}.context, or raise the multiplier"
        )
    try:
        return Schedule(
            peak_lr=peak_lr,
            final_lr=values[f"{section}.final_lr"],
            warmup_steps=warmup_steps,
            total_steps=budget // step_tokens,
        )
    except ValidationError as error:
        raise ConfigProblemError(f"{section}: {extract_first_message(error)}") from None


def build_vision(values: Values, data: Mapping[str, DataSet]) -> Vision:
    """The paper's projectors: two layers; three fused ones where the features of two encoders are concatenated."""
    usual = "fused-gelu-mlp" if resolve_encoder_spec(values["encoder"]).parts else "gelu-mlp"
    try:
        weights = resolve_encoder_weights(values["encoder"], values["encoder_weights"], data)
    except EncoderWeightsError as error:
        raise ConfigProblemError(str(error)) from None
    return Vision(
        encoder=values["encoder"],
        weights=tuple(each.name for each in weights),
        identities=tuple(each.identity or each.name for each in weights)
        if any(each.identity for each in weights)
        else (),
        revision=build_content_revision(weights, values["pretrain.encoder_revision"]),
        transform=values["image_transform"],
        projector=values["pretrain.projector"] or usual,
        frozen=values["freeze_encoder"],
    )


def build_tasks(settings: tuple[Any, ...], suffix: str, identities: Mapping[str, str]) -> tuple[Task, ...]:
    """Tasks as the stage's configuration has them."""
    return tuple(
        Task.model_validate({**each.model_dump(), "identity": identities.get(f"{each.name}.{suffix}", "")})
        for each in settings
    )


# Why: docs/decisions.md, D143
TASKS_BY_CONTENT = "by-content"
"""In the place of the folder's name, where each task is known by itself."""


def identify_tasks(tasks: DataSet, files: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What keys know an evaluation's tasks by: one name for their folder, or one for each task's file.

    Where keys went by the folder's name for all of these tasks, they still do.
    """
    known = {file: tasks.task_identities[file] for file in files if file in tasks.task_identities}
    folders = {identity.rpartition("/")[0] for identity in known.values()}
    if len(folders) <= 1 and "" not in folders:
        [folder] = folders or {tasks.name}
        return ("" if folder == tasks.name else folder), {}
    return TASKS_BY_CONTENT, known


def require_setting(values: Values, name: str) -> Any:
    """A setting that has no default; ConfigProblemError if nothing sets it."""
    if values[name] is None:
        raise ConfigProblemError(f"{name} is not set; set it under defaults or under models.{values['model']}")
    return values[name]


def extract_first_message(error: ValidationError) -> str:
    """The first thing that a configuration's own check says."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(step) for step in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


# The data of a point's stages: text, captions, instructions and tokenizer, by their roles and shares.


def build_mixture(values: Values, data: Mapping[str, DataSet]) -> tuple[Source, ...]:
    """Text, captions and instruction data by their shares; what has no share is left out."""
    images, instructed = values["image_share"], values["instruction_share"]
    shares = [
        ("captions", round_share(images * (1 - instructed))),
        ("instructions", round_share(images * instructed)),
    ]
    return (
        *(build_text_sources(values, data, round_share(1 - images)) if images < 1 else ()),
        *(build_source(values, data, role, share) for role, share in shares if share > 0),
    )


def round_share(share: float) -> float:
    """0.08 and not 0.08000000000000002: two ways to one share are one key."""
    return round(share, 12)


def build_text_sources(values: Values, data: Mapping[str, DataSet], share: float = 1.0) -> tuple[Source, ...]:
    """The text data sets, by name; together they have `share` of the mixture."""
    if not values["text"]:
        find_data_set(values, data, "text")  # says what is missing
    found = [(data[name], round_share(share * part)) for name, part in values["text"]]
    check_text_repeats([each for each, part in found if part > 0])
    return tuple(
        Source(name=each.name, identity=each.identity, kind="text", revision=each.revision, share=part)
        for each, part in found
        if part > 0
    )


# Why: docs/decisions.md, D144
def check_text_repeats(found: Sequence[DataSet]) -> None:
    """ConfigProblemError where two names of a mixture mean the same data: it would be read twice, in two orders."""
    first: dict[str, str] = {}
    for each in found:
        if (other := first.setdefault(each.identity or each.name, each.name)) != each.name:
            raise ConfigProblemError(
                f"text: {other} and {each.name} hold the same data; name one of them, with the sum of their shares"
            )


def build_source(values: Values, data: Mapping[str, DataSet], role: str, share: float = 1.0) -> Source:
    """The data set of a role as a part of the mixture."""
    found = find_data_set(values, data, role)
    return Source(
        name=found.name,
        identity=found.identity,
        kind="captions" if role == "captions" else "conversations",
        revision=found.revision,
        field="" if found.field == "txt" else found.field,  # one meaning, one key
        share=share,
    )


def build_tokenizer(values: Values, data: Mapping[str, DataSet]) -> Tokenizer:
    """The data set of kind tokenizer."""
    found = find_data_set(values, data, "tokenizer")
    return Tokenizer(name=found.name, identity=found.identity, revision=found.revision)


def find_data_set(values: Values, data: Mapping[str, DataSet], role: str) -> DataSet:
    """The data set that plays `role`; ConfigProblemError if the file names none."""
    name = values[role]
    if name is None:
        fitting = [each.name for each in data.values() if each.kind == ROLES[role]]
        known = (
            f"one of {', '.join(fitting)}" if fitting else f"one, which data does not have yet (kind: {ROLES[role]})"
        )
        raise ConfigProblemError(f"{role} is not set; name {known}")
    return data[name]
