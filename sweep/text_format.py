"""Numbers with their units and aligned tables, as plain text."""

from collections.abc import Iterable, Sequence

DAY_HOURS = 24
NO_HOURS = "-"
"""How tables show that no time was taken."""


def format_hours(value: float) -> str:
    """Hours as a number: three figures or decimals below 100, whole numbers from there on; `-` for nothing."""
    if value == 0:
        return NO_HOURS
    if value < 0.1:
        return f"{value:.3f}" if value >= 0.001 else "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def format_duration(value_hours: float) -> str:
    """A duration: `40 s`, `35 min`, `7.5 h`, `12.0 days`."""
    if value_hours < 2 / 60:
        return f"{3_600 * value_hours:.0f} s"
    if value_hours >= 2 * DAY_HOURS:
        return f"{value_hours / DAY_HOURS:.1f} days"
    return f"{value_hours:.1f} h" if value_hours >= 2 else f"{60 * value_hours:.0f} min"


def format_large_number(value: float) -> str:
    """A large number: `999`, `1.6B`."""
    return format_scaled(value, 1_000, ("", "k", "M", "B", "T"))


def format_bytes(value_bytes: float) -> str:
    """Bytes: `5.8 GiB`; `-` for nothing."""
    return format_scaled(value_bytes, 1_024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB")) if value_bytes else "-"


def format_scaled(value: float, base: int, units: Sequence[str]) -> str:
    """`value` in the largest of `units`, each `base` of the one before, that leaves at least 1."""
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.0f}{units[0]}" if power == 0 else f"{value:.1f}{units[power]}"


def format_columns(
    rows: Sequence[Sequence[str]], *, left: int = 1, rules: Iterable[int] = (), width: int | None = None
) -> list[str]:
    """Lines of aligned columns, the first `left` of them to the left; a rule before each row number of `rules`.

    A table that is wider than `width` goes on below itself: the columns that did not fit, behind the first one again.
    """
    rules = tuple(rules)
    if width is not None and len(rows[0]) > 2:
        parts = split_columns([max(map(len, column)) for column in zip(*rows, strict=True)], width)
        if len(parts) > 1:
            blocks = [
                format_columns(
                    [[row[place] for place in part] for row in rows],
                    left=sum(place < left for place in part),
                    rules=rules,
                )
                for part in parts
            ]
            return [line for number, block in enumerate(blocks) for line in ([""] if number else []) + block]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if position < left else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for position in sorted(rules, reverse=True):
        lines.insert(position, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def split_columns(widths: Sequence[int], width: int) -> list[list[int]]:
    """Positions of columns that fit beside each other; each part begins with the first column, which names the row."""
    parts, taken = [[0]], widths[0]
    for place in range(1, len(widths)):
        if taken + 2 + widths[place] > width and len(parts[-1]) > 1:
            parts.append([0])
            taken = widths[0]
        parts[-1].append(place)
        taken += 2 + widths[place]
    return parts


def format_labelled_lines(lines: Sequence[tuple[str, str]], width: int | None = None) -> list[str]:
    """Lines of a label and a text, the texts aligned, and wrapped below themselves at `width`."""
    indent = max((len(label) for label, _ in lines), default=0) + 2
    if width is None:
        return [f"{label.ljust(indent)}{text}" for label, text in lines]
    from textwrap import wrap

    return [
        line
        for label, text in lines
        for line in wrap(
            text, width, initial_indent=label.ljust(indent), subsequent_indent=" " * indent, break_on_hyphens=False
        )
        or [label]
    ]
