"""From checked settings to the manifest. The package can be called: `sweep.plan(FILE)` plans (docs/python.md)."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.interface.handle import SweepPlan


# Why: docs/decisions.md, D199
class CallablePackage(ModuleType):
    """This package as `sweep.plan(...)`: Python gives the name to the package as soon as a module of it is loaded."""

    def __call__(self, *given: Any, **options: Any) -> "SweepPlan":
        from sweep.interface.planning import plan_sweep

        return plan_sweep(*given, **options)


sys.modules[__name__].__class__ = CallablePackage
