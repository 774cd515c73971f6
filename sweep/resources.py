"""What the jobs of a sweep file ask of a cluster: `resources`, by phase and by model. None of it enters a key."""

from typing import Annotated, Any

from pydantic import Field

from sweep.setting_fields import Count, Fields, Multiplier, Name, Whole

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,+-]{0,119}$")]
Expression = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,+:&|()\[\]*-]{0,119}$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,39}$")]
OptionValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9._,+:=@/%*-]{0,119}$")]

SCHEDULER_WORDS = ("partition", "account", "qos", "constraint", "reservation")
"""Fields that go to the scheduler as they are (`jobs.job.Resources.options`)."""


class RequestFields(Fields):
    """What jobs ask for; what is left out comes from the next wider entry, at last from the catalog's model."""

    nodes: Count | None = Field(None, description="a whole number above 0")
    gpus_per_node: Whole | None = Field(None, description="a whole number; 0 for a job on CPU cores")
    gpu_type: Name | None = Field(None, description="a GPU type of the catalog")
    cpus: Count | None = Field(None, description="the CPU cores of a node, a whole number above 0")
    memory_gib: Multiplier | None = Field(None, description="the memory of a node in GiB")
    time_minutes: Count | None = Field(None, description="the wall-clock limit to ask for, default from the estimate")
    limit_minutes: Count | None = Field(None, description="the partition's own limit in minutes")
    partition: Word | None = Field(None, description="a partition of the cluster")
    account: Word | None = Field(None, description="an account of the cluster")
    qos: Word | None = Field(None, description="a QOS of the cluster")
    constraint: Expression | None = Field(None, description="a node feature, or features joined by & and |")
    reservation: Word | None = Field(None, description="a reservation of the cluster")
    options: dict[OptionName, OptionValue] | None = Field(None, description="further options of the scheduler")


class PhaseFields(Fields):
    """Requests of each phase."""

    trunk: RequestFields | None = Field(None, description="resources of the trunk's segments")
    pretrain: RequestFields | None = Field(None, description="resources of the image-text runs")
    finetune: RequestFields | None = Field(None, description="resources of the fine-tunes")
    evaluate: RequestFields | None = Field(None, description="resources of the evaluations")


class ModelRequestFields(RequestFields):
    """Requests of one model's jobs."""

    tokens_per_second: Multiplier | None = Field(
        None, description="the measured training speed of one GPU (of one core without GPU)"
    )
    phases: PhaseFields | None = Field(None, description="resources by phase")


class ResourceFields(RequestFields):
    """`resources` of a sweep file: for all jobs, by phase, by model, by model and phase."""

    phases: PhaseFields | None = Field(None, description="resources by phase")
    models: dict[Name, ModelRequestFields] = Field(default_factory=dict, description="resources by model")


def request(resources: ResourceFields, model: str, phase: str) -> dict[str, Any]:
    """What the file says of the jobs of one model and phase, narrower entries over wider ones; `options` are joined."""
    merged: dict[str, Any] = {}
    options: dict[str, str] = {}
    for entry in entries(resources, model, phase):
        given = {name: getattr(entry, name) for name in entry.model_fields_set & RequestFields.model_fields.keys()}
        options |= given.pop("options", {})
        options |= {word: given.pop(word) for word in SCHEDULER_WORDS if word in given}
        merged |= given
    return {**merged, "options": options} if options else merged


def entries(resources: ResourceFields, model: str, phase: str) -> list[RequestFields]:
    """The entries that speak of the phase of the model, the widest first."""
    own = resources.models.get(model)
    found = [resources, phase_entry(resources.phases, phase), own, phase_entry(own.phases, phase) if own else None]
    return [entry for entry in found if entry is not None]


def phase_entry(phases: PhaseFields | None, phase: str) -> RequestFields | None:
    """What is said of one phase, if anything."""
    return getattr(phases, phase) if phases is not None else None
