"""What prismatic is given as an engine, and what a plan refuses to give it; no program is started."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from stages.config import LanguageModel, Vision
from stages.data.conversations import ConversationReader, check_record
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer
from stages.engines.limits import engine_problem, model_problem
from stages.engines.prismatic import start_program
from stages.engines.prismatic.data import write_conversations
from stages.engines.prismatic.options import check_words, config_file, start_file
from stages.engines.prismatic.weights import read_made, reordered, write_parent
from stages.errors import ConfigError, DataError
from stages.models.openlm import OpenLM
from stages.models.vlm import VLM
from tests.stages.engines.prismatic.prismatic_case import ENGINE, MODEL, OPTIMIZER, VISION, typed, write_words
from tests.stages.training.training_case import conversation, same_bits
from tests.stages.training.training_case import write_conversations as write_llava

GOLDEN = Path(__file__).with_name("golden_files.json")


def test_the_files_given_to_prismatic_are_these() -> None:
    vision = Vision.model_validate(VISION)
    rendered = {
        "config.json": config_file(typed(), vision, start_tokens=0, images=Path("/data/llava")),
        "start.json": start_file(
            typed(), LanguageModel.model_validate(MODEL),
            tokenizer=Path("/data/tokenizer.json"), end_of_text="<|endoftext|>", start_of_text=None,
        ),
    }  # fmt: skip
    assert rendered == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"beta2": 0.95}}, "beta2 0.999 and no setting for it, and 0.95 is asked for"),
        ({"optimizer": {**OPTIMIZER, "eps": 1e-6}}, "eps 1e-08"),
        ({"final_lr": 1e-5}, "set finetune.final_lr to 0"),
        ({"engine": {**ENGINE, "arguments": {"learning_rate": 0.1}}}, "learning_rate is unknown or follows"),
        ({"engine": {**ENGINE, "arguments": {"per_device_batch_size": 3}}}, "3 must divide the batch of 4"),
        ({"engine": {**ENGINE, "arguments": {"per_device_batch_size": 0}}}, "0 must divide"),
        ({"engine": {**ENGINE, "arguments": {"reduce_in_full_precision": 1}}}, "true or false"),
        ({"engine": {**ENGINE, "command": ["x"]}}, "program is known"),
    ],
)  # fmt: skip
def test_what_prismatic_cannot_do_is_known_when_it_is_planned(changes: dict[str, Any], message: str) -> None:
    assert message in engine_problem(typed(**changes), "finetune")
    assert engine_problem(typed(), "finetune") == ""
    assert "takes finetune and not pretrain" in engine_problem(typed(), "pretrain")


@pytest.mark.parametrize(
    ("vision", "changes", "message"),
    [
        (None, {}, "sees no images"),
        ({"encoder": "patches-16-64"}, {}, "no encoder patches-16-64"),
        ({**VISION, "frozen": False}, {}, "pre-train with it frozen"),
        ({"encoder": "siglip+dinov2", "transform": "letterbox"}, {}, "resize-naive"),
        (VISION, {"precision": "bf16"}, "rotary_table: bfloat16"),
        (VISION, {"max_length": 729}, "no room for an image of 729 tokens"),
    ],
)
def test_models_that_prismatic_cannot_take_are_known_too(
    vision: dict[str, Any] | None, changes: dict[str, Any], message: str
) -> None:
    model = LanguageModel.model_validate(MODEL)
    assert message in model_problem(typed(**changes), model, Vision.model_validate(vision) if vision else None)
    assert model_problem(typed(), model, Vision.model_validate(VISION)) == ""


def test_a_tokenizer_that_prismatics_model_refuses_is_named(tmp_path: Path) -> None:
    write_words(tmp_path / "words.json")
    tokenizer = TextTokenizer(tmp_path / "words.json", 400, literal=True)
    check_words(tokenizer, 400)
    largest = max(Tokenizer.from_file(str(tmp_path / "words.json")).get_vocab().values())
    with pytest.raises(ConfigError, match="needs a token for padding"):
        check_words(tokenizer, largest + 1)
    bytes_only = Tokenizer(models.BPE(vocab={"a": 0, "<|endoftext|>": 1}, merges=[]))
    bytes_only.save(str(tmp_path / "bytes.json"))
    with pytest.raises(ConfigError, match="one token for each of True, Yes"):
        check_words(TextTokenizer(tmp_path / "bytes.json", 400, literal=True), 400)


def test_records_that_would_stop_prismatic_half_way_are_left_out(tmp_path: Path) -> None:
    write_llava(tmp_path / "llava", 6)
    file = tmp_path / "llava" / "conversations.json"
    text = {"id": "t", "conversations": conversation(0)["conversations"][2:]}
    absent = {**conversation(0), "image": "images/absent.png"}
    climbing = {**conversation(0), "image": "../llava/images/red.png/../../../etc/hosts"}
    file.write_text(json.dumps([*json.loads(file.read_text()), text, absent, climbing, {"conversations": []}]))
    written = write_conversations(file.parent, tmp_path / "out.json", limit=3)
    assert (written.with_image, written.without, written.bad) == (6, 1, 3)
    assert (written.steps(4), written.images_of(4)) == (2 + 1, 8)
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept[0] == {**conversation(0), "id": "0"}
    assert "image" not in kept[6]
    with pytest.raises(DataError, match="3 records are of no use; the limit is 2"):
        write_conversations(file.parent, tmp_path / "out.json", limit=2)
    file.write_text(json.dumps([text]))
    with pytest.raises(ConfigError, match="no conversation has an image"):
        write_conversations(file.parent, tmp_path / "out.json", limit=0)


def test_two_encoders_features_change_places_and_back(tmp_path: Path) -> None:
    vision = Vision(encoder="siglip+dinov2")  # two layers: the widest of the three would be 19 million weights
    model = VLM(LanguageModel.model_validate(MODEL), vision)
    weights = model.weights()
    write_parent(weights, vision, projector=tmp_path / "p.pt", language_model=tmp_path / "l.pt")
    theirs = torch.load(tmp_path / "p.pt", weights_only=True)["model"]["projector"]
    siglip, dino = torch.randn(3, 1152), torch.randn(3, 1024)
    assert model.projector is not None
    ours = model.projector[0](torch.cat((siglip, dino), dim=1))
    swapped = torch.cat((dino, siglip), dim=1) @ theirs["projector.0.weight"].T + theirs["projector.0.bias"]
    torch.testing.assert_close(swapped, ours)
    assert same_bits(reordered(theirs, vision, to_prismatic=False), {n: weights[n] for n in theirs})
    with pytest.raises(ConfigError, match="projector and llm_backbone are needed"):
        read_made(tmp_path / "p.pt", vision)


def test_a_projector_of_one_layer_has_no_number_there(tmp_path: Path) -> None:
    vision = Vision.model_validate({**VISION, "projector": "linear"})
    weights = VLM(LanguageModel.model_validate(MODEL), vision).weights()
    projector, made = tmp_path / "p.pt", tmp_path / "made.pt"
    write_parent(weights, vision, projector=projector, language_model=tmp_path / "l.pt")
    theirs = torch.load(projector, weights_only=True)["model"]["projector"]
    assert theirs.keys() == {"projector.weight", "projector.bias"}
    language = torch.load(tmp_path / "l.pt", weights_only=True)["state_dict"]
    torch.save({"model": {"projector": theirs, "llm_backbone": language}}, made)
    assert same_bits(read_made(made, vision), weights)


@pytest.mark.parametrize("start", [False, True])
def test_prismatic_is_given_our_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bool) -> None:
    """As its FinetuneDataset puts a conversation together: turn by turn, the first with special tokens."""
    write_words(tmp_path / "words.json", start=start)
    prompting = types.ModuleType("prompting")
    prompting.PromptBuilder = type("PromptBuilder", (), {"__init__": lambda *_: None})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prismatic.models.backbones.llm.prompting", prompting)
    ours = TextTokenizer(tmp_path / "words.json", 400, literal=True)
    settings = start_file(
        typed(prompt="vicuna"), LanguageModel.model_validate(MODEL), tokenizer=ours.file, end_of_text="<|endoftext|>",
        start_of_text=ours.start_of_text[0] if start else None,
    )  # fmt: skip
    theirs, prompt = (
        start_program.tokenizer_class()(settings, 800),
        start_program.prompt_class(settings)("prismatic"),
    )
    record = conversation(1)
    record["conversations"][1]["value"] = "green, not a <s>"
    ids: list[int] = []
    for number, turn in enumerate(record["conversations"]):
        ids += theirs(prompt.add_turn(turn["from"], turn["value"]), add_special_tokens=number == 0).input_ids
    reader = ConversationReader(tmp_path, tokenizer=ours, images=None, max_length=800, template=TEMPLATES["vicuna"])
    tokens, _ = reader._tokens(check_record("r", record))
    assert ids == [1 if start else theirs.pad_token_id, *tokens]
    assert theirs.pad_token_id not in ids[1:]
    assert theirs.pad_token_id < MODEL["vocabulary"]


@pytest.mark.parametrize("start", [None, 1])
def test_the_loss_there_is_ours_of_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int | None
) -> None:
    """Where a tokenizer has no start of text, prismatic's first token is left out again: the image comes first."""

    class Transformer(OpenLM):
        """As open_lm's is called."""

        def __init__(self, params: dict[str, Any]) -> None:
            super().__init__(LanguageModel(d_model=params["dim"], layers=2, heads=2, vocabulary=params["vocab_size"]))

        def forward(self, inputs_embeds: torch.Tensor) -> tuple[torch.Tensor]:  # type: ignore[override]
            return (self.output(self.hidden(inputs_embeds)),)

    model, norms = types.ModuleType("open_lm.model"), types.ModuleType("open_lm.norms")
    vars(model)["Transformer"], vars(model)["Params"], vars(norms)["get_norm_class"] = Transformer, dict, str
    for module in (model, norms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    vlm = VLM(LanguageModel.model_validate(MODEL), Vision.model_validate(VISION))
    language = tmp_path / "language.pt"
    write_parent(vlm.weights(), Vision.model_validate(VISION), projector=tmp_path / "p.pt", language_model=language)
    settings = {"shape": {"dim": 32, "vocab_size": 400}, "language_model": str(language), "start_of_text": start}
    theirs = start_program.language_model_class(settings)()
    image, text = vlm.project(torch.randn(1, 729, 1152)), torch.tensor([[7, 8, 9, 10]])
    first = theirs.model.tok_embeddings(torch.tensor([[start or 399]]))
    labels = torch.tensor([[-100] * (1 + 729 + 2) + [9, 10]])
    given = torch.cat((first, image, vlm.lm.embed(text)), dim=1)
    ours = torch.cat(([first] if start else []) + [image, vlm.lm.embed(text)], dim=1)
    logits = vlm.lm.output(vlm.lm.hidden(ours))[0, -3:-1]
    loss = theirs(None, given, labels).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([9, 10])))
    assert theirs(None, given, torch.full_like(labels, -100)).loss == 0, "a batch without a target is no NaN"
