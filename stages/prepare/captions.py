"""Images and captions, as people have them, to shards of captioned images: deterministic, parallel, resumable.

    a folder     a.jpg beside a.txt (or a.json), at any depth
    a table      .csv, .tsv, .jsonl (also .gz, .zst) or .parquet: a column of image paths (in Parquet also of their
                 bytes), and one of captions

The rows are listed first, in their order, and divided into parts of one shard each. A part becomes a shard of those of
its rows that can be used, written by webdataset's own writer with nothing of this machine or moment in it.
"""

import csv
import hashlib
import io
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from stages.data.captions import IMAGE_EXTENSIONS
from stages.data.conversations import ImageFiles
from stages.data.sample import BadSampleError
from stages.data.shards import MAX_MEMBER_BYTES, list_tars
from stages.errors import ConfigError, DataError
from stages.files import write_json
from stages.prepare.documents import EXAMPLES, BadLineError, check_text, decode_text, open_input
from stages.prepare.inputs import COMPRESSIONS, Input, count_endings, iter_table_rows, read_column_names
from stages.prepare.making import (
    DATASET,
    ShardRecord,
    compute_set_digest,
    make_data_set,
    open_shard_file,
    read_finished_shard,
    record_shard,
)
from stages.prepare.pool import iter_results, show_progress
from stages.prepare.recipe import WorkFolder
from stages.prepare.shards import write_manifest

