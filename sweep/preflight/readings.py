"""The readings of a plan: each data set as each kind of job reads it, and the cells whose jobs do."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.counted import format_counted
from stages.config import EvaluateConfig, FinetuneConfig, PretrainConfig
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest, index_jobs, iter_chain_keys
from sweep.preflight.uses import ReadConfig, map_configs

NO_SCHEDULE = {"peak_lr": 1.0, "warmup_steps": 0, "total_steps": 1}
"""A reader asks for none, and configurations that differ in it alone are one reading."""
CELLS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PlannedReading:
    """A request of `stages.prepare.check_readers`, and the cells that it is for, in the plan's order."""

    request: dict[str, Any]
    cells: tuple[str, ...]


def list_readings(manifest: Manifest) -> list[PlannedReading]:
    """The different readings, in the order of the chain."""
    requests: dict[str, dict[str, Any]] = {}
    readings_of_job: dict[str, list[str]] = {}
    known: dict[int, list[str]] = {}
    for key, read in map_configs(manifest.jobs).items():
        if id(read) not in known:
            found = [request for request in build_requests(read, manifest.data) if not is_foreign(read)]
            names = [json.dumps(request, sort_keys=True) for request in found]
            requests |= dict(zip(names, found, strict=True))
            known[id(read)] = names
        readings_of_job[key] = known[id(read)]
    cells: dict[str, dict[str, None]] = defaultdict(dict)
    jobs = index_jobs(manifest)
    for cell in manifest.cells:
        for key in iter_chain_keys(cell):
            trail = [key]
            while trail:
                current = trail.pop()
                for name in readings_of_job.get(current, ()):
                    cells[name][cell.name] = None
                trail += [parent for parent in jobs[current].parents if not jobs[parent].cells]  # the trunk
    return [PlannedReading(request, tuple(cells[name])) for name, request in requests.items()]


def is_foreign(read: ReadConfig) -> bool:
    """Whether a program of any kind reads the data, in a way that is not known."""
    return read.engine is not None and read.engine[0] == "command"


def build_requests(read: ReadConfig, data: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What one configuration reads; of the configuration only what a reader asks for."""
    config = read.config
    if isinstance(config, PretrainConfig):
        for source in config.sources:
            if source.share > 0 and source.name in data:
                kept: dict[str, Any] = {"model": config.model, "context": config.context}
                if source.kind != "text":
                    kept |= {"vision": config.vision, "tokenizer": config.tokenizer}
                source_only = source.model_copy(update={"share": 1.0, "revision": ""})
                content = {**dump_parts(kept), "sources": [source_only.model_dump()], "schedule": NO_SCHEDULE}
                names = [source.name, *([config.tokenizer.name] if config.tokenizer and source.kind != "text" else [])]
                yield build_request(read, source.kind, find_paths(names, data), content)
    elif isinstance(config, FinetuneConfig):
        kept = {"conversations": config.conversations, "tokenizer": config.tokenizer}
        content = {**dump_parts(kept), "epochs": 1, "max_length": config.max_length, "prompt": config.prompt}
        names = [config.conversations.name, config.tokenizer.name]
        yield build_request(read, "conversations", find_paths(names, data), content)
    elif isinstance(config, EvaluateConfig):
        content = config.model_dump(include={"tasks", "tokenizer", "text_tasks", "vision_tasks"}, mode="json")
        yield build_request(read, "tasks", find_paths([config.tasks, config.tokenizer.name], data), content)


def dump_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a configuration as JSON types."""
    return {name: part.model_dump() if hasattr(part, "model_dump") else part for name, part in parts.items()}


def find_paths(names: Sequence[str], data: Mapping[str, str]) -> dict[str, str]:
    """Where the data sets lie."""
    return {name: data.get(name, "") for name in dict.fromkeys(names)}


def build_request(read: ReadConfig, kind: str, paths: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """A `Reading`, its data set first among `paths`."""
    stage, name = PHASES[read.phase].stage, next(iter(paths))
    model = read.model if stage != "pretrain" else None
    return {
        "name": f"{read.phase}: {name}",
        "stage": stage,
        "kind": kind,
        "data": name,
        "config": dict(config),
        "vocabulary": model.vocabulary if model else 0,
        "vision": model.vision.model_dump() if model and model.vision else None,
        "paths": dict(paths),
    }


# What cells would skip.


def build_cell_records(readings: Sequence[PlannedReading], reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By cell and reading: the samples there are, those read, those skipped of them, and whether a job would end."""
    cells: dict[str, dict[str, Any]] = {}
    for reading, report in zip(readings, reports, strict=True):
        ends = any(problem["action"] == "refuse" for problem in report["problems"])
        record = {"of": report["of"], "read": report["samples"], "skipped": report["skipped"], "ends": ends}
        for cell in reading.cells:
            cells.setdefault(cell, {})[report["name"]] = record
    return cells


def format_cell_lines(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """One line for each set of cells that would skip the same, such as `m1-b0 and 5 more: would skip 12 of 900 ...`."""
    same: dict[str, list[str]] = defaultdict(list)
    for cell, records in cells.items():
        parts = [format_record(name, record) for name, record in records.items() if record["skipped"] or record["ends"]]
        same["; ".join(parts)].append(cell)
    lines = []
    for told, names in same.items():
        more = f" and {len(names) - CELLS_SHOWN:,} more" if len(names) > CELLS_SHOWN else ""
        lines.append(f"{', '.join(names[:CELLS_SHOWN])}{more}: {told or 'every example that was read is used'}")
    return lines


def format_record(name: str, record: Mapping[str, Any]) -> str:
    """`finetune: talks would skip 3 of 200 examples, about 30 of all 2,000`."""
    ends = "a job would end with an error" if record["ends"] else ""
    if not record["skipped"]:
        return f"{name}: {ends}"
    skips = f"would skip {record['skipped']:,} of {format_counted(record['read'], 'example')}"
    if record["read"] < record["of"]:
        skips += f", about {round(record['skipped'] * record['of'] / record['read']):,} of all {record['of']:,}"
    return f"{name}: {skips}{f', and {ends}' if ends else ''}"
