"""The rules by their names in a task file. A rule takes the model's answer and the references and gives 0 to 1."""

from collections.abc import Callable, Mapping, Sequence

from stages.evaluation.answers import exact_match, gqa_accuracy, vqa_accuracy
from stages.evaluation.boxes import box_accuracy_25, box_accuracy_50
from stages.evaluation.m4c_answers import textvqa_accuracy
from stages.evaluation.vizwiz_answers import vizwiz_accuracy
from stages.evaluation.yes_no import yes_no_accuracy

Rule = Callable[[str, Sequence[str]], float]

RULES: Mapping[str, Rule] = {
    "vqa_accuracy": vqa_accuracy,
    "gqa_accuracy": gqa_accuracy,
    "vizwiz_accuracy": vizwiz_accuracy,
    "textvqa_accuracy": textvqa_accuracy,
    "box_accuracy_50": box_accuracy_50,
    "box_accuracy_25": box_accuracy_25,
    "yes_no_accuracy": yes_no_accuracy,
    "exact_match": exact_match,
}
