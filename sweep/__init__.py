"""Plan, run and tabulate experiment sweeps of hundreds of models as dependent job chains (docs/python.md).

    import sweep

    plan = sweep.plan("manifests/demo.yaml", store="store")
    demo = sweep.open("store", "demo")
    demo.submit()
    demo.results()

Nothing here prints, and nothing is loaded before it is used. This package is the control plane: it never imports torch.
"""

TYPE_CHECKING = False  # type checkers take it for true; the module `typing` would cost a third of this import

if TYPE_CHECKING:
    from sweep.errors import (
        InputsError,
        ManifestError,
        NotPlannedError,
        PlanConflictError,
        StoreError,
        SweepError,
        SweepFileError,
        UsageError,
    )
    from sweep.interface.cells import CellList, PlannedCell
    from sweep.interface.handle import SweepHandle, SweepPlan
    from sweep.interface.handle import open_handle as open
    from sweep.interface.planning import plan_sweep as plan
    from sweep.interface.reports import SubmitReport, SweepStatus

__all__ = [
    "CellList",
    "InputsError",
    "ManifestError",
    "NotPlannedError",
    "PlanConflictError",
    "PlannedCell",
    "StoreError",
    "SubmitReport",
    "SweepError",
    "SweepFileError",
    "SweepHandle",
    "SweepPlan",
    "SweepStatus",
    "UsageError",
    "open",
    "plan",
]

_PLACES = {
    "CellList": "sweep.interface.cells",
    "PlannedCell": "sweep.interface.cells",
    "SubmitReport": "sweep.interface.reports",
    "SweepHandle": "sweep.interface.handle",
    "SweepPlan": "sweep.interface.handle",
    "SweepStatus": "sweep.interface.reports",
}
"""Where the classes are; the other names but `open` and `plan` are in `sweep.errors`."""


# Why: docs/decisions.md, D199
def __getattr__(name: str) -> object:
    """What is asked for, loaded now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "plan":
        found: object = import_module("sweep.plan")  # the package itself, which can be called
    elif name == "open":
        found = import_module("sweep.interface.handle").open_handle
    else:
        found = getattr(import_module(_PLACES.get(name, "sweep.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
