"""The frozen plan of a sweep: what it is, how it is written and read (docs/formats.md, manifest.jsonl)."""

import gc
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.errors import add_denial
from jobs.job import Estimate, Job, Resources
from jobs.reconcile.canary import CanaryLimits
from jobs.store.paths import SAFE_NAME, open_replacement
from jobs.store.reading import find_type_problem, is_number, is_whole_number, open_to_read, parse_object, read_anew
from jobs.store.results import is_known_format
from sweep.budget.prices import Prices, parse_prices
from sweep.errors import ManifestError, StoreError
from sweep.notices.settings import NoticeSettings, parse_notices
from sweep.phases import PHASES

logger = logging.getLogger(__name__)

# Cyclic garbage collection, paused while many objects are made at once that all stay.


@contextmanager
def pause_gc() -> Iterator[None]:
    """No collection within the block: it would walk a growing heap again and again, half of a large plan's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneChain:
    """One fine-tune of a cell and its evaluation, by key."""

    epochs: int
    finetune: str
    evaluate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid: a pre-trained model with its fine-tunes and evaluations."""

    name: str
    axes: Mapping[str, Any]
    """Every named axis, also those that the sweep does not vary, and the settings that a block names."""
    pretrain: str
    """Key of its image-text run."""
    chains: tuple[FinetuneChain, ...]
    block: str = ""
    """Label of the block that it comes from."""
    priority: int = 0
    """Cells of a higher one are sent first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIdentity:
    """What keys know a data set by: `name` and `revision` stand in them. A fresh data set's name is its digest."""

    name: str
    revision: str = ""
    content: str = ""
    """Its digest (`sweep.content.digest`); empty where the data cannot be seen, and known by its name alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Cells in the file's order; jobs with parents before children, whole chains first."""

    sweep: str
    backend: str
    data: Mapping[str, str]
    """Data set's name to its absolute path or URL; an encoder's weights under their identity too."""
    cells: tuple[Cell, ...]
    jobs: tuple[Job, ...]
    identities: Mapping[str, DataIdentity] = field(default_factory=dict)
    """Of the data sets whose content is known, by name; of an evaluation task by FOLDER/FILE."""
    canary: CanaryLimits | None = None
    """What the first job of each shape must show before the others are sent; None: nothing."""
    prices: Prices | None = None
    """What hours cost in money, where the sweep file says it."""
    notices: NoticeSettings | None = None
    """Who is told of what, where the sweep file says it."""
    format: int = FORMAT
    """Of the file that it was read from; a later version's is read as far as it is known here."""


def build_header_record(manifest: Manifest) -> dict[str, Any]:
    """The first line."""
    identities = {name: asdict(each) for name, each in manifest.identities.items()}
    return {
        "record": "header",
        "format": FORMAT,
        "sweep": manifest.sweep,
        "cells": len(manifest.cells),
        "jobs": len(manifest.jobs),
        "backend": manifest.backend,
        "data": dict(manifest.data),
        **({"identities": identities} if identities else {}),
        **({"canary": asdict(manifest.canary)} if manifest.canary is not None else {}),
        **({"prices": manifest.prices.build_record()} if manifest.prices is not None else {}),
        **({"notices": manifest.notices.build_record()} if manifest.notices is not None else {}),
    }


def iter_manifest_lines(manifest: Manifest) -> Iterator[str]:
    """The file's lines, each with its newline; same manifest, same text."""
    yield json.dumps(build_header_record(manifest), separators=(",", ":")) + "\n"
    for cell in manifest.cells:
        yield render_cell_line(cell)
    tails: dict[tuple[int, int, int, int], str] = {}
    for job in manifest.jobs:
        # jobs of one kind share these four, so that a large grid writes them out once
        shared = id(job.config), id(job.settings), id(job.resources), id(job.estimate)
        tail = tails.get(shared)
        if tail is None:
            tail = tails[shared] = render_job_tail(job)
        yield render_job_line(job, tail)


