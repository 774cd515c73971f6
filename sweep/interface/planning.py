"""`sweep.plan(...)`: plans a sweep file, or the same as a mapping, and stores the plan."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from jobs.store.paths import Store
from jobs.store.results import list_finished_keys
from jobs.store.sharing import find_sharing_problem
from sweep.errors import SweepFileError
from sweep.interface.handle import SweepPlan
from sweep.interface.stores import enter_store, find_store
from sweep.plan.manifest import pause_gc
from sweep.plan.new_plan import NewPlan, check_nothing_lost, make_plan, store_plan
from sweep.preflight.planned import inspect_planned_inputs, list_input_remarks
from sweep.spec.yaml_source import YamlSource, parse_yaml

MAPPING = "<mapping>"
"""In the place of a file's name in messages about a mapping."""


# Why: docs/decisions.md, D200
def plan_sweep(
    source: "str | os.PathLike[str] | Mapping[str, Any]",
    *,
    store: "str | os.PathLike[str] | None" = None,
    replace: bool = False,
    same_data: Collection[str] = (),
    dry_run: bool = False,
    gpus: int | None = None,
    cpus: int | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> SweepPlan:
    """Checks a sweep file (or a mapping with the same keys), says what it runs and costs, and stores the plan.

    `store`: by default that of the command line. Paths of a mapping are relative to the current folder. `replace`,
    `same_data`, `gpus` and `cpus` are those of `sweep plan`; `dry_run` stores nothing. `progress` is told of what takes
    long. SweepFileError for a wrong file, PlanConflictError where the stored plan stands against it.
    """
    root = find_store(store)
    with enter_store(root), pause_gc():
        place = Store(root)
        read = convert_mapping(source) if isinstance(source, Mapping) else Path(source)
        file = read if isinstance(read, Path) else read.path
        planned = make_plan(read, place, announce=progress, same_data=tuple(same_data))
        if not replace:
            check_nothing_lost(planned, place)
        if dry_run:
            return build_plan(planned, root, gpus=gpus, cpus=cpus)
        store_plan(planned, place)
        done = list_finished_keys(place, planned.manifest.jobs)
        found = inspect_planned_inputs(planned, place, done)
        lines = list_input_remarks(planned, found, file)
        problem, advice = find_sharing_problem(root)
        return build_plan(
            planned,
            root,
            gpus=gpus,
            cpus=cpus,
            done=done,
            problems=lines[: len(found.problems)],
            remarks=[
                *map(str, planned.changes),
                *planned.remarks,
                *lines[len(found.problems) :],
                *([f"{problem}: {advice}"] if problem else []),
            ],
        )


def build_plan(
    planned: NewPlan,
    root: Path,
    *,
    gpus: int | None,
    cpus: int | None,
    done: frozenset[str] | None = None,
    problems: Collection[str] = (),
    remarks: Collection[str] = (),
) -> SweepPlan:
    """The plan with what was found on the way. `done`: None for one that was not stored."""
    how = {
        "gpus": gpus, "cpus": cpus, "speeds": planned.speeds, "losses": planned.losses, "figures": planned.figures,
        "placements": planned.placements,
    }  # fmt: skip
    stored = done is not None
    known = list_finished_keys(Store(root), planned.manifest.jobs) if done is None else done
    return SweepPlan(root, planned.manifest, known, how=how, problems=problems, remarks=remarks, is_stored=stored)


# A mapping as the text of a sweep file: what is stored with the plan, and what messages name the lines of.

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_/.+-]*")


class SweepDumper(yaml.SafeDumper):
    """Writes block YAML that our reader reads back as it was given: what is not a plain word is quoted."""

    def write_word(self, text: str) -> yaml.ScalarNode:
        plain = PLAIN.fullmatch(text) and text.lower() not in {"true", "false", "null"}
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the library's signature
        """A list that is used twice is written twice."""
        return True


SweepDumper.add_representer(str, SweepDumper.write_word)


def convert_mapping(given: Mapping[str, Any]) -> YamlSource:
    """The mapping as a sweep file. SweepFileError for values that a sweep file cannot hold."""
    try:
        text = yaml.dump(convert_plain(given), Dumper=SweepDumper, sort_keys=False, allow_unicode=True, width=120)
    except (yaml.YAMLError, RecursionError) as error:
        raise SweepFileError(f"{MAPPING}: is no sweep file: {str(error).splitlines()[0]}") from None
    return parse_yaml(text, Path(MAPPING))


def convert_plain(value: Any, where: str = "") -> Any:
    """Mappings as dictionaries with text for keys, sequences as lists, paths as text, numbers and arrays of NumPy as
    Python's; SweepFileError for the rest."""
    if hasattr(value, "tolist"):  # of NumPy's numbers and arrays, and of pandas' columns
        value = value.tolist()
    if isinstance(value, Mapping):
        if wrong := next((key for key in value if not isinstance(key, str)), None):
            raise SweepFileError(f"{MAPPING}: {where or 'the mapping'}: the key {wrong!r} is not text")
        return {key: convert_plain(part, f"{where}.{key}" if where else key) for key, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [convert_plain(part, f"{where}.{place}") for place, part in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # an enumeration's members are words or numbers, too
            return kind.__str__(value) if kind is str else kind(value)
    raise SweepFileError(
        f"{MAPPING}: {where}: {str(value)[:60]!r} ({type(value).__name__}) has no place in a sweep file"
    )
