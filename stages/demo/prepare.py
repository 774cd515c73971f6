"""Makes the demo's data set: whole or absent, skipped where it is complete already."""

import fcntl
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenizers import Tokenizer

from stages.demo import images, scenes, text
from stages.demo.text import PACKAGES, DemoDocument, collect_documents
from stages.errors import DataError
from stages.files import write_json

FORMAT = 1
REVISION = "1"
"""Raised when the same seed gives other data."""
TASKS: dict[str, scenes.Split] = {"shapes_val": "val", "shapes_heldout": "heldout"}

ReportLine = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSize:
    """How much of everything, under the name of the data set in its record."""

    name: str = "demo"
    captioned_images: int = 3_000
    conversation_images: int = 800
    question_images: int = 150
    """Of each split; there are two questions about each."""
    packages: tuple[str, ...] = PACKAGES
    """Whose docstrings are read, beside Python's own."""
    whole_standard_library: bool = True
    """Whether all of Python's own are read."""

    @property
    def images(self) -> int:
        return self.captioned_images + self.conversation_images + len(TASKS) * self.question_images


QUICK = DemoSize(
    name="demo-quick",
    captioned_images=600,
    conversation_images=300,
    question_images=60,
    packages=("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "unittest", "urllib", "xml"),
    whole_standard_library=False,
)
"""Made in a few seconds, for `sweep demo --quick`: no package of the standard library that is slow to read."""


def prepare_demo(folder: Path, seed: int, report: ReportLine, size: DemoSize | None = None) -> bool:
    """Makes the data set in `folder`; False if it is there already. DataError if something else is there.

    Two at once do the work once. What a killed preparation left behind is made again.
    """
    size = size or DemoSize()
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _hold_lock(folder.with_name(f".{folder.name}.lock")):
        if _is_complete(folder, seed, size.name):
            return False
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _make(unfinished, seed, report, size)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    return True


def _is_complete(folder: Path, seed: int, name: str) -> bool:
    if not folder.exists() or not any(folder.iterdir()):
        return False
    try:
        record = json.loads((folder / "dataset.json").read_bytes())
        made = (record["name"], record["format"], record["revision"], record["seed"])
        files = {str(path): int(facts["bytes"]) for path, facts in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not a demo data set and not empty; remove it or give another folder") from error
    if made != (name, FORMAT, REVISION, seed):
        raise DataError(
            f"{folder}: holds data set {made[0]!r}, revision {made[2]}, seed {made[3]}; wanted is {name!r}, "
            f"revision {REVISION}, seed {seed}; remove it or give another folder"
        )
    return all((folder / path).is_file() and (folder / path).stat().st_size == size for path, size in files.items())


def _make(folder: Path, seed: int, report: ReportLine, size: DemoSize) -> None:
    report("reading Python's documentation and docstrings")
    found = collect_documents(size.packages, whole_standard_library=size.whole_standard_library)
    train = [document for document in found if not text.is_held_out(document)]
    held_out = [document for document in found if text.is_held_out(document)]
    report(f"drawing {size.images} images")
    facts, said = _make_images(folder, seed, size)
    report(f"training a tokenizer, encoding {len(train)} documents")
    facts |= _make_text(folder, seed, train, held_out, said)
    files = dict(_digests(folder))
    whole = hashlib.sha256("".join(f"{name} {file['sha256']}\n" for name, file in files.items()).encode())
    about = {"format": FORMAT, "name": size.name, "revision": REVISION, "seed": seed, "digest": whole.hexdigest()}
    write_json(folder / "dataset.json", {**about, **facts, "made_with": _versions(), "files": files})


def _make_images(folder: Path, seed: int, size: DemoSize) -> tuple[dict[str, object], list[str]]:
    """Facts for the record, and everything that is said about images."""
    said = images.write_captions(folder / "captions", size.captioned_images, _rng(seed, "captions"))
    trained = images.write_conversations(
        folder / "conversations", size.conversation_images, _rng(seed, "conversations")
    )
    counts = {"captions": size.captioned_images, "conversations": size.conversation_images}
    chance = {}
    for name, split in TASKS.items():
        rows = images.write_questions(folder / "tasks", name, split, size.question_images, _rng(seed, name))
        levels = images.compute_chance_levels(rows, trained)
        task = {"format": 1, "questions": f"{name}.jsonl", "metric": "exact_match", "prompt": "{question}"}
        overall = levels.pop("all")
        write_json(folder / "tasks" / f"{name}.json", {**task, "chance": overall, "chance_by_kind": levels})
        counts[name], chance[name] = len(rows), {"all": overall, **levels}
    said += [f"{asked.question} {asked.answer}" for asked in trained]
    return {"counts": counts, "chance": chance}, said


def _make_text(
    folder: Path, seed: int, train: list[DemoDocument], held_out: list[DemoDocument], said: list[str]
) -> dict[str, object]:
    tokenizer = text.train_tokenizer([document.text for document in train], said)
    tokenizer.save(str(folder / "tokenizer.json"))
    lines = text.write_token_shards(folder / "text", train, tokenizer, _rng(seed, "text"))
    cloze = text.build_cloze_rows(held_out, _rng(seed, "cloze"))
    loss = text.build_loss_rows(held_out, _rng(seed, "loss"))
    text.write_text_task(folder / "tasks", "cloze", cloze, text.CLOZE_TASK)
    text.write_text_task(folder / "tasks", "text_loss", loss, text.LOSS_TASK)
    counts = {"train_documents": len(train), "held_out_documents": len(held_out)}
    tokens = {"train_tokens": lines * (text.CONTEXT + 1), "cloze": len(cloze), "text_loss": len(loss)}
    return {"text": {**counts, **tokens, "bytes_per_token": _bytes_per_token(tokenizer, held_out)}}


def _bytes_per_token(tokenizer: Tokenizer, held_out: list[DemoDocument]) -> float:
    texts = [document.text for document in held_out]
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    return round(sum(map(len, texts)) / max(1, tokens), 3)


def _rng(seed: int, part: str) -> random.Random:
    """Each part has its own stream: a change of one leaves the others as they are."""
    return random.Random(f"{seed}/{part}")  # repeatable on purpose


def _digests(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            yield path.relative_to(folder).as_posix(), facts


def _versions() -> dict[str, str]:
    """Whose documentation the text is; other versions give other text."""
    found = {"python": sys.version.split()[0]}
    for name in sorted({package.partition("/")[0] for package in PACKAGES} | {"pillow", "tokenizers"}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _hold_lock(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
