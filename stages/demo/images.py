"""The demo's images with what belongs to them: captions in webdataset tars, LLaVA conversations, question files."""

import io
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from stages.demo.scenes import (
    KINDS,
    Scene,
    Split,
    build_question,
    format_dense_caption,
    format_raw_caption,
    sample_question_kinds,
    sample_scene,
)
from stages.prepare.shards import write_manifest, write_tar

# Draws a scene: anti-aliased shapes with a soft shadow on a lightly shaded background.

SIZE = 64
"""Width and height of an image, in pixels."""
OVERSAMPLING = 3
CANVAS = SIZE * OVERSAMPLING
QUARTER = CANVAS // 2
TILE = QUARTER * 5 // 4
"""Room for one shape of any size and turn."""

Colour = tuple[int, int, int]
Coordinates = tuple[float, float]

SHAPE_COLOURS: dict[str, Colour] = {
    "red": (220, 38, 47),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 44),
    "green": (52, 168, 83),
    "blue": (38, 116, 235),
    "purple": (139, 62, 199),
}
BACKGROUND_COLOURS: dict[str, Colour] = {
    "white": (246, 247, 249),
    "grey": (150, 156, 165),
    "black": (28, 29, 33),
    "cream": (244, 226, 190),
    "navy": (27, 42, 92),
    "teal": (58, 148, 150),
}
CELLS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Quarters of the image: shapes stand in different quarters, so that none hides another."""


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """An RGB image of SIZE x SIZE; `rng` places, sizes and turns the shapes."""
    canvas = _background(BACKGROUND_COLOURS[scene.background], rng)
    colours = [group.colour for group in scene.groups for _ in range(group.count)]
    shapes = [group.shape for group in scene.groups for _ in range(group.count)]
    cells = rng.sample(CELLS, len(shapes))
    for colour, shape, cell in zip(colours, shapes, cells, strict=True):
        _place(canvas, shape, SHAPE_COLOURS[colour], cell, rng)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def encode_png(image: Image.Image) -> bytes:
    """The image as PNG: lossless, and the same bytes for the same Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _background(colour: Colour, rng: random.Random) -> Image.Image:
    """A vertical gradient about `colour`, so that the model cannot count pixels of one exact value."""
    tilt = rng.uniform(-0.10, 0.10)
    ramp = Image.linear_gradient("L").resize((CANVAS, CANVAS))
    dark, light = (_scaled(colour, 1 + sign * tilt) for sign in (-1, 1))
    return Image.composite(Image.new("RGB", ramp.size, light), Image.new("RGB", ramp.size, dark), ramp)


def _place(canvas: Image.Image, shape: str, colour: Colour, cell: tuple[int, int], rng: random.Random) -> None:
    radius = rng.uniform(0.34, 0.46) * QUARTER
    slack = QUARTER / 2 - radius
    tile = _mask(shape, radius, rng.uniform(-0.25, 0.25))
    left, top = (round((index + 0.5) * QUARTER + rng.uniform(-slack, slack) - TILE / 2) for index in cell)
    shadow = tile.filter(ImageFilter.BoxBlur(OVERSAMPLING)).point(_fade_shadow)
    canvas.paste((0, 0, 0), (left + OVERSAMPLING, top + int(1.5 * OVERSAMPLING)), shadow)
    canvas.paste(_scaled(colour, rng.uniform(0.94, 1.06)), (left, top), tile)


def _fade_shadow(value: float) -> float:
    return value * 0.35


def _mask(shape: str, radius: float, angle: float) -> Image.Image:
    """TILE x TILE, white where the shape is; its centre is the tile's."""
    mask = Image.new("L", (TILE, TILE), 0)
    pen = ImageDraw.Draw(mask)
    if shape == "moon":
        bite = 0.5 * radius * math.cos(angle), 0.5 * radius * math.sin(angle)
        pen.ellipse(_disc((0.0, 0.0), radius), fill=255)
        pen.ellipse(_disc(bite, 0.8 * radius), fill=0)
    else:
        pen.polygon([_turned(point, radius, angle) for point in OUTLINES[shape]], fill=255)
    return mask


def _disc(centre: Coordinates, radius: float) -> tuple[float, float, float, float]:
    x, y = centre[0] + TILE / 2, centre[1] + TILE / 2
    return x - radius, y - radius, x + radius, y + radius


def _turned(point: Coordinates, radius: float, angle: float) -> Coordinates:
    x, y = point
    sine, cosine = math.sin(angle), math.cos(angle)
    return TILE / 2 + radius * (x * cosine - y * sine), TILE / 2 + radius * (x * sine + y * cosine)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _regular(corners: int, *, inner: float = 1.0) -> list[Coordinates]:
    """Corners of a regular polygon that points up; with `inner`, every second corner lies at that radius: a star."""
    radii = [inner if index % 2 else 1.0 for index in range(corners)]
    turns = [2 * math.pi * index / corners for index in range(corners)]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for radius, turn in zip(radii, turns, strict=True)]


