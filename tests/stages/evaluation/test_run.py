"""The evaluate stage end to end on a tiny model, and its vision scorer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoint.files import load_model
from stages.config import Task
from stages.data.image_reader import EncoderImageReader
from stages.data.prompts import PLAIN
from stages.data.tokenizer import TextTokenizer
from stages.demo.text import VOCABULARY
from stages.errors import ConfigError, DamagedInputError, DataError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.questions import VisionTask
from stages.evaluation.run import run
from stages.evaluation.vision import generate_answers, score_answers
from stages.evaluation.vision_task import read_vision_task
from stages.job_file import read_job
from stages.stop import StopFlag
from stages.vision.encoders import load_encoder_module
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.evaluation.small_model import PATCHES, make_small_run, write_job

CONFIG: dict[str, Any] = {
    **{"tasks": "demo-tasks", "tokenizer": {"name": "demo-tokenizer"}, "precision": "fp32"},
    **{"max_new_tokens": 3, "context": 96},
    "text_tasks": [{"name": "cloze", "limit": 8}, {"name": "text_loss", "limit": 4}],
    "vision_tasks": [{"name": "shapes_val", "limit": 10}, {"name": "shapes_heldout", "limit": 10}],
}


def job_of(folder: Path, demo: Path, parent: Path | None, **changes: Any) -> Path:
    data = {"demo-tasks": demo / "tasks", "demo-tokenizer": demo / "tokenizer.json"}
    return write_job(folder, config=CONFIG | changes, data=data, parent=parent)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    make_small_run(folder)
    return folder


def scores(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return dict(content["scores"])


def test_every_task_is_scored_the_same_way_twice(
    small_demo: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert run(read_job(job_of(tmp_path / name, small_demo, parent)), StopFlag())
    found = scores(tmp_path / "one")
    said = [line[11:] for line in capsys.readouterr().err.splitlines() if "Z  " in line[:12]]
    begun = [line for line in said if line.endswith("begins")][:4]
    assert [line.partition(": ")[2] for line in begun] == [f"task {number} of 4 begins" for number in (1, 2, 3, 4)]
    assert {line.partition(":")[0] for line in begun} == set(found)
    assert {line.partition(" (")[0].partition(" +-")[0] for line in said if ": score" in line} == {
        f"{name}: score {entry['score']:.4f}" for name, entry in found.items()
    }
    assert found == scores(tmp_path / "two")
    assert {name: entry["kind"] for name, entry in found.items()} == {
        **{"cloze": "text", "text_loss": "loss", "shapes_val": "vision", "shapes_heldout": "vision"}
    }
    chance = json.loads((small_demo / "tasks" / "shapes_val.json").read_text())["chance"]
    assert (found["shapes_val"]["n"], found["shapes_val"]["chance"]) == (10, chance)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert (result["stage"], result["key"], result["files"]) == ("evaluate", "a" * 16, {})
    assert result["seconds"] > 0
    for task, entry in found.items():
        lines = (tmp_path / "one" / "questions" / f"{task}.jsonl").read_text().splitlines()
        head, asked = json.loads(lines[0]), json.loads(lines[2])
        assert head["score"] == pytest.approx(entry["score"], rel=1e-9)
        assert (head["n"], head["clusters"], len(asked["ids"])) == (entry["n"], entry["clusters"], entry["n"])
        assert lines[2] == (tmp_path / "two" / "questions" / f"{task}.jsonl").read_text().splitlines()[2]


def test_a_stopped_evaluation_goes_on_with_the_tasks_that_are_left(
    small_demo: Path, parent: Path, tmp_path: Path
) -> None:
    job = read_job(job_of(tmp_path / "e", small_demo, parent))
    stop = StopFlag()
    stop.request()
    assert not run(job, stop)
    assert not job.result.exists()
    job.checkpoints.mkdir()
    marked = {"kind": "text", "score": 0.125, "n": 8, "stderr": 0.1, "chance": 0.25, "metrics": {"acc": 0.125}}
    progress = {"scores": {"cloze": marked}, "seconds": 1000.0}
    (job.checkpoints / "scores.json").write_text(json.dumps(progress))
    assert run(job, StopFlag())
    assert scores(tmp_path / "e")["cloze"] == marked
    assert set(scores(tmp_path / "e")) == {"cloze", "text_loss", "shapes_val", "shapes_heldout"}
    assert json.loads(job.result.read_text())["seconds"] > 1000


def test_answers_do_not_depend_on_the_other_questions(small_demo: Path, parent: Path) -> None:
    vlm = load_model(parent).vlm
    tokenizer = TextTokenizer(small_demo / "tokenizer.json", VOCABULARY)
    subject = EvaluatedModel(
        vlm=vlm, tokenizer=tokenizer, device=torch.device("cpu"), precision="fp32", context=96, max_new_tokens=3
    )
    task = read_vision_task(small_demo / "tasks", Task(name="shapes_val", limit=12))
    spec, encoder = resolve_encoder_spec(PATCHES.encoder), load_encoder_module(PATCHES, (), subject.device)
    transform = ImageTransform.from_spec(spec, "resize-naive")
    images, eyes = EncoderImageReader(spec, transform, None), FeatureExtractor(encoder, subject.device)
    together = generate_answers(task, task.questions, subject, images, eyes)
    assert [generate_answers(task, [question], subject, images, eyes)[0] for question in task.questions] == together
    question = task.questions[5]
    pixels = transform(task.resolve_image(question).read_bytes())
    tokens = tokenizer.encode(PLAIN.format_question(question.question))
    generated: list[int] = []
    for _ in range(3):  # by hand: the image, then all tokens so far, without a cache
        whole = torch.tensor([[0] * vlm.image_tokens + tokens + generated])
        with torch.inference_mode():
            embeddings = vlm.embed(whole, encoder(pixels[None]), torch.arange(vlm.image_tokens)[None])
            generated.append(int(vlm.lm(inputs_embeds=embeddings)[0, -1].argmax()))
        if generated[-1] == tokenizer.end_of_text:
            generated.pop()
            break
    assert tokenizer.decode(generated).strip() == together[5]


def test_accuracy_is_given_per_kind_with_its_chance(small_demo: Path) -> None:
    task = read_vision_task(small_demo / "tasks", Task(name="shapes_heldout"))
    right = [question.answers[0] if question.kind != "count" else "no idea" for question in task.questions]
    score = score_answers(task, right)
    share = sum(question.kind != "count" for question in task.questions) / len(task.questions)
    assert score.score == score.metrics["accuracy"] == pytest.approx(share)
    assert score.metrics["accuracy/count"] == 0
    assert score.metrics["accuracy/colour"] == score.metrics["accuracy/shape"] == 1
    assert score.metrics["chance/count"] == task.chance_by_kind["count"]
    n = len(task.questions)
    assert score.stderr == pytest.approx((share * (1 - share) / (n - 1)) ** 0.5)


def test_always_the_commonest_answer_scores_chance(small_demo: Path) -> None:
    task: VisionTask = read_vision_task(small_demo / "tasks", Task(name="shapes_val"))
    best = {}
    for kind, level in task.chance_by_kind.items():
        asked = [question for question in task.questions if question.kind == kind]
        for guess in {question.answers[0] for question in task.questions}:
            if sum(guess in question.answers for question in asked) / len(asked) == level:
                best[kind] = guess
    guesses = [best.get(question.kind, "nothing") for question in task.questions]
    assert score_answers(task, guesses).score == pytest.approx(task.chance)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text_tasks": [], "vision_tasks": []}, ConfigError, "at least one task"),
        ({"text_tasks": [{"name": "cloze"}, {"name": "cloze"}]}, ConfigError, "each once"),
        ({"vision_tasks": [{"name": "missing"}]}, DataError, r"missing.json: cannot be read"),
        ({"tasks": "elsewhere"}, DataError, "data set 'elsewhere' is not in the job's data"),
        ({"text_tasks": [], "context": 18}, ConfigError, "no room for 16 image tokens"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(
    *, changes: dict[str, Any], error: type[Exception], message: str, small_demo: Path, parent: Path, tmp_path: Path
) -> None:
    job = read_job(job_of(tmp_path / "e", small_demo, parent, **changes))
    with pytest.raises(error, match=message):
        run(job, StopFlag())
    assert not job.result.exists()


def test_a_model_without_vision_has_text_tasks_only(small_demo: Path, tmp_path: Path) -> None:
    make_small_run(tmp_path / "blind", vision=None)
    with pytest.raises(ConfigError, match="the model sees no images"):
        run(read_job(job_of(tmp_path / "e", small_demo, tmp_path / "blind")), StopFlag())
    job = read_job(job_of(tmp_path / "text", small_demo, tmp_path / "blind", vision_tasks=[]))
    assert run(job, StopFlag())
    assert set(scores(tmp_path / "text")) == {"cloze", "text_loss"}


def test_a_damaged_parent_is_named(small_demo: Path, tmp_path: Path) -> None:
    make_small_run(tmp_path / "parent")
    weights = next((tmp_path / "parent" / "checkpoints").glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedInputError) as caught:
        run(read_job(job_of(tmp_path / "e", small_demo, tmp_path / "parent")), StopFlag())
    assert caught.value.damaged_key == "b" * 16


def test_an_evaluation_needs_a_parent(small_demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one parent"):
        run(read_job(job_of(tmp_path / "e", small_demo, None)), StopFlag())


def test_an_image_that_cannot_be_read_is_named(small_demo: Path, parent: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(b"no image at all")
    question = {"id": "1", "image": "images/1.png", "question": "What is it?", "answers": ["star"]}
    (folder / "q.jsonl").write_text(json.dumps(question))
    (folder / "t.json").write_text(
        json.dumps({"format": 1, "questions": "q.jsonl", "metric": "exact_match", "chance": 0})
    )
    data = {"demo-tasks": folder, "demo-tokenizer": small_demo / "tokenizer.json"}
    config = CONFIG | {"text_tasks": [], "vision_tasks": [{"name": "t"}]}
    job = read_job(write_job(tmp_path / "e", config=config, data=data, parent=parent))
    with pytest.raises(DataError, match=r"task 't', image 'images/1.png': not a usable image"):
        run(job, StopFlag())