FORMAT = 1
"""Raised when the same input and settings give other bytes."""
TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
KNOWN = "a folder of images, .csv, .tsv, .jsonl (each also with .gz or .zst), or .parquet"
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "path", "file", "img", "jpg")
CAPTION_COLUMNS = ("caption", "text", "captions", "txt", "title", "alt_text")
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Pillow's names of the formats that a sample may hold, and the extension of each."""
NAME_OTHERS = "name the folder of the images with --images DIR, other columns with --image and --caption"
"""What helps where a table's rows cannot be used."""
LISTED_FIELD = "captions"
"""Key of a sample's JSON that holds a list of captions, where a row has one."""
MAX_CAPTION_BYTES = 1 << 20
csv.field_size_limit(MAX_CAPTION_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsRecipe:
    """All that decides the shards, besides the inputs."""

    images: str = ""
    """Absolute folder below which the images lie that rows name; empty: the folder of each table."""
    image: str = ""
    """Column of the image; empty: the first usual one that a table has."""
    captions: tuple[str, ...] = ()
    """Columns of captions, or keys of the JSON beside an image; none: the usual ones."""
    shard_samples: int = 5_000
    decode: bool = True
    """Every image is decoded; one that cannot be is a bad row."""


@dataclass(frozen=True, slots=True)
class Row:
    """An image and its captions, before anything is read of the image."""

    where: str
    """`FILE:ROW`, for messages."""
    captions: dict[str, Any]
    """By column; `txt` for a text file beside the image."""
    image: str = ""
    """Path below `folder`."""
    folder: str = ""
    content: bytes | None = None


class BadRowError(ValueError):
    """A row that gives no sample; the message says why."""


# Inputs: what they are, and their rows.


@dataclass(frozen=True, slots=True)
class CaptionInput:
    """One folder or table."""

    path: str
    """Absolute."""
    kind: str
    """folder, csv, jsonl or parquet."""
    compression: str = ""
    size: int = 0
    """Bytes; of a folder, its images."""
    state: str = ""
    """Tells other content from this: the time of change, or a digest of a folder's names, sizes and times."""


def find_caption_inputs(paths: Sequence[Path]) -> list[CaptionInput]:
    """The inputs, in their order. DataError for one that is not there, of another kind, or given twice.

    What else lies in a folder is passed over, and a line on stderr says so.
    """
    found = [describe_input(path) for path in paths]
    for folder in (path for path in paths if path.is_dir()):
        if others := list_other_files(folder):
            kinds = ", ".join(IMAGE_EXTENSIONS)
            print(f"{folder}: passed over {count_endings(others)}; images are {kinds}", file=sys.stderr)
    if len({each.path for each in found}) < len(found):
        raise DataError("an input is given twice; name it once")
    return found


def describe_input(path: Path) -> CaptionInput:
    """One input; DataError."""
    if path.is_dir():
        if list_images(path):
            return describe_folder(path)
        tables = [each for each in path.iterdir() if parse_table_kind(each)[0]]
        hint = f"name its tables themselves: {tables[0]}" if tables else "no image lies in it"
        hint = "it holds tars already: `sweep data check` it" if list_tars(path) else hint
        raise DataError(f"{path}: no folder of {', '.join(IMAGE_EXTENSIONS)} files; {hint}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    kind, compression = parse_table_kind(path)
    if not kind:
        raise DataError(f"{path}: not a kind of table that is read here; {KNOWN} are")
    facts = path.stat()
    return CaptionInput(str(path.resolve()), kind, compression, facts.st_size, str(facts.st_mtime_ns))


def parse_table_kind(path: Path) -> tuple[str, str]:
    """(kind, compression) of a table by its name; empty for another file."""
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    name = path.with_suffix("") if compression else path
    kind = TABLES.get(name.suffix.lower(), "")
    return ("", "") if kind == "parquet" and compression else (kind, compression)


def list_images(folder: Path) -> list[str]:
    """Images below a folder, as sorted paths in it; hidden files and folders are passed over."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and not any(part[0] == "." for part in name.parts):
            found.append(name.as_posix())
    return sorted(found)


def list_other_files(folder: Path) -> list[Path]:
    """Files below a folder that are neither images nor beside one, hidden ones left out."""
    read = {*IMAGE_EXTENSIONS, "txt", "json"}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower().lstrip(".") not in read
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def describe_folder(folder: Path) -> CaptionInput:
    """A folder, with a digest of what tells its files from others."""
    digest, size = hashlib.sha256(), 0
    for name in list_images(folder):
        for path in (folder / name, *((folder / name).with_suffix(each) for each in (".txt", ".json"))):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            size += facts.st_size
            digest.update(f"{path.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}\n".encode(errors="replace"))
    return CaptionInput(str(folder.resolve()), "folder", "", size, digest.hexdigest())


def iter_input_rows(given: CaptionInput, recipe: CaptionsRecipe) -> Iterator[Row | str]:
    """The rows of an input in their order, without images' bytes; a text says why a row is none. DataError."""
    if given.kind == "folder":
        for name in list_images(Path(given.path)):
            yield Row(f"{Path(given.path).name}/{name}", {}, name, given.path)
        return
    folder = recipe.images or str(Path(given.path).parent)
    columns: tuple[str, tuple[str, ...]] | None = None
    problem: DataError | None = None
    for number, record in iter_records(given):
        where = f"{given.path}:{number}"
        if not isinstance(record, dict):
            yield f"{where}: {record}"
            continue
        try:
            columns = columns or choose_columns(given.path, list(record), recipe)
        except DataError as error:
            if given.kind == "csv":
                raise
            problem = problem or error  # an object of JSON lines may lack what others have
            yield f"{where}: {str(error).removeprefix(given.path + ': ')}"
            continue
        image, names = columns
        value = record.get(image)
        if not isinstance(value, str) or not value.strip():
            yield f"{where}: no path of an image in {image!r}"
        else:
            yield Row(where, {name: record.get(name) for name in names}, value.strip(), folder)
    if columns is None and problem is not None:
        raise problem


def iter_records(given: CaptionInput) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, record) of a .csv or .jsonl file; a text in place of a record says why there is none."""
    source = Input(given.path, "jsonl", given.compression, given.size, 0)
    with open_input(source) as file:
        yield from iter_csv_records(given.path, file) if given.kind == "csv" else iter_json_records(file)


def iter_json_records(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Records of JSON lines."""
    for number, line in enumerate(iter(lambda: file.readline(1 << 24), b""), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(decode_text(line))
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON, an object a line: {error}"[:200]
            continue
        yield (
            number,
            record if isinstance(record, dict) else f"an object a line is expected, not {type(record).__name__}",
        )


def iter_csv_records(path: str, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Records of a table with a header, separated by commas, or by tabs in a .tsv."""
    separator = "\t" if ".tsv" in PurePosixPath(path).suffixes else ","
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        rows = csv.reader(text, delimiter=separator, strict=False)
        header = next(rows, [])
        if len(set(header)) < len(header) or not header:
            raise DataError(f"{path}:1: the first line must name the columns, each once")
        while True:
            first = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, f"not a row of a table: {error}"
                continue
            if len(row) == len(header):
                yield first, dict(zip(header, row, strict=True))
            elif row:
                yield first, f"{len(row)} columns; the header has {len(header)}"
    finally:
        text.detach()  # the file is closed by who opened it


def choose_columns(path: str, names: Sequence[str], recipe: CaptionsRecipe) -> tuple[str, tuple[str, ...]]:
    """(image, captions): the columns asked for, else the usual ones. DataError if a table lacks them."""
    has = f"it has {', '.join(names)[:200] or 'none'}"
    image = recipe.image or next((name for name in IMAGE_COLUMNS if name in names), "")
    if image not in names:
        raise DataError(f"{path}: no column {image or 'of images'}; {has}; name one with --image")
    captions = recipe.captions or tuple(name for name in CAPTION_COLUMNS if name in names and name != image)[:1]
    if missing := [name for name in captions if name not in names]:
        raise DataError(f"{path}: no column {missing[0]}; {has}; name one with --caption")
    if not captions:
        raise DataError(f"{path}: no column of captions; {has}; name one with --caption")
    return image, captions


# First pass: all rows, in parts of one shard each.


def list_parts(folder: WorkFolder, inputs: Sequence[CaptionInput], recipe: CaptionsRecipe) -> int:
    """Writes the parts' rows and returns how many parts there are. What is listed already is not listed again."""
    if folder.sequences.exists():
        return int(json.loads(folder.sequences.read_bytes()))
    part: list[dict[str, Any]] = []
    parts = rows = 0

    def flush() -> None:
        nonlocal parts, rows
        if part:
            write_json(folder.build_piece_record_path(parts), part)
            parts, rows = parts + 1, 0
            part.clear()

    for number, given in enumerate(inputs):
        if given.kind == "parquet":
            choose_columns(given.path, read_column_names(given.path), recipe)
            first, stop = 0, count_table_rows(given.path)
            while first < stop:
                count = min(stop - first, recipe.shard_samples - rows)
                part.append({"input": number, "row": first, "count": count})
                first, rows = first + count, rows + count
                if rows == recipe.shard_samples:
                    flush()
            continue
        for row in iter_input_rows(given, recipe):
            part.append({"bad": row} if isinstance(row, str) else asdict(row))
            rows += 1
            if rows == recipe.shard_samples:
                flush()
    flush()
    write_json(folder.sequences, parts)
    return parts


def count_table_rows(path: str) -> int:
    """Rows of a Parquet file."""
    from stages.prepare.inputs import open_parquet

    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


# Second pass: a part's rows to a shard.


@dataclass(frozen=True, slots=True)
class PartTask:
    """One shard to be written, for a worker."""

    recipe: CaptionsRecipe
    inputs: tuple[CaptionInput, ...]
    folder: WorkFolder
    number: int


@dataclass(slots=True)
class PartCounts:
    """What a part gave, besides its samples."""

    rows: int = 0
    image_bytes: int = 0
    caption_bytes: int = 0
    listed: int = 0
    """Samples that have a list of captions."""
    bad: int = 0
    bad_examples: list[str] = field(default_factory=list)


def make_caption_shard(task: PartTask) -> tuple[ShardRecord, PartCounts]:
    """Writes a shard and then its record. A part without a usable row has a record and no file."""
    counts = PartCounts()
    entries = json.loads(task.folder.build_piece_record_path(task.number).read_bytes())
    samples = iter_samples(task, entries, counts)
    written = 0
    if (first := next(samples, None)) is not None:
        with open_shard_file(task.folder, task.number) as unfinished:
            written = write_samples(unfinished, chain([first], samples))
    return record_shard(task.folder, task.number, written, **asdict(counts)), counts


def write_samples(path: Path, samples: Iterable[Mapping[str, Any]]) -> int:
    """Writes samples with webdataset's writer, and nothing besides: no time, no user. Returns how many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from webdataset.writer import TarWriter

    written = 0
    # Why: docs/decisions.md, D149
    with path.open("wb") as file, TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
        for sample in samples:
            tar.write(sample)
            written += 1
    return written


def iter_samples(task: PartTask, entries: Sequence[Mapping[str, Any]], counts: PartCounts) -> Iterator[dict[str, Any]]:
    """The part's usable rows as webdataset's writer takes them; the others are counted."""
    first = task.number * task.recipe.shard_samples
    for number, row in enumerate(iter_part_rows(task, entries), start=first):
        counts.rows += 1
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            members = build_members(row, task.recipe)
        except (BadRowError, BadSampleError, BadLineError) as error:
            counts.bad += 1
            if len(counts.bad_examples) < EXAMPLES:
                counts.bad_examples.append(str(error))
            continue
        for name, content in members.items():
            if name in {"txt", "json"}:
                counts.caption_bytes += len(content)
                counts.listed += name == "json" and len(task.recipe.captions) < 2
            else:
                counts.image_bytes += len(content)
        yield {"__key__": f"{number:09d}", **members}


def iter_part_rows(task: PartTask, entries: Sequence[Mapping[str, Any]]) -> Iterator[Row | str]:
    """The rows of a part; a text says why a row is none."""
    for entry in entries:
        if "input" in entry:
            yield from iter_parquet_rows(task.inputs[entry["input"]], entry["row"], entry["count"], task.recipe)
        else:
            yield entry["bad"] if "bad" in entry else Row(**entry)


def iter_parquet_rows(given: CaptionInput, first: int, count: int, recipe: CaptionsRecipe) -> Iterator[Row | str]:
    """Rows of a Parquet file from number `first`, from 0. An image is a path, bytes, or both (`{bytes, path}`)."""
    image, captions = choose_columns(given.path, read_column_names(given.path), recipe)
    folder = recipe.images or str(Path(given.path).parent)
    for number, values in iter_table_rows(given.path, first, count, [image, *captions]):
        where = f"{given.path}:{number + 1}"
        value: Any = values[image]
        path = ""
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path") or ""
        if value is None and isinstance(path, str) and path:
            value = path
        found = {name: values[name] for name in captions}
        if isinstance(value, bytes) and value:
            yield Row(where, found, content=value)
        elif isinstance(value, str) and value.strip():
            yield Row(where, found, value.strip(), folder)
        else:
            yield f"{where}: no image in {image!r}"


def build_members(row: Row, recipe: CaptionsRecipe) -> dict[str, bytes]:
    """The files of a sample: the image, and its caption as txt, or several as json. BadRowError; BadSampleError."""
    captions = read_captions_beside(row, recipe) if not row.captions else row.captions
    texts = {name: clean_caption(row.where, name, value) for name, value in captions.items()}
    kept = {name: text for name, text in texts.items() if text}
    if not kept:
        raise BadRowError(f"{row.where}: no caption in {', '.join(captions) or 'a file beside the image'}")
    content = row.content if row.content is not None else read_image(row)
    if len(content) > MAX_MEMBER_BYTES:
        raise BadRowError(f"{row.where}: more than {MAX_MEMBER_BYTES} bytes")
    extension = check_image(row.where, content, decode=recipe.decode)
    if len(recipe.captions) > 1:
        return {extension: content, "json": render_json(kept)}
    text = next(iter(kept.values()))
    if isinstance(text, str):
        return {extension: content, "txt": text.encode()}
    return {extension: content, "json": render_json({LISTED_FIELD: text})}


def render_json(captions: Mapping[str, Any]) -> bytes:
    """As a member of a sample."""
    return json.dumps(captions, ensure_ascii=False, sort_keys=True).encode()


def read_captions_beside(row: Row, recipe: CaptionsRecipe) -> dict[str, Any]:
    """Captions in files beside an image: its .txt, or keys of its .json."""
    image = Path(row.folder, row.image)
    wanted = recipe.captions or ("txt",)
    found: dict[str, Any] = {}
    if "txt" in wanted:
        found["txt"] = read_small_file(row.where, image.with_suffix(".txt"))
    if (keys := [name for name in wanted if name != "txt"]) or found.get("txt") is None:
        content = read_small_file(row.where, image.with_suffix(".json"))
        try:
            record = json.loads(content) if content is not None else {}
        except (ValueError, RecursionError) as error:
            raise BadRowError(f"{row.where}: its .json is no JSON: {error}"[:200]) from error
        if isinstance(record, dict):
            usual = [name for name in CAPTION_COLUMNS if name in record][:1]
            found |= {name: record.get(name) for name in (keys if recipe.captions else usual)}
    return {name: value for name, value in found.items() if value is not None}


def read_small_file(where: str, path: Path) -> bytes | None:
    """The content of a file beside an image; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(MAX_CAPTION_BYTES + 1)
    if len(content) > MAX_CAPTION_BYTES:
        raise BadRowError(f"{where}: {path.name} has more than {MAX_CAPTION_BYTES} bytes")
    return content


def clean_caption(where: str, name: str, value: object) -> str | list[str]:
    """A caption without blanks around it, or a list of several; empty if there is none. BadRowError for no text."""
    if value is None:
        return ""
    try:
        if isinstance(value, list):
            texts = [text for each in value if (text := check_text(each).strip())]
            return texts if len(texts) != 1 else texts[0]
        return check_text(value).strip()
    except BadLineError as error:
        raise BadRowError(f"{where}: {name}: {error}") from error


@lru_cache(maxsize=16)
def open_image_files(folder: str) -> ImageFiles:
    """One for each folder of a process."""
    return ImageFiles(Path(folder))


def read_image(row: Row) -> bytes:
    """An image file below the row's folder; a name that leads out of it, or an address, is refused. BadRowError."""
    if "://" in row.image:
        raise BadRowError(f"{row.where}: {row.image[:80]!r} is an address; fetch the images first (img2dataset does)")
    try:
        row.image.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{row.where}: the image's path is not UTF-8") from error
    name = PurePosixPath(row.image)
    below = str(name.relative_to(row.folder)) if name.is_relative_to(row.folder) else row.image
    return open_image_files(row.folder).read(row.where, below)


def check_image(where: str, content: bytes, *, decode: bool) -> str:
    """The extension that an image's content asks for, whatever it was called. BadRowError if a job could not use it."""
    from PIL import Image, UnidentifiedImageError

    from stages.vision.transforms import MAX_IMAGE_PIXELS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange colour profile and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise BadRowError(
                        f"{where}: {image.width} x {image.height} pixels; the limit is {MAX_IMAGE_PIXELS}"
                    )
                if decode:
                    image.load()
                return FORMATS[str(image.format)]
    except UnidentifiedImageError as error:
        raise BadRowError(f"{where}: no {', '.join(FORMATS)} image; convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadRowError(f"{where}: too large an image: {error}") from error
    except BadRowError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadRowError(f"{where}: a damaged image: {error}") from error


# The whole.


def prepare_captions(
    out: Path, recipe: CaptionsRecipe, inputs: Sequence[CaptionInput], *, workers: int, bad_limit: int
) -> bool:
    """Makes the data set `out`; False if it is there already.

    DataError: something else is there or in the making, an input cannot be read or has too many bad rows, or no row can
    be used. StorageError: the disk is full.
    """
    if recipe.shard_samples < 1:
        raise ConfigError("a shard has one sample at least")
    out = out.resolve()
    settings = {"format": FORMAT, "kind": "captions", **asdict(recipe), "inputs": [asdict(each) for each in inputs]}
    settings["captions"] = list(recipe.captions)
    begun = {**settings, "made_with": collect_caption_versions()}
    with make_data_set(out, settings, begun, "sweep data captions") as folder:
        if folder is None:
            return False
        shards, counts = make_shards(folder, recipe, tuple(inputs), workers, bad_limit)
        kept = {number: shard for number, shard in shards.items() if shard.sequences}
        if not kept:
            example = f"{counts.bad_examples[0]}; {NAME_OTHERS}" if counts.bad_examples else "there is none"
            raise DataError(f"no row can be used; the first: {example}")
        names = {number: f"shard-{number:06d}" for number in kept}
        write_manifest(folder.result, ((names[number], shard.sequences) for number, shard in kept.items()))
        record = {
            "settings": settings,
            "counts": {
                "rows": counts.rows,
                "samples": sum(shard.sequences for shard in kept.values()),
                "shards": len(kept),
                "bad_rows": counts.bad,
                "listed": counts.listed,
                "image_bytes": counts.image_bytes,
                "caption_bytes": counts.caption_bytes,
            },
            "bad_rows": counts.bad_examples[:EXAMPLES],
            "field": name_field(recipe, counts, sum(shard.sequences for shard in kept.values())),
            "digest": compute_set_digest(iter(kept.values())),
            "files": {f"{names[number]}.tar": asdict(shard) for number, shard in kept.items()},
            "made_with": collect_caption_versions(),
        }
        check_inputs_unchanged(inputs)
        write_json(folder.result / DATASET, record)
    return True


def name_field(recipe: CaptionsRecipe, counts: PartCounts, samples: int) -> str:
    """`field` of the data set in a sweep file; empty for the default, txt."""
    if len(recipe.captions) > 1:
        return ",".join(recipe.captions)
    if not counts.listed:
        return ""
    return LISTED_FIELD if counts.listed == samples else f"{LISTED_FIELD},txt"


def make_shards(
    folder: WorkFolder, recipe: CaptionsRecipe, inputs: tuple[CaptionInput, ...], workers: int, bad_limit: int
) -> tuple[dict[int, ShardRecord], PartCounts]:
    """All shards by number, and what all parts gave together. DataError beyond the limit of bad rows."""
    count = list_parts(folder, inputs, recipe)
    found: dict[int, tuple[ShardRecord, PartCounts]] = {}
    for number in range(count):
        if record := read_finished_shard(folder, number):
            own = {name: record.pop(name) for name in asdict(PartCounts())}
            found[number] = ShardRecord(**record), PartCounts(**own)
    tasks = [PartTask(recipe, inputs, folder, number) for number in range(count) if number not in found]
    with show_progress("writing shards", count, done=len(found)) as listener:
        for task, made in iter_results(make_caption_shard, tasks, workers):
            found[task.number] = made
            listener.advance(1)
            check_bad_rows([each for _, each in found.values()], bad_limit)
    ordered = [found[number] for number in range(count)]
    total = PartCounts(bad_examples=[example for _, counts in ordered for example in counts.bad_examples][:EXAMPLES])
    for name in ("rows", "image_bytes", "caption_bytes", "listed", "bad"):
        setattr(total, name, sum(getattr(counts, name) for _, counts in ordered))
    check_bad_rows([total], bad_limit)
    for example in total.bad_examples:
        print(f"left out: {example}", file=sys.stderr)
    if (more := total.bad - len(total.bad_examples)) > 0:
        print(f"left out: {more:,} more bad rows", file=sys.stderr)
    return {number: record for number, (record, _) in enumerate(ordered)}, total


def check_bad_rows(parts: Sequence[PartCounts], limit: int) -> None:
    """DataError if more rows are bad than the limit."""
    if (bad := sum(part.bad for part in parts)) > limit:
        example = next(example for part in parts for example in part.bad_examples)
        raise DataError(
            f"{example}; with it {bad:,} bad rows, the limit is {limit:,}; mend the input, {NAME_OTHERS}, "
            "or allow more with --bad-limit"
        )


def check_inputs_unchanged(inputs: Sequence[CaptionInput]) -> None:
    """DataError if an input is not what it was when the work began."""
    for given in inputs:
        if describe_input(Path(given.path)) != given:
            raise DataError(f"{given.path}: changed while it was read; start again when it is finished")


def collect_caption_versions() -> dict[str, str]:
    """What decides the bytes besides the settings."""
    return {"python": sys.version.split()[0], "webdataset": version("webdataset"), "pillow": version("pillow")}
