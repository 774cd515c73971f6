"""What two benchmarks do to their published rows before a template sees them: code of ours, which a task file names.

The rules are lm-eval's, so that its numbers come out; their regular expressions are beyond templates.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Prepare = Callable[[Mapping[str, Any]], dict[str, Any]]


def hellaswag(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of Rowan/hellaswag: `query`, `choices` and `gold`, without the marks in brackets that WikiHow left."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {
        "query": without_marks(context),
        "choices": [without_marks(ending) for ending in row["endings"]],
        "gold": int(row["label"]),
    }


def without_marks(text: str) -> str:
    """A title's mark ends a sentence; other marks go, and each pair of spaces becomes one."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


CHOICE = re.compile(r"[a-d] \) (?P<choice>.*?), |e \) (?P<last>.*?)$")
"""One of the five in `a ) 38 , b ) 27 , c ) 30 , d ) 31 , e ) none of these`; all but the last end at a comma."""


def mathqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of regisss/math_qa: `choices` from the one text `options`."""
    found = CHOICE.finditer(row["options"])
    return {**row, "choices": [(match["choice"] or match["last"] or "").rstrip(" ,") for match in found]}


PREPARATIONS: dict[str, Prepare] = {"hellaswag": hellaswag, "mathqa": mathqa}
"""By the name that `metadata.prepare` of a task file gives."""
