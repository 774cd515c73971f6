"""The nine task files of manifests/tasks ask what lm-eval's own tasks ask, text for text, and count the same right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.config import Task
from stages.errors import DataError
from stages.evaluation.text import block_network, load_task
from stages.evaluation.text_task import read_text_task

TASKS = Path(__file__).parents[3] / "manifests" / "tasks"
BUNDLED = {
    "agieval_sat_en": "agieval/sat-en.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "bigbench_conceptual_combinations_multiple_choice": "bigbench/multiple_choice/conceptual_combinations.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "mathqa": "mathqa/mathqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "pubmedqa": "pubmedqa/pubmedqa.yaml",
}
ROWS: dict[str, list[dict[str, Any]]] = {  # made up, in the form of the published rows
    "agieval_sat_en": [
        {"query": "Passage: A.\nQ: Who? A: Among A through D, ", "choices": ["(A)Ann", "(B)Bo"], "gold": [1]},
    ],
    "arc_easy": [
        {"question": "Which is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": " Odd? ", "choices": {"text": ["one", "two", "six"], "label": ["1", "2", "3"]}, "answerKey": "1"},
    ],
    "bigbench_conceptual_combinations_multiple_choice": [
        {
            **{"inputs": "What is a 'sea fork'?\nA:", "targets": ["It's wet."]},
            "multiple_choice_targets": ["It's wet.", "An \"end\""],
        },
    ],
    "boolq": [{"passage": "Tea is hot.", "question": "is tea cold", "label": 0}],
    "copa": [
        {"premise": "The man fell. ", "choice1": "He slept.", "choice2": "I'm sad.", "question": "cause", "label": 1},
        {"premise": "It rained.", "choice1": "\"Go!\", he said.", "choice2": "Wet.", "question": "effect", "label": 0},
    ],
    "hellaswag": [
        {
            **{"activity_label": "Baking", "ctx_a": "A cook [title] Mix.  Then"},
            **{"ctx_b": "the [step] Oven", "label": "2"},
            "endings": ["is [substeps] hot.", " burns  [header] it. ", "cools [title] down", "it's \"done\"."],
        },
        {"activity_label": "Ski", "ctx_a": "He skis.", "ctx_b": "", "label": "0", "endings": ["a", "b", "c", "d"]},
    ],
    "mathqa": [
        {
            "Problem": "how many , if any ?",
            "options": "a ) 1 , 234 , b ) 27.675 , c ) rs . 30 , d ) data inadequate , e ) none of these",
            "correct": "c",
        },
    ],
    "piqa": [{"goal": "Open it's lid", "sol1": "Pull {hard}.", "sol2": "Push\nsoftly", "label": 1}],
    "pubmedqa": [{"CONTEXTS": ["One.", "Two."], "QUESTION": "Does it?", "final_decision": "maybe"}],
}  # fmt: skip


def theirs(name: str) -> Any:
    """lm-eval's own task on our rows."""
    import lm_eval.tasks
    from datasets import Dataset
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.tasks.__file__).parent / BUNDLED[name], resolve_func=True)
    split = config.get("test_split") or config["validation_split"]
    rows: Callable[..., Any] = lambda **_: {split: Dataset.from_list(ROWS[name])}  # noqa: E731
    left_out = ("dataset_path", "dataset_name", "dataset_kwargs", "tag", "training_split")
    kept = {key: value for key, value in config.items() if key not in left_out}
    kept |= {"validation_split": split, "test_split": split, "custom_dataset": rows}
    loaded = lm_eval.tasks.TaskManager(include_defaults=False).load([kept])["tasks"][name]
    loaded.set_config(key="num_fewshot", value=0)
    return loaded


def ours(name: str, folder: Path) -> Any:
    shutil.copy(TASKS / f"{name}.yaml", folder)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    return load_task(read_text_task(folder, Task(name=name)), 32)["tasks"][name]


def asked(task: Any) -> list[tuple[str, str]]:
    """Context and continuation of each request."""
    task.build_all_requests(rank=0, world_size=1)
    return [instance.args for instance in task.instances]


@pytest.mark.parametrize("name", list(BUNDLED))
def test_a_task_file_asks_what_lm_evals_own_task_asks(name: str, tmp_path: Path) -> None:
    with block_network():
        local, bundled = ours(name, tmp_path), theirs(name)
        assert asked(local) == asked(bundled)
        for mine, other in zip(local.eval_docs, bundled.eval_docs, strict=True):
            choices = local.doc_to_choice(mine)
            for favourite in range(len(choices)):
                answers = [(0.0 if i == favourite else -1.0, False) for i in range(len(choices))]
                assert local.process_results(mine, answers)["acc"] == bundled.process_results(other, answers)["acc"]


def test_a_row_that_cannot_be_prepared_is_named(tmp_path: Path) -> None:
    shutil.copy(TASKS / "hellaswag.yaml", tmp_path)
    (tmp_path / "hellaswag.jsonl").write_text('{"activity_label": "Ski"}\n')
    with pytest.raises(DataError, match=r"hellaswag.jsonl, row 1: not a row of hellaswag: KeyError: 'ctx_a'"):
        read_text_task(tmp_path, Task(name="hellaswag"))


def test_a_template_that_asks_for_what_no_row_has_is_one_clear_data_error(tmp_path: Path) -> None:
    text = (TASKS / "arc_easy.yaml").read_text()
    (tmp_path / "arc_easy.yaml").write_text(text.replace("choices.label.index(answerKey)", "gone[0]"))
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(ROWS["arc_easy"][0]))
    with block_network(), pytest.raises(DataError, match="text task 'arc_easy': UndefinedError: 'gone' is undefined"):
        load_task(read_text_task(tmp_path, Task(name="arc_easy")), 32)
