"""The demo's images with what belongs to them: captions in webdataset tars, LLaVA conversations, question files."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.demo.draw import draw_scene, png_bytes
from stages.demo.language import KINDS, dense_caption, kinds_of_questions, question, raw_caption
from stages.demo.scenes import Scene, Split, random_scene
from stages.prepare.tar_files import write_manifest, write_tar

IMAGES_PER_SHARD = 500

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what it shows."""

    scene: Scene
    png: bytes


class Asked(NamedTuple):
    """A question of the conversations."""

    kind: str
    question: str
    answer: str


def samples(rng: random.Random, split: Split, count: int) -> Iterator[Sample]:
    """`count` random scenes of `split`, drawn."""
    for _ in range(count):
        scene = random_scene(rng, split)
        yield Sample(scene, png_bytes(draw_scene(scene, rng)))


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
    for index, sample in enumerate(samples(rng, "train", size), start=start):
        dense, raw = dense_caption(sample.scene, rng), raw_caption(sample.scene, rng)
        said += (dense, raw)
        key = f"{index:08d}"
        yield f"{key}.png", sample.png
        yield f"{key}.txt", dense.encode()
        yield f"{key}.json", json.dumps({"key": key, "caption": dense, "orig_text": raw}).encode()


def write_conversations(folder: Path, count: int, rng: random.Random) -> list[Asked]:
    """LLaVA's conversations.json with its images; returns all questions and answers."""
    examples: list[Row] = []
    asked: list[Asked] = []
    images = _image_folder(folder)
    for index, sample in enumerate(samples(rng, "train", count)):
        image = images / f"{index:06d}.png"
        image.write_bytes(sample.png)
        turns: list[Row] = []
        for kind in kinds_of_questions(rng):
            text, answer = question(sample.scene, kind)
            asked.append(Asked(kind, text, answer))
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
    for index, sample in enumerate(samples(rng, split, count)):
        image = images / f"{index:06d}.png"
        image.write_bytes(sample.png)
        for turn, kind in enumerate(kinds_of_questions(rng)):
            text, answer = question(sample.scene, kind)
            path = image.relative_to(folder).as_posix()
            row: Row = {"id": f"{name}-{index:06d}-{turn}", "image": path, "question": text, "answers": [answer]}
            rows.append({**row, "kind": kind})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def chance_levels(rows: Sequence[Row], trained: Sequence[Asked]) -> dict[str, float]:
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
