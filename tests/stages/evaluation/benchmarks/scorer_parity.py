"""Our scores beside the official scorers', from the same published files and the same 2,000 random answers a family.

    python -m tests.stages.evaluation.benchmarks.scorer_parity VLM_EVALUATION [POPE]

VLM_EVALUATION is a work tree of TRI-ML/vlm-evaluation (known to agree: d9f5896), POPE one of AoiDragon/POPE, whose
evaluate.py is the rule for yes and no in words (vlm-evaluation compares probabilities instead). Needs scikit-learn and
tqdm. Not a part of the test suite: it asks for code that is not ours.
"""

import contextlib
import io
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.config import Task
from stages.evaluation.benchmarks.registry import FAMILIES
from stages.evaluation.metrics import RULES
from stages.evaluation.vision import score_answers
from stages.evaluation.vision_task import read_vision_task
from tests.stages.evaluation.benchmarks.published_files import Item, write_family
from tests.stages.evaluation.benchmarks.random_answers import random_case
from tests.stages.evaluation.benchmarks.vlm_evaluation import SCORERS, each_value, official_metrics

COUNT = 2_000
VALUES = ("vqav2", "vizwiz", "textvqa")
"""Families whose evaluators tell each answer's value."""
NAMES = {
    "vqav2": {"accuracy": "accuracy"},
    "gqa": {"accuracy": "accuracy"},
    "vizwiz": {
        "accuracy__VizWiz-Overall": "accuracy",
        "accuracy__VizWiz-Answerable": "accuracy/answerable",
        "accuracy__VizWiz-Unanswerable": "accuracy/unanswerable",
        "accuracy__VizWiz-Unanswerable-AvgPR": "unanswerable_average_precision",
        "accuracy__VizWiz-Unanswerable-F1": "unanswerable_f1",
    },
    "textvqa": {"accuracy__TextVQA-Pure": "accuracy"},
    "refcoco": {f"accuracy__{name}": f"accuracy/{name}" for name in ("RefCOCO", "RefCOCO+", "RefCOCOg")},
    "ocid_ref": {f"accuracy__OCIDRef-{name}": f"accuracy/{name.lower()}" for name in ("Minimum", "Medium", "Maximum")}
    | {"accuracy__OCIDRef-All": "accuracy"},
}
PER_CENT = ("vqav2", "gqa", "vizwiz")
"""Families whose official figures are in per cent with two places."""
POPE_NAMES = {
    "Accuracy": "accuracy",
    "Precision": "precision",
    "Recall": "recall",
    "F1 score": "f1",
    "Yes ratio": "yes_ratio",
}


def main() -> int:
    """Prints a line for each figure; 1 if one differs."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    checkout = Path(sys.argv[1]).resolve()
    wrong = 0
    for family in SCORERS:
        with tempfile.TemporaryDirectory() as name:
            wrong += compare(checkout, family, Path(name))
    if len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as name:
            wrong += compare_pope(Path(sys.argv[2]), Path(name))
    print("all equal" if not wrong else f"{wrong} differ")
    return min(wrong, 1)


def compare(checkout: Path, family: str, folder: Path) -> int:
    """How many figures of a family differ."""
    items, answers = random_case(family, COUNT, seed=20)
    ours = our_metrics(folder, family, items, answers)
    theirs = official_metrics(checkout, family, folder, items, answers)
    wrong = 0
    for official, name in NAMES[family].items():
        own = round(100 * ours[name], 2) if family in PER_CENT else ours[name]
        wrong += report(family, name, own, theirs[official])
    return wrong + (compare_values(checkout, family, items, answers) if family in VALUES else 0)


def compare_values(checkout: Path, family: str, items: Sequence[Item], answers: Sequence[str]) -> int:
    """1 if an answer's value differs."""
    values = each_value(checkout, family, items, answers)
    rule = RULES[FAMILIES[family].metric]
    own_values = [rule(answer, item.answers) for item, answer in zip(items, answers, strict=True)]
    room = 1e-14 if family == "vizwiz" else 0.0  # its evaluator rounds them
    same = [math.isclose(own, value, abs_tol=room, rel_tol=0) for own, value in zip(own_values, values, strict=True)]
    wrong = report(family, f"equal values of {len(values)}", sum(same), len(same))
    print(f"{'':10}values above 0: {sum(value > 0 for value in values)}, between: {sum(0 < v < 1 for v in values)}")
    return wrong


def our_metrics(folder: Path, family: str, items: Sequence[Item], answers: Sequence[str]) -> Mapping[str, float]:
    """Through the published files, as an evaluation reads them."""
    write_family(folder, family, items)
    task = read_vision_task(folder, Task(name=family))
    by_id = {key(family, item): answer for item, answer in zip(items, answers, strict=True)}
    return score_answers(task, [by_id[question.id] for question in task.questions]).metrics


def key(family: str, item: Item) -> str:
    """The question's id."""
    forms = {
        "vizwiz": f"VizWiz_val_{item.number:08d}.jpg",
        "refcoco": f"{item.kind}-{item.number}-{item.number}",
        "pope": f"{item.kind}-{item.number}",
    }
    return forms.get(family, str(item.number))


def report(family: str, name: str, own: float, official: float) -> int:
    """1 if they differ."""
    print(f"{family:10}{name:34}{own!r:>22}{official!r:>22}  {'equal' if own == official else 'DIFFERENT'}")
    return int(own != official)


def compare_pope(checkout: Path, folder: Path) -> int:
    """Each split through POPE's own script."""
    items, answers = random_case("pope", COUNT, seed=20)
    ours = our_metrics(folder, "pope", items, answers)
    wrong = 0
    for split in ("adversarial", "popular", "random"):
        given = [answer for item, answer in zip(items, answers, strict=True) if item.kind == split]
        theirs = run_pope(checkout, folder, folder / f"coco_pope_{split}.json", given)
        for official, name in POPE_NAMES.items():
            wrong += report("pope", f"{name}/{split}", ours[f"{name}/{split}"], theirs[official])
    return wrong


def run_pope(checkout: Path, folder: Path, labels: Path, answers: Sequence[str]) -> dict[str, float]:
    """What evaluate.py prints, with its two empty file names filled in."""
    (folder / "answers.jsonl").write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    code = (checkout / "evaluate.py").read_text()
    code = code.replace("ans_file = ''", f"ans_file = {str(folder / 'answers.jsonl')!r}")
    code = code.replace("label_file = ''", f"label_file = {str(labels)!r}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})  # noqa: S102 - the code compared with
    lines = [line.split(": ") for line in printed.getvalue().splitlines() if ": " in line]
    return {name: float(value) for name, value in lines}


if __name__ == "__main__":
    sys.exit(main())
