"""English prose that is always on the machine: Python's documentation topics, and docstrings of installed packages.

Sources are parsed, never imported. A document is one topic or one module's docstrings, cleaned to whole paragraphs.
"""

import ast
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
class Document:
    """`name` is stable between machines: a topic or a module's path below its package."""

    name: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.paragraphs)


def documents(packages: Sequence[str] = PACKAGES) -> list[Document]:
    """All documents in a fixed order, Python's own first; a repeated paragraph stays only where it came first."""
    seen: set[str] = set()
    found = []
    for name, texts in _raw_documents(packages):
        paragraphs = [text for block in texts for text in clean_paragraphs(block)]
        fresh = tuple(dict.fromkeys(text for text in paragraphs if text not in seen))
        seen.update(fresh)
        if fresh:
            found.append(Document(name, fresh))
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


def _raw_documents(packages: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topics/{topic}", [topics[topic]]
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
