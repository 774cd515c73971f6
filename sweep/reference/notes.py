"""What is said of a field of a sweep file beside its type: default, unit, who needs it, what its values mean.

All of it stands at the fields (`Field(description=..., json_schema_extra=...)`), in the layer of defaults and in the
catalog; here it is only found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stages.job_file import Settings
from sweep.catalog import load_catalog
from sweep.catalog.entries import Placement
from sweep.phases import PHASES
from sweep.spec.fields import AxisFields, PointFields
from sweep.spec.models import SHAPE, ModelFields
from sweep.spec.reader import find_model_class
from sweep.spec.resources import RequestFields
from sweep.spec.run_settings import PHASE_FIELDS
from sweep.spec.schema import CheckpointFields
from sweep.spec.settings import BASE, BY_RECIPE, RECIPES, build_catalog_layer

SECTIONS: Mapping[type[BaseModel], str] = {
    found: phase for phase in PHASES if (found := find_model_class(PointFields, (phase,))) is not None
}
"""The class of a phase's section to the phase."""

FROM_CATALOG = frozenset(build_catalog_layer(next(iter(load_catalog().models.values()))))
"""Settings that the catalog's models have numbers of their own for."""


RUN_CLASSES = frozenset(PHASE_FIELDS.values())
"""Classes of `settings`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNotes:
    """What is said of one field."""

    description: str
    """What a value is, as the end of `NAME is ...`."""
    default: Any = None
    """A value; None where there is none, or none that is the same for all."""
    default_words: str = ""
    """In its place, or beside it."""
    unit: str = ""
    needed: str = ""
    """When a sweep file has to give it; empty: never."""
    values: Mapping[str, str] | None = None
    """What each of its choices means."""


# Why: docs/decisions.md, D178
def describe_setting(model: type[BaseModel], name: str) -> FieldNotes:
    """The notes on the field `name` of a class of the sweep file."""
    field = model.model_fields[name]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default, words = find_default(model, name, field)
    values = extra.get("values")
    return FieldNotes(
        description=field.description or "",
        default=None if "default" in extra else default,
        default_words=str(extra.get("default", "")) or words,
        unit=str(extra.get("unit", "")),
        needed="always" if field.is_required() else find_need(model, name, str(extra.get("needed", ""))),
        values={key: str(meaning) for key, meaning in values.items()} if isinstance(values, dict) else None,
    )


def find_need(model: type[BaseModel], name: str, given: str) -> str:
    """`given`, where the setting has no default; a stage's field may have one in one phase and none in another."""
    if model in SECTIONS and BASE.get(f"{SECTIONS[model]}.{name}") is not None:
        return ""
    return "" if model in SECTIONS and f"{SECTIONS[model]}.{name}" in BY_RECIPE else given


def find_default(model: type[BaseModel], name: str, field: FieldInfo) -> tuple[Any, str]:
    """A field's value where the file is silent, and words on where it comes from."""
    if model in SECTIONS:
        setting = f"{SECTIONS[model]}.{name}"
        if setting in BY_RECIPE:
            return RECIPES["paper"][setting], "by `finetune.recipe`"
        value, words = convert_default(BASE.get(setting)), "the catalog model's" if setting in FROM_CATALOG else ""
        return value, f"or {words}" if words and value is not None else words
    default = None if field.default is PydanticUndefined or field.default_factory else field.default
    if issubclass(model, AxisFields) and name in AxisFields.model_fields:
        default = BASE[name]
    elif model is ModelFields and name in SHAPE:
        default = SHAPE[name].default
    elif issubclass(model, RequestFields):
        default = getattr(Placement(), name, None) or None
    elif model is CheckpointFields or issubclass(model, tuple(RUN_CLASSES)):
        stage_name = CheckpointFields.STAGE_NAMES.get(name, name)
        default = Settings.model_fields[stage_name].default if stage_name in Settings.model_fields else default
    return convert_default(default), ""


def convert_default(value: Any) -> Any:
    """As JSON types; None for what is empty, which no file needs to write."""
    if isinstance(value, tuple):
        value = list(value)
    return None if value in ("", []) else value
