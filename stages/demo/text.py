"""The demo's text: split by document, its tokenizer, token shards in open_lm's format, and the two text tasks."""

import ast
import gzip
import hashlib
import importlib.util
import json
import math
import random
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.prepare.shards import write_manifest, write_tar

# English prose that is always on the machine: Python's documentation topics, and docstrings of installed packages.
#
# Sources are parsed, never imported. A document is one topic or one module's docstrings, cleaned to whole paragraphs.

TORCH = tuple(f"torch/{part}" for part in ("autograd", "cuda", "distributed", "distributions", "nn", "optim", "utils"))
PACKAGES = ("pydantic", "rich", "numpy", *TORCH, "matplotlib", "pandas")
"""The project's own dependencies that carry much prose; one that is not installed is left out."""
SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "_vendor")
)
MIN_WORDS = 8
MARKUP = (
    (re.compile(r":[a-z:]+:`~[\w.]*?(\w+)`"), r"\1"),
    (re.compile(r":[a-z:]+:`\.?([^`<]*)(?: <[^`>]*>)?`"), r"\1"),
    (re.compile(r"`+([^`]*)`+_*"), r"\1"),
    (re.compile(r"\*+([^\s*][^*]*)\*+"), r"\1"),
    (re.compile(r"\[\d+\]_|\|"), ""),
    (re.compile(r"\s+"), " "),
)
PROSE = re.compile(r"[A-Z][^<>{}\\=_@#]*[.!?:]")
"""A sentence's beginning and end, and no mark of code in between."""


@dataclass(frozen=True, slots=True)
class DemoDocument:
    """`name` is stable between machines: a topic or a module's path below its package."""

    name: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.paragraphs)


def collect_documents(packages: Sequence[str] = PACKAGES, *, whole_standard_library: bool = True) -> list[DemoDocument]:
    """All documents in a fixed order, Python's own first; a repeated paragraph stays only where it came first.

    Without `whole_standard_library` it is Python's language reference and the packages that are named.
    """
    seen: set[str] = set()
    found = []
    for name, texts in _raw_documents(packages, whole_standard_library=whole_standard_library):
        paragraphs = [text for block in texts for text in clean_paragraphs(block)]
        fresh = tuple(dict.fromkeys(text for text in paragraphs if text not in seen))
        seen.update(fresh)
        if fresh:
            found.append(DemoDocument(name, fresh))
    return found


def clean_paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of `text` that are English sentences, each on one line, its markup taken off."""
    for block in _blocks(text):
        line = block
        for pattern, replacement in MARKUP:
            line = pattern.sub(replacement, line)
        line = line.strip()
        if PROSE.fullmatch(line) and len(line.split()) >= MIN_WORDS and line.isascii():
            yield line


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines of one indentation; a list item begins a new one. Doctests are dropped."""
    block: list[str] = []
    indent = -1
    for line in [*text.expandtabs().splitlines(), ""]:
        body = line.strip()
        here = len(line) - len(line.lstrip())
        item = body.startswith(("* ", "- ", ">>>", "... "))
        if (not body or here != indent or item) and block:
            yield " ".join(block)
            block = []
        if body and not body.startswith((">>>", "... ")):
            block.append(body.removeprefix("* ").removeprefix("- "))
            indent = here + 2 if item else here


def _raw_documents(packages: Sequence[str], *, whole_standard_library: bool) -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topics/{topic}", [topics[topic]]
    if whole_standard_library:
        yield from _docstrings("python", Path(sysconfig.get_paths()["stdlib"]))
    for package in packages:
        top, _, part = package.partition("/")
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.origin is not None:
            yield from _docstrings(package, Path(spec.origin).parent / part)


def _docstrings(package: str, root: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]):
            continue
        texts = _module_docstrings(path)
        if texts:
            yield f"{package}/{relative.as_posix()}", texts


def _module_docstrings(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in other people's sources
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in texts if text]


VOCABULARY = 2_048
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
SAID_SHARE = 0.1
CONTEXT = 128
"""Tokens of a sequence; a shard's line holds one more, so that each token has a next one."""
SEQUENCES_PER_SHARD = 512
HELD_OUT_EVERY = 16
"""One document in this many is held out."""
CLOZE_QUESTIONS = 200
CLOZE_CONTEXT, CLOZE_ENDING = 16, 8
"""Words of a cloze question's beginning, and of each of its endings."""
CHOICES = 4
LOSS_DOCUMENTS, LOSS_BYTES = 120, 400


def is_held_out(document: DemoDocument) -> bool:
    """By the digest of the document's name: the same on every machine, whatever other documents there are."""
    return int.from_bytes(hashlib.sha256(document.name.encode()).digest()[:4]) % HELD_OUT_EVERY == 0


