"""A draft as a sweep file: YAML with a comment at each decision. Pure."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from stages.printable import render_line
from sweep.first_file.draft import IMAGE_SHARE, TASK_LIMIT, Draft
from sweep.phases import PHASES

PLAIN = re.compile(r"[A-Za-z$/][A-Za-z0-9_./$+-]*")
"""Words that YAML takes as they are; with `true` and the like set apart below."""
RESERVED = frozenset("true false null yes no on off y n".split())  # noqa: SIM905
SCHEMA_FILE = "sweep.schema.json"
SCHEMA_LINE = "# yaml-language-server: $schema={}"


def render_sweep_file(draft: Draft, file: str, *, schema: str = "") -> str:
    """The file, by the name `file`. `schema`: where an editor finds the JSON Schema; empty: it is not named."""
    return "\n".join([*iter_lines(draft, file, schema)]) + "\n"


def iter_lines(draft: Draft, file: str, schema: str) -> Iterator[str]:
    """Its lines."""
    wishes = draft.wishes
    if schema:
        yield SCHEMA_LINE.format(schema)
    yield "# Written by `sweep init`. All settings: docs/settings.md, or `sweep schema --markdown`."
    # the name on one line: another would be a setting of the file
    yield f"# What it runs and costs: sweep plan {render_line(shlex.quote(file))}"
    yield f"name: {render(wishes.name)}"
    yield "description: When should image data enter pre-training?"
    yield f"backend: {wishes.backend}{' ' * 15}# {'this machine' if wishes.backend == 'local' else 'a cluster'}"
    yield ""
    yield "data:"
    for name, entry in draft.data.items():
        remark = draft.remarks.get(name, "")
        apart = remark.startswith("not there")  # a command is long
        if apart:
            yield f"  # {remark}"
        yield f"  {render(name)}: {render(entry)}{f'  # {remark}' if remark and not apart else ''}"
    yield ""
    if draft.own_model is not None:
        yield "models:"
        yield f"  {render(draft.model)}: {render(draft.own_model)}"
        yield ""
    yield "defaults:"
    yield f"  model: {render(draft.model)}"
    yield f"  encoder: {render(draft.encoder)}{' ' * 3}# an image is {draft.image_tokens} tokens"
    nested: dict[str, dict[str, Any]] = {name: dict(settings) for name, settings in draft.phases.items()}
    for name, value in draft.defaults.items():
        phase, dot, setting = name.partition(".")
        if dot:
            nested[phase][setting] = value
        else:
            yield f"  {name}: {render(value)}   # one of several"
    for phase, settings in nested.items():
        yield f"  {phase}:{' ' * max(1, 12 - len(phase))}# {PHASES[phase].section}"
        yield from (
            f"    {name}: {render(value)}{explain_setting(draft, phase, name)}" for name, value in settings.items()
        )
    yield ""
    yield from iter_grid_lines()
    yield from iter_resource_lines(draft)


COMMENTS: Mapping[tuple[str, str], str] = {
    ("trunk", "unit_tokens"): "the budget in tokens; text_multiplier multiplies it",
    ("pretrain", "unit_tokens"): "the budget in tokens; the axis amount multiplies it",
    ("trunk", "context"): "tokens of a sequence",
    ("trunk", "batch_sequences"): "small, so that the run has enough steps",
    ("trunk", "precision"): "bf16 where the device has it, else fp32",
    ("pretrain", "restart_lr"): "the peak of a run that begins at branch 0 or 100",
    ("pretrain", "batch_sequences"): "likewise",
    ("finetune", "batch_sequences"): "conversations of a step: an epoch is to have a hundred steps or more",
    ("finetune", "max_length"): "tokens of a conversation, its image included",
    ("evaluate", "max_new_tokens"): "of an answer; longer answers are cut off",
}
SMALL_COMMENTS: Mapping[tuple[str, str], str] = {
    ("trunk", "peak_lr"): "for so small a model",
    ("pretrain", "restart_lr"): f"for so small a model; {COMMENTS['pretrain', 'restart_lr']}",
    ("finetune", "peak_lr"): "for so small a model",
}
"""Where the model is the small one of CPU cores."""


def explain_setting(draft: Draft, phase: str, name: str) -> str:
    """A comment behind a setting."""
    said = COMMENTS.get((phase, name), "")
    if draft.own_model is not None and "like" not in draft.own_model:
        said = SMALL_COMMENTS.get((phase, name), said)
    if name in {"text_tasks", "vision_tasks"} and any(isinstance(task, Mapping) for task in draft.phases[phase][name]):
        said = f"the first {TASK_LIMIT} questions of each, for speed; without `limit` all are asked"
    return f"   # {said}" if said else ""


def iter_grid_lines() -> Iterator[str]:
    """The question: three branch points."""
    yield "blocks:                      # each is the product of its axes; any setting can be an axis"
    yield "  - axes:"
    yield "      branch: [0, 50, 100]   # percent of the text after which images enter"
    yield f"      image_share: [{IMAGE_SHARE}]     # part of image data from there on"
    yield "      # seed: [124, 125]     # repeats, for error bars"
    yield ""
    yield "epochs: [1, 2]               # one fine-tune and one evaluation for each"
    yield ""


def iter_resource_lines(draft: Draft) -> Iterator[str]:
    """What jobs ask for."""
    yield "resources:"
    yield from (f"  {name}: {render(value)}" for name, value in draft.resources.items())
    if draft.wishes.backend == "slurm":
        yield "  # partition: gpu          # as your cluster calls it; also account, qos, reservation"
        yield "  # limit_minutes: 1440     # the partition's own limit: longer jobs are planned with restarts"
        yield "  # setup: [module load cuda, source env/bin/activate]"


def render(value: Any) -> str:
    """A value in YAML's flow style, quoted where it must be."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{render(name)}: {render(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(render, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.1e}" if value < 0.01 else f"{value:g}"
    if isinstance(value, int):
        return str(value)
    plain = PLAIN.fullmatch(str(value)) and str(value).lower() not in RESERVED
    return str(value) if plain else json.dumps(str(value))