def render_cell_line(cell: Cell) -> str:
    """One cell's line."""
    chains = [{"epochs": each.epochs, "finetune": each.finetune, "evaluate": each.evaluate} for each in cell.chains]
    record: dict[str, Any] = {"record": "cell", "name": cell.name, "block": cell.block, "axes": dict(cell.axes)}
    record |= {"pretrain": cell.pretrain, "chains": chains, **({"priority": cell.priority} if cell.priority else {})}
    return json.dumps(record, separators=(",", ":")) + "\n"


def render_job_line(job: Job, tail: str) -> str:
    """Keys, stages and names are plain words (`jobs.store.paths.check_safe_name`) and need no escapes."""
    parents, cells = render_json_names(job.parents), render_json_names(job.cells)
    return (
        f'{{"record":"job","key":"{job.key}","stage":"{job.stage}","version":{job.version},"phase":"{job.phase}",'
        f'"parents":[{parents}],"cells":[{cells}],{tail}\n'
    )


def render_json_names(names: Iterable[str]) -> str:
    """Plain words as the inside of a JSON list."""
    return ",".join([f'"{name}"' for name in names])


def render_job_tail(job: Job) -> str:
    """The end of a job's line: configuration, settings, resources, estimate."""
    parts = {
        "config": dict(job.config),
        "settings": dict(job.settings),
        "resources": select_non_defaults(job.resources),
        "estimate": select_non_defaults(job.estimate),
    }
    return json.dumps(parts, separators=(",", ":"))[1:-1] + "}"


def select_non_defaults(part: Resources | Estimate) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    defaults = DEFAULTS[type(part)]
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    return {
        name: dict(value) if name == "options" else value for name, value in values.items() if value != defaults[name]
    }


DEFAULTS: dict[type, dict[str, Any]] = {
    kind: {each.name: getattr(kind(), each.name) for each in fields(kind)} for kind in (Resources, Estimate)
}


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Whole or absent."""
    with open_replacement(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(iter_manifest_lines(manifest))


def is_same_manifest(path: Path, manifest: Manifest) -> bool:
    """Whether the file at `path` holds exactly this manifest."""
    try:
        with open_to_read(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as lines:
            return all(stored == wanted for stored, wanted in iter_padded_pairs(lines, iter_manifest_lines(manifest)))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False


def iter_padded_pairs(first: Iterable[str], second: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs; the shorter one is filled up with empty lines, which no file line is."""
    from itertools import zip_longest

    return zip_longest(first, second, fillvalue="")


CELL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
SHARED_PART = b',"config":'
"""Where the part of a job's line begins that many jobs have in common (`render_job_line`)."""
NAME = f'"({SAFE_NAME.pattern})"'
NAMES = r"((?:\"[\w.+=-]+\",?)*)"
JOB_HEAD = re.compile(
    rf'\{{"record":"job","key":{NAME},"stage":{NAME},"version":([0-9]{{1,18}}),"phase":"({"|".join(PHASES)})",'
    rf'"parents":\[{NAMES}\],"cells":\[{NAMES}\]'
)
"""The part before it, as `render_job_line` writes it, with all that `check_head` asks for: six times faster than
JSON. Other spellings are read as JSON."""


JobHead = tuple[str, str, int, str, Sequence[str], Sequence[str]]
"""What a job's line says before the shared part, of the types and names that a job has: key, stage, version, phase,
parents' keys, cells' names."""


