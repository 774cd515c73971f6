"""The shapes world: what an image shows, before anything is drawn or said about it.

One or two groups of equal shapes on a plain background. Every shape and every colour is trained, but the pairs of
`HELD_OUT` never are: they make the held-out split, a test of composition.
"""

import random
from dataclasses import dataclass
from typing import Literal

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
BACKGROUNDS = ("white", "grey", "black", "cream", "navy", "teal")
NUMBERS = ("one", "two", "three", "four")

HELD_OUT = frozenset(zip(COLOURS, SHAPES, strict=True))
"""One colour for each shape: pairs that no training image, caption or answer shows."""

Split = Literal["train", "val", "heldout"]


@dataclass(frozen=True, slots=True)
class Group:
    """`count` shapes of one kind and one colour."""

    colour: str
    shape: str
    count: int

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True, slots=True)
class Scene:
    """What one image shows. The shapes and the colours of its groups differ."""

    groups: tuple[Group, ...]
    background: str

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)


def random_scene(rng: random.Random, split: Split) -> Scene:
    """A scene of `split`: its first group is a held-out pair in `heldout`, and no group is one elsewhere."""
    background = rng.choice(BACKGROUNDS)
    total = rng.randint(1, len(NUMBERS))
    first = _pair(rng, held_out=split == "heldout")
    if total == 1 or rng.random() < 0.6:
        return Scene((Group(*first, total),), background)
    second = _pair(rng, held_out=False)
    while second[0] == first[0] or second[1] == first[1]:
        second = _pair(rng, held_out=False)
    part = rng.randint(1, total - 1)
    return Scene((Group(*first, part), Group(*second, total - part)), background)


def _pair(rng: random.Random, *, held_out: bool) -> tuple[str, str]:
    while True:
        pair = rng.choice(COLOURS), rng.choice(SHAPES)
        if (pair in HELD_OUT) == held_out:
            return pair
