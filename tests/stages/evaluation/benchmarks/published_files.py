"""Small benchmarks in their published formats, with keys that we do not read as well, to test their readers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.evaluation.benchmarks.pope import SPLITS
from stages.evaluation.benchmarks.refcoco import SPLIT_BY


@dataclass(frozen=True)
class Item:
    """One question of whatever family, which takes of it what it needs."""

    number: int
    question: str = "What is it?"
    answers: tuple[str, ...] = ("star",) * 10
    kind: str = ""
    box: tuple[float, float, float, float] = (64.0, 48.0, 320.0, 240.0)
    """x0, y0, x1, y1 in an image of 640 x 480 pixels."""


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def touch(folder: Path, name: str) -> None:
    (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "images" / name).write_bytes(b"")


def write_vqav2(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    about = {"task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014", "license": {}, "info": {}}
    questions = [{"image_id": 42, "question": item.question, "question_id": item.number} for item in items]
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": item.answers[0],
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(item.answers, 1)
            ],
            "image_id": 42,
            "answer_type": item.kind or "other",
            "question_id": item.number,
        }
        for item in items
    ]
    save(folder / "q.json", about | {"questions": questions})
    save(folder / "a.json", about | {"annotations": annotations})
    touch(folder, "COCO_val2014_000000000042.jpg")
    return {"questions": "q.json", "annotations": "a.json"}


def write_gqa(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    content = {
        str(item.number): {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "it (1)"}],
            "entailed": [],
            "equivalent": [],
            "question": item.question,
            "imageId": "n42",
            "isBalanced": True,
            "groups": {"global": "thing", "local": "06-it"},
            "answer": item.answers[0],
            "semanticStr": "select: it",
            "types": {"detailed": "existAttr", "semantic": "attr", "structural": item.kind or "query"},
            "fullAnswer": f"It is {item.answers[0]}.",
        }
        for item in items
    }
    save(folder / "q.json", content)
    touch(folder, "n42.jpg")
    return {"questions": "q.json"}


def write_vizwiz(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    content = [
        {
            "image": f"VizWiz_val_{item.number:08d}.jpg",
            "question": item.question,
            "answers": [{"answer_confidence": "yes", "answer": text} for text in item.answers],
            "answer_type": "other",
            "answerable": int(item.kind != "unanswerable"),
        }
        for item in items
    ]
    save(folder / "q.json", content)
    for entry in content:
        touch(folder, str(entry["image"]))
    return {"questions": "q.json"}


def write_textvqa(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    data = [
        {
            "question": item.question,
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Camera"],
            "question_id": item.number,
            "answers": list(item.answers),
            "set_name": "val",
        }
        for item in items
    ]
    save(
        folder / "q.json", {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data}
    )
    touch(folder, "003a8ae2ef43b901.jpg")
    return {"questions": "q.json"}


def write_refcoco(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    """A ref with one sentence for each item, in the set that its kind names."""
    for name, split_by in SPLIT_BY.items():
        own = [item for item in items if (item.kind or "RefCOCO") == name]
        refs = [
            {
                "ref_id": item.number,
                "ann_id": 1000 + item.number,
                "image_id": 42,
                "category_id": 1,
                "split": "val",
                "sent_ids": [item.number],
                "sentences": [{"sent_id": item.number, "sent": item.question, "raw": item.question, "tokens": []}],
                "file_name": "COCO_train2014_000000000042_0.jpg",
            }
            for item in own
        ]
        annotations = [
            {
                "id": 1000 + item.number,
                "image_id": 42,
                "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
                "category_id": 1,
                "area": 1.0,
                "iscrowd": 0,
                "segmentation": [],
            }
            for item in own
        ]
        images = [{"id": 42, "width": 640, "height": 480, "file_name": "COCO_train2014_000000000042.jpg"}]
        save(folder / name / f"refs({split_by}).json", refs)
        save(folder / name / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    touch(folder, "COCO_train2014_000000000042.jpg")
    return {name: name for name in SPLIT_BY}


def write_ocid_ref(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    takes = {"minimum": 9, "medium": 10, "maximum": 17}
    content = {
        str(item.number): {
            "scene_path": "ARID10/floor/bottom/box/seq36/rgb/42.png",
            "bbox": json.dumps([round(part) for part in item.box]),
            "sentence": item.question,
            "take_id": takes[item.kind or "minimum"],
            "class": "box",
        }
        for item in items
    }
    save(folder / "q.json", content)
    touch(folder, "ARID10/floor/bottom/box/seq36/rgb/42.png")
    return {"questions": "q.json"}


def write_pope(folder: Path, items: Sequence[Item]) -> dict[str, str]:
    """Of an item the first answer, yes or no, is the label."""
    for split in SPLITS:
        lines = [
            json.dumps(
                {
                    "question_id": item.number,
                    "image": "COCO_val2014_000000000042.jpg",
                    "text": item.question,
                    "label": item.answers[0],
                }
            )
            for item in items
            if (item.kind or "random") == split
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(f"{line}\n" for line in lines))
    touch(folder, "COCO_val2014_000000000042.jpg")
    return {split: f"coco_pope_{split}.json" for split in SPLITS}


WRITERS: Mapping[str, Callable[[Path, Sequence[Item]], dict[str, str]]] = {
    "vqav2": write_vqav2,
    "gqa": write_gqa,
    "vizwiz": write_vizwiz,
    "textvqa": write_textvqa,
    "refcoco": write_refcoco,
    "ocid_ref": write_ocid_ref,
    "pope": write_pope,
}


def write_family(folder: Path, family: str, items: Sequence[Item], /, **changes: Any) -> None:
    """The published files, their images, and the task file NAME.json that is named for the family."""
    folder.mkdir(parents=True, exist_ok=True)
    files = WRITERS[family](folder, items)
    content = {"format": 1, "family": family, "images": "images"} | files | changes
    save(folder / f"{family}.json", {key: value for key, value in content.items() if value is not None})
