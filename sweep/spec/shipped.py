"""The sweep files that come with the program, so that `sweep plan paper` works where there is no checkout."""

import difflib
from pathlib import Path

from sweep.errors import SweepFileError

# Why: docs/decisions.md, D206
SHIPPED = Path(__file__).parents[1] / "manifests"
"""A folder in an installed package, a link to manifests/ in a checkout."""


def list_shipped_names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def locate_sweep_file(given: Path) -> Path:
    """The file itself if it is there, else the shipped one if `given` is a shipped file's bare name.

    SweepFileError for a word that is neither, and for an absent file of which one is shipped under the same name. Any
    other absent file is left to who reads it.
    """
    names = list_shipped_names()
    if given.exists() and not (given.is_dir() and given.name in names):  # `demo/` beside one is no sweep file
        return given
    if given.name == str(given) and not given.suffix:
        if given.name in names:
            return SHIPPED / f"{given.name}.yaml"
        near = difflib.get_close_matches(given.name, names, n=1)
        meant = f"; is it {near[0]}?" if near else "."
        raise SweepFileError(
            f"{given}: neither a file nor a shipped sweep{meant} The shipped ones are {', '.join(names)}"
        )
    if given.stem in names and given.suffix == ".yaml":
        raise SweepFileError(f"{given}: there is no such file here; `sweep plan {given.stem}` plans the shipped one")
    return given
