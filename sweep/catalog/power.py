"""What devices draw (power.yaml), for estimates of energy."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sweep.catalog import FOLDER, check_mapping, check_share, load_catalog, read_mapping
from sweep.errors import SweepFileError
from sweep.phases import PHASES

MOST_WATTS = 100_000.0
MOST_OVERHEAD = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerDraw:
    """Watts of one GPU with its share of the node, or of one core."""

    watts: float
    """At most."""
    idle_watts: float
    host_watts: float = 0.0
    source: str = ""

    def compute_watts(self, load: float) -> float:
        """At a load from 0, idle, to 1."""
        return self.idle_watts + load * (self.watts - self.idle_watts) + self.host_watts


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTable:
    """All that an estimate of energy rests on."""

    gpus: Mapping[str, PowerDraw]
    """By GPU type; a type that is not here has no estimate."""
    core: PowerDraw
    loads: Mapping[str, float]
    """By phase."""
    overhead: float
    """Energy of the site for one of the machines'."""


@cache
def load_power_table(path: Path = FOLDER / "power.yaml") -> PowerTable:
    """The file of the package, or another one of the same form.

    Raises:
        SweepFileError: the file is missing or no YAML, a figure is missing or out of range, or has no source.
    """
    content = read_mapping(path)
    wanted = {"loads", "loads_source", "overhead", "overhead_source", "gpus", "core"}
    if set(content) != wanted:
        raise SweepFileError(
            f"{path}: wants exactly {', '.join(sorted(wanted))}; it has {', '.join(map(str, content))}"
        )
    loads = check_mapping(content["loads"], f"{path}: loads")
    if set(loads) != set(PHASES):
        raise SweepFileError(f"{path}: loads: wants exactly {', '.join(PHASES)}; it has {', '.join(loads)}")
    gpus = check_mapping(content["gpus"], f"{path}: gpus")
    known = load_catalog().gpus
    if strange := [name for name in gpus if name not in known]:
        raise SweepFileError(f"{path}: gpus.{strange[0]}: there is no GPU type of that name")
    overhead = content["overhead"]
    if isinstance(overhead, bool) or not isinstance(overhead, int | float) or not 1 <= overhead <= MOST_OVERHEAD:
        raise SweepFileError(f"{path}: overhead: {overhead!r} is not a number from 1 to {MOST_OVERHEAD:g}")
    return PowerTable(
        gpus={name: parse_draw(entry, f"{path}: gpus.{name}", has_host=True) for name, entry in gpus.items()},
        core=parse_draw(content["core"], f"{path}: core", has_host=False),
        loads={phase: check_share(loads, phase, f"{path}: loads") for phase in loads},
        overhead=float(overhead),
    )


def parse_draw(entry: object, where: str, *, has_host: bool) -> PowerDraw:
    """One entry, whose figures are in range and have a source."""
    values = check_mapping(entry, where)
    names = ("watts", "idle_watts", *(("host_watts",) if has_host else ()))
    if set(values) != {*names, "source"}:
        raise SweepFileError(f"{where}: wants exactly {', '.join(names)} and source; it has {', '.join(values)}")
    for name in names:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_WATTS:
            raise SweepFileError(f"{where}.{name}: {value!r} is not a number from 0 to {MOST_WATTS:g}")
    if values["idle_watts"] > values["watts"] or not str(values["source"]).strip():
        raise SweepFileError(f"{where}: idle_watts is above watts, or source is empty")
    return PowerDraw(**{name: float(values[name]) for name in names}, source=str(values["source"]))
