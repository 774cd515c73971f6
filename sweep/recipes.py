"""Fine-tuning recipes by name (`finetune.recipe`): settings that go together; one that is given goes over them."""

from collections.abc import Mapping
from typing import Any

from stages.config import FinetuneConfig

FIELDS = FinetuneConfig.model_fields

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # the paper's appendix D: the stage's own defaults
    "paper": {
        "finetune.batch_sequences": FIELDS["batch_sequences"].default,
        "finetune.peak_lr": FIELDS["peak_lr"].default,
        "finetune.warmup_ratio": FIELDS["warmup_ratio"].default,
        "finetune.beta2": FIELDS["optimizer"].default.beta2,
    },
    # what Prismatic's scripts take for LLaVA-1.5's mix (prismatic/conf/models.py; beta2 is torch's)
    "prismatic": {
        "finetune.batch_sequences": 128,
        "finetune.peak_lr": 2e-5,
        "finetune.warmup_ratio": 0.03,
        "finetune.beta2": 0.999,
    },
}
"""Weight decay 0.1, clip 1.0, and a linear warmup with a cosine to 0 are the same in both."""

BY_RECIPE = tuple(RECIPES["paper"])
"""Settings whose default is the recipe's."""


def with_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings, in the same order; those of BY_RECIPE that nothing has set have the recipe's value."""
    recipe = RECIPES[values["finetune.recipe"]]
    return {name: recipe[name] if value is None and name in recipe else value for name, value in values.items()}


def same_recipe(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings before any block as they were with the recipe of `values`, but for the recipe's own name.

    What a cell's name is made against: one that has another recipe is told by that alone.
    """
    name = "finetune.recipe"
    return {**with_recipe({**base, name: values[name]}), name: base[name]}
