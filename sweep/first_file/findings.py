"""What `python -m stages.prepare look` found, chosen for a sweep: what is there, what lacks, what would make it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.counted import format_counted
from jobs.store.reading import find_type_problem
from sweep.errors import SweepError
from sweep.kept_answers import UnansweredError, query_program
from sweep.spec.data import DataKind

NEEDED: tuple[DataKind, ...] = ("text", "captions", "conversations", "tokenizer", "tasks")
"""Kinds that a whole chain reads, in the order of a sweep file."""
PLANNED_VOCABULARY = 8_192
MOST_INPUTS = 4
"""Inputs that a command names; more of them want a folder of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was found: the answer's fields, as `stages.prepare.look.Find` has them."""

    kind: str
    path: str
    samples: int = 0
    tokens: int = 0
    context: int = 0
    vocabulary: int = 0
    made_with: str = ""
    fields: tuple[str, ...] = ()
    mean_text: float = 0.0
    longest_text: int = 0
    text_tasks: tuple[str, ...] = ()
    vision_tasks: tuple[str, ...] = ()
    encoder: str = ""
    problem: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Finding":
        """Raises TypeError or ValueError for what is no finding."""
        lists = {name: tuple(content[name]) for name in ("fields", "text_tasks", "vision_tasks")}
        values = {**content, **lists}
        if problem := find_type_problem(cls, values):
            raise ValueError(problem)
        return cls(**values)

    def describe(self) -> str:
        """One line."""
        what = {
            "text": f"token shards, {self.tokens:,} tokens in sequences for a context of {self.context:,}",
            "captions": f"{format_counted(self.samples, 'image')} with captions "
            f"({', '.join(self.fields) or 'no text'})",
            "conversations": f"{self.samples:,} conversations",
            "tokenizer": f"a tokenizer of {self.vocabulary:,} ids" if self.vocabulary else "a tokenizer",
            "tasks": f"evaluation tasks: {', '.join([*self.text_tasks, *self.vision_tasks])}",
            "encoder": f"weights of {self.encoder}",
            "raw text": f"texts, {self.samples:,} file{'s' * (self.samples != 1)}",
            "raw captions": "images with captions, not yet in shards",
        }[self.kind]
        return f"{shorten_path(self.path)}: {f'not used: {self.problem}' if self.problem else what}"


def look_at(places: Sequence[tuple[Path, str]]) -> list[Finding]:
    """What lies at the places, each with the kind that it is said to be of (or none), in their order.

    Raises SweepError where the program that looks gives no answer.
    """
    requests = [{"path": str(path.absolute()), "kind": kind} for path, kind in places]
    try:
        answers = query_program("look", "the program that looks at data", requests)
        found = [Finding.from_json(each) for answer in answers for each in answer]
    except UnansweredError as error:
        raise SweepError(str(error)) from None
    except (ValueError, TypeError, KeyError) as error:
        raise SweepError(f"the program that looks at data gave no findings: {error}") from None
    return list({(each.kind, each.path): each for each in found}.values())


@dataclass(frozen=True, slots=True)
class Lack:
    """A kind of data that a sweep needs and that is not there: where it would lie, and how it comes there."""

    kind: DataKind
    path: Path
    how: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """The data of a sweep to be."""

    there: Mapping[DataKind, tuple[Finding, ...]]
    """Usable ones, the first of each kind the one that is taken."""
    lacks: tuple[Lack, ...]

    def find_first(self, kind: DataKind) -> Finding | None:
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


def sort_findings(found: Sequence[Finding], folder: Path) -> Holdings:
    """What is there and what lacks; data that are still to be made get a place in `folder`/data."""
    usable = [each for each in found if not each.problem]
    there: dict[DataKind, tuple[Finding, ...]] = {
        kind: tuple(each for each in usable if each.kind == kind) for kind in (*NEEDED, "encoder")
    }
    there["text"] = tuple(sorted(there["text"], key=lambda each: -each.tokens))
    there["captions"] = tuple(sorted(there["captions"], key=lambda each: -each.samples))
    there["conversations"] = tuple(sorted(there["conversations"], key=lambda each: -each.samples))
    there["tasks"] = tuple(sorted(there["tasks"], key=lambda each: -len(each.text_tasks) - len(each.vision_tasks)))
    # the tokenizer that the text was made with, where that is known
    made_with = there["text"][0].made_with if there["text"] else ""
    there["tokenizer"] = tuple(sorted(there["tokenizer"], key=lambda each: each.made_with != made_with))
    raw = {kind: [each.path for each in usable if each.kind == f"raw {kind}"] for kind in ("text", "captions")}
    tokenizer = there["tokenizer"][0].path if there["tokenizer"] else str(folder / "data" / "tokenizer.json")
    in_order: tuple[DataKind, ...] = ("tokenizer", *(kind for kind in NEEDED if kind != "tokenizer"))
    lacks = [
        Lack(kind, folder / "data" / PLACES[kind], describe_making(kind, raw, tokenizer, folder))
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


def describe_making(kind: DataKind, raw: Mapping[str, list[str]], tokenizer: str, folder: Path) -> str:
    """The command that makes data of the kind, or what to read about them."""
    texts = raw["text"][:MOST_INPUTS] or ["TEXTS"]
    out = str(folder / "data" / PLACES[kind])
    match kind:
        case "tokenizer":
            return join_words(
                ["sweep", "data", "tokenizer", *texts, "--vocabulary", str(PLANNED_VOCABULARY), "--out", out]
            )
        case "text":
            return join_words(["sweep", "data", "text", *texts, "--tokenizer", tokenizer, "--out", out])
        case "captions":
            pairs = raw["captions"][:MOST_INPUTS] or ["IMAGES_OR_TABLE"]
            return join_words(["sweep", "data", "captions", *pairs, "--out", out])
        case "conversations":
            return "bring LLaVA's JSON, with its images below the same folder (docs/data.md, Conversations)"
        case _:
            return "bring a folder of task files (docs/add-a-task.md); manifests/tasks has the paper's text tasks"


def join_words(words: Sequence[str]) -> str:
    """As one types them in this folder; a placeholder in capitals stays as it is."""
    return " ".join(word if word.isupper() else shlex.quote(shorten_path(word)) for word in words)


def shorten_path(word: str) -> str:
    """A path below this folder as one types it here; another word as it is."""
    here = Path.cwd()
    return str(Path(word).relative_to(here)) if Path(word).is_relative_to(here) and Path(word) != here else word
