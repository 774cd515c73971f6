"""How figures and printed tables write axes, values and scores. Imports nothing that draws."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep.results.slices import SLICE_AXES, PlotPoint, Row, is_axis_varied, sort_values

AXIS_LABELS = {
    "branch": "text before images (%)",
    "image_share": "image share of the mix (%)",
    "instruction_share": "instruction share (%)",
    "epochs": "fine-tuning epochs",
    "amount": "image-text budget (Chinchilla)",
    "captions": "captions",
    "encoder": "vision encoder",
    "freeze_encoder": "vision encoder's weights",
    "lr_at_branch": "rate at the branch point",
    "parameters": "language model (parameters)",
}
AXIS_WORDS = {
    "branch": "branch point",
    "image_share": "image share",
    "instruction_share": "instruction share",
    "epochs": "fine-tuning epochs",
    "amount": "amount of image-text training",
    "captions": "captions",
    "encoder": "vision encoder",
    "freeze_encoder": "frozen or trained encoder",
    "lr_at_branch": "learning rate at the branch point",
    "parameters": "model size",
    "model": "model",
}
"""An axis in a sentence."""
LEGEND_TITLES = AXIS_WORDS | {"branch": "images start at", "epochs": "epochs", "instruction_share": "instructions"}
HELD_AXIS_TEXTS = {
    "branch": "images from {} of the text",
    "image_share": "{} images",
    "instruction_share": "{} instructions",
    "captions": "{} captions",
    "encoder": "{}",
    "freeze_encoder": "encoder {}",
    "amount": "amount x{}",
    "text_multiplier": "text x{}",
    "lr_at_branch": "learning rate: {}",
    "epochs": "fine-tuned for {}",
    "overrides": "{}",
}
FRACTIONS = {"image_share", "instruction_share"}
CATEGORIES = {"captions", "encoder", "freeze_encoder", "lr_at_branch", "model", "task"}
"""Axes whose values are words: evenly spaced, points without lines."""


def format_axis_label(axis: str, value: Any, *, unit: bool = True) -> str:
    """A value of an axis for people: an image share of 0.25 is `25 %`."""
    if axis in FRACTIONS or axis == "branch":
        percent = 100 * value if axis in FRACTIONS else value
        # A branch point that was given as a step is no round percentage.
        return f"{percent:.4g}" + (" %" if unit else "")
    if axis == "epochs":
        return f"{value} epoch{'s' if value != 1 else ''}" if unit else str(value)
    if axis == "overrides":
        return ", ".join(f"{name} {setting}" for name, setting in value)
    if axis == "parameters":
        return format_parameters(value)
    if isinstance(value, bool):
        return "frozen" if value else "trained"  # `freeze_encoder` is the only boolean axis
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def parse_axis_text(axis: str, text: str) -> Any:
    """A value of an axis from its text in the table."""
    if text in {"true", "false"}:
        return text == "true"
    if axis == "epochs":
        return int(text)
    try:
        return float(text) if axis in {*FRACTIONS, "branch", "amount"} else text
    except ValueError:
        return text


def format_axis_text(axis: str, text: str) -> str:
    """A value of differences.parquet for people: an image share of `0.2` is `20 %`."""
    value = parse_axis_text(axis, text)
    # beside the axis' name, which says what is counted
    return format_axis_label(axis, value, unit=axis != "epochs") if axis in AXIS_LABELS or isinstance(value, bool) else text


def format_parameters(value: float) -> str:
    """`79M`, `1.4B`."""
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2g}{sign}" if value < 100 * size else f"{value / size:.0f}{sign}"
    return f"{value:g}"


def format_held_axes(held: Mapping[str, Any], varied: Iterable[str]) -> str:
    """The axes that a slice holds at one value; only those that the sweep varies."""
    kept = set(varied)
    words = [
        HELD_AXIS_TEXTS.get(axis, axis + " {}").format(format_axis_label(axis, value))
        for axis, value in held.items()
        if axis in kept and value not in {None, ()}
    ]
    return ", ".join(words)


def sort_axis_values(axis: str, values: Iterable[Any], rows: Sequence[Row]) -> list[Any]:
    """Values of an axis in order; models by size, all else by `sort_values`."""
    if axis != "model":
        return sort_values(values)
    sizes = {row["model"]: row["parameters"] or 0 for row in rows}
    return sorted(values, key=lambda model: (sizes[model], model))


def list_varied_axes(rows: Sequence[Row]) -> list[str]:
    """The axes that have several values in these rows."""
    return [axis for axis in SLICE_AXES if is_axis_varied(rows, axis)]


def format_spread_note(points: Sequence[PlotPoint]) -> str:
    """What points and error bars mean, and what noise the bars hold."""
    fewest, most = min(point.seeds for point in points), max(point.seeds for point in points)
    test_set = any(point.error for point in points)
    if most == 1:
        return (
            "one seed; bars: standard error of the test set, without training noise"
            if test_set
            else "one seed, no bars"
        )
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    alone = " (of the test set where there is one seed)" if fewest == 1 else ""
    return f"mean over {seeds} seeds; bars: standard deviation over the seeds{alone}"


SHORT_TASKS = {
    "bigbench_conceptual_combinations_multiple_choice": "bigbench conceptual",
    "agieval_sat_en": "agieval sat_en",
}


def wrap_name(name: str, width: int = 11) -> str:
    """A long name in several lines, broken behind its own separators."""
    parts = re.findall(r"[^-_+ /]+[-_+ /]?", SHORT_TASKS.get(name, name)) or [name]
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part.rstrip()) > width:
            lines.append(part)
        else:
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def join_sentences(*parts: str) -> str:
    """Parts as sentences; empty ones are left out."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)
