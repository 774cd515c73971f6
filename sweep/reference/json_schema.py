"""The JSON Schema of a sweep file (draft 2020-12), made of the pydantic classes that check one.

It knows what a file's form alone tells: names, types, bounds, choices. What needs more than the form (a name that is
given elsewhere in the file, a rule between two settings, a file on the disk) only `sweep plan` knows.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, WrapValidator
from pydantic.fields import FieldInfo

from jobs.slurm import sbatch_options
from stages.vision.specs import ENCODERS, FAMILIES
from sweep.catalog import load_catalog
from sweep.catalog.gpu_parts import GpuTable
from sweep.phases import PHASES
from sweep.reference.notes import SECTIONS, FieldNotes, describe_setting
from sweep.spec import fields, resources, run_settings, schema
from sweep.spec.data import ADDRESS, ENCODER_KIND, DataFields, join_listed_places
from sweep.spec.fields import AxisFields, PointFields
from sweep.spec.models import SHAPE, ModelFields

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN_TYPES: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
LENGTHS: Mapping[str, Mapping[str, str]] = {
    "min_length": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "max_length": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
}


# Why: docs/decisions.md, D177
def build_sweep_schema() -> Schema:
    """The schema of a whole sweep file. The same code gives the same schema, in the same order."""
    definitions: dict[str, Schema] = {}
    root = build_class_schema(schema.SweepFields, definitions)
    return {
        "$schema": DIALECT,
        "title": "A sweep file",
        "description": "A grid of models in one file (docs/sweep-file.md). `sweep plan FILE` checks all of it.",
        **root,
        "$defs": definitions,
    }


def render_sweep_schema() -> str:
    """The same as text."""
    return json.dumps(build_sweep_schema(), indent=1, ensure_ascii=False) + "\n"


# Classes: an object whose keys are the fields.


def refer_to_class(model: type[BaseModel], definitions: dict[str, Schema]) -> Schema:
    """A reference to the class's schema, which is made on the way."""
    name = model.__name__
    if name not in definitions:
        definitions[name] = {}  # a class that holds itself ends here
        definitions[name] |= build_class_schema(model, definitions)
    return {"$ref": f"#/$defs/{name}"}


def build_class_schema(model: type[BaseModel], definitions: dict[str, Schema]) -> Schema:
    """An object with the class's fields and no others."""
    properties = {
        name: add_notes(name, build_field_schema(model, name, definitions), describe_setting(model, name))
        for name in model.model_fields
    }
    if issubclass(model, AxisFields):
        properties |= build_dotted_settings(model)
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    built: Schema = {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }
    return {**built, **RULES.get(model, {})}


def build_dotted_settings(model: type[BaseModel]) -> dict[str, Schema]:
    """`trunk.seed` beside `trunk: {seed: ...}`."""
    found: dict[str, Schema] = {}
    for section, phase in SECTIONS.items():
        for name in section.model_fields if phase in model.model_fields else ():
            found[f"{phase}.{name}"] = {"$ref": f"#/$defs/{section.__name__}/properties/{name}"}
    return found


RULES: Mapping[type[BaseModel], Schema] = {
    # `iter_encoder_problems`
    DataFields: {
        "if": {"required": ["encoder"]},
        "then": {"properties": {"kind": {"const": ENCODER_KIND}}},
    },
}
"""What is said of several fields of a class together."""


def add_notes(name: str, built: Schema, notes: FieldNotes) -> Schema:
    """The schema of a field with what is said of it."""
    lines = [f"{notes.description[:1].upper()}{notes.description[1:]}."]
    lines += [f"{value}: {meaning.replace('`', '')}." for value, meaning in (notes.values or {}).items()]
    lines += [f"Default: {notes.default_words.replace('`', '')}." if notes.default_words else ""]
    lines += [f"Needed by {notes.needed.replace('`', '')}." if notes.needed not in ("", "always") else ""]
    return {
        **built,
        "title": name,
        "description": "\n".join(filter(None, lines)),
        **({"default": notes.default} if notes.default is not None else {}),
        **({"x-unit": notes.unit} if notes.unit else {}),
    }


# Types.


def build_field_schema(model: type[BaseModel], name: str, definitions: dict[str, Schema]) -> Schema:
    """What a field takes."""
    if (known := build_known_names(model, name)) is not None:
        return known
    field = model.model_fields[name]
    if model is schema.SweepFields and name == "models":
        return build_models(definitions)
    once = {"uniqueItems": True} if name == "epochs" else {}
    return once | add_constraints(build_type_schema(field.annotation, definitions), field.metadata, definitions)


