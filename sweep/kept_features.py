"""Which images' features a store will keep, as a plan adds job after job (`feature_cache`; docs/estimates.md)."""

from collections import defaultdict
from dataclasses import dataclass, field

from stages.config import Vision

Place = tuple[str, Vision]
"""Where the images lie, and what makes features of them."""


@dataclass(slots=True)
class KeptFeatures:
    """Counts distinct images, each once for the whole plan.

    Runs of one seed draw the same images in the same order, so the shorter one's are among the longer one's; runs of
    different seeds are taken to draw different images, up to all that the data set has.
    """

    drawn: dict[Place, dict[int | None, float]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, path: str, vision: Vision, images: float, *, seed: int | None = None, examples: int = 0) -> float:
        """How many of the `images` that a job draws no job before it has drawn.

        `seed`: of its order; None for a job that goes through the whole data set. `examples`: images of the data set,
        0 where that is not known.
        """
        # the projector is no part of what is kept
        by_seed = self.drawn[path, vision.model_copy(update={"projector": "linear"})]
        before = total(by_seed, examples)
        by_seed[seed] = max(images, by_seed.get(seed, 0.0))
        return total(by_seed, examples) - before


def total(by_seed: dict[int | None, float], examples: int) -> float:
    """Distinct images of all seeds."""
    drawn = sum(by_seed.values())
    return min(drawn, float(examples)) if examples else drawn
