"""The cells of a planned sweep."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from jobs.counted import format_counted
from sweep.errors import NotPlannedError
from sweep.interface.html import render_pairs, render_table
from sweep.plan.manifest import Manifest, index_jobs
from sweep.results.lineage import list_ancestors

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlannedCell:
    """One point of the grid: a pre-trained model with its fine-tunes and evaluations."""

    name: str
    axes: Mapping[str, Any]
    """Every named axis with this cell's value."""
    block: str
    """Label of the block of the sweep file that it comes from."""
    jobs: tuple[str, ...]
    """Keys of all jobs that it needs, parents before children, shared ones too."""
    phases: Mapping[str, tuple[str, ...]]
    """The same keys by phase."""
    epochs: tuple[int, ...]
    """Of its fine-tunes."""

    def __hash__(self) -> int:
        return hash((self.name, self.jobs))

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process, and to a copy: views of mappings cannot be pickled."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return restore_cell, ({**content, "axes": dict(self.axes), "phases": dict(self.phases)},)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={value!r}" for name, value in self.axes.items() if value is not None)
        return f"<cell {self.name}: {axes}; {format_counted(len(self.jobs), 'job')}>"

    def _repr_html_(self) -> str:
        shown = {name: value for name, value in self.axes.items() if value is not None}
        return render_pairs(f"cell {self.name}", {**shown, "epochs": list(self.epochs), "jobs": len(self.jobs)})


def restore_cell(content: Mapping[str, Any]) -> PlannedCell:
    """The cell of its pickled fields."""
    views = {name: MappingProxyType(content[name]) for name in ("axes", "phases")}
    return PlannedCell(**{**content, **views})


class CellList(Sequence[PlannedCell]):
    """The cells in the sweep file's order; `cells["m5-b60"]` finds one by its name."""

    def __init__(self, sweep: str, cells: Sequence[PlannedCell]) -> None:
        self._sweep = sweep
        self._cells = tuple(cells)
        self._by_name = {cell.name: cell for cell in self._cells}

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "CellList":
        """All cells of the plan."""
        jobs = index_jobs(manifest)
        found = []
        for cell in manifest.cells:
            ends = [chain.evaluate for chain in cell.chains] or [cell.pretrain]
            keys = tuple(dict.fromkeys(key for end in ends for key in list_ancestors(jobs, end)))
            phases: dict[str, tuple[str, ...]] = {}
            for key in keys:
                phases[jobs[key].phase] = (*phases.get(jobs[key].phase, ()), key)
            found.append(
                PlannedCell(
                    name=cell.name,
                    axes=MappingProxyType(dict(cell.axes)),
                    block=cell.block,
                    jobs=keys,
                    phases=MappingProxyType(phases),
                    epochs=tuple(chain.epochs for chain in cell.chains),
                )
            )
        return cls(manifest.sweep, found)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values of each axis that differs between cells, in the order in which they come."""
        values: dict[str, list[Any]] = {}
        for cell in self._cells:
            for name, value in cell.axes.items():
                known = values.setdefault(name, [])
                if value not in known:
                    known.append(value)
        return {name: known for name, known in values.items() if len(known) > 1}

    def select(self, **axes: Any) -> "CellList":
        """The cells with these values: `cells.select(branch=80)`. NotPlannedError for an axis that no cell has."""
        known = {name for cell in self._cells for name in cell.axes}
        for name in axes:
            if name not in known:
                raise NotPlannedError(
                    f"sweep {self._sweep} has no axis {name!r}; its axes are {', '.join(sorted(known))}"
                )
        return CellList(
            self._sweep,
            [cell for cell in self._cells if all(cell.axes.get(name) == value for name, value in axes.items())],
        )

    def to_frame(self) -> "DataFrame":
        """A row for each cell, a column for each axis. Needs pandas (extra `report`)."""
        from sweep.interface.frames import load_pandas

        rows = [{"cell": cell.name, "block": cell.block, **cell.axes} for cell in self._cells]
        frame: DataFrame = load_pandas().DataFrame(rows)
        return frame

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[PlannedCell]:
        return iter(self._cells)

    def __contains__(self, value: object) -> bool:
        return value in self._by_name if isinstance(value, str) else value in self._cells

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> PlannedCell: ...
    @overload
    def __getitem__(self, index: slice) -> "CellList": ...
    def __getitem__(self, index: SupportsIndex | str | slice) -> "PlannedCell | CellList":
        """By place or by name. NotPlannedError for a name that is not there."""
        if isinstance(index, slice):
            return CellList(self._sweep, self._cells[index])
        if isinstance(index, SupportsIndex):
            return self._cells[index]
        if index not in self._by_name:
            close = get_close_matches(index, self._by_name, n=1)
            hint = f"; is it {close[0]}?" if close else ""
            raise NotPlannedError(f"sweep {self._sweep} has no cell {index!r}{hint}")
        return self._by_name[index]

    def __repr__(self) -> str:
        some = ", ".join(self.names[:4]) + (", ..." if len(self) > 4 else "")
        varied = ", ".join(f"{name}: {values}" for name, values in self.axes.items())
        return f"<{format_counted(len(self), 'cell')} of {self._sweep}: {some}{f'; {varied}' if varied else ''}>"

    def _repr_html_(self) -> str:
        names = list(self.axes)
        rows = ([cell.name, *(cell.axes.get(name, "") for name in names)] for cell in self._cells)
        return render_table(["cell", *names], rows, total=len(self))
