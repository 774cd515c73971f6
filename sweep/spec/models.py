"""The models that a sweep file may name: the catalog's, and its own, which can be `like` another."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain as chain_names
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from stages.config import LanguageModel
from sweep.catalog import Catalog
from sweep.spec.fields import LayerFields, Name, list_stage_settings, make_fields
from sweep.spec.settings import Layer, build_catalog_layer, flatten_settings

MOST_LIKES = 50
"""Models of a chain: a file of 5,000 would else take minutes."""
MOST_NAMES = 60
SHAPE = {setting.name: setting for setting in list_stage_settings(LanguageModel)}
"""What a model entry may say of its shape."""

if TYPE_CHECKING:
    ShapeFields = LayerFields
else:
    ShapeFields = make_fields(
        "ShapeFields", {name: setting.build_field() for name, setting in SHAPE.items()}, LayerFields
    )


class ModelFields(ShapeFields):
    """One entry of `models` in a sweep file: a shape, and settings that go with the model."""

    like: Name | None = Field(
        None,
        description="the model whose shape and settings this one starts from",
        json_schema_extra={"needed": "a model that gives no shape"},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as the planner needs it. `catalog_settings` lie below the file's defaults, `settings` above them."""

    name: str
    shape: LanguageModel
    catalog_name: str = ""
    """The catalog's model of this very shape, whose measured speed holds; empty where there is none."""
    catalog_settings: Mapping[str, object]
    settings: Mapping[str, object]


class ModelProblemError(ValueError):
    """A model that cannot be made of what is given; `key` is the entry's key that is to blame, or empty."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def resolve_model(name: str, given: Mapping[str, ModelFields], catalog: Catalog) -> Model:
    """The model `name`, built up along its chain of `like`; ModelProblemError says what is wrong."""
    chain, ancestor = resolve_like_chain(name, given, catalog)
    entry = catalog.models.get(ancestor)
    shape: dict[str, object] = {}
    if entry is not None:
        shape = {key: getattr(entry.shape, key) for key in SHAPE}
    settings: Layer = {}
    for link in reversed(chain):
        fields = given[link]
        shape |= {key: getattr(fields, key) for key in SHAPE if key in fields.model_fields_set}
        settings |= flatten_settings(fields, LayerFields)
    built = build_language_model(shape)
    return Model(
        name=name,
        shape=built,
        catalog_name=ancestor if entry is not None and has_same_speed(entry.shape, built) else "",
        catalog_settings=build_catalog_layer(entry) if entry is not None else {},
        settings=settings,
    )


def has_same_speed(known: LanguageModel, built: LanguageModel) -> bool:
    """Whether the two differ in nothing that a speed depends on."""
    return known == built.model_copy(update={"rotary_table": known.rotary_table})


def resolve_like_chain(name: str, given: Mapping[str, ModelFields], catalog: Catalog) -> tuple[list[str], str]:
    """The file's entries from `name` to the root of its `like`s, and the catalog's model that they end at, if any."""
    chain: list[str] = []
    link: str | None = name
    while link is not None and link in given:
        if link in chain:
            raise ModelProblemError(
                f"the chain {' -> '.join([*chain, link])} goes in a circle; cut it at one `like`", "like"
            )
        if len(chain) == MOST_LIKES:
            raise ModelProblemError(
                f"the chain {' -> '.join(chain[:3])} -> ... of `like` is longer than {MOST_LIKES} models; "
                "let it begin nearer to its end",
                "like",
            )
        chain.append(link)
        link = given[link].like
    if link is None:
        # an entry that has a catalog model's name and no `like` changes that model
        return chain, chain[-1] if chain[-1] in catalog.models else ""
    if link not in catalog.models:
        names = dict.fromkeys(islice(chain_names(catalog.models, given), MOST_NAMES))
        more = ", ..." if len(catalog.models) + len(given) > MOST_NAMES else ""
        raise ModelProblemError(f"{link!r} is not a model; models are {', '.join(names)}{more}", "like")
    return chain, link


def build_language_model(shape: dict[str, object]) -> LanguageModel:
    """The shape, checked; ModelProblemError."""
    missing = [key for key in ("d_model", "layers", "heads") if shape.get(key) is None]
    if missing:
        raise ModelProblemError(f"{', '.join(missing)} missing; give the shape, or `like: NAME` of another model")
    try:
        return LanguageModel.model_validate(shape)
    except ValidationError as error:
        raise ModelProblemError(str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")) from None