def _heart() -> list[Coordinates]:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, brought to radius 1."""
    turns = [2 * math.pi * index / 48 for index in range(48)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(math.sin(t) ** 3, -height / 16) for t, height in zip(turns, heights, strict=True)]


OUTLINES: dict[str, list[Coordinates]] = {
    "circle": _regular(48),
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _regular(3),
    "star": _regular(10, inner=0.45),
    "heart": _heart(),
}
"""Corners at radius about 1, y downwards. The moon is drawn as a disc less a disc."""


IMAGES_PER_SHARD = 500

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what it shows."""

    scene: Scene
    png: bytes


class AskedQuestion(NamedTuple):
    """A question of the conversations."""

    kind: str
    question: str
    answer: str


def draw_samples(rng: random.Random, split: Split, count: int) -> Iterator[Sample]:
    """`count` random scenes of `split`, drawn."""
    for _ in range(count):
        scene = sample_scene(rng, split)
        yield Sample(scene, encode_png(draw_scene(scene, rng)))


def write_captions(folder: Path, count: int, rng: random.Random) -> list[str]:
    """Webdataset tars of png, txt (the dense caption) and json (`caption` dense, `orig_text` raw), with a manifest.

    Returns all captions.
    """
    shards: dict[str, int] = {}
    said: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, IMAGES_PER_SHARD):
        size = min(IMAGES_PER_SHARD, count - start)
        name = f"shard-{len(shards):06d}"
        write_tar(folder / f"{name}.tar", _caption_members(start, size, rng, said))
        shards[name] = size
    write_manifest(folder, shards.items())
    return said


def _caption_members(start: int, size: int, rng: random.Random, said: list[str]) -> Iterator[tuple[str, bytes]]:
    for index, sample in enumerate(draw_samples(rng, "train", size), start=start):
        dense, raw = format_dense_caption(sample.scene, rng), format_raw_caption(sample.scene, rng)
        said += (dense, raw)
        key = f"{index:08d}"
        yield f"{key}.png", sample.png
        yield f"{key}.txt", dense.encode()
        yield f"{key}.json", json.dumps({"key": key, "caption": dense, "orig_text": raw}).encode()


def write_conversations(folder: Path, count: int, rng: random.Random) -> list[AskedQuestion]:
    """LLaVA's conversations.json with its images; returns all questions and answers."""
    examples: list[Row] = []
    asked: list[AskedQuestion] = []
    images = _image_folder(folder)
    for index, sample in enumerate(draw_samples(rng, "train", count)):
        image = images / f"{index:06d}.png"
        image.write_bytes(sample.png)
        turns: list[Row] = []
        for kind in sample_question_kinds(rng):
            text, answer = build_question(sample.scene, kind)
            asked.append(AskedQuestion(kind, text, answer))
            turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        examples.append({"id": image.stem, "image": f"images/{image.name}", "conversations": turns})
    (folder / "conversations.json").write_text(json.dumps(examples, indent=0) + "\n")
    return asked


def write_questions(folder: Path, name: str, split: Split, count: int, rng: random.Random) -> list[Row]:
    """NAME.jsonl: `count` images with two questions each; the images lie in images/NAME. Returns the rows."""
    rows: list[Row] = []
    images = _image_folder(folder) / name
    images.mkdir()
    for index, sample in enumerate(draw_samples(rng, split, count)):
        image = images / f"{index:06d}.png"
        image.write_bytes(sample.png)
        for turn, kind in enumerate(sample_question_kinds(rng)):
            text, answer = build_question(sample.scene, kind)
            path = image.relative_to(folder).as_posix()
            row: Row = {"id": f"{name}-{index:06d}-{turn}", "image": path, "question": text, "answers": [answer]}
            rows.append({**row, "kind": kind})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def compute_chance_levels(rows: Sequence[Row], trained: Sequence[AskedQuestion]) -> dict[str, float]:
    """Accuracy on `rows` of always giving each kind's commonest trained answer; `all` is over all rows."""
    counts = Counter((asked.kind, asked.answer) for asked in trained)
    commonest = {kind: max(_answers(counts, kind), key=lambda answer: counts[kind, answer]) for kind in KINDS}
    hits = {
        kind: [commonest[kind] in _as_list(row["answers"]) for row in rows if row["kind"] == kind] for kind in KINDS
    }
    levels = {kind: sum(found) / len(found) for kind, found in hits.items() if found}
    return {"all": sum(sum(found) for found in hits.values()) / len(rows), **levels}


def _answers(counts: Mapping[tuple[str, str], int], kind: str) -> list[str]:
    return sorted(answer for of_kind, answer in counts if of_kind == kind)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _image_folder(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    return images
