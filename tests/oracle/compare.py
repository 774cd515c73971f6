"""Two records side by side."""

import difflib
import math
import re
from pathlib import Path

SHOWN = 12
"""Lines of difference of one file."""
WIDE = 200
"""Characters of a line that is compared whole."""
LONG = re.compile(r"(?<=,) ?|(?<=;) ?")
COMPUTED = re.compile(rb"-?\d+\.\d{9,}(?:e[+-]?\d+)?")
"""A number that was computed. Releases of numpy and scipy give other last digits, which are no difference."""
NEAR = 1e-9


def differences(old: Path, new: Path, *, only_new_parts: bool = False) -> list[str]:
    """A text for each file that is missing, new or other, with the first lines that differ.

    `only_new_parts`: folders at the top that the new record lacks are passed over.
    """
    before, after = files_of(old), files_of(new)
    if only_new_parts:
        before = {name: content for name, content in before.items() if (new / name.partition("/")[0]).exists()}
    found = [f"only in {old.name}: {name}" for name in sorted(before.keys() - after.keys())]
    found += [f"only in {new.name}: {name}" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name] and not nearly_equal(before[name], after[name]):
            found.append(difference(name, before[name], after[name]))
    return found


def nearly_equal(old: bytes, new: bytes) -> bool:
    """Whether only the last digits of computed numbers differ."""
    if COMPUTED.split(old) != COMPUTED.split(new):
        return False
    pairs = zip(COMPUTED.findall(old), COMPUTED.findall(new), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=NEAR) for one, other in pairs)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def difference(name: str, old: bytes, new: bytes) -> str:
    """The lines that differ, without their surroundings."""
    shown = list(difflib.unified_diff(pieces(old), pieces(new), f"old/{name}", f"new/{name}", n=0, lineterm=""))
    rest = [f"... {len(shown) - SHOWN} more lines"] if len(shown) > SHOWN else []
    return "\n".join([*shown[:SHOWN], *rest])


def pieces(content: bytes) -> list[str]:
    """Lines; long ones, such as a manifest's, in parts."""
    lines = content.decode(errors="replace").splitlines()
    return [part for line in lines for part in (LONG.split(line) if len(line) > WIDE else [line])]
