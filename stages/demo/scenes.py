"""The shapes world: what an image shows, before anything is drawn or said about it.

One or two groups of equal shapes on a plain background. Every shape and every colour is trained, but the pairs of
`HELD_OUT` never are: they make the held-out split, a test of composition.
"""

import random
from collections.abc import Callable
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


def sample_scene(rng: random.Random, split: Split) -> Scene:
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


# What is said about a scene: captions of two kinds, questions and their answers, in simple English.

Question = tuple[str, str]
"""A question and its answer of one word."""


def format_dense_caption(scene: Scene, rng: random.Random) -> str:
    """Everything that the image shows, as a captioning model would write it."""
    things = " and ".join(_things(group) for group in scene.groups)
    verb = "is" if scene.groups[0].count == 1 else "are"
    forms = (
        f"{things} on a {scene.background} background.",
        f"There {verb} {things} and the background is {scene.background}.",
        f"This image shows {things}. The colour of the background is {scene.background}.",
    )
    caption = rng.choice(forms)
    return caption[0].upper() + caption[1:]


def format_raw_caption(scene: Scene, rng: random.Random) -> str:
    """Short and noisy, like the alt text of web images: one detail at best, a wrong one at worst."""
    group = rng.choice(scene.groups)
    forms = (
        f"{group.shape}",
        f"{group.colour} {group.shape} picture",
        f"free {group.shape} images",
        f"{group.colour} wallpaper",
        f"{rng.choice(SHAPES)} and more",
        f"new {rng.choice(COLOURS)} design",
        f"image {rng.randint(100, 999)}",
        "click here to see more",
    )
    return rng.choice(forms)


def sample_question_kinds(rng: random.Random) -> list[str]:
    """Two kinds for the questions about one image, in random order; neither answer stands in the other question."""
    kinds = [rng.choice(("count", "background")), rng.choice(("colour", "shape"))]
    return rng.sample(kinds, len(kinds))


def build_question(scene: Scene, kind: str) -> Question:
    """The question of `kind` about `scene`; those about one shape ask for the first group's."""
    return QUESTIONS[kind](scene)


def _things(group: Group) -> str:
    return f"{NUMBERS[group.count - 1]} {group.colour} {group.shape}{'s' if group.count > 1 else ''}"


QUESTIONS: dict[str, Callable[[Scene], Question]] = {
    "count": lambda scene: ("How many shapes are there?", NUMBERS[scene.count - 1]),
    "background": lambda scene: ("What colour is the background?", scene.background),
    "colour": lambda scene: (f"What colour is the {scene.groups[0].shape}?", scene.groups[0].colour),
    "shape": lambda scene: (f"Which shape is {scene.groups[0].colour}?", scene.groups[0].shape),
}
"""Kinds of questions."""

KINDS = tuple(QUESTIONS)