@dataclass(slots=True)
class ManifestReader:
    """Builds the parts of one manifest; equal ends of lines become the same objects."""

    path: Path
    lines: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Of the jobs so far, each to itself: children name their parents by the same objects."""
    words: dict[str, str] = field(default_factory=dict)
    """Stages and phases, each once."""
    cells_by_text: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The names of cells that jobs have in common, by the text that they stand in."""
    job_parts_by_tail: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    other_parts: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    """Settings, resources and estimate by the text that they stand in."""

    def add_line(self, line: bytes) -> None:
        """KeyError, TypeError or ValueError where the line is not as written."""
        head, mark, tail = line.partition(SHARED_PART)
        if mark and line.startswith(b'{"record":"job",'):
            if tail not in self.job_parts_by_tail:
                self.job_parts_by_tail[tail] = self.parse_tail(mark[1:] + tail)
            return self.add_job(self.parse_head(head), self.job_parts_by_tail[tail])
        record = parse_object(line)
        kind = record["record"]
        if kind == "job":
            parts = parse_job_parts(record)
            self.add_job(self.check_head(record), parts)
        elif kind == "cell":
            self.cells.append(parse_cell(record))
        elif kind == "header" and not self.header:
            if not is_known_format(record["format"], FORMAT):
                raise ValueError(f"format {repr(record['format'])[:60]} is not read here; this version reads {FORMAT}")
            parse_identities(record)
            parse_canary(record)
            parse_prices(record.get("prices"))
            parse_notices(record.get("notices"))
            self.header = record
        elif self.header.get("format", FORMAT) == FORMAT:
            raise ValueError(f"an unexpected record {repr(kind)[:60]}")
        return None

    def parse_tail(self, tail: bytes) -> dict[str, Any]:
        """The parts of a job from its line's end; what follows its configuration is shared by nearly all jobs."""
        config, mark, rest = tail.rpartition(b',"settings":')
        if not mark:
            return parse_job_parts(parse_object(b"{" + tail))
        try:
            record = parse_object(b"{" + config + b"}")
            if rest not in self.other_parts:
                self.other_parts[rest] = parse_job_parts({"config": {}, **parse_object(b"{" + mark[1:] + rest)})
            return {**self.other_parts[rest], "config": record["config"]}
        except ValueError:  # the mark stood within another part
            return parse_job_parts(parse_object(b"{" + tail))

    def add_job(self, head: JobHead, parts: dict[str, Any]) -> None:
        key, stage, version, phase, parents, cells = head
        word, parents = self.words.setdefault, self.find_parents(key, parents)
        self.keys[key] = key
        self.jobs.append(
            Job(
                key=key,
                stage=word(stage, stage),
                version=version,
                phase=word(phase, phase),
                parents=parents,
                cells=tuple(cells),
                **parts,
            )
        )

    def find_parents(self, key: str, parents: Sequence[str]) -> tuple[str, ...]:
        """The parents as their own jobs have them. ValueError where one is missing, or the job is here already."""
        try:
            found = tuple([self.keys[each] for each in parents])
        except KeyError:
            raise ValueError(f"job {key[:60]} stands before its parent") from None
        if key in self.keys:
            raise ValueError(f"job {key[:60]} stands here twice")
        return found

    def parse_head(self, head: bytes) -> JobHead:
        """What a job's line says before the shared part."""
        match = JOB_HEAD.fullmatch(head.decode())
        if match is None:
            return self.check_head(parse_object(head + b"}"))
        key, stage, version, phase, parents, cells = match.groups()
        if cells not in self.cells_by_text:
            self.cells_by_text[cells] = tuple(split_names(cells))
        return key, stage, int(version), phase, split_names(parents), self.cells_by_text[cells]

    def check_head(self, record: dict[str, Any]) -> JobHead:
        """Of a line that was read as JSON. ValueError for a job that no store and no report could hold."""
        if not (isinstance(record["key"], str) and has_names(record["parents"])):
            raise ValueError(f"key is {repr(record['key'])[:60]}, or parents is no list of keys")
        self.find_parents(record["key"], record["parents"])
        for name in ("key", "stage", "phase"):
            if not (isinstance(record[name], str) and SAFE_NAME.fullmatch(record[name])):
                raise ValueError(f"{name} is {repr(record[name])[:60]}")
        if record["phase"] not in PHASES:
            raise ValueError(f"phase {record['phase']} is none of {', '.join(PHASES)}")
        if not is_whole_number(record["version"]) or not has_names(record["cells"]):
            raise ValueError(f"version or cells of job {record['key']} is of another type")
        key, stage, version, phase = record["key"], record["stage"], record["version"], record["phase"]
        return key, stage, version, phase, record["parents"], record["cells"]


def split_names(names: str) -> list[str]:
    """The inside of a JSON list of plain words."""
    return names[1:-1].split('","') if names else []


