"""docs/settings.md: every field of a sweep file in a table, and the encoders, models and GPU types that it may name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from stages.vision.specs import ENCODERS, FAMILIES, EncoderSpec, resolve_encoder_spec
from sweep.catalog import load_catalog
from sweep.phases import PHASES
from sweep.reference.json_schema import Schema, build_field_schema
from sweep.reference.notes import SECTIONS, FieldNotes, describe_setting
from sweep.spec.data import DataFields
from sweep.spec.engines import EngineFields
from sweep.spec.fields import AxisFields, PointFields, TaskSetting, TextTaskSetting
from sweep.spec.models import SHAPE, ModelFields
from sweep.spec.notices import NoticeFields, ReceiverFields
from sweep.spec.resources import ModelRequestFields, RequestFields
from sweep.spec.run_settings import PHASE_FIELDS
from sweep.spec.schema import BlockFields, CheckpointFields, KeepFields, PriceFields, SweepFields

COMMAND = "sweep schema --markdown"
INTRO = f"""# All settings

Every key of a sweep file, with its type, its value where the file is silent, its unit, and who needs it. The program
prints this page from the classes that check a sweep file (`{COMMAND}`). [sweep-file.md](sweep-file.md) explains how
the parts work together. `sweep schema` prints the same for editors, as a JSON Schema: with the line

    # yaml-language-server: $schema=sweep.schema.json

at the head of a sweep file, and the file `sweep.schema.json` beside it, an editor with a YAML language server completes
and checks while you type. `sweep plan FILE` checks what needs more than the file's form.

"Needed by" is empty where the default serves. A whole number may be written as `1e9` or `1_000_000`. No value may be
left empty."""

HEAD = ("setting", "type", "default", "unit", "needed by", "what it is")


@dataclass(frozen=True, slots=True)
class Part:
    """One section of the page: a class's fields under a heading."""

    heading: str
    text: str
    model: type[BaseModel]
    names: tuple[str, ...]
    prefix: str = ""


def render_settings_page() -> str:
    """The page as Markdown. The same code gives the same text."""
    parts = [f"## {part.heading}\n{part.text}\n\n{render_fields(part)}" for part in iter_parts()]
    return "\n\n".join([INTRO, *parts, render_encoders(), render_models(), render_gpu_types()]) + "\n"


def iter_parts() -> Iterator[Part]:
    """The sections, in the order of a sweep file."""
    yield Part("The file", "The keys at the top of a sweep file.", SweepFields, (*SweepFields.model_fields,))
    yield Part(
        "`data.NAME`", "A data set. [data.md](data.md) has the formats.", DataFields, (*DataFields.model_fields,)
    )
    yield Part(
        "`models.NAME`",
        "A model of your own. It may hold any setting below, too; those hold for its cells.",
        ModelFields,
        ("like", *SHAPE),
    )
    yield Part(
        "`engines.NAME`",
        "Another program for a phase, see [add-an-engine.md](add-an-engine.md).",
        EngineFields,
        (*EngineFields.model_fields,),
    )
    yield Part("`blocks`", "A list; each entry is a product of axes.", BlockFields, (*BlockFields.model_fields,))
    yield Part(
        "Settings of a cell",
        "Under `defaults`, in a model, in a block's `set`, or as an axis.",
        PointFields,
        ("model", *AxisFields.model_fields),
    )
    for section, phase in SECTIONS.items():
        text = f"Settings of {PHASES[phase].section}, in the same places. `{phase}: {{...}}` may hold them, too."
        yield Part(f"`{phase}.*`", text, section, (*section.model_fields,), prefix=f"{phase}.")
    yield Part(
        "Tasks",
        "An entry of `evaluate.text_tasks` or `evaluate.vision_tasks` is a task's name, or a mapping. `trusted` is of "
        "text tasks alone.",
        TextTaskSetting,
        (*TaskSetting.model_fields, "trusted"),
    )
    yield Part(
        "`checkpoints`",
        "When training jobs save. In no key.",
        CheckpointFields,
        (*CheckpointFields.model_fields,),
    )
    yield Part(
        "`keep`",
        "What `sweep gc` leaves on disk although no unfinished job needs it (how-to/disk.md). In no key.",
        KeepFields,
        (*KeepFields.model_fields,),
    )
    training = PHASE_FIELDS["finetune"]
    yield Part(
        "`settings`",
        "How training jobs are carried out, in no key: for all, under `phases.PHASE`, `models.NAME` or "
        "`models.NAME.phases.PHASE`. The narrower place wins.",
        training,
        (*training.model_fields,),
    )
    evaluation = PHASE_FIELDS["evaluate"]
    yield Part(
        "`settings.phases.evaluate`",
        "Of evaluations, likewise under a model.",
        evaluation,
        (*evaluation.model_fields,),
    )
    yield Part(
        "`resources`",
        "What jobs ask for, in no key: for all, under `phases.PHASE`, `models.NAME` or `models.NAME.phases.PHASE`. The "
        "narrower place wins; `options` of all places are joined. `tokens_per_second` stands under a model alone.",
        ModelRequestFields,
        (*RequestFields.model_fields, "tokens_per_second"),
    )
    yield Part(
        "`prices`",
        "What hours cost in money, in no key. [how-to/budget.md](how-to/budget.md) uses them.",
        PriceFields,
        (*PriceFields.model_fields,),
    )
    yield Part(
        "`notices`",
        "Who is told of what happens, in no key. [how-to/notices.md](how-to/notices.md) explains it.",
        NoticeFields,
        (*NoticeFields.model_fields,),
    )
    yield Part(
        "`notices.receivers`", "A list; each entry is a receiver.", ReceiverFields, (*ReceiverFields.model_fields,)
    )