def train_tokenizer(texts: list[str], said: list[str]) -> Tokenizer:
    """Byte-level BPE with END_OF_TEXT as token 0 and PADDING as token 1, as GPT-NeoX has them.

    `said` of images is repeated until it is SAID_SHARE of the whole: its few words should be tokens of their own.
    """
    repeats = math.ceil(SAID_SHARE * sum(map(len, texts)) / max(1, sum(map(len, said))))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(said * repeats)], trainer)
    return tokenizer


def write_token_shards(
    folder: Path, documents: Sequence[DemoDocument], tokenizer: Tokenizer, rng: random.Random
) -> int:
    """Shuffled documents as one stream of tokens, cut into lines of CONTEXT + 1; returns the number of lines.

    Lines share no token: the stream advances by CONTEXT + 1. Its end that fills no line is dropped.
    """
    order = rng.sample(documents, len(documents))
    lines = _lines(_token_stream(order, tokenizer))
    shards: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    while batch := list(islice(lines, SEQUENCES_PER_SHARD)):
        name = f"shard-{len(shards):06d}"
        members = ((f"{index:06d}.json.gz", _gzipped(line)) for index, line in enumerate(batch))
        write_tar(folder / f"{name}.tar", members)
        shards[name] = len(batch)
    write_manifest(folder, shards.items())
    return sum(shards.values())


def build_cloze_rows(documents: Sequence[DemoDocument], rng: random.Random) -> list[dict[str, object]]:
    """Four-way questions: which ending follows this beginning? In the wrong ones two neighbouring words are exchanged.

    So all endings have the same words, and only a model of the language can distinguish them.
    """
    passages = [words for document in documents for words in _passages(document)]
    chosen = rng.sample(passages, min(CLOZE_QUESTIONS, len(passages)))
    rows: list[dict[str, object]] = []
    for passage in chosen:
        right = _ending(passage)
        gold = rng.randrange(CHOICES)
        endings = _exchanged(right, CHOICES - 1, rng)
        endings.insert(gold, right)
        context, choices = " ".join(passage[:CLOZE_CONTEXT]), [" ".join(ending) for ending in endings]
        rows.append({"context": context, "endings": choices, "gold": gold})
    return rows


def build_loss_rows(documents: Sequence[DemoDocument], rng: random.Random) -> list[dict[str, object]]:
    """Beginnings of held-out documents, whole paragraphs up to about LOSS_BYTES bytes each."""
    long = [document for document in documents if len(document.text) >= LOSS_BYTES // 2]
    chosen = rng.sample(long, min(LOSS_DOCUMENTS, len(long)))
    return [{"text": document.text[:LOSS_BYTES].rsplit(" ", 1)[0]} for document in chosen]


def write_text_task(folder: Path, name: str, rows: Sequence[object], settings: dict[str, object]) -> None:
    """An lm-eval task of its own: NAME.yaml and its data, NAME.jsonl, beside it."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))


CLOZE_TASK: dict[str, object] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{endings}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 1, "chance": 1 / CHOICES},
}
LOSS_TASK: dict[str, object] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte"}],
    "metadata": {"version": 1},
}


def _token_stream(documents: Iterable[DemoDocument], tokenizer: Tokenizer) -> Iterator[int]:
    for encoding in tokenizer.encode_batch([document.text + END_OF_TEXT for document in documents]):
        yield from encoding.ids


def _lines(tokens: Iterator[int]) -> Iterator[list[int]]:
    while len(line := list(islice(tokens, CONTEXT + 1))) == CONTEXT + 1:
        yield line


def _gzipped(line: list[int]) -> bytes:
    return gzip.compress(json.dumps(line).encode(), compresslevel=1, mtime=0)


def _passages(document: DemoDocument) -> Iterator[list[str]]:
    for paragraph in document.paragraphs:
        words = paragraph.split()
        if len(words) >= CLOZE_CONTEXT + CLOZE_ENDING and len(_exchangeable(_ending(words))) >= CHOICES - 1:
            yield words


def _ending(words: list[str]) -> list[str]:
    return words[CLOZE_CONTEXT : CLOZE_CONTEXT + CLOZE_ENDING]


def _exchangeable(words: list[str]) -> list[int]:
    """Places of words that differ from the next one."""
    return [place for place, pair in enumerate(pairwise(words)) if pair[0] != pair[1]]


def _exchanged(words: list[str], count: int, rng: random.Random) -> list[list[str]]:
    """`words` with two neighbours exchanged, in `count` different ways."""
    chosen = rng.sample(_exchangeable(words), count)
    return [[*words[:place], words[place + 1], words[place], *words[place + 2 :]] for place in chosen]
