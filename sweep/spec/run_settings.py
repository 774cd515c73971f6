"""How jobs are carried out: `settings` of a sweep file, by phase and by model. None of it enters a key.

A field has the name that the stages give it (`stages.job_file.Settings`), but for `feature_cache`, which stands for
their `feature_store`. The planner adds what follows from a job's devices (`build_device_settings`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool

from jobs.job import Resources
from sweep.catalog import Catalog
from sweep.phases import PHASES
from sweep.spec.fields import Count, Fields, Name, Size, Whole, make_phase_fields
from sweep.spec.yaml_source import SettingPath

AutoCount = Annotated[int, Field(ge=-1, le=2**53)]
"""A whole number; -1: as the device likes it."""

Switch = Annotated[
    Literal["auto", True, False], BeforeValidator(lambda given: f"{given}" if type(given) is int else given)
]
"""auto, true or false; the number 1, which Python takes for true, is no choice."""


class RunFields(Fields):
    """A setting that is left out comes from the next wider entry, at last from the stage."""

    parallel: Literal["ddp", "fsdp"] | None = Field(None, description="ddp or fsdp")
    compile: Switch | None = Field(None, description="auto, true or false")
    activation_checkpointing: StrictBool | None = Field(None, description="true or false")
    attention: Literal["auto", "sdpa", "flex"] | None = Field(None, description="auto, sdpa or flex")
    cpu_matmul: Literal["onednn", "torch"] | None = Field(None, description="onednn or torch")
    micro_batch_tokens: Whole | None = Field(
        None, description="the positions that go through the model at once, 0 as the device likes it"
    )
    loss_chunk_tokens: AutoCount | None = Field(
        None, description="the positions whose logits are in memory at once, 0 for all, -1 as the device likes it"
    )
    data_workers: AutoCount | None = Field(
        None, description="the processes that read ahead, 0 for none, -1 as the device likes it"
    )
    prefetch_batches: Count | None = Field(None, description="the batches that are ready, a whole number above 0")
    local_cache: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._+=@-]+)+$", max_length=1_000)] | None = Field(
        None, description="the absolute path of a folder on the node, for shards of an object store"
    )
    feature_cache: StrictBool | None = Field(
        None, description="true or false: whether the store keeps what a frozen encoder makes of an image"
    )
    feature_cache_gib: Size | None = Field(None, description="the memory for an encoder's features in GiB, from 0 on")
    bad_samples_limit: Whole | None = Field(None, description="the bad samples of a data set that are skipped")
    log_steps: Count | None = Field(None, description="the steps between lines of metrics, a whole number above 0")
    loss_spike_sigmas: Size | None = Field(
        None, description="the standard deviations above the mean at which a loss is a spike, 0 for none"
    )
    loss_spikes_limit: Whole | None = Field(None, description="the spikes in a row that stop a run, 0 for none")
    trackers: list[Literal["tensorboard", "wandb"]] | None = Field(None, description="a list of tensorboard and wandb")
    branch_steps: list[Count] | None = Field(
        None, max_length=10_000, description="a list of steps whose checkpoints are never removed"
    )
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10_000)] | None = Field(
        None, description="the minutes between checkpoints, 0 for none by time"
    )
    checkpoint_steps: Whole | None = Field(None, description="the steps between checkpoints, 0 for none by step")
    keep_checkpoints: Annotated[int, Field(ge=1, le=1_000)] | None = Field(
        None, description="the checkpoints that are kept while a job runs, 1 to 1,000"
    )


class EvaluateRunFields(Fields):
    """Settings of evaluations. Those of all training jobs do not hold for them."""

    log_samples: StrictBool | None = Field(
        None, description="true or false: whether each text document's requests and answers are kept"
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
    """What the entry says of a phase, in the order of the class: a set's own order changes from run to run."""
    known = PHASE_FIELDS[phase].model_fields if phase in PHASE_FIELDS else ()
    return [name for name in known if name in entry.model_fields_set]


def build_device_settings(resources: Resources, catalog: Catalog, *, phase: str) -> dict[str, Any]:
    """Settings that follow from a job's devices: it fails without its GPU, and reports its share of the GPU's peak."""
    if not resources.gpus:
        return {}
    peak = catalog.gpus[resources.gpu_type].peak_tflops
    return {"device": "cuda", **({"peak_tflops": peak} if peak and PHASES[phase].trains else {})}


def iter_run_entries(fields: RunSettingFields, model: str, phase: str) -> Iterator[tuple[SettingPath, Fields]]:
    """The entries that hold for the phase of the model, the widest first, each with its place in the file."""
    own, top = fields.models.get(model), ("settings",)
    wide = PHASES[phase].trains
    found: list[tuple[SettingPath, Fields | None]] = [
        (top, fields if wide else None),
        ((*top, "phases", phase), getattr(fields.phases, phase, None)),
        ((*top, "models", model), own if wide else None),
        ((*top, "models", model, "phases", phase), getattr(own.phases, phase, None) if own else None),
    ]
    yield from ((place, entry) for place, entry in found if entry is not None)


def iter_misplaced_settings(fields: RunSettingFields) -> Iterator[tuple[SettingPath, str]]:
    """Settings that are given empty, or of a phase that they mean nothing to: the place, and what is wrong."""
    for model in ["", *fields.models]:
        for phase in PHASES:
            for place, entry in iter_run_entries(fields, model, phase):
                for name in list_given_settings(entry, phase):
                    if getattr(entry, name) is None:
                        wanted = type(entry).model_fields[name].description
                        yield (*place, name), f"is empty; give it a value or take the line out; {name} is {wanted}"
                    elif place[-1] == phase and not PHASES[phase].sees_images and name in IMAGE_SETTINGS:
                        yield (
                            (*place, name),
                            f"means nothing to a {phase}, which sees no images; give it to pretrain or finetune",
                        )