def build_type_schema(kind: Any, definitions: dict[str, Schema]) -> Schema:
    """What a type takes. An empty value stands for nothing in a sweep file: `None` is left out."""
    if hasattr(kind, "__metadata__"):
        return add_constraints(build_type_schema(kind.__origin__, definitions), kind.__metadata__, definitions)
    origin = get_origin(kind)
    if origin is not None:
        return build_generic_schema(origin, get_args(kind), definitions)
    return refer_to_class(kind, definitions) if issubclass(kind, BaseModel) else {"type": PLAIN_TYPES[kind]}


def build_generic_schema(origin: Any, arguments: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    """Likewise of a choice, a list or a mapping."""
    if origin is Literal:
        return {"enum": list(arguments)}
    parts = [build_type_schema(part, definitions) for part in arguments if part is not type(None)]
    if origin in (Union, UnionType):
        return parts[0] if len(parts) == 1 else {"anyOf": parts}
    if origin is list:
        return {"type": "array", "items": parts[0]}
    names, values = parts  # of a dict
    return {"type": "object", "propertyNames": names, "additionalProperties": values}


def add_constraints(built: Schema, metadata: Any, definitions: dict[str, Schema]) -> Schema:
    """With bounds, and with what is taken in other forms besides."""
    parts = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    for each in parts:
        if not isinstance(each, BeforeValidator | WrapValidator | AfterValidator):
            built = {**built, **read_bound(each, str(built.get("type", "")))}
    for each in parts:
        if isinstance(each, AfterValidator) and each.func in RULES_OF_CHECKS:
            built = RULES_OF_CHECKS[each.func](built)
    for each in parts:  # what is converted first may have any form, whatever the bounds of the outcome
        if isinstance(each, BeforeValidator | WrapValidator):
            built = OTHER_FORMS[each.func](built, definitions)
    return built


def read_bound(given: Any, kind: str) -> Schema:
    """One bound of a type, in JSON Schema's word."""
    found: Schema = {word: getattr(given, name) for name, word in BOUNDS.items() if hasattr(given, name)}
    found |= {words[kind]: getattr(given, name) for name, words in LENGTHS.items() if hasattr(given, name)}
    if getattr(given, "pattern", None):
        found["pattern"] = given.pattern
    return found


def allow_name(built: Schema, _: dict[str, Schema]) -> Schema:
    """A name alone, where `built` holds names."""
    name = built["propertyNames"] if built.get("type") == "object" else built.get("items", {"type": "string"})
    return {"anyOf": [name, built]}


def allow_task_name(built: Schema, _: dict[str, Schema]) -> Schema:
    """A task's name, or what is said of the task."""
    return {"anyOf": [{"$ref": f"{built['$ref']}/properties/name"}, built]}


def allow_branch_step(built: Schema, _: dict[str, Schema]) -> Schema:
    """A percentage, or a step."""
    step = {"type": "integer", "minimum": 1, "maximum": 2**53}
    asked = {"type": "object", "properties": {"step": step}, "required": ["step"], "additionalProperties": False}
    return {"anyOf": [built, asked]}


def allow_places(_: Schema, __: dict[str, Schema]) -> Schema:
    """One place, or a list of them."""
    place = {"type": "string", "minLength": 1, "maxLength": 200_000, "pattern": ADDRESS}
    return {"anyOf": [place, {"type": "array", "items": place, "minItems": 1}]}


def allow_option_value(_: Schema, __: dict[str, Schema]) -> Schema:
    """Text, a number, or true for a flag."""
    text = {"type": "string", "maxLength": sbatch_options.LONGEST_VALUE, "pattern": f"^{LINE}*$"}
    return {"anyOf": [text, {"type": "integer"}, {"const": True}]}


def build_axes(_: Schema, definitions: dict[str, Schema]) -> Schema:
    """Lists of values by setting."""
    return build_value_lists(definitions, lambda values, _: values)


def build_exclusions(_: Schema, definitions: dict[str, Schema]) -> Schema:
    """A value or a list of values by setting, of one at least."""
    lists = build_value_lists(definitions, lambda values, value: {"anyOf": [value, values]})
    return {**lists, "minProperties": 1}


def build_value_lists(definitions: dict[str, Schema], combine: Callable[[Schema, Schema], Schema]) -> Schema:
    """An object with each setting of a cell, phases taken apart; `combine` gets the list of values and one value."""
    refer_to_class(PointFields, definitions)
    settings = [name for name in [*PointFields.model_fields, *build_dotted_settings(PointFields)] if name not in PHASES]
    properties = {}
    for name in settings:
        value = {"$ref": f"#/$defs/{PointFields.__name__}/properties/{name}"}
        properties[name] = combine({"type": "array", "items": value, "minItems": 1, "uniqueItems": True}, value)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def keep_form(built: Schema, _: dict[str, Schema]) -> Schema:
    """The type takes no other form than its own that JSON Schema would tell from it."""
    return built


OTHER_FORMS: Mapping[Any, Callable[[Schema, dict[str, Schema]], Schema]] = {
    fields.convert_whole_float: keep_form,  # 1e9 is an integer there
    run_settings.convert_number_to_word: keep_form,
    fields.convert_name_to_shares: allow_name,
    fields.convert_name_to_list: allow_name,
    fields.convert_name_to_task: allow_task_name,
    fields.convert_branch_point: allow_branch_step,
    join_listed_places: allow_places,
    resources.convert_option_value: allow_option_value,
    fields.convert_axis_values: build_axes,
    schema.convert_exclusion_value: build_exclusions,
}
"""The functions that convert a value before it is checked, and what each adds to the forms that are taken."""


def name_options(built: Schema) -> Schema:
    """The options that sbatch has a field or a rule for are refused, and so are beginnings of them."""
    words = (*sbatch_options.REFUSED, *sbatch_options.WRITTEN_OUT)
    short = {word[:length] for word in words for length in range(2, len(word) + 1)} - {*sbatch_options.WRITTEN_OUT}
    return {**built, "propertyNames": {"pattern": f"^{sbatch_options.NAME.pattern}$", "not": {"enum": sorted(short)}}}


def limit_setup(built: Schema) -> Schema:
    """Lines of shell, and none of them the scheduler's."""
    scheduler = r"\s*#(?:[Ss][Bb][Aa][Tt][Cc][Hh]|[Pp][Bb][Ss]|[Bb][Ss][Uu][Bb])"
    line = {"type": "string", "maxLength": sbatch_options.LONGEST_LINE, "pattern": f"^(?!{scheduler}){LINE}*$"}
    return {**built, "items": line, "maxItems": sbatch_options.MOST_LINES}


def limit_launcher(built: Schema) -> Schema:
    """Words, and the first of them a program."""
    word = {"type": "string", "maxLength": sbatch_options.LONGEST_VALUE, "pattern": f"^{LINE}+$"}
    return {
        **built,
        "prefixItems": [{**word, "pattern": f"^(?!-){LINE}+$"}],
        "items": word,
        "maxItems": sbatch_options.MOST_WORDS,
    }


LINE = r"[^\x00-\x1f\x7f]"
RULES_OF_CHECKS: Mapping[Any, Callable[[Schema], Schema]] = {
    resources.check_sbatch_options: name_options,
    resources.check_setup_lines: limit_setup,
    resources.check_launcher_words: limit_launcher,
}
"""The functions that check a value behind its type, and what JSON Schema can say of the same."""


# Names that the catalog and the code know.


def build_known_names(model: type[BaseModel], name: str) -> Schema | None:
    """The schema of a field that takes a name of the catalog; None for other fields."""
    if name == "encoder" and issubclass(model, AxisFields | DataFields):
        return {"anyOf": [{"enum": list(ENCODERS)}, {"type": "string", "pattern": build_encoder_pattern()}]}
    if name == "gpu_type":
        return {"anyOf": [{"enum": list_gpu_types()}, {"type": "string", "pattern": build_shard_pattern()}]}
    if name == "model" or (name == "like" and model is ModelFields):
        # a file may have models of its own: the catalog's are what an editor offers
        plain = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$"}
        return {"anyOf": [{"enum": list(load_catalog().models)}, plain]}
    return None


def build_encoder_pattern() -> str:
    """Names of encoders with their image size."""
    sized = "|".join(re.escape(family).replace("\\-", "-") for family in FAMILIES if family != "patches")
    return rf"^(?:patches-[1-9][0-9]{{0,2}}-[1-9][0-9]{{1,3}}|(?:{sized})-[1-9][0-9]{{1,3}})$"


def list_gpu_types() -> list[str]:
    """Whole types and their slices."""
    gpus = load_catalog().gpus
    assert isinstance(gpus, GpuTable)  # noqa: S101 - as `load_catalog` makes it
    parts = [f"{name}-{profile}" for name, slices in gpus.slices.items() for profile in slices.memory]
    return [*gpus, *(part for part in dict.fromkeys(parts) if part in gpus)]


def build_shard_pattern() -> str:
    """Names of shards of a GPU."""
    return f"^(?:{'|'.join(name for name, kind in load_catalog().gpus.items() if kind.is_gpu)})-shard\\.[0-9]+of[0-9]+$"


def build_models(definitions: dict[str, Schema]) -> Schema:
    """The file's models: one that is none of the catalog's gives its shape, or what it is like."""
    entry = refer_to_class(ModelFields, definitions)
    needed = [name for name, setting in SHAPE.items() if setting.default is None]
    own = {**entry, "anyOf": [{"required": ["like"]}, {"required": needed}]}
    return {
        "type": "object",
        "propertyNames": {"pattern": r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$"},
        "properties": dict.fromkeys(load_catalog().models, entry),
        "additionalProperties": own,
    }