def has_names(value: object) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def parse_job_parts(record: dict[str, Any]) -> dict[str, Any]:
    """What `render_job_tail` wrote."""
    config, settings, estimate = record["config"], record.get("settings", {}), record.get("estimate", {})
    if not (isinstance(config, dict) and isinstance(settings, dict)):
        raise ValueError("config or settings is not a JSON object")
    if problem := find_type_problem(Estimate, estimate):
        raise ValueError(problem)
    return {
        "config": config,
        "settings": settings,
        "resources": parse_resources(record.get("resources", {})),
        "estimate": Estimate(**select_known(Estimate, estimate)),
    }


def select_known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `record` that a dataclass has: a later version may have written more."""
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]  # `fields` takes twice as long, for each line
    return {name: value for name, value in record.items() if name in known}


def parse_resources(record: dict[str, Any]) -> Resources:
    """Lists of JSON as the tuples that they were."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    values = select_known(Resources, values)
    if problem := find_type_problem(Resources, values):
        raise ValueError(problem)
    return Resources(**values)


def parse_identities(header: Mapping[str, Any]) -> dict[str, DataIdentity]:
    """What the header says of its data's content; nothing in a plan of an earlier version. A field of a later version
    is left out."""
    known = [each.name for each in fields(DataIdentity)]
    found: dict[str, DataIdentity] = {}
    for label, record in header.get("identities", {}).items():
        values = {name: record[name] for name in known if name in record}
        if not (values.get("name") and all(isinstance(value, str) for value in values.values())):
            raise ValueError(f"identities: {label!r} has no name, revision and content")
        found[label] = DataIdentity(**values)
    return found


def parse_canary(header: Mapping[str, Any]) -> CanaryLimits | None:
    """What the header says of first jobs; None where it says nothing."""
    given = header.get("canary")
    if given is None:
        return None
    known = select_known(CanaryLimits, given)
    band = known.pop("loss", None)
    factors = all(is_number(value) and value >= 1 for value in known.values())
    if not factors or not (band is None or (isinstance(band, list) and len(band) == 2 and all(map(is_number, band)))):
        raise ValueError(f"canary is {repr(given)[:60]}")
    return CanaryLimits(loss=(band[0], band[1]) if band is not None else None, **known)


def parse_cell(record: dict[str, Any]) -> Cell:
    """What `render_cell_line` wrote."""
    name, axes, pretrain = record["name"], record["axes"], record["pretrain"]
    chains = [select_known(FinetuneChain, each) for each in record["chains"]]
    cell = Cell(
        name=name,
        axes=axes,
        pretrain=pretrain,
        chains=tuple([FinetuneChain(**each) for each in chains]),
        block=record.get("block", ""),
        priority=record.get("priority", 0),
    )
    problem = find_type_problem(
        Cell,
        {
            "name": cell.name,
            "axes": cell.axes,
            "pretrain": cell.pretrain,
            "block": cell.block,
            "priority": cell.priority,
        },
    )
    if problem or not CELL_NAME.fullmatch(cell.name):
        raise ValueError(problem or f"name is {cell.name[:60]!r}")
    for each in chains:
        if problem := find_type_problem(FinetuneChain, each):
            raise ValueError(problem)
    return cell


def read_manifest(path: Path) -> Manifest:
    """The stored plan.

    Raises:
        ManifestError: a line is damaged, or there is no file.
        StoreError: the file cannot be read. It may be whole.
    """
    try:
        reader = read_anew(lambda: read_lines(path))  # another machine may plan anew meanwhile
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no plan of that name here; make one with `sweep plan FILE`") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {add_denial(error.strerror or str(error), error)}") from None
    check_line_counts(reader)
    check_names(reader)
    logger.info("%s: read, %d cells, %d jobs", path, len(reader.cells), len(reader.jobs))
    header = reader.header
    return Manifest(
        sweep=header["sweep"],
        backend=header["backend"],
        data=header["data"],
        cells=tuple(reader.cells),
        jobs=tuple(reader.jobs),
        identities=parse_identities(header),
        canary=parse_canary(header),
        prices=parse_prices(header.get("prices")),
        notices=parse_notices(header.get("notices")),
        format=header["format"],
    )


