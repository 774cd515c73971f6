"""The schema of a sweep file, and the checked sweep that the planner works on (read by `sweep.spec.reader`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from jobs.reconcile.canary import CanaryLimits
from sweep.budget.prices import MOST_PRICE, Prices
from sweep.notices.settings import NoticeSettings
from sweep.spec.data import DataFields, DataSet
from sweep.spec.engines import EngineFields
from sweep.spec.fields import AxisValues, Count, Fields, Name, PointFields, Priority, convert_axis_values
from sweep.spec.models import Model, ModelFields
from sweep.spec.notices import NoticeFields
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
    priority: Priority = Field(
        0, description="a whole number, -1000 to 1000: cells of a block with a higher one are sent first"
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


class CanaryFields(Fields):
    """What the first job of each shape must show before the others go; not in any key."""

    loss: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="two numbers: between them a loss that does not fall is sane, too",
        json_schema_extra={"default": "it must fall"},
    )
    memory_factor: float = Field(
        1.25, ge=1, le=100, description="how many times the estimated memory it may take, from 1 on"
    )
    speed_factor: float = Field(
        3.0, ge=1, le=1000, description="how many times as long as estimated its steps may take, from 1 on"
    )

    @field_validator("loss")
    @classmethod
    def _check_band(cls, given: list[float] | None) -> list[float] | None:
        if given is not None and given[0] >= given[1]:
            raise ValueError(f"[{given[0]:g}, {given[1]:g}] is no band: the first number must be the lower one")
        return given

    def build_limits(self) -> CanaryLimits:
        """What jobs are held to."""
        return CanaryLimits(
            loss=(self.loss[0], self.loss[1]) if self.loss is not None else None,
            memory_factor=self.memory_factor,
            speed_factor=self.speed_factor,
        )


Price = Annotated[float, Field(ge=0, le=MOST_PRICE)]


class PriceFields(Fields):
    """What hours cost in money (`sweep costs`, `--budget-money`); in no key."""

    currency: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,12}$")] = Field(
        description="a word for the currency, such as EUR, or for a site's own unit"
    )
    gpu_hour: dict[Name, Price] = Field(
        default_factory=dict,
        description="a mapping from a GPU type to the price of one GPU for one hour, its cores and memory included; "
        "a slice without a price has its share of the whole",
    )
    core_hour: Price | None = Field(
        None,
        description="the price of one core for one hour, of jobs without GPUs",
        json_schema_extra={"needed": "a price of jobs without GPUs"},
    )
    source: str = Field(max_length=1_000, min_length=1, description="where the prices come from, text")

    def build_prices(self) -> Prices:
        """As the plan keeps them."""
        return Prices(
            currency=self.currency, gpu_hour=dict(self.gpu_hour), core_hour=self.core_hour, source=self.source
        )


KeepRule = Annotated[str, Field(pattern=r"^(all|none|last|best [1-9][0-9]{0,5})$")]
KEEP_VALUES: dict[str, Any] = {
    "all": "each",
    "none": "none that no unfinished job needs",
    "last": "of a trunk its last segment, of a model its fine-tune of the most epochs, each image-text run",
    "best N": "the N best by stable score (a trunk's segments: by loss), and those without a score yet",
}


# Why: docs/decisions.md, D240
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
    canary: CanaryFields | None = Field(
        None, description="of each shape of job one goes first, the others when it has a sane first checkpoint"
    )
    prices: PriceFields | None = Field(None, description="what hours cost in money, for `sweep costs` and budgets")
    notices: NoticeFields | None = Field(None, description="who is told of what happens, by `sweep tick`")
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
    priority: int = 0
    """Its cells are sent before those of a lower one; not in any key."""


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
    canary: CanaryLimits | None = None
    """What the first job of each shape must show; None: no job waits for another of its shape."""
    prices: Prices | None = None
    """What hours cost in money; None: the file does not say."""
    notices: NoticeSettings | None = None
    """Who is told of what; None: the file does not say."""
