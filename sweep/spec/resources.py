"""What the jobs of a sweep file ask of a cluster: `resources`, by phase and by model. None of it enters a key."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from jobs.job import Resources
from jobs.slurm.sbatch_options import check_launcher, check_option, check_setup
from sweep.catalog import Catalog, Placement
from sweep.phases import PHASES
from sweep.spec.fields import Count, Fields, Multiplier, Name, Whole, make_phase_fields
from sweep.spec.yaml_source import SettingPath


def convert_option_value(value: Any) -> Any:
    """`true` is a flag, a whole number its digits. ValueError for `false`, which no option of sbatch means."""
    if value is False:
        raise ValueError("is false; give true for a flag, or take the line out")
    if value is True:
        return ""
    return str(value) if isinstance(value, int) else value


def check_sbatch_options(options: dict[str, str]) -> dict[str, str]:
    """ValueError for an option of sbatch that would break a sweep, or is none."""
    for name, value in options.items():
        if problem := check_option(name, value):
            raise ValueError(f"{name if name.isprintable() else repr(name)} {problem}")
    return options


def check_setup_lines(lines: list[str]) -> list[str]:
    """ValueError for lines that may not stand in a batch script."""
    if problem := check_setup(lines):
        raise ValueError(problem)
    return lines


def check_launcher_words(words: list[str]) -> list[str]:
    """ValueError for words that may not stand before a program."""
    if problem := check_launcher(words):
        raise ValueError(problem)
    return words


SchedulerWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,+-]{0,119}$")]
Expression = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,+:&|()\[\]*-]{0,119}$")]
Options = Annotated[
    dict[str, Annotated[str, BeforeValidator(convert_option_value)]], AfterValidator(check_sbatch_options)
]

SCHEDULER_WORDS = ("partition", "account", "qos", "constraint", "reservation")
"""Fields that go to the scheduler as they are (`jobs.job.Resources.options`)."""


BY_MODEL = "as the catalog's model says, else one node without GPUs"


class RequestFields(Fields):
    """What jobs ask for; what is left out comes from the next wider entry, at last from the catalog's model."""

    nodes: Count | None = Field(
        None,
        description="the nodes of a job, a whole number above 0",
        json_schema_extra={"unit": "nodes", "default": BY_MODEL},
    )
    gpus_per_node: Whole | None = Field(
        None,
        description="the GPUs of each node, a whole number; 0 for a job on CPU cores",
        json_schema_extra={"unit": "GPUs", "default": BY_MODEL},
    )
    gpu_type: Name | None = Field(
        None,
        description="a GPU type of the catalog, a slice (a100-1g.10gb) or shards (a100-shard.1of4) of one",
        json_schema_extra={"default": BY_MODEL},
    )
    cpus: Count | None = Field(
        None,
        description="the CPU cores of a node, a whole number above 0",
        json_schema_extra={"unit": "cores", "default": "what goes with its GPUs"},
    )
    memory_gib: Multiplier | None = Field(
        None,
        description="the memory of a node in GiB",
        json_schema_extra={"unit": "GiB", "default": "what goes with its GPUs"},
    )
    retry_memory_gib: Multiplier | None = Field(
        None,
        description="the memory of a node in GiB after an attempt has run out of it",
        json_schema_extra={"unit": "GiB", "default": "the same as before"},
    )
    check_memory: StrictBool | None = Field(
        None, description="true or false: whether a job that does not fit its GPUs' or its nodes' memory is refused"
    )
    time_minutes: Count | None = Field(
        None,
        description="the wall-clock limit to ask for, default from the estimate",
        json_schema_extra={"unit": "minutes", "default": "from the estimate"},
    )
    limit_minutes: Count | None = Field(
        None,
        description="the partition's own limit in minutes; a longer job is planned with restarts",
        json_schema_extra={"unit": "minutes"},
    )
    partition: SchedulerWord | None = Field(None, description="a partition of the cluster, or several with commas")
    account: SchedulerWord | None = Field(None, description="an account of the cluster")
    qos: SchedulerWord | None = Field(None, description="a QOS of the cluster")
    constraint: Expression | None = Field(None, description="a node feature, or features joined by & and |")
    reservation: SchedulerWord | None = Field(None, description="a reservation of the cluster")
    options: Options | None = Field(
        None, description="further options of sbatch, {name: value} without the leading --; true for a flag"
    )
    setup: Annotated[list[str], AfterValidator(check_setup_lines)] | None = Field(
        None, description="a list of shell lines that run first in the job"
    )
    launcher: Annotated[list[str], AfterValidator(check_launcher_words)] | None = Field(
        None, description="a list of words before the program, such as [apptainer, exec, image.sif]"
    )


if TYPE_CHECKING:
    PhaseRequestFields = Fields
else:
    PhaseRequestFields = make_phase_fields("PhaseRequestFields", dict.fromkeys(PHASES, RequestFields), "resources")


