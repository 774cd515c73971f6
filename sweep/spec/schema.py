"""The schema of a sweep file, and the checked sweep that the planner works on (read by `sweep.spec.reader`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sweep.spec.data import DataFields, DataSet
from sweep.spec.engines import EngineFields
from sweep.spec.fields import AxisValues, Count, Fields, Name, PointFields, convert_axis_values
from sweep.spec.models import Model, ModelFields
from sweep.spec.resources import ResourceFields
from sweep.spec.run_settings import RunSettingFields
from sweep.spec.settings import Layer
from sweep.spec.yaml_source import YamlSource


def convert_exclusion_value(given: Any) -> Any:
    """A single value stands for a list of one."""
    if not isinstance(given, dict):
        return given
    if not given:
        raise ValueError("is empty and would exclude every cell; name an axis and its value")
    return convert_axis_values(
        {name: values if isinstance(values, list) else [values] for name, values in given.items()}
    )


CellPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?._+=-]{1,200}$")]
EpochNumbers = Annotated[list[Count], Field(min_length=1, max_length=100)]


class BlockFields(Fields):
    """One block: the product of its axes, with settings that hold for all of it."""

    name: Name | None = Field(None, description="a word that names the block")
    axes: Annotated[AxisValues, BeforeValidator(convert_axis_values)] = Field(
        description="a mapping from an axis to the list of its values"
    )
    set: PointFields = Field(default_factory=PointFields, description="settings of all cells of this block")
    # Why: docs/decisions.md, D79
    epochs: EpochNumbers = Field(
        default_factory=list,
        description="a list of whole numbers, in place of the file's, a fine-tune for each",
        json_schema_extra={"default": "the file's", "unit": "epochs"},
    )


class CheckpointFields(Fields):
    """When training jobs save; without effect on their numbers, so not in their keys."""

    STAGE_NAMES: ClassVar[Mapping[str, str]] = {
        "minutes": "checkpoint_minutes",
        "steps": "checkpoint_steps",
        "keep": "keep_checkpoints",
    }

    minutes: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="minutes between checkpoints, 0 for none by time",
        json_schema_extra={"unit": "minutes"},
    )
    steps: int | None = Field(
        None,
        ge=0,
        description="steps between checkpoints, 0 for none by step",
        json_schema_extra={"unit": "steps"},
    )
    keep: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="checkpoints kept while a job runs",
        json_schema_extra={"unit": "checkpoints"},
    )

    def build_settings(self) -> dict[str, Any]:
        """The stages' names of what is given."""
        return {self.STAGE_NAMES[name]: value for name, value in self if value is not None}


KeepRule = Annotated[str, Field(pattern=r"^(all|none|last|best [1-9][0-9]{0,5})$")]
KEEP_VALUES: dict[str, Any] = {
    "all": "each",
    "none": "none that no unfinished job needs",
    "last": "of a trunk its last segment, of a model its fine-tune of the most epochs, each image-text run",
    "best N": "the N best by stable score (a trunk's segments: by loss), and those without a score yet",
}


# Why: docs/decisions.md, D243
class KeepFields(Fields):
    """What `sweep gc` leaves on disk although no unfinished job needs it; without effect on keys."""

    trunk: KeepRule = Field(
        "all",
        description="whose weights stay of the trunk's segments: all, none, last or best N",
        json_schema_extra={"values": KEEP_VALUES},
    )
    pretrain: KeepRule = Field("all", description="whose weights stay of the image-text runs, likewise")
    finetune: KeepRule = Field("all", description="whose weights stay of the fine-tunes, likewise")
    optimizer: Literal["all", "none"] = Field(
        "none", description="whether optimizer states of finished jobs stay that no unfinished job reads: all or none"
    )
    cells: list[CellPattern] = Field(
        default_factory=list,
        description="a list of cells, `*` for any letters, whose checkpoints stay whatever the rules say",
    )


class SweepFields(Fields):
    """The keys of a sweep file."""

    name: Name = Field(description="a word that names the sweep in the store and at the scheduler")
    description: str = Field("", max_length=10_000, description="a sentence for people, text")
    backend: Literal["slurm", "local"] = Field(
        description="where jobs run: slurm or local",
        json_schema_extra={"values": {"slurm": "a cluster", "local": "this machine"}},
    )
    data: dict[Name, DataFields] = Field(description="a mapping from a name to {kind, path}")
    models: dict[Name, ModelFields] = Field(default_factory=dict, description="a mapping from a name to a model")
    engines: dict[Name, EngineFields] = Field(
        default_factory=dict, description="a mapping from a name to {kind, python, checkout}"
    )
    defaults: PointFields = Field(default_factory=PointFields, description="settings of the whole sweep")
    blocks: list[BlockFields] = Field(min_length=1, description="a list of blocks, each with axes")
    exclude: list[Annotated[AxisValues, BeforeValidator(convert_exclusion_value)]] = Field(
        default_factory=list, description="a list of points, {axis: value} or {axis: [values]}"
    )
    epochs: EpochNumbers = Field(
        description="a list of whole numbers, a fine-tune and an evaluation for each",
        json_schema_extra={"unit": "epochs"},
    )
    checkpoints: CheckpointFields = Field(default_factory=CheckpointFields, description="when training jobs save")
    settings: RunSettingFields = Field(
        default_factory=RunSettingFields, description="how training jobs are carried out"
    )
    resources: ResourceFields = Field(default_factory=ResourceFields, description="what jobs ask of the cluster")
    keep: KeepFields = Field(default_factory=KeepFields, description="what `sweep gc` leaves on disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridBlock:
    """A product of axes; `position` in the file's list, `label` for people."""

    label: str
    position: int
    axes: Mapping[str, tuple[Any, ...]]
    settings: Layer
    epochs: tuple[int, ...]
    """A fine-tune of its cells for each: its own, else the file's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep file whose every value has been checked by itself; what values make together, the planner checks."""

    source: YamlSource
    name: str
    description: str
    backend: str
    data: Mapping[str, DataSet]
    models: Mapping[str, Model]
    """The models that the file names."""
    engines: Mapping[str, EngineFields]
    defaults: Layer
    blocks: tuple[GridBlock, ...]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...]
    checkpoints: Mapping[str, Any]
    """When training jobs save, by the stages' names (`jobs.job.Job.settings`)."""
    settings: RunSettingFields
    """How else they are carried out."""
    resources: ResourceFields
