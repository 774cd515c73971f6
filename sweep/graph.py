"""The graph of a plan while it is built: work with its price, trunks and their cuts, jobs by key."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.job import Estimate, Job, Resources
from stages.config import FORMAT_VERSIONS, PretrainConfig
from sweep.spec.models import Model


@dataclass(frozen=True, slots=True)
class Work:
    """A configuration with its price: what jobs with different parents have in common."""

    stage: str
    phase: str
    config: dict[str, Any]
    config_json: str
    settings: dict[str, Any]
    resources: Resources
    estimate: Estimate


@dataclass(slots=True)
class Trunk:
    """A whole trunk, the steps at which cells branch off, and the keys of the segments planned so far."""

    model: Model
    config: PretrainConfig
    cuts: set[int] = field(default_factory=set)
    segments: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """Jobs by key in the order in which they were first needed, and the cells that each serves."""

    works: dict[str, tuple[Work, tuple[str, ...]]] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, work: Work, parents: tuple[str, ...]) -> str:
        if key not in self.works:
            self.works[key] = (work, parents)
            self.cells[key] = []
        return key

    def jobs(self) -> Iterator[Job]:
        for key, (work, parents) in self.works.items():
            yield Job(
                key=key,
                stage=work.stage,
                version=FORMAT_VERSIONS[work.stage],
                phase=work.phase,
                parents=parents,
                config=work.config,
                cells=tuple(self.cells[key]),
                settings=work.settings,
                resources=work.resources,
                estimate=work.estimate,
            )
