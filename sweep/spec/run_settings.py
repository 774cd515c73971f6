"""How jobs are carried out: `settings` of a sweep file, by phase and by model. None of it enters a key.

The stages declare the settings (`stages.job_file.Settings`). `feature_cache` alone is declared here: it stands for
their `feature_store`. The planner adds what follows from a job's devices (`build_device_settings`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from jobs.job import Resources
from stages.job_file import BUILT_IN_TRACKERS, Settings
from stages.plugins import TRACKERS, PluginError, find_plugin
from sweep.catalog import Catalog
from sweep.phases import PHASES
from sweep.spec.fields import Count, Fields, Name, list_stage_settings, make_fields, make_phase_fields
from sweep.spec.yaml_source import SettingPath


def convert_number_to_word(given: Any) -> Any:
    """The number 1, which Python takes for true, as what it is: no choice."""
    return f"{given}" if type(given) is int else given


Switch = Annotated[Literal["auto", True, False], BeforeValidator(convert_number_to_word)]
"""auto, true or false; the number 1, which Python takes for true, is no choice."""


def check_tracker(name: str) -> str:
    """A tracker that is not built in must be there now; ValueError says what would do."""
    if name not in BUILT_IN_TRACKERS:
        try:
            find_plugin(TRACKERS, name, BUILT_IN_TRACKERS)
        except PluginError as error:
            raise ValueError(str(error)) from None
    return name


NARROWER: Mapping[str, Any] = {
    "compile": Switch,
    "local_cache": Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._+=@-]+)+$", max_length=1_000)],
    "trackers": list[Annotated[Name, AfterValidator(check_tracker)]],
    "branch_steps": Annotated[list[Count], Field(max_length=10_000)],
    "checkpoint_minutes": Annotated[float, Field(ge=0, le=10_000)],
    "keep_checkpoints": Annotated[int, Field(ge=1, le=1_000)],
}
"""Types in place of the stages' own: a sweep file limits more, and YAML has lists where the stages have tuples.

A union has a message for each of its parts; `Switch` has one for all.
"""
OF_EVALUATIONS = frozenset({"log_samples"})
"""Settings of evaluations alone. Those of all training jobs do not hold for them."""
OF_ALL_PHASES = frozenset({"trackers"})
"""Settings that hold for evaluations, too, where a wider entry gives them."""
FROM_STAGES: Mapping[str, tuple[Any, Any]] = {
    setting.name: setting.build_field(NARROWER.get(setting.name)) for setting in list_stage_settings(Settings)
}


class FeatureFields(Fields):
    """What the planner turns into a folder of the store."""

    feature_cache: StrictBool | None = Field(
        None,
        description="true or false: whether the store keeps what a frozen encoder makes of an image",
        json_schema_extra={"default": "`false`"},
    )


if TYPE_CHECKING:
    RunFields = FeatureFields
    EvaluateRunFields = Fields
else:
    # A setting that is left out comes from the next wider entry, at last from the stage.
    RunFields = make_fields(
        "RunFields", {name: field for name, field in FROM_STAGES.items() if name not in OF_EVALUATIONS}, FeatureFields
    )
    EvaluateRunFields = make_fields(
        "EvaluateRunFields",
        {name: FROM_STAGES[name] for name in sorted(OF_EVALUATIONS | OF_ALL_PHASES)},
        FeatureFields,
    )

PHASE_FIELDS: Mapping[str, type[Fields]] = {
    **{name: RunFields for name, phase in PHASES.items() if phase.trains},
    "evaluate": EvaluateRunFields,
}
"""The settings of each phase that has any."""

if TYPE_CHECKING:
    PhaseRunFields = Fields
else:
    PhaseRunFields = make_phase_fields("PhaseRunFields", PHASE_FIELDS, "settings")


class ModelRunFields(RunFields):
    """Settings of one model's jobs."""

    phases: PhaseRunFields | None = Field(None, description="settings by phase")


class RunSettingFields(RunFields):
    """`settings` of a sweep file: for all jobs that train, by phase, by model, by model and phase."""

    phases: PhaseRunFields | None = Field(None, description="settings by phase")
    models: dict[Name, ModelRunFields] = Field(default_factory=dict, description="settings by model")


IMAGE_SETTINGS = frozenset({"feature_cache", "feature_cache_gib"})
"""Settings that mean nothing to a phase that sees no image."""


def merge_run_settings(fields: RunSettingFields, model: str, phase: str) -> dict[str, Any]:
    """The file's settings of one model's jobs of a phase. Narrower entries go over wider ones."""
    merged: dict[str, Any] = {}
    for _, entry in iter_run_entries(fields, model, phase):
        merged |= {
            name: getattr(entry, name)
            for name in list_given_settings(entry, phase)
            if PHASES[phase].sees_images or name not in IMAGE_SETTINGS
        }
    return merged


def list_given_settings(entry: Fields, phase: str) -> list[str]:
    """What the entry says of a phase, in the order of the class: a set's own order changes from run to run.

    `feature_cache` for all jobs means those that train: evaluations ask questions about other images, whose features
    may take more room than all others, and so keep them only where their own phase says so.
    """
    known = PHASE_FIELDS[phase].model_fields if phase in PHASE_FIELDS else ()
    left_out = FeatureFields.model_fields if isinstance(entry, RunFields) and not PHASES[phase].trains else ()
    return [name for name in known if name in entry.model_fields_set and name not in left_out]


def build_device_settings(resources: Resources, catalog: Catalog, *, phase: str) -> dict[str, Any]:
    """Settings that follow from a job's devices: it fails without its GPU, and reports its share of the GPU's peak."""
    if not resources.gpus:
        return {}
    peak = catalog.gpus[resources.gpu_type].peak_tflops
    return {"device": "cuda", **({"peak_tflops": peak} if peak and PHASES[phase].trains else {})}


def iter_run_entries(fields: RunSettingFields, model: str, phase: str) -> Iterator[tuple[SettingPath, Fields]]:
    """The entries that hold for the phase of the model, the widest first, each with its place in the file."""
    own, top = fields.models.get(model), ("settings",)
    wide = phase in PHASE_FIELDS
    found: list[tuple[SettingPath, Fields | None]] = [
        (top, fields if wide else None),
        ((*top, "phases", phase), getattr(fields.phases, phase, None)),
        ((*top, "models", model), own if wide else None),
        ((*top, "models", model, "phases", phase), getattr(own.phases, phase, None) if own else None),
    ]
    yield from ((place, entry) for place, entry in found if entry is not None)


def iter_misplaced_settings(fields: RunSettingFields) -> Iterator[tuple[SettingPath, str]]:
    """Settings of a phase that they mean nothing to: the place, and what is wrong."""
    for model in ["", *fields.models]:
        for phase in PHASES:
            for place, entry in iter_run_entries(fields, model, phase):
                for name in list_given_settings(entry, phase):
                    if place[-1] == phase and not PHASES[phase].sees_images and name in IMAGE_SETTINGS:
                        yield (
                            (*place, name),
                            f"means nothing to a {phase}, which sees no images; give it to pretrain or finetune",
                        )
