"""What each data set of an image-text mixture is expected to have of the loss, for the report of a plan."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.counted import format_counted
from jobs.job import Job
from stages.config import PretrainConfig, Source
from sweep.catalog import Catalog
from sweep.cost.counts import DataCounts
from sweep.cost.estimate import LossShares
from sweep.cost.figures import FigureBook
from sweep.cost.pricing import Pricer
from sweep.plan.manifest import Manifest
from sweep.spec.schema import Sweep

MAX_LINES = 12
"""Mixtures that the text report shows; the others are in its JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureLoss:
    """One mixture with images, as the image-text runs of a plan have it."""

    loss_mean: str
    share_by: str
    packing: str
    context: int
    jobs: int
    """Image-text runs that have it."""
    sources: tuple[Source, ...]
    shares: tuple[LossShares, ...]
    """Of each source."""

    def convert_to_dict(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("loss_mean", "share_by", "packing", "context", "jobs")}
        sources = [
            {"name": source.name, "kind": source.kind, "share": source.share}
            | {f"{name}_share": value for name, value in asdict(found).items()}
            for source, found in zip(self.sources, self.shares, strict=True)
        ]
        return {**settings, "sources": sources}


def list_mixture_losses(
    sweep: Sweep, catalog: Catalog, manifest: Manifest, counts: DataCounts | None = None
) -> tuple[MixtureLoss, ...]:
    """One for each distinct mixture with images, in the order of the plan. `counts`: of the data, for lengths."""
    pricer = Pricer(sweep, catalog, figures=FigureBook(catalog, sweep.data, counts))
    configs: dict[tuple[object, ...], list[PretrainConfig]] = {}
    for config in iter_image_text_configs(manifest.jobs):
        vision = config.vision.encoder if config.vision else ""
        alike = config.sources, config.loss_mean, config.share_by, config.packing, config.context, vision
        configs.setdefault(alike, []).append(config)
    return tuple(
        MixtureLoss(
            loss_mean=first.loss_mean,
            share_by=first.share_by,
            packing=first.packing,
            context=first.context,
            jobs=1 + len(others),
            sources=first.sources,
            shares=pricer.compute_loss_shares(first),
        )
        for first, *others in configs.values()
    )


def iter_image_text_configs(jobs: Sequence[Job]) -> Iterator[PretrainConfig]:
    """Those of runs that see images."""
    for job in jobs:
        if job.phase == "pretrain":
            config = PretrainConfig.model_validate(dict(job.config))
            if any(source.kind != "text" for source in config.sources):
                yield config


HEADS = {
    "tokens": "each predicted token counts the same (pretrain.loss_mean: tokens):",
    "sequences": "each sequence counts the same (loss_mean: sequences); in brackets: of the predicted tokens",
}
"""What a loss is a mean over, for a reader."""


def format_mixture_losses(found: Sequence[MixtureLoss]) -> list[tuple[str, str]]:
    """Lines for the first mixtures, by what their loss is a mean over: how much of it their images have. Mixtures that
    read alike (they differ in the encoder, for one) have one line."""
    by_mean: dict[str, dict[str, None]] = {}
    for each in found:
        by_mean.setdefault(each.loss_mean, {})[format_mixture_loss(each)] = None
    lines = [("loss", "estimated part of the pre-training loss that data with images have")] if found else []
    left = MAX_LINES
    for mean, mixtures in by_mean.items():
        shown = list(mixtures)[:left]
        left -= len(shown)
        lines += [("", text) for text in ([HEADS[mean], *shown] if shown else [])]
    if hidden := sum(map(len, by_mean.values())) - (MAX_LINES - left):
        lines.append(("", f"and {format_counted(hidden, 'mixture')} more (--json)"))
    return lines


def format_mixture_loss(found: MixtureLoss) -> str:
    """`captions 8 % of the mix: 11 % of the loss (0.17 %), llava 2 %: 1.9 % (0.32 %)`. Text alone is predicted, so few
    of the predicted tokens are of images' data. Where the loss is a mean over tokens, the two parts are one."""
    parts: list[str] = []
    for source, each in zip(found.sources, found.shares, strict=True):
        if source.kind != "text":
            mix, loss = ("", "") if parts else (" of the mix", " of the loss")
            target = f" ({format_share(each.target)})" if found.loss_mean == "sequences" else ""
            parts.append(f"{source.name} {format_share(source.share)}{mix}: {format_share(each.weight)}{loss}{target}")
    return ", ".join(parts)


def format_share(share: float) -> str:
    """In percent, of two significant digits: `0.21 %`, `13 %`, `100 %`."""
    percent = float(f"{100 * share:.2g}")
    return f"{percent:g} %"
