"""What `python -m stages.prepare look` found, chosen for a sweep: what is there, what lacks, what would make it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from jobs.counted import format_counted
from jobs.store.reading import find_type_problem
from stages.prepare.finds import Find, parse_find
from stages.printable import render_line
from sweep.errors import SweepError
from sweep.kept_answers import UnansweredError, query_program
from sweep.spec.data import DataKind

NEEDED: tuple[DataKind, ...] = ("text", "captions", "conversations", "tokenizer", "tasks")
"""Kinds that a whole chain reads, in the order of a sweep file."""
PLANNED_VOCABULARY = 8_192
MOST_INPUTS = 4
"""Inputs that a command names; more of them want a folder of their own."""


def describe_find(found: Find) -> str:
    """One line."""
    seen = f" ({found.seen})" if found.seen else ""
    what = {
        "text": f"token shards, {found.tokens:,} tokens in sequences for a context of {found.context:,}",
        "captions": f"{format_counted(found.samples, 'image')} with captions ({', '.join(found.fields) or 'no text'})",
        "conversations": f"{found.samples:,} conversations",
        "tokenizer": f"a tokenizer of {found.vocabulary:,} ids" if found.vocabulary else "a tokenizer",
        "tasks": f"evaluation tasks: {', '.join([*found.text_tasks, *found.vision_tasks])}",
        "encoder": f"weights of {found.encoder}",
        "raw text": f"texts, {format_counted(found.samples, 'file')}{seen}",
        "raw captions": f"images with captions, not yet in shards{seen}",
        "raw conversations": f"conversations, not yet in one JSON list{seen}",
    }[found.kind]
    return render_line(f"{shorten_path(found.path)}: {f'not used: {found.problem}' if found.problem else what}")


def look_at(places: Sequence[tuple[Path, str]]) -> list[Find]:
    """What lies at the places, each with the kind that it is said to be of (or none), in their order.

    Raises SweepError where the program that looks gives no answer.
    """
    requests = [{"path": str(make_plain(path)), "kind": kind} for path, kind in places]
    try:
        answers = query_program("look", "the program that looks at data", requests)
        found = [read_find(each) for answer in answers for each in answer]
    except UnansweredError as error:
        raise SweepError(str(error)) from None
    except (ValueError, TypeError, KeyError) as error:
        raise SweepError(f"the program that looks at data gave no findings: {error}") from None
    return list({(each.kind, each.path): each for each in found}.values())


def read_find(content: Mapping[str, object]) -> Find:
    """Raises TypeError or ValueError for what is no find."""
    found = parse_find(content)
    if problem := find_type_problem(Find, {each.name: getattr(found, each.name) for each in fields(Find)}):
        raise ValueError(problem)
    return found


def make_plain(path: Path) -> Path:
    """The absolute path without `..`: links before the last one are resolved, as a system does, later ones are kept."""
    parts = path.absolute().parts
    if ".." not in parts:
        return path.absolute()
    first = len(parts) - parts[::-1].index("..")
    return Path(*parts[:first]).resolve() / Path(*parts[first:])


@dataclass(frozen=True, slots=True)
class Lack:
    """A kind of data that a sweep needs and that is not there: where it would lie, and how it comes there."""

    kind: DataKind
    path: Path
    how: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """The data of a sweep to be."""

    there: Mapping[DataKind, tuple[Find, ...]]
    """Usable ones, the first of each kind the one that is taken."""
    lacks: tuple[Lack, ...]

    def find_first(self, kind: DataKind) -> Find | None:
        """The one that is taken."""
        found = self.there.get(kind)
        return found[0] if found else None

    @property
    def vocabulary(self) -> int:
        """The ids that a model needs; 0: not known."""
        tokenizer, text = self.find_first("tokenizer"), self.find_first("text")
        if tokenizer is None and text is None:
            return PLANNED_VOCABULARY if any(lack.kind == "tokenizer" for lack in self.lacks) else 0
        return max(tokenizer.vocabulary if tokenizer else 0, text.vocabulary if text else 0)


def sort_findings(found: Sequence[Find], folder: Path) -> Holdings:
    """What is there and what lacks; data that are still to be made get a place in `folder`/data."""
    usable = [each for each in found if not each.problem]
    there: dict[DataKind, tuple[Find, ...]] = {
        kind: tuple(each for each in usable if each.kind == kind) for kind in (*NEEDED, "encoder")
    }
    there["text"] = tuple(sorted(there["text"], key=lambda each: -each.tokens))
    there["captions"] = tuple(sorted(there["captions"], key=lambda each: -each.samples))
    there["conversations"] = tuple(sorted(there["conversations"], key=lambda each: -each.samples))
    there["tasks"] = tuple(sorted(there["tasks"], key=lambda each: -len(each.text_tasks) - len(each.vision_tasks)))
    # the tokenizer that the text was made with, where that is known
    made_with = there["text"][0].made_with if there["text"] else ""
    there["tokenizer"] = tuple(sorted(there["tokenizer"], key=lambda each: each.made_with != made_with))
    raw = {kind: [each for each in usable if each.kind == f"raw {kind}"] for kind in NEEDED}
    tokenizer = there["tokenizer"][0].path if there["tokenizer"] else str(folder / "data" / "tokenizer.json")
    in_order: tuple[DataKind, ...] = ("tokenizer", *(kind for kind in NEEDED if kind != "tokenizer"))
    lacks = [
        describe_lack(kind, raw[kind if kind != "tokenizer" else "text"], tokenizer, folder / "data" / PLACES[kind])
        for kind in in_order  # text needs the tokenizer first
        if not there[kind]
    ]
    return Holdings(there, tuple(lacks))


PLACES: Mapping[DataKind, str] = {
    "text": "text",
    "captions": "captions",
    "conversations": "conversations.json",
    "tokenizer": "tokenizer.json",
    "tasks": "tasks",
}


def describe_lack(kind: DataKind, raw: Sequence[Find], tokenizer: str, out: Path) -> Lack:
    """What lacks, and the command that makes it of the raw data, or what to read about it."""
    inputs, options = choose_inputs(raw)
    match kind:
        case "tokenizer":
            words = ["sweep", "data", "tokenizer", *(inputs or ["TEXTS"]), *options]
            how = join_words([*words, "--vocabulary", str(PLANNED_VOCABULARY), "--out", str(out)])
        case "text":
            words = ["sweep", "data", "text", *(inputs or ["TEXTS"]), *options, "--tokenizer", tokenizer]
            how = join_words([*words, "--out", str(out)])
        case "captions":
            words = ["sweep", "data", "captions", *(inputs or ["IMAGES_OR_TABLE"]), *options]
            how = join_words([*words, "--out", str(out)])
        case "conversations" if raw:
            return describe_listing(raw[0])
        case "conversations":
            how = "bring LLaVA's JSON, with its images below the same folder (docs/data.md, Conversations)"
        case _:
            how = "bring a folder of task files (docs/add-a-task.md); manifests/tasks has the paper's text tasks"
    return Lack(kind, out, render_line(how))


def choose_inputs(raw: Sequence[Find]) -> tuple[list[str], list[str]]:
    """Inputs that one command can read, the largest first, and its options; none lies below another."""
    if not raw:
        return [], []
    options = max(raw, key=lambda each: (not each.options, each.samples)).options
    paths = [each.path for each in raw if each.options == options]
    apart = [path for path in paths if not set(map(str, Path(path).parents)) & set(paths)]
    return apart[:MOST_INPUTS], list(options)


def describe_listing(raw: Find) -> Lack:
    """Conversations in JSON lines: a command makes one list of them, beside them, where their images lie."""
    file = Path(raw.path)
    program = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}.get(file.suffix.lower(), "")
    stem = file.with_suffix("").stem if program else file.stem
    names = (file.with_name(f"{stem}{more}.json") for more in ("", "-list", *(f"-list-{n}" for n in range(2, 100))))
    out = next(name for name in names if not name.exists())
    read = f"{program} -dc {join_words([str(file)])} | jq -s ." if program else f"jq -s . {join_words([str(file)])}"
    return Lack("conversations", out, render_line(f"{read} > {join_words([str(out)])}"))


def join_words(words: Sequence[str]) -> str:
    """As one types them in this folder."""
    return " ".join(shlex.quote(shorten_path(word)) for word in words)


def shorten_path(word: str) -> str:
    """A path below this folder as one types it here; another word as it is."""
    here = Path.cwd()
    return str(Path(word).relative_to(here)) if Path(word).is_relative_to(here) and Path(word) != here else word
