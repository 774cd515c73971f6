"""Short, safe, stable names of cells.

A name begins with the five axes that the paper varies (m model, b branch %, i image share %, c share of instruction
data in it %, x amount) and adds what differs from the sweep's own defaults. So an axis that is added later, with the
present value among its values, renames no cell.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from sweep.spec.settings import BASE

LONGEST = 100
CORE = ("model", "branch", "image_share", "instruction_share", "amount")
OTHERS = tuple(name for name in BASE if name not in CORE)
ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


def cell_name(values: Mapping[str, Any], base: Mapping[str, Any], taken: set[str]) -> str:
    """The name of the point `values`, told apart from those `taken`, to which it is added."""
    parts = [
        f"m{values['model']}",
        f"b{number(values['branch'])}",
        f"i{percent(values['image_share'])}",
        f"c{percent(values['instruction_share'])}",
        f"x{number(values['amount'])}",
    ]
    parts += [part_of(name, values[name]) for name in OTHERS if values[name] != base[name]]
    name = "-".join(parts)
    if len(name) > LONGEST or name in taken:
        name = f"{name[: LONGEST - 9]}-{digest(sorted(map(repr, values.items())))}"
    taken.add(name)
    return name


def number(value: float) -> str:
    """Without `.0`."""
    return repr(int(value)) if float(value).is_integer() else repr(value)


def percent(share: float) -> str:
    """A share in percent."""
    return number(round(100 * share, 10))


def part_of(name: str, value: Any) -> str:
    """A further axis: its value alone where that speaks for itself."""
    if name == "freeze_encoder":
        return "frozen" if value else "trained"
    if name == "text_multiplier":
        return f"t{number(value)}"
    if name == "seed":
        return f"s{value}"
    if name in {"captions", "encoder", "lr_at_branch"}:
        return word(value)
    return f"{name}={word(value)}"


def word(value: Any) -> str:
    """The value, or a digest of what cannot stand in a name."""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        value = "+".join(value)
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return text if text and ALLOWED.issuperset(text) else digest(text)


def digest(content: object) -> str:
    """Eight digits that tell contents apart."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]
