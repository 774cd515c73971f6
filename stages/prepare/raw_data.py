"""Data as people have them, of which `sweep data` makes a sweep's data: texts, tables of images, conversations by line.

Each is found with what its command needs beside the input: columns by what stands in them, the folder of the images.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import Any

from stages.data.captions import IMAGE_EXTENSIONS
from stages.errors import ConfigError, DataError
from stages.prepare.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, describe_input, iter_records, parse_table_kind
from stages.prepare.finds import Find
from stages.prepare.inputs import (  # fmt: skip
    KNOWN,
    PLAIN_TEXT,
    UNREAD,
    count_endings,
    iter_table_rows,
    parse_file_kind,
    read_column_names,
)

EXAMPLES = 20
"""Records that are looked at."""
MOST_FILES = 4
"""Files of text that are named one by one, where their folder holds other things."""
MOST_FOLDERS = 200
"""Folders in which a table's images are looked for."""
DEFAULT_FIELD = "text"
"""Under which `sweep data text` looks for texts."""


def read_examples(file: Path) -> list[dict[str, Any]]:
    """The first records of a table or of JSON lines; none of a file that cannot be read so."""
    try:
        if parse_table_kind(file)[0] == "parquet":
            return [row for _, row in iter_table_rows(str(file), 0, EXAMPLES, read_column_names(str(file)))]
        records = (record for _, record in islice(iter_records(describe_input(file)), EXAMPLES))
        return [record for record in records if isinstance(record, dict)]
    except (DataError, ConfigError, OSError, UnicodeDecodeError):
        return []


def is_sentence(value: object) -> bool:
    """Whether a value may be a caption or a text: words, or a list of such."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and " " in text.strip() for text in texts)


def render_columns(records: Iterable[Mapping[str, Any]]) -> str:
    """`columns filename, description`."""
    return f"columns {', '.join(dict.fromkeys(name for record in records for name in record))}"[:200]


# Why: docs/decisions.md, D216
def choose_column(records: list[dict[str, Any]], usual: Iterable[str], fits: Any, without: str = "") -> str:
    """The first of the usual columns, else the first of all, with a value that fits; empty without one."""
    names = dict.fromkeys([*usual, *(name for record in records for name in record)])
    # others cannot be said to --caption, or not be printed
    named = [name for name in names if name != without and name.isprintable() and "," not in name and name[:1] != "-"]
    return next((name for name in named if any(fits(record.get(name)) for record in records)), "")


# Tables of images and captions.


def identify_table(file: Path, records: list[dict[str, Any]]) -> Find | None:
    """A table of images and captions, by what stands in its columns; None for one in which no image stands."""
    image = choose_column(records, IMAGE_COLUMNS, is_image)
    if not image:
        return None
    found = Find("raw captions", str(file), seen=render_columns(records))
    caption = choose_column(records, CAPTION_COLUMNS, is_sentence, without=image)
    caption = caption or choose_column(records, CAPTION_COLUMNS, is_word, without=image)
    if not caption:
        return set_problem(found, f"no column of captions; it has {found.seen}; name one with --caption")
    usual_image = next((name for name in IMAGE_COLUMNS if name in records[0]), "")
    usual_caption = next((name for name in CAPTION_COLUMNS if name in records[0] and name != image), "")
    options = [*(["--image", image] if image != usual_image else [])]
    options += ["--caption", caption] if caption != usual_caption else []
    named = [value for record in records if isinstance(value := read_image_name(record.get(image)), str)]
    if named and any("://" in name for name in named):
        return set_problem(found, f"{image!r} holds addresses; fetch the images first (img2dataset does)")
    if named:
        folder = find_image_folder(file.parent, named)
        if folder is None:
            return set_problem(
                found, f"its images ({named[0][:80]}) lie neither beside it nor below; name their folder: --images DIR"
            )
        options += ["--images", str(folder)] if folder != file.parent else []
    return Find(found.kind, found.path, fields=(image, caption), seen=found.seen, options=tuple(options))


def set_problem(found: Find, problem: str) -> Find:
    """The same, which cannot be used as it is."""
    return Find(found.kind, found.path, seen=found.seen, problem=problem)


def is_image(value: object) -> bool:
    """Whether a value of a table is an image, or the name of one."""
    if isinstance(value, dict):
        return is_image(value.get("bytes")) or is_image(value.get("path"))
    if isinstance(value, bytes):
        return value.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF"))
    return isinstance(value, str) and value.strip().lower().rpartition(".")[2] in IMAGE_EXTENSIONS and "\n" not in value


def is_word(value: object) -> bool:
    """Whether a value may be a caption of one word."""
    return isinstance(value, str) and any(letter.isalpha() for letter in value) and not is_image(value)


def read_image_name(value: object) -> object:
    """The path that a table's value names an image by; None where its bytes stand there."""
    if isinstance(value, dict):
        return None if value.get("bytes") else value.get("path")
    return value.strip() or None if isinstance(value, str) else None


