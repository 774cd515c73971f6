"""vlm-evaluation's own scorers, out of a checkout of it, without the models and loaders that its modules import too."""

import __future__

import ast
import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.stages.evaluation.benchmarks.published_files import Item

SPLITS = {"minimum": "Minimum Clutter", "medium": "Medium Clutter", "maximum": "Maximum Clutter"}
LEFT_OUT = {"torch", "torchvision", "accelerate", "jsonlines", "PIL"}
LEFT_OUT_OWN = {
    "vlm_eval.overwatch",
    "vlm_eval.tasks.registry",
    "vlm_eval.util.interfaces",
    "vlm_eval.util.loading.refer",
}


def harness(checkout: Path, name: str) -> SimpleNamespace:
    """The scorer and box functions of a module of `vlm_eval.tasks.harnesses`; its logger is replaced by silence."""
    path = checkout / "vlm_eval" / "tasks" / "harnesses" / f"{name}.py"
    content: dict[str, Any] = {"overwatch": SimpleNamespace(info=lambda *_, **__: None)}
    kept = [node for node in ast.parse(path.read_text()).body if is_kept(node)]
    future = __future__.annotations.compiler_flag
    exec(compile(ast.Module(kept, []), str(path), "exec", flags=future), content)  # noqa: S102 - the code compared with
    return SimpleNamespace(**content)


def is_kept(node: ast.stmt) -> bool:
    """Imports that are at hand, functions, and the scorer."""
    if isinstance(node, ast.Import):
        return not {alias.name.split(".")[0] for alias in node.names} & LEFT_OUT
    if isinstance(node, ast.ImportFrom):
        return str(node.module).split(".")[0] not in LEFT_OUT and node.module not in LEFT_OUT_OWN
    if isinstance(node, ast.ClassDef):
        return node.name.endswith("Scorer")
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("build_")


def official_metrics(
    checkout: Path, family: str, folder: Path, items: Sequence[Item], answers: Sequence[str]
) -> Mapping[str, float]:
    """What vlm-evaluation's scorer gives for the answers to the questions that `published_files` wrote to `folder`."""
    results = folder / "results"
    results.mkdir(exist_ok=True)
    sys.path.insert(0, str(checkout))
    with contextlib.chdir(checkout), contextlib.redirect_stdout(io.StringIO()):
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # GQA's runs `python`
        found: Mapping[str, float] = SCORERS[family](checkout, folder, results, items, answers)
    sys.path.remove(str(checkout))
    return found


def score_vqav2(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    scorer = harness(checkout, "vqav2").VQAv2Scorer
    return scorer("vqa-v2", results, asked(items, answers), folder / "a.json", folder / "q.json").score("ours")


def score_gqa(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    return harness(checkout, "gqa").GQAScorer("gqa", results, asked(items, answers), folder / "q.json").score("ours")


def score_textvqa(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    (folder / "by_id.json").write_text(json.dumps({str(item.number): {"answers": item.answers} for item in items}))
    given = asked(items, answers)
    for entry in given.values():
        entry["model_output_ocr"] = entry["model_output_no_ocr"] = entry["model_output"]
    return harness(checkout, "textvqa").TextVQAScorer("text-vqa", results, given, folder / "by_id.json").score("ours")


def score_vizwiz(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    given = asked(items, answers)
    for item in items:
        references = [{"answer": text, "answer_confidence": "yes"} for text in item.answers]
        more = {"ground_truth_answer": references, "answerable": int(item.kind != "unanswerable")}
        given[item.number].update(more)
    return harness(checkout, "vizwiz").VizWizScorer("vizwiz", results, given, folder / "q.json").score("ours")


def score_refcoco(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    module = harness(checkout, "refcoco")
    (folder / "by_id.json").write_text(json.dumps({str(item.number): {"refer_dataset": item.kind} for item in items}))
    boxes = []
    for item in items:
        x0, y0, x1, y1 = item.box
        boxes.append(module.box_xywh2xyxy([x0, y0, x1 - x0, y1 - y0], (640, 480)))
    return module.RefCOCOScorer("refcoco", results, boxed(items, answers, boxes), folder / "by_id.json").score("ours")


def score_ocid_ref(checkout: Path, folder: Path, results: Path, items: Sequence[Item], answers: Sequence[str]) -> Any:
    module = harness(checkout, "ocidref")
    kinds = {str(item.number): {"clutter_split": SPLITS[item.kind]} for item in items}
    (folder / "by_id.json").write_text(json.dumps(kinds))
    boxes = [module.box_xyxy2normalized(list(item.box), (640, 480)) for item in items]
    return module.OCIDRefScorer("ocid-ref", results, boxed(items, answers, boxes), folder / "by_id.json").score("ours")


def asked(items: Sequence[Item], answers: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Results as its task runners write them."""
    return {
        item.number: {
            "question_id": item.number,
            "question": item.question,
            "model_output": answer,
            "ground_truth_answer": item.answers[0],
        }
        for item, answer in zip(items, answers, strict=True)
    }


def boxed(items: Sequence[Item], answers: Sequence[str], boxes: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Likewise, of the box tasks."""
    return {
        str(item.number): {"example_id": item.number, "model_output": answer, "ground_truth_bbox": box}
        for item, answer, box in zip(items, answers, boxes, strict=True)
    }


SCORERS = {
    "vqav2": score_vqav2,
    "gqa": score_gqa,
    "vizwiz": score_vizwiz,
    "textvqa": score_textvqa,
    "refcoco": score_refcoco,
    "ocid_ref": score_ocid_ref,
}


def each_value(checkout: Path, family: str, items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    """The unrounded value of each answer, from the evaluators behind the scorers of the VQA families."""
    sys.path.insert(0, str(checkout))
    with contextlib.redirect_stdout(io.StringIO()):
        if family == "textvqa":
            evaluator = importlib.import_module(
                "vlm_eval.util.evaluation.textvqa.m4c_evaluators"
            ).TextVQAAccuracyEvaluator()
            entries = [{"pred_answer": a, "gt_answers": item.answers} for item, a in zip(items, answers, strict=True)]
            values = [evaluator.eval_pred_list([entry]) for entry in entries]
        else:
            values = each_vote(family, items, answers)
    sys.path.remove(str(checkout))
    return values


def each_vote(family: str, items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    """VQAv2's evaluator keeps the values; VizWiz's rounds them, here to the last digit that ten answers can give."""
    references = {
        item.number: {
            "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(item.answers)],
            "question_type": "",
            "answer_type": "",
        }
        for item in items
    }
    given = {item.number: {"answer": answer} for item, answer in zip(items, answers, strict=True)}
    module = importlib.import_module(f"vlm_eval.util.evaluation.{family}.eval")
    if family == "vizwiz":
        evaluator = module.VQAEval(references, given, n=13)
        evaluator.evaluate()
        return [evaluator.evalQA[item.number] / 100 for item in items]
    evaluator = module.VQAEvaluator()
    evaluator.gt_vqa_index, evaluator.result_vqa_index = (
        SimpleNamespace(qid2ann=references),
        SimpleNamespace(qid2ann=given),
    )
    evaluator.evaluate(list(references))
    return [evaluator.eval_qa[item.number] for item in items]