def read_manifest_header(path: Path) -> tuple[dict[str, str], dict[str, DataIdentity]]:
    """Data sets by name, to their path and to their identity, from a stored plan's first line.

    Nothing where there is no plan, or one whose header does not hold: `read_manifest` says why. OSError for one that
    is there and cannot be read.
    """
    try:
        header = parse_object(read_anew(lambda: read_first_line(path)))
        data = {str(name): str(place) for name, place in header["data"].items()}
        return data, parse_identities(header)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}


def read_first_line(path: Path) -> bytes:
    """With its newline. OSError."""
    with open_to_read(path) as file:
        return file.readline()


def read_lines(path: Path) -> ManifestReader:
    """All lines of the file. Raises ManifestError for the first that is damaged, and OSError."""
    reader = ManifestReader(path)
    with open_to_read(path) as file, pause_gc():
        for line in file:
            reader.lines += 1
            try:
                reader.add_line(line)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ManifestError(
                    f"{path}:{reader.lines}: is damaged: {describe_record_error(error)}; plan the sweep again"
                ) from None
    return reader


def describe_record_error(error: Exception) -> str:
    """What is wrong with a record."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error)


def check_line_counts(reader: ManifestReader) -> None:
    """The header says how long the file is; a file cut at a line's end shows here."""
    header = reader.header
    missing = {"sweep", "backend", "data", "cells", "jobs"} - header.keys()
    if missing:
        raise ManifestError(
            f"{reader.path}:1: is damaged: the header lacks {', '.join(sorted(missing))}; plan the sweep again"
        )
    for name, found in (("cells", len(reader.cells)), ("jobs", len(reader.jobs))):
        if header[name] != found:
            held = f"it holds {found} of {str(header[name])[:20]} {name}"
            raise ManifestError(f"{reader.path}:{reader.lines}: is damaged: {held}; plan the sweep again")


def check_names(reader: ManifestReader) -> None:
    """Every key and cell that is named is there: what reads a plan looks them up."""
    header = reader.header
    problem = "" if isinstance(header["sweep"], str) and SAFE_NAME.fullmatch(header["sweep"]) else "sweep is no name"
    if header["backend"] not in ("local", "slurm"):
        problem = "backend is neither local nor slurm"
    data = header["data"]
    if not (isinstance(data, dict) and all(isinstance(each, str) for each in data.values())):
        problem = "data is no mapping of names to paths"
    if problem:
        raise ManifestError(f"{reader.path}:1: is damaged: {problem}; plan the sweep again")
    named = {key for cell in reader.cells for key in iter_chain_keys(cell)} - reader.keys.keys()
    cells = {name for job in reader.jobs for name in job.cells} - {cell.name for cell in reader.cells}
    for what, missing in (("job", named), ("cell", cells)):
        if missing:
            raise ManifestError(
                f"{reader.path}: is damaged: it names {what} {min(missing)[:60]!r} and does not hold it; "
                "plan the sweep again"
            )


def index_jobs(manifest: Manifest) -> dict[str, Job]:
    """Jobs by key."""
    return {job.key: job for job in manifest.jobs}


def map_jobs_to_models(manifest: Manifest) -> dict[str, str]:
    """The model of each job, by key: its cells' axis; a trunk segment's is that of the jobs that follow from it."""
    axis = {cell.name: str(cell.axes.get("model", "")) for cell in manifest.cells}
    models: dict[str, str] = {}
    for job in reversed(manifest.jobs):  # parents come before children
        if job.cells:
            models[job.key] = axis[job.cells[0]]
        model = models.setdefault(job.key, "")
        for parent in job.parents:
            models.setdefault(parent, model)
    return models


def iter_chain_keys(cell: Cell) -> Iterator[str]:
    """Keys of the cell's own jobs, in the order of the chain."""
    return chain((cell.pretrain,), *((each.finetune, each.evaluate) for each in cell.chains))
