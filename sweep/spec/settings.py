"""Layers of settings: what a sweep file, the catalog and the stages say of a cell, and the defaults.

A layer (the file's `defaults`, a model's, a block's `set`, one value of an axis) is a flat mapping from name to value;
settings of a phase have dotted names (`finetune.peak_lr`). Layers are laid over each other in the order of
`sweep.plan.grid`; `BASE` is the lowest.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from stages.config import PretrainConfig, Vision
from stages.schedule import Schedule
from sweep.catalog import ModelEntry
from sweep.phases import PHASES
from sweep.spec.fields import OWN_SETTINGS, STAGE_SETTINGS, PointFields

Layer = dict[str, Any]
"""Name to value; lists and mappings have become tuples, so that a layer's values are hashable."""


# Fine-tuning recipes by name (`finetune.recipe`): settings that go together; one that is given goes over them.

# what Prismatic's scripts take for LLaVA-1.5's mix (prismatic/conf/models.py; beta2 is torch's); weight decay 0.1,
# clip 1.0, and a linear warmup with a cosine to 0 are the same in both recipes
PRISMATIC: Layer = {
    "finetune.batch_sequences": 128,
    "finetune.peak_lr": 2e-5,
    "finetune.warmup_ratio": 0.03,
    "finetune.beta2": 0.999,
}

BY_RECIPE = tuple(PRISMATIC)
"""Settings whose default is the recipe's."""

# Why: docs/decisions.md, D43
RECIPES: Mapping[str, Layer] = {
    # the paper's appendix D: the stage's own defaults
    "paper": {name: STAGE_SETTINGS["finetune"][name.removeprefix("finetune.")].default for name in BY_RECIPE},
    "prismatic": PRISMATIC,
}


def apply_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings, in the same order; those of BY_RECIPE that nothing has set have the recipe's value."""
    recipe = RECIPES[values["finetune.recipe"]]
    return {name: recipe[name] if value is None and name in recipe else value for name, value in values.items()}


def replace_recipe(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings before any block as they were with the recipe of `values`, but for the recipe's own name.

    A cell's name lists what differs from this: of another recipe it shows the name alone.
    """
    name = "finetune.recipe"
    return {**apply_recipe({**base, name: values[name]}), name: base[name]}


# From checked fields to layers.


def freeze_axis_values(points: list[PointFields]) -> tuple[Any, ...]:
    """The values of one axis."""
    return tuple(next(iter(flatten_settings(point).values()), None) for point in points)


def flatten_settings(given: BaseModel, only: type[BaseModel] = PointFields) -> Layer:
    """The settings that were given, under flat names, values made hashable."""
    layer: Layer = {}
    for name in list_given_names(given, only):
        value = getattr(given, name)
        if name in PHASES and value is not None:
            layer |= {
                f"{name}.{setting}": freeze_value(getattr(value, setting))
                for setting in list_given_names(value, type(value))
            }
        else:
            layer[name] = freeze_value(value)
    return layer


def list_given_names(given: BaseModel, only: type[BaseModel]) -> list[str]:
    """In the order of the class: a set's own order changes from run to run."""
    return [name for name in only.model_fields if name in given.model_fields_set]


def freeze_value(value: Any) -> Any:
    """A value that is hashable, and equal for equal meanings."""
    if isinstance(value, dict):
        return tuple(sorted((name, freeze_value(part)) for name, part in value.items()))
    if isinstance(value, list):
        return tuple(freeze_value(part) for part in value)
    # 20 and 20.0 are one value and print as one
    return int(value) if isinstance(value, float) and value.is_integer() else value


AXES = (
    "model", "branch", "image_share", "instruction_share", "captions", "encoder", "freeze_encoder", "amount",
    "text_multiplier", "lr_at_branch", "seed",
)  # fmt: skip
"""Axes that every cell's record shows."""


def build_stage_defaults(*phases: str) -> Layer:
    """The stages' own defaults, without those of schedules, which the planner builds.

    What all phases of a stage have comes first, the optimizer last: a cell's name lists its settings in this order.
    """
    layer: Layer = {}
    for phase in phases:
        siblings = [STAGE_SETTINGS[each.name] for each in PHASES.values() if each.stage == PHASES[phase].stage]
        shared = set.intersection(*map(set, siblings))
        settings = [each for each in STAGE_SETTINGS[phase].values() if each.path[0] != "schedule"]
        settings.sort(key=lambda setting: (len(setting.path), setting.name not in shared))
        layer |= {f"{phase}.{each.name}": freeze_value(each.default) for each in settings}
    return layer


FINAL_LR = freeze_value(Schedule.model_fields["final_lr"].default)

BASE: Layer = {
    **dict.fromkeys(AXES),
    **dict.fromkeys(("text", "instructions", "tokenizer", "encoder_weights")),
    "instruction_share": 0,
    "encoder": "siglip-so400m-14-384",
    "freeze_encoder": True,
    "image_transform": Vision.model_fields["transform"].default,
    "amount": 1,
    "text_multiplier": 1,
    "lr_at_branch": "auto",
    "seed": PretrainConfig.model_fields["seed"].default,
    **build_stage_defaults("trunk"),
    # a model must say the rate and the warmup; 0 is no warmup that anyone should get unasked
    **dict.fromkeys(("trunk.unit_tokens", "trunk.peak_lr", "trunk.warmup_steps")),
    "trunk.final_lr": FINAL_LR,
    **build_stage_defaults("pretrain"),
    **dict.fromkeys(("pretrain.unit_tokens", "pretrain.restart_lr", "pretrain.restart_warmup_steps")),
    "pretrain.final_lr": FINAL_LR,
    "pretrain.matched_branch": 80,
    "pretrain.projector": None,
    "pretrain.encoder_revision": "",
    "finetune.recipe": "paper",
    # beta2 keeps its place among AdamW's numbers: the names of cells list settings in this order
    **{
        name: value
        for name, value in build_stage_defaults("finetune").items()
        if name not in BY_RECIPE or name == "finetune.beta2"
    },
    **dict.fromkeys(BY_RECIPE),
    "finetune.conversations": None,
    **dict.fromkeys(("evaluate.text_tasks", "evaluate.vision_tasks"), ()),
    **build_stage_defaults("evaluate"),
    "evaluate.tasks": None,
    **build_stage_defaults(*(name for name in PHASES if name not in OWN_SETTINGS)),
    **{f"{name}.engine": "own" for name, phase in PHASES.items() if phase.has_engine},
}  # fmt: skip
"""Every setting's default: the stage's own, else ours; None is for what a file, a model or the data must say."""


def build_catalog_layer(entry: ModelEntry) -> Layer:
    """The paper's training numbers of a catalog model, as settings."""
    return {
        "trunk.context": entry.context,
        "trunk.batch_sequences": entry.batch_sequences,
        "trunk.peak_lr": entry.peak_lr,
        "trunk.final_lr": entry.final_lr,
        "trunk.warmup_steps": entry.warmup_steps,
        "trunk.weight_decay": entry.weight_decay,
        "pretrain.context": entry.context,
        "pretrain.batch_sequences": entry.image_text_batch_sequences,
        "pretrain.final_lr": entry.final_lr,
        "pretrain.restart_lr": entry.restart_lr,
        "pretrain.restart_warmup_steps": entry.restart_warmup_steps,
        "pretrain.weight_decay": entry.image_text_weight_decay,
    }
