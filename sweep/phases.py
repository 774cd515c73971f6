"""The phases of a cell's chain, in its order. Reports, requests, settings and the catalog go by this table alone.

A phase is a place in the chain, a stage is the program that works there: the text trunk and the image-text run are two
phases of the stage `pretrain`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.config import StageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase. Its name is also its section of the sweep file."""

    name: str
    stage: str
    job: str
    """One of its jobs, for people."""
    jobs: str
    """All of them, behind `resources of` and `settings of`."""
    section: str
    """What its section of the sweep file sets."""
    without: frozenset[str] = frozenset()
    """Settings of the stage that the phase does not have."""
    trains: bool = False
    sees_images: bool = True
    in_catalog: bool = False
    """Whether the catalog's models state what its jobs ask for; else they ask for one node without GPUs."""

    @property
    def config(self) -> "type[StageConfig]":
        # imported here: `sweep status` names phases and needs no configuration, which takes 0.1 CPU s to load
        from stages.config import STAGES

        return STAGES[self.stage].config

    @property
    def has_engine(self) -> bool:
        """Whether another program may carry out its jobs."""
        return "engine" in self.config.model_fields


# Why: docs/decisions.md, D72
PHASES: Mapping[str, Phase] = {
    phase.name: phase
    for phase in (
        Phase(
            name="trunk",
            stage="pretrain",
            job="trunk segment",
            jobs="the trunk's segments",
            section="the text trunk",
            # of images and of a parent
            without=frozenset({"share_by", "packing", "optimizer_state", "loss_mean", "text_order"}),
            trains=True,
            sees_images=False,
            in_catalog=True,
        ),
        Phase(
            name="pretrain",
            stage="pretrain",
            job="image-text run",
            jobs="the image-text runs",
            section="the image-text run",
            # its seed is an axis, its peak follows from the axis lr_at_branch
            without=frozenset({"seed", "peak_lr", "warmup_steps"}),
            trains=True,
            in_catalog=True,
        ),
        Phase(
            name="finetune",
            stage="finetune",
            job="fine-tune",
            jobs="the fine-tunes",
            section="the fine-tunes",
            trains=True,
            in_catalog=True,
        ),
        Phase(
            name="evaluate",
            stage="evaluate",
            job="evaluation",
            jobs="the evaluations",
            section="the evaluations",
            in_catalog=True,
        ),
    )
}
