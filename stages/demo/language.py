"""What is said about a scene: captions of two kinds, questions and their answers, in simple English."""

import random
from collections.abc import Callable

from stages.demo.scenes import COLOURS, NUMBERS, SHAPES, Group, Scene

Question = tuple[str, str]
"""A question and its answer of one word."""


def dense_caption(scene: Scene, rng: random.Random) -> str:
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


def raw_caption(scene: Scene, rng: random.Random) -> str:
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


def kinds_of_questions(rng: random.Random) -> list[str]:
    """Two kinds for the questions about one image, in random order; neither answer stands in the other question."""
    kinds = [rng.choice(("count", "background")), rng.choice(("colour", "shape"))]
    return rng.sample(kinds, len(kinds))


def question(scene: Scene, kind: str) -> Question:
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
