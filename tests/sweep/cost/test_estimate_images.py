"""The planner's estimate of a run's images against what the trainer's mixture draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from stages.data.mixture import Mixture
from stages.data.sample import Document
from stages.vision.image_input import ImageInput
from sweep.cost.estimate import SourceUse, count_packed_images
from tests.stages.data.mixture_run import MixtureRun

CONTEXT, LANES, BATCHES = 100, 8, 60
IMAGE_TOKENS = 24


@dataclass
class FixedLength:
    """A source whose samples all have `text` positions of text, after an image or not."""

    name: str
    text: int
    with_images: bool
    size: int = 1_000

    @property
    def shard_sizes(self) -> Sequence[int]:
        return [self.size]

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:
        picture = ImageInput(f"{index:064x}") if self.with_images else None
        image_tokens = IMAGE_TOKENS if self.with_images else 0
        if room is not None and image_tokens + self.text > room:
            return None
        tokens = [(index + position) % 7] * (self.text + 1)
        return Document(tokens, [True] * len(tokens), picture, image_tokens)

    def prefetch(self, shards: Sequence[int]) -> None:
        """There are none to fetch."""


@pytest.mark.parametrize("by", ["tokens", "samples"])
@pytest.mark.parametrize("image_share", [0.05, 0.25, 0.8, 1.0])
def test_the_planner_expects_the_images_that_the_trainer_draws(by: str, image_share: float) -> None:
    sources = [FixedLength("captions", 9, True), FixedLength("long", 30, True), FixedLength("text", CONTEXT, False)]
    shares = [0.75 * image_share, 0.25 * image_share, 1 - image_share]
    mixture = Mixture(
        [each for each, share in zip(sources, shares, strict=True) if share],
        [share for share in shares if share],
        by=by, context=CONTEXT, stripes=LANES, seed=0, bad_samples_limit=0,
    )  # fmt: skip
    run = MixtureRun(mixture)
    for _ in range(BATCHES):
        run.take_batch()
    drawn = sum(progress.images for progress in run.progress)
    uses = [
        SourceUse(share, with_images=each.with_images, text_tokens=each.text if each.with_images else 0)
        for each, share in zip(sources, shares, strict=True)
    ]
    expected = count_packed_images(
        BATCHES * LANES * CONTEXT, uses, image_tokens=IMAGE_TOKENS, context=CONTEXT, share_by=by
    )
    assert drawn == pytest.approx(expected, rel=0.02, abs=4)
