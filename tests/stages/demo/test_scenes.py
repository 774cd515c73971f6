"""The shapes world: what is drawn, what is said about it, what is held out."""

import random
from collections import Counter

import pytest

from stages.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    KINDS,
    NUMBERS,
    SHAPES,
    Group,
    Scene,
    Split,
    build_question,
    format_dense_caption,
    format_raw_caption,
    sample_scene,
)

SCENES = 4_000


def scenes(split: Split) -> list[Scene]:
    rng = random.Random(3)
    return [sample_scene(rng, split) for _ in range(SCENES)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_pairs_are_in_no_training_or_validation_scene(split: Split) -> None:
    assert not {group.pair for scene in scenes(split) for group in scene.groups} & HELD_OUT


def test_training_scenes_show_every_other_pair() -> None:
    seen = {group.pair for scene in scenes("train") for group in scene.groups}
    assert seen == {(colour, shape) for colour in COLOURS for shape in SHAPES} - HELD_OUT


def test_every_held_out_scene_is_asked_about_a_held_out_pair() -> None:
    held_out = scenes("heldout")
    assert {scene.groups[0].pair for scene in held_out} == HELD_OUT
    assert not {group.pair for scene in held_out for group in scene.groups[1:]} & HELD_OUT


def test_the_groups_of_a_scene_differ_in_colour_and_shape() -> None:
    for scene in scenes("train"):
        assert len({group.colour for group in scene.groups}) == len({group.shape for group in scene.groups})
        assert len({group.colour for group in scene.groups}) == len(scene.groups)
        assert 1 <= scene.count <= len(NUMBERS)


def test_answers_of_a_kind_are_about_equally_frequent() -> None:
    answers = {kind: Counter(build_question(scene, kind)[1] for scene in scenes("train")) for kind in KINDS}
    for kind, values in {"count": NUMBERS, "background": BACKGROUNDS, "colour": COLOURS, "shape": SHAPES}.items():
        assert set(answers[kind]) == set(values)
        assert max(answers[kind].values()) / SCENES < 1.25 / len(values)


TWO_STARS = Scene((Group("red", "star", 2), Group("blue", "moon", 1)), "grey")


def test_captions_and_answers_of_a_known_scene() -> None:
    captions = {format_dense_caption(TWO_STARS, random.Random(seed)) for seed in range(20)}
    assert captions == {
        "Two red stars and one blue moon on a grey background.",
        "There are two red stars and one blue moon and the background is grey.",
        "This image shows two red stars and one blue moon. The colour of the background is grey.",
    }
    assert [build_question(TWO_STARS, kind) for kind in KINDS] == [
        ("How many shapes are there?", "three"),
        ("What colour is the background?", "grey"),
        ("What colour is the star?", "red"),
        ("Which shape is red?", "star"),
    ]


def test_raw_captions_say_much_less_than_dense_ones() -> None:
    rng = random.Random(0)
    raw = [format_raw_caption(scene, rng) for scene in scenes("train")]
    dense = [format_dense_caption(scene, rng) for scene in scenes("train")]
    assert sum(map(len, raw)) < 0.4 * sum(map(len, dense))
    assert not any("background" in caption for caption in raw)