class ModelRequestFields(RequestFields):
    """Requests of one model's jobs."""

    tokens_per_second: Multiplier | None = Field(
        None,
        description="the measured training speed of one GPU (of one core without GPU)",
        json_schema_extra={"unit": "tokens a second", "default": "by the utilisation of the catalog"},
    )
    phases: PhaseRequestFields | None = Field(None, description="resources by phase")


class ResourceFields(RequestFields):
    """`resources` of a sweep file: for all jobs, by phase, by model, by model and phase."""

    phases: PhaseRequestFields | None = Field(None, description="resources by phase")
    models: dict[Name, ModelRequestFields] = Field(default_factory=dict, description="resources by model")


def merge_requests(resources: ResourceFields, model: str, phase: str) -> dict[str, Any]:
    """What the file says of the jobs of one model and phase, narrower entries over wider ones; `options` are joined."""
    merged: dict[str, Any] = {}
    options: dict[str, str] = {}
    for entry in list_request_entries(resources, model, phase):
        given = {name: getattr(entry, name) for name in entry.model_fields_set & RequestFields.model_fields.keys()}
        options |= given.pop("options", {})
        given |= {name: tuple(given[name]) for name in ("setup", "launcher") if name in given}
        options |= {word: given.pop(word) for word in SCHEDULER_WORDS if word in given}
        merged |= given
    return {**merged, "options": options} if options else merged


def list_request_entries(resources: ResourceFields, model: str, phase: str) -> list[RequestFields]:
    """The entries that hold for the phase of the model, the widest first."""
    return [entry for _, entry in iter_request_entries(resources, model, phase)]


def iter_request_entries(
    resources: ResourceFields, model: str, phase: str
) -> Iterator[tuple[SettingPath, RequestFields]]:
    """The same, each with its place in the file."""
    own = resources.models.get(model)
    top: SettingPath = ("resources",)
    found: list[tuple[SettingPath, RequestFields | None]] = [
        (top, resources),
        ((*top, "phases", phase), find_phase_entry(resources.phases, phase)),
        ((*top, "models", model), own),
        ((*top, "models", model, "phases", phase), find_phase_entry(own.phases, phase) if own else None),
    ]
    yield from ((place, entry) for place, entry in found if entry is not None)


def find_phase_entry(phases: PhaseRequestFields | None, phase: str) -> RequestFields | None:
    """What is said of one phase, if anything."""
    return getattr(phases, phase) if phases is not None else None


def iter_contradictions(resources: ResourceFields, models: list[str]) -> Iterator[tuple[SettingPath, str]]:
    """Two fields of a job that cannot both hold: the place of the narrower one, and what is wrong."""
    for model in ["", *models]:
        for phase in PHASES:
            given: dict[str, tuple[float, SettingPath]] = {}
            for place, entry in iter_request_entries(resources, model, phase):
                for name in PAIRED_FIELDS & entry.model_fields_set:
                    given[name] = (getattr(entry, name), (*place, name))
            yield from iter_pair_contradictions(given)


PAIRED_FIELDS = frozenset({"time_minutes", "limit_minutes", "memory_gib", "retry_memory_gib"})


def iter_pair_contradictions(given: dict[str, tuple[float, SettingPath]]) -> Iterator[tuple[SettingPath, str]]:
    """What `iter_contradictions` finds among the fields of one model and phase."""
    (time, at_time), (limit, at_limit) = (given.get(name, (0, ())) for name in ("time_minutes", "limit_minutes"))
    if time and limit and time > limit:
        message = f"time_minutes {time} is above limit_minutes {limit}: such a job would wait for ever; lower the one"
        yield max(at_time, at_limit, key=len), f"{message}, or raise the other if the partition allows it"
    (memory, at_memory), (again, at_again) = (given.get(name, (0, ())) for name in ("memory_gib", "retry_memory_gib"))
    if memory and again and again <= memory:
        message = f"retry_memory_gib {again:g} is not above memory_gib {memory:g}, so a retry would run out of it again"
        yield max(at_memory, at_again, key=len), message


# Where the jobs of a model and phase run, and on how many processes.


def resolve_placement(
    catalog: Catalog, resources: ResourceFields, name: str, catalog_name: str, phase: str
) -> Placement:
    """The catalog's placement of the model; the sweep file's entries go over it."""
    entry = catalog.models.get(catalog_name)
    usual = entry.resources.get(phase, Placement()) if entry is not None else Placement()
    return replace(usual, **merge_requests(resources, name, phase))


def select_gpu_type(placement: Placement) -> str:
    """A job without GPUs is priced by CPU cores."""
    return placement.gpu_type if placement.gpus_per_node else "cpu"


def count_processes(resources: Resources, backend: str) -> int:
    """Processes that a cluster starts for the job: one for each GPU, or one on each node; on one machine one."""
    return resources.nodes * max(1, resources.gpus_per_node) if backend == "slurm" else 1
