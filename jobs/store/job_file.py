"""job.json: what a stage reads, made from the job's line in the manifest."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path
from typing import Any

from jobs.errors import AttemptSetupError
from jobs.job import TRUNK_PHASE
from jobs.store.paths import RunPaths, Store
from jobs.store.reading import open_to_read, parse_object, read_anew

JOB_FORMAT = 1
REPORTED_PACKAGES = ("sweep-vlm", "torch", "numpy", "tokenizers", "safetensors", "webdataset", "lm-eval")
PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job with what one attempt needs to know."""

    record: Mapping[str, Any]
    """Its line of the manifest."""
    parents: Mapping[str, str]
    """Parent's key to parent's stage."""
    data: Mapping[str, str]
    sweep: str = ""
    cells: tuple[str, ...] = ()
    """All that it serves; of a trunk segment those of its descendants."""
    cell: Mapping[str, Any] = field(default_factory=dict)
    """The first cell's line of the manifest."""


def read_planned_job(manifest: Path, key: str) -> PlannedJob:
    """Reads one job from a manifest and builds no others. Raises AttemptSetupError if it is not there."""
    try:
        header, record, parents = read_anew(lambda: _read_job_record(manifest, key))
        cells = tuple(record.get("cells", ()))
        if not cells and record.get("phase") == TRUNK_PHASE:  # the only jobs that the plan names no cell of
            cells = tuple(read_anew(lambda: _list_later_cells(manifest, key)))
        cell = read_anew(lambda: _read_cell_record(manifest, cells[0])) if cells else {}
    except (OSError, StopIteration, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "it holds no such job, or half of one" if not isinstance(error, OSError | ValueError) else error
        raise AttemptSetupError(f"{manifest}: cannot read job {key}: {reason}") from None
    if set(parents) != set(record["parents"]):
        raise AttemptSetupError(f"{manifest}: job {key} has parents that are not in the manifest")
    sweep = str(header.get("sweep", ""))
    return PlannedJob(record=record, parents=parents, data=header.get("data", {}), sweep=sweep, cells=cells, cell=cell)


def _read_job_record(manifest: Path, key: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The header, the job's own line, and its parents' stages by key."""
    header = next(_records(manifest))
    record = next(record for record in _records(manifest, key) if record.get("key") == key)
    wanted = set(record["parents"])
    parents = {
        other["key"]: other["stage"]
        for parent in record["parents"]
        for other in _records(manifest, parent)
        if other.get("key") in wanted
    }
    return header, record, parents


def _list_later_cells(manifest: Path, key: str) -> list[str]:
    """The cells of a job's descendants, in the manifest's order."""
    found: dict[str, None] = {}
    reached = {key}
    with open_to_read(manifest) as lines:
        for line in lines:
            if line.startswith(b'{"record":"job",'):
                record = parse_object(line.partition(b',"config":')[0] + b"}")  # what follows is long, and not needed
                if not reached.isdisjoint(record["parents"]):  # parents stand before their children
                    reached.add(record["key"])
                    found |= dict.fromkeys(record["cells"])
    return list(found)


def _read_cell_record(manifest: Path, name: str) -> dict[str, Any]:
    """The cell's line; empty if there is none."""
    return next((each for each in _records(manifest, name, "cell") if each.get("name") == name), {})


# Why: docs/decisions.md, D202
def build_job_origin(planned: PlannedJob) -> dict[str, object]:
    """Who asked for the job, for people and trackers. Nothing of it enters a key or changes a number."""
    record, cell = planned.record, planned.cell
    part = str(record.get("phase", record["stage"]))
    config, chains = record["config"], cell.get("chains", ())
    epochs = next((each["epochs"] for each in chains if record["key"] in (each["finetune"], each["evaluate"])), None)
    if epochs is not None:
        part += f"-e{epochs}"
    elif isinstance(config, Mapping) and config.get("stop_step"):
        part += f"-to-{config['stop_step']}"
    names = [planned.cells[0]] if planned.cells else []
    place = Store(Path("/")).locate_sweep(planned.sweep).tensorboard.joinpath(*names, part) if planned.sweep else None
    run = Store(Path("/")).locate_run(str(record["stage"]), str(record["key"])).root
    return {
        "sweep": planned.sweep,
        "phase": record.get("phase", ""),
        "label": " ".join([*names, part]),
        "cells": list(planned.cells),
        "axes": cell.get("axes", {}),
        "board": relpath(place, run) if place else "",
    }


def build_job_content(planned: PlannedJob, attempt: str, *, revision: str = "") -> dict[str, object]:
    """The content of job.json for one attempt; relative paths are relative to the run's folder.

    `revision` of the code that runs; if empty, that of the checkout which this file is in.
    """
    record = planned.record
    return {
        "format": JOB_FORMAT,
        "key": record["key"],
        "stage": record["stage"],
        "version": record["version"],
        "config": record["config"],
        "parents": [
            {"key": parent, "stage": planned.parents[parent], "run": f"../../{planned.parents[parent]}/{parent}"}
            for parent in record["parents"]
        ],
        "data": dict(planned.data),
        "settings": record.get("settings", {}),
        "resources": record.get("resources", {}),
        "code": {
            "revision": revision or read_code_revision(PACKAGE_FOLDER),
            "versions": read_package_versions(list_plugin_packages(record["config"])),
        },
        "origin": build_job_origin(planned),
        "paths": {
            "checkpoints": RunPaths(Path()).checkpoints.name,
            "metrics": RunPaths(Path()).metrics.name,
            "result": RunPaths(Path()).result.name,
            "error": str(RunPaths(Path()).locate_attempt(attempt).error),
        },
    }


def find_own_code() -> str:
    """The folder that this program's packages lie in; empty where Python finds them without being told.

    Packages of an installation must not come before Python's own modules, as PYTHONPATH does.
    """
    installed = {"site-packages", "dist-packages"}.intersection(PACKAGE_FOLDER.parts)
    return "" if installed else str(PACKAGE_FOLDER)


def list_plugin_packages(config: object) -> list[str]:
    """Packages that a configuration names as PACKAGE:VERSION under `plugin`, wherever it does."""
    if isinstance(config, Mapping):
        own = config.get("plugin")
        named = [own.rpartition(":")[0]] if isinstance(own, str) and own else []
        return [*named, *(name for part in config.values() for name in list_plugin_packages(part))]
    return [name for part in config for name in list_plugin_packages(part)] if isinstance(config, list | tuple) else []


def read_package_versions(plugins: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions of the packages whose version may change the results, `plugins` among them."""
    # imported here: with the mail and archive modules that it loads it takes 30 ms, and reports read no versions
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in (*REPORTED_PACKAGES, *plugins):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_code_revision(folder: Path) -> str:
    """The commit that is checked out in `folder`, or the installed version if it is no checkout."""
    try:
        git = _git_folder(folder)
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        return _read_reference(git, head.removeprefix("ref: "))
    except OSError:
        return read_package_versions().get("sweep-vlm", "")


def _git_folder(folder: Path) -> Path:
    """Git's folder. In a linked work tree, `.git` is a file that says where it is."""
    git = folder / ".git"
    return folder / git.read_text().strip().removeprefix("gitdir: ") if git.is_file() else git


def _read_reference(git: Path, reference: str) -> str:
    """The commit of a branch. All work trees share one folder of branches."""
    if (git / "commondir").exists():
        git = git / (git / "commondir").read_text().strip()
    loose = git / reference
    if loose.exists():
        return loose.read_text().strip()
    packed = (git / "packed-refs").read_text().splitlines() if (git / "packed-refs").exists() else []
    return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), "")


def _records(manifest: Path, containing: str = "", kind: str = "job") -> Iterator[dict[str, Any]]:
    """Lines of that kind that contain `containing`; only the header if it is empty."""
    with open_to_read(manifest) as lines:
        if not containing:
            yield parse_object(lines.readline())
            return
        wanted = containing.encode()
        for line in lines:
            if wanted in line:
                record = parse_object(line)
                if record.get("record") == kind:
                    yield record
