"""What hours cost in money: the prices of a sweep file, as its plan keeps them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.store.reading import is_number

MOST_PRICE = 1e9
"""Of one hour."""
CURRENCY_LETTERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of one site, each in the same currency."""

    currency: str
    """A word for people; amounts of two currencies are never added or compared."""
    gpu_hour: Mapping[str, float] = field(default_factory=dict)
    """By GPU type of the catalog: one GPU for one hour, its share of the node's cores and memory included."""
    core_hour: float | None = None
    """One core for one hour, of jobs without GPUs; None: nobody knows."""
    source: str = ""
    """Where the figures come from."""

    def build_record(self) -> dict[str, Any]:
        """As a plan holds them."""
        return asdict(self)


def parse_prices(record: object) -> Prices | None:
    """The prices of a stored plan, None where it has none; fields of a later version are left out.

    Raises ValueError for prices that are none.
    """
    if record is None:
        return None
    if not isinstance(record, dict):
        raise ValueError("prices is no JSON object")
    currency, gpu_hour, core_hour = record.get("currency"), record.get("gpu_hour", {}), record.get("core_hour")
    if not (isinstance(currency, str) and 0 < len(currency) <= CURRENCY_LETTERS and currency.isalnum()):
        raise ValueError(f"prices: currency is {repr(currency)[:60]}")
    if not isinstance(gpu_hour, dict) or not all(map(is_price, gpu_hour.values())):
        raise ValueError(f"prices: gpu_hour is {repr(gpu_hour)[:60]}")
    if core_hour is not None and not is_price(core_hour):
        raise ValueError(f"prices: core_hour is {repr(core_hour)[:60]}")
    return Prices(
        currency=currency,
        gpu_hour={str(name): float(price) for name, price in gpu_hour.items()},
        core_hour=None if core_hour is None else float(core_hour),
        source=str(record.get("source", "")),
    )


def is_price(value: object) -> bool:
    """Whether it is an amount of money that an hour may cost."""
    return is_number(value) and 0 <= value <= MOST_PRICE  # type: ignore[operator]  # a number, as was just asked
