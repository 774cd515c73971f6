"""What the evaluated model reads is what it read in fine-tuning: start of text, image, then the words and no more."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.checkpoint.files import build_model, read_checkpoint, save_checkpoint
from stages.config import EvaluateConfig, LanguageModel, Tokenizer
from stages.data.conversations import ConversationReader, parse_record
from stages.data.image_reader import EncoderImageReader
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer
from stages.distributed import DistributedContext
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.run import build_evaluated_model
from stages.evaluation.vision import generate_answers
from stages.job_file import read_job
from stages.models.vlm import VLM
from stages.vision.encoders import load_encoder_module
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.data.tokenizer_kinds import KINDS
from tests.stages.evaluation.small_model import PATCHES, write_job
from tests.stages.training.training_case import png

MODEL = LanguageModel(d_model=32, layers=2, heads=2, vocabulary=400)
CONTEXT, NEW = 300, 4
TEMPLATE = TEMPLATES["vicuna"]


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def subject(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    """Made by the stage from a checkpoint as fine-tuning writes it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(7)
    state = {
        **{"step": 1, "model": MODEL.model_dump(), "vision": PATCHES.model_dump(), "prompt": TEMPLATE.dump_state()},
        "start_of_text": list(TextTokenizer(tokenizer, 400, literal=True).start_of_text),
    }
    found = read_checkpoint(save_checkpoint(folder / "checkpoints", state, VLM(MODEL, PATCHES).collect_weights(), None))
    assert found is not None
    config = EvaluateConfig(
        tasks="tasks", tokenizer=Tokenizer(name="words"), precision="fp32", context=CONTEXT, max_new_tokens=NEW
    )
    path = write_job(folder, config=config.model_dump(mode="json"), data={"words": tokenizer}, parent=None)
    return build_evaluated_model(read_job(path), config, build_model(found), DistributedContext(torch.device("cpu")))


def task_of(folder: Path, *texts: str) -> VisionTask:
    (folder / "red.png").write_bytes(png("red"))
    questions = tuple(
        Question(id=str(number), image="red.png", question=text, answers=("red",)) for number, text in enumerate(texts)
    )
    return VisionTask(
        name="t",
        folder=folder,
        metric="exact_match",
        prompt="{question}",
        chance=0.0,
        chance_by_kind={},
        questions=questions,
    )


def by_hand(subject: EvaluatedModel, features: Tensor, text: str) -> str:
    """Start of text, image, question: all of it anew for each token."""
    words = subject.tokenizer.encode(TEMPLATE.format_question(text))
    room = CONTEXT - NEW - len(subject.start) - features.shape[1]
    before = [*subject.start, *([0] * features.shape[1]), *words[-room:]]
    places = torch.arange(features.shape[1])[None] + len(subject.start)
    generated: list[int] = []
    for _ in range(NEW):
        with torch.inference_mode():
            embeddings = subject.vlm.embed(torch.tensor([before + generated]), features, places)
            generated.append(int(subject.vlm.lm(inputs_embeds=embeddings)[0, -1].argmax()))
        if generated[-1] == subject.tokenizer.end_of_text:
            generated.pop()
            break
    return subject.tokenizer.decode(generated).strip()


def test_an_image_stands_between_the_start_of_text_and_the_question(subject: EvaluatedModel, tmp_path: Path) -> None:
    texts = ("What colours are the 2 cars?", "Is it red?", "a b c d e f g h i j k l m n o p q r s t " * 20)
    task = task_of(tmp_path, *texts)
    spec = resolve_encoder_spec(PATCHES.encoder)
    images = EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)
    encoder = load_encoder_module(PATCHES, (), subject.device)
    features = encoder(ImageTransform.from_spec(spec, "resize-naive")(png("red"))[None])
    expected = [by_hand(subject, features, text) for text in texts]
    assert len(subject.tokenizer.encode(texts[2])) > CONTEXT, "one question is cut"
    assert (
        generate_answers(task, task.questions, subject, images, FeatureExtractor(encoder, subject.device)) == expected
    )


def test_a_special_tokens_name_in_a_question_is_read_as_in_fine_tuning(subject: EvaluatedModel, tmp_path: Path) -> None:
    text = "Is [SEP] or <|endoftext|> red?"
    reader = ConversationReader(
        tmp_path, tokenizer=subject.tokenizer, images=None, max_length=500, template=TEMPLATE, start=subject.start
    )
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "no"}]
    document = reader.read_document(parse_record("r", {"conversations": turns}))
    assert document is not None
    asked = subject.tokenizer.encode(TEMPLATE.format_question(text))
    assert (list(document.tokens[: len(asked)]), tuple(document.start)) == (asked, subject.start)
    assert subject.tokenizer.control.isdisjoint(asked)