def find_image_folder(folder: Path, names: list[str]) -> Path | None:
    """Where the images lie that rows name: the table's folder, one below it, one beside it; None if nowhere there."""
    if all(name.startswith("/") for name in names):
        shared = Path(commonpath([str(Path(name).parent) for name in names]))
        return (folder if shared.is_relative_to(folder) else shared) if Path(names[0]).is_file() else None
    if any(folder.glob("*.tar")):
        return folder  # images may be members of tars
    inside = [name for name in names if ".." not in name.split("/")]
    for place in islice([folder, *iter_folders(folder), folder.parent, *iter_folders(folder.parent)], MOST_FOLDERS):
        if inside and (place / inside[0]).is_file():
            return place
    return None


def iter_folders(folder: Path) -> Iterator[Path]:
    """Folders in a folder, and those in them, by name."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield entry
            try:
                yield from sorted(each for each in entry.iterdir() if each.is_dir())
            except OSError:
                continue  # a folder of somebody else


# Conversations, an object a line.


def identify_conversation_lines(file: Path, records: list[dict[str, Any]]) -> Find | None:
    """Conversations in JSON lines, of which one JSON list can be made."""
    if parse_file_kind(file)[0] != "jsonl" or not any(isinstance(each.get("conversations"), list) for each in records):
        return None
    return Find("raw conversations", str(file), seen=render_columns(records).replace("columns", "JSON lines with", 1))


# Texts.


def find_text_field(file: Path, records: list[dict[str, Any]]) -> str | None:
    """The field under which a file has its texts: empty for plain text; None for a file that `sweep data text` could
    not use."""
    kind, _ = parse_file_kind(file)
    if not kind or not file.stat().st_size:
        return None
    if kind == "txt":
        return ""
    if any(isinstance(record.get(DEFAULT_FIELD), str) for record in records):
        return DEFAULT_FIELD
    longest = {name: len(value) for each in records for name, value in each.items() if isinstance(value, str)}
    by_length = sorted(longest, key=lambda name: -longest[name])
    return choose_column(records, by_length, is_sentence) or None


def describe_texts(folder: Path, texts: Mapping[Path, str], others: list[Path], *, has_folders: bool) -> Iterator[Find]:
    """The texts of one folder (file to field): the folder where it holds nothing else, else its files.

    `others`: files of it that are no texts and nothing else that was found.
    """
    refused = [each for each in others if parse_file_kind(each)[0] or has_ending(each, UNREAD)]
    fields = sorted({field for field in texts.values() if field}) or [DEFAULT_FIELD]
    files = list(texts)
    apart = len(fields) > 1 or refused or has_folders
    if files and not (apart and len(files) <= MOST_FILES) and len(fields) == 1:
        seen = describe_endings(files, others)
        yield Find("raw text", str(folder), len(files), options=name_field(fields[0]), seen=seen)
    else:
        for file, field in texts.items():
            seen = f"under {field!r}" if field not in {"", DEFAULT_FIELD} else ""
            yield Find("raw text", str(file), 1, options=name_field(field or DEFAULT_FIELD), seen=seen)
    unread = [each for each in others if has_ending(each, PLAIN_TEXT | UNREAD)]
    if unread and not files:
        problem = f"{count_endings(unread)} not read ({KNOWN} are): copy plain text to .txt, convert the rest"
        yield Find("raw text", str(unread[0] if len(unread) == 1 else folder), problem=problem)


def has_ending(file: Path, endings: set[str]) -> bool:
    """Whether one of the last two endings of a name is among those."""
    return bool(endings & {suffix.lower() for suffix in file.suffixes[-2:]})


def name_field(field: str) -> tuple[str, ...]:
    """The option for texts under a field."""
    return () if field == DEFAULT_FIELD else ("--field", field)


def describe_endings(files: list[Path], others: list[Path]) -> str:
    """`503 .txt, 1 .jsonl; not read: 75 .md, 1 .rst`."""
    return count_endings(files) + (f"; not read: {count_endings(others)}" if others else "")


def describe_contents(place: Path) -> str:
    """What a file or folder holds that is not what it was said to be."""
    if place.is_dir():
        files = [each for each in islice(place.rglob("*"), EXAMPLES**2) if each.is_file()]
        return f"it holds {count_endings(files)}" if files else "it holds no file"
    records = read_examples(place)
    return f"it has {render_columns(records)}" if records else f"no table and no JSON lines: {count_endings([place])}"
