"""Each message of docs/troubleshooting.md is one that the code can give."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from jobs.store.records import FailureClass
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = re.compile(r"\.\.\.|\b(?:FILE|LINE|PATH|NAME|USER|GROUP|SECONDS|N|DIR|CELL|KEY)\b|\ba\.b\.c\b|[()]")
"""What stands for something else in a message, and what the page puts around a remark."""


def list_messages() -> list[str]:
    """The messages of the tables, in the page's order."""
    rows = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def split_message(message: str) -> list[str]:
    """The parts of a message that the code must hold, each as it stands."""
    parts = (part.strip(" :;,.'\"") for part in GAP.split(message))
    return [part for part in parts if len(part) > 3]


@cache
def read_texts() -> str:
    """All string constants of the packages; a gap where a value is put in."""
    texts = []
    for package in ("sweep", "jobs", "stages"):
        for path in sorted((ROOT / package).rglob("*.py")):
            texts += list(_iter_texts(ast.parse(path.read_text())))
    return "\n".join([*texts, *FailureClass])


def _iter_texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                each.value if isinstance(each, ast.Constant) and isinstance(each.value, str) else "\0"
                for each in node.values
            )


@pytest.mark.parametrize("message", list_messages())
def test_the_code_can_give_a_message(message: str) -> None:
    missing = [part for part in split_message(message) if part not in read_texts()]
    assert missing == []


def test_a_message_that_nobody_gives_is_noticed() -> None:
    assert split_message("`...` is no more in `FILE:LINE: the moon`".replace("`", "")) == ["is no more in", "the moon"]
    assert "is no more in the moon" not in read_texts()
    assert len(list_messages()) > 90
