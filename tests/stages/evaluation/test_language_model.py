"""The lm-eval side of a model: its numbers are the model's own, worked out here without batches, padding or cache."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from stages.config import LanguageModel as Shape
from stages.config import Task
from stages.data.tokenizer import TextTokenizer
from stages.demo.text import VOCABULARY
from stages.errors import DataError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.text import block_network, score_text_task
from stages.evaluation.text_task import TextTask, read_text_task
from stages.models.vlm import VLM

CONTEXT = 48


@pytest.fixture(scope="module")
def subject(small_demo: Path) -> EvaluatedModel:
    torch.manual_seed(1)
    vlm = VLM(Shape(d_model=32, layers=2, heads=2, vocabulary=VOCABULARY)).eval()
    tokenizer = TextTokenizer(small_demo / "tokenizer.json", VOCABULARY)
    return EvaluatedModel(
        vlm=vlm, tokenizer=tokenizer, device=torch.device("cpu"), precision="fp32", context=CONTEXT, max_new_tokens=4
    )


def by_hand(subject: EvaluatedModel, tokens: list[int]) -> list[float]:
    """Log-probability of each token but the first, given those before it."""
    with torch.inference_mode():
        logits = subject.vlm.lm(torch.tensor([tokens[:-1]]))[0].double()
    return [float(row.log_softmax(-1)[token]) for row, token in zip(logits, tokens[1:], strict=True)]


def adapter(subject: EvaluatedModel):  # type: ignore[no-untyped-def]  # noqa: ANN201 - its type needs lm-eval's import
    with block_network():
        from stages.evaluation.language_model import LMEvalModel

        return LMEvalModel(subject)


def instance(*arguments: object):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as above
    with block_network():
        from lm_eval.api.instance import Instance

        return Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=0)


def test_a_continuations_likelihood_is_the_sum_over_its_tokens(subject: EvaluatedModel) -> None:
    pairs = [("The list is", " sorted in place."), ("A", " much longer continuation of a short context"), ("", "alone")]
    found = adapter(subject).loglikelihood([instance(*pair) for pair in pairs])
    for (context, continuation), (log_probability, _) in zip(pairs, found, strict=True):
        before = subject.tokenizer.encode(context) or [subject.tokenizer.end_of_text]
        after = subject.tokenizer.encode(context + continuation)[len(before) if context else 0 :]
        assert log_probability == pytest.approx(sum(by_hand(subject, before + after)[-len(after) :]), abs=1e-3)


def test_old_context_is_cut_off_at_the_models_length(subject: EvaluatedModel) -> None:
    context, continuation = "the value " * 60, "is returned"
    ((log_probability, _),) = adapter(subject).loglikelihood([instance(context, continuation)])
    after = subject.tokenizer.encode(" " + continuation)
    tokens = subject.tokenizer.encode(context.rstrip())[-(CONTEXT + 1 - len(after)) :] + after
    assert log_probability == pytest.approx(sum(by_hand(subject, tokens)[-len(after) :]), abs=1e-3)


def test_a_long_texts_likelihood_counts_every_token_once(subject: EvaluatedModel) -> None:
    text = "Return the number of items that are in the list before the first one that is missing. " * 6
    (total,) = adapter(subject).loglikelihood_rolling([instance(text)])
    tokens = subject.tokenizer.encode(text)
    assert len(tokens) > 2 * CONTEXT
    whole = [subject.tokenizer.end_of_text, *tokens]
    expected, start = 0.0, 0
    while start + CONTEXT < len(tokens):  # full windows side by side, each predicted from its own beginning
        expected += sum(by_hand(subject, whole[start : start + CONTEXT + 1]))
        start += CONTEXT
    rest = len(tokens) - start
    expected += sum(by_hand(subject, whole[-(CONTEXT + 1) :])[-rest:])  # the last window reaches back for context
    assert total == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte_are_the_held_out_texts(subject: EvaluatedModel, small_demo: Path) -> None:
    task = read_text_task(small_demo / "tasks", Task(name="text_loss", limit=5))
    score = score_text_task(task, subject)
    texts = [row["text"] for row in task.rows]
    total = sum(adapter(subject).loglikelihood_rolling([instance(text) for text in texts]))
    expected = -total / math.log(2) / sum(len(text.encode()) for text in texts)
    assert score.kind == "loss"
    assert score.score == pytest.approx(expected, rel=1e-6)
    assert (score.stderr, score.chance, score.n) == (None, None, 5)


def test_accuracy_is_the_share_of_questions_whose_right_ending_is_the_likeliest(
    subject: EvaluatedModel, small_demo: Path
) -> None:
    task = read_text_task(small_demo / "tasks", Task(name="cloze", limit=12))
    hits = []
    for row in task.rows:
        before = subject.tokenizer.encode(row["context"])
        sums = []
        for ending in row["endings"]:
            whole = subject.tokenizer.encode(f"{row['context']} {ending}")
            sums.append(sum(by_hand(subject, whole[-(CONTEXT + 1) :])[-(len(whole) - len(before)) :]))
        hits.append(sums.index(max(sums)) == row["gold"])
    score = score_text_task(task, subject)
    accuracy = sum(hits) / len(hits)
    assert score.score == pytest.approx(accuracy)
    assert score.stderr == pytest.approx((accuracy * (1 - accuracy) / 11) ** 0.5)
    assert (score.kind, score.chance, score.n) == ("text", 0.25, 12)


def choice_task(*rows: dict[str, object]) -> TextTask:
    settings = {
        **{"task": "t", "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "choices"},
        **{"doc_to_target": "gold", "metric_list": [{"metric": "acc"}]},
    }
    return TextTask(name="t", settings=settings, rows=rows, metric="acc", chance=None)


def test_chance_is_that_of_guessing_where_the_task_does_not_say(subject: EvaluatedModel) -> None:
    task = choice_task(
        {"query": "One and one are", "choices": ["two", "three"], "gold": 0},
        {"query": "Two and two are", "choices": ["one", "two", "three", "four"], "gold": 3},
    )
    assert score_text_task(task, subject).chance == pytest.approx((1 / 2 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "x", "choices": ["a", "b"], "gold": 2}, "row 2: doc_to_target gives 2"),
        ({"query": "x", "choices": ["a", "b"], "gold": -1}, "row 2: doc_to_target gives -1"),
        ({"query": "x", "choices": ["a"], "gold": 0}, "row 2: doc_to_choice gives"),
    ],
)
def test_a_row_that_does_not_fit_is_a_data_error(row: dict[str, object], message: str, subject: EvaluatedModel) -> None:
    good = {"query": "One and one are", "choices": ["two", "three"], "gold": 0}
    with pytest.raises(DataError, match=message):
        score_text_task(choice_task(good, row), subject)


def test_a_field_that_is_not_there_is_a_data_error(subject: EvaluatedModel) -> None:
    with pytest.raises(DataError, match="text task 't'"):
        score_text_task(choice_task({"query": "x", "options": ["a", "b"], "gold": 1}), subject)


def test_an_answer_is_the_greedy_one_up_to_its_stop_text(subject: EvaluatedModel) -> None:
    prompt = "The list is"
    tokens = subject.tokenizer.encode(prompt)
    free: list[int] = []
    for _ in range(8):
        with torch.inference_mode():
            free.append(int(subject.vlm.lm(torch.tensor([tokens + free]))[0, -1].argmax()))
    whole = subject.tokenizer.decode(free)
    stop = subject.tokenizer.decode(free[3:5])
    settings = [{"max_gen_toks": 8}, {"max_gen_toks": 8, "until": [stop]}, {}]
    answers = adapter(subject).generate_until([instance(prompt, setting) for setting in settings])
    assert answers == [whole, whole.split(stop)[0], subject.tokenizer.decode(free[:4])]
    with pytest.raises(DataError, match="asks for sampling"):
        adapter(subject).generate_until([instance(prompt, {"do_sample": True})])


def test_digits_of_a_template_are_refused_where_text_and_index_disagree(subject: EvaluatedModel) -> None:
    """lm-eval takes "1" for the second choice, "2", though the task means the first."""
    row = {"query": "One half of two is", "choices": ["1", "2"], "gold": 0, "answer": "1"}
    settings = {**choice_task(row).settings, "doc_to_target": "{{answer}}"}
    with pytest.raises(
        DataError, match=r"row 1: doc_to_target gives 1, which is the text of choice 0 and the index of"
    ):
        score_text_task(replace(choice_task(row), settings=settings), subject)
    by_column = replace(choice_task(row), settings={**settings, "doc_to_target": "answer"})
    by_index = choice_task(row)
    assert score_text_task(by_column, subject) == score_text_task(by_index, subject)
    same = {**row, "choices": ["0", "1"]}
    assert score_text_task(replace(choice_task(same), settings=settings), subject).n == 1


@pytest.mark.parametrize(
    "given", [{"max_gen_toks": 4, "until": ["\n\n"]}, {"max_gen_toks": 4}, {"until": ["\n\n"]}, None]
)
def test_a_task_of_answers_is_scored_and_its_documents_are_kept(
    subject: EvaluatedModel, tmp_path: Path, given: dict[str, object] | None
) -> None:
    """Where the task is silent, the subject's 4 new tokens hold (lm-eval's 256 have no room), and lm-eval's stop."""
    prompt, settings = "The list is", {"max_gen_toks": 4, "until": ["\n\n"]}
    (answer,) = adapter(subject).generate_until([instance(prompt, settings)])
    rows = [{"q": prompt, "a": f"{answer.strip().upper()}"}, {"q": prompt, "a": "no such answer"}]
    task: dict[str, object] = {
        **{"task": "t", "dataset_path": "json", "dataset_kwargs": {"data_files": "t.jsonl"}, "test_split": "test"},
        **{"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "tag": ["x"]},
        **{"generation_kwargs": given, "num_fewshot": 0, "training_split": "train"},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "aggregation": "mean"}],
        "filter_list": [{"name": "plain", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = tmp_path / "samples" / "t.jsonl"
    score = score_text_task(read_text_task(tmp_path, Task(name="t")), subject, log)
    assert (score.score, score.n, score.chance, score.kind) == (0.5, 2, None, "text")
    first, second = [json.loads(line) for line in log.read_text().splitlines()]
    assert (first["doc"], first["resps"], first["filter"], first["exact_match"]) == (rows[0], [answer], "plain", 1.0)
    assert (second["doc_id"], second["target"], second["exact_match"]) == (1, "no such answer", 0.0)


def test_a_trusted_task_may_bring_code_and_scores_as_the_plain_one(
    subject: EvaluatedModel, small_demo: Path, tmp_path: Path
) -> None:
    plain = read_text_task(small_demo / "tasks", Task(name="cloze", limit=6))
    content = yaml.safe_load((small_demo / "tasks" / "cloze.yaml").read_text())
    del content["doc_to_text"]
    (tmp_path / "cloze.yaml").write_text(yaml.safe_dump(content) + "doc_to_text: !function own_code.text\n")
    (tmp_path / "own_code.py").write_text("def text(doc):\n    return doc['context']\n")
    (tmp_path / "cloze.jsonl").write_bytes((small_demo / "tasks" / "cloze.jsonl").read_bytes())
    with block_network():
        from stages.evaluation.text import score_trusted_task

        score = score_trusted_task(tmp_path, Task(name="cloze", limit=6, trusted=True), subject)
        with pytest.raises(DataError, match=r"'gone': neither a file gone.yaml"):
            score_trusted_task(tmp_path, Task(name="gone", trusted=True), subject)
    assert score == score_text_task(plain, subject)
    with pytest.raises(DataError, match="holds more than plain values"):
        read_text_task(tmp_path, Task(name="cloze"))