def render_fields(part: Part) -> str:
    """The table of a section."""
    rows = []
    for name in part.names:
        notes = describe_setting(part.model, name)
        kind = describe_type(build_field_schema(part.model, name, {}))
        meaning = f"{notes.description[:1].upper()}{notes.description[1:]}.{render_values(notes)}"
        rows.append((f"`{part.prefix}{name}`", kind, render_default(notes), notes.unit, notes.needed, meaning))
    return render_table(HEAD, rows)


def render_values(notes: FieldNotes) -> str:
    """What each choice means."""
    said = "; ".join(f"`{value}`: {meaning}" for value, meaning in (notes.values or {}).items())
    return f" {said}." if said else ""


def render_default(notes: FieldNotes) -> str:
    """The value that holds where the file is silent."""
    value = "" if notes.default is None else f"`{render_value(notes.default)}`"
    return ", ".join(filter(None, (value, notes.default_words)))


def render_value(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def render_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    head = list(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


# Types in words.

PLAIN_WORDS: Mapping[str, str] = {
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
    "integer": "whole number",
    "number": "number",
}


def describe_type(built: Schema) -> str:
    """A schema in a few words."""
    if "anyOf" in built:
        parts = dict.fromkeys(describe_type(part) for part in built["anyOf"])
        return " or ".join(parts)
    if "enum" in built:
        choices = [render_value(value) for value in built["enum"]]
        return ", ".join(f"`{choice}`" for choice in choices) if len(choices) <= MOST_CHOICES else "a known name"
    if "$ref" in built:
        return "word" if built["$ref"].endswith("/name") else "mapping"
    if built["type"] == "array":
        return f"list: {describe_type(built['items'])}"
    is_word = built.get("pattern", "").endswith("{0,59}$")
    return "word" if is_word else PLAIN_WORDS[built["type"]] + describe_range(built)


MOST_CHOICES = 6
LARGEST_TOLD = 1e6
"""Bounds beyond it are there for sanity alone."""


def describe_range(built: Schema) -> str:
    """`, 0 to 1`, `, above 0`."""
    least, above, most = (built.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    most = most if most is not None and most < LARGEST_TOLD else None
    begin = f"above {above:g}" if above is not None else f"{least:g}" if least is not None else ""
    if least is not None and most is None:
        return f", {begin} or more"
    return f", {begin}{f' to {most:g}' if most is not None else ''}" if begin else ""


# What a sweep file may name.


def render_encoders() -> str:
    """The vision encoders."""
    sized = {
        "siglip-tiny-64": "for tests",
        "dinov2-tiny-reg-64": "for tests",
        "siglip+dinov2-tiny-64": "for tests",
        "patches-16-64": "patches of 16 pixels of an image of 64",
    }
    rows = [render_encoder(name, spec, "") for name, spec in ENCODERS.items()]
    rows += [render_encoder(name, resolve_encoder_spec(name), remark) for name, remark in sized.items()]
    families = ", ".join(f"`{family}-SIZE`" for family in FAMILIES if family != "patches")
    return (
        "## Encoders\n`encoder` takes these names. Another image size is appended: "
        f"{families}, `patches-PATCH-SIZE`. Weights are folders of transformers, data sets of kind `encoder` "
        "([sweep-file.md](sweep-file.md#weights-of-encoders)).\n\n"
        + render_table(("encoder", "image, pixels", "tokens", "width", "parameters", "weights", "remark"), rows)
    )


def render_encoder(name: str, spec: EncoderSpec, remark: str) -> tuple[str, ...]:
    """One row."""
    parts = spec.parts or (spec,)
    needed = sum(part.layers > 0 for part in parts)
    weights = f"{needed} folder{'s' if needed > 1 else ''}" if needed else "none"
    if spec.architecture == "efficientnet":
        weights = "come with the extra `train`"
    return (
        f"`{name}`",
        str(spec.image_size),
        f"{spec.image_tokens:,}",
        f"{spec.feature_width:,}",
        f"{spec.parameters / 1e6:,.1f}M" if spec.parameters else "0",
        weights,
        remark,
    )


def render_models() -> str:
    """The catalog's models."""
    rows = [
        (
            f"`{name}`",
            f"{entry.shape.parameters / 1e6:,.0f}M",
            f"{entry.shape.d_model:,}",
            str(entry.shape.layers),
            str(entry.shape.heads),
            f"{entry.peak_lr:g}",
            f"{entry.warmup_steps:,}",
            f"{entry.batch_sequences:,}",
            f"{entry.weight_decay:g}",
            f"{entry.restart_lr:g}",
            f"{entry.image_text_batch_sequences:,}",
            ", ".join(
                f"{phase} {placement.nodes} x {placement.gpus_per_node}" for phase, placement in entry.resources.items()
            ),
        )
        for name, entry in load_catalog().models.items()
    ]
    head = (
        "model", "parameters", "`d_model`", "`layers`", "`heads`", "`trunk.peak_lr`", "`trunk.warmup_steps`",
        "`trunk.batch_sequences`", "`trunk.weight_decay`", "`pretrain.restart_lr`", "`pretrain.batch_sequences`",
        "nodes x GPUs",
    )  # fmt: skip
    vocabulary = next(iter(load_catalog().models.values())).shape.vocabulary
    return (
        "## Models of the catalog\n`model` and `like` take these names. All have a `vocabulary` of "
        f"{vocabulary:,} and a context of 2,048 tokens, and ask for A100s. `sweep/catalog/models.yaml` has the "
        "sources.\n\n" + render_table(head, rows)
    )


def render_gpu_types() -> str:
    """The catalog's GPU types."""
    rows = [
        (
            f"`{name}`",
            f"{kind.factor:g}",
            f"{kind.memory_gib:g}" if kind.memory_gib else "",
            "yes" if kind.bf16 else "no",
            str(kind.cpus),
            f"{kind.host_memory_gib:g}",
        )
        for name, kind in load_catalog().gpus.items()
        if kind.is_gpu
    ]
    return (
        "## GPU types\n`gpu_type` takes these names, their slices (`a100-1g.10gb`) and shards (`a100-shard.1of4`). "
        "[slurm.md](slurm.md#which-gpus-a-job-is-given) says which of a cluster's GPUs that means.\n\n"
        + render_table(
            ("type", "A100-hours an hour", "memory, GiB", "bfloat16", "cores with it", "host memory with it, GiB"), rows
        )
    )
