"""What prismatic's own classes are told, with ours in the place of the modules that are not installed."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.config import LanguageModel, Vision
from stages.data.conversations import encode_turns, parse_record
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer
from stages.engines.prismatic import start_program
from stages.engines.prismatic.options import build_start_settings
from stages.engines.prismatic.weights import write_parent_weights
from stages.models.openlm import OpenLM
from stages.models.vlm import VLM
from tests.stages.engines.prismatic.prismatic_case import MODEL, VISION, typed, write_words
from tests.stages.training.training_case import conversation


@pytest.mark.parametrize("start", [False, True])
def test_prismatic_is_given_our_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bool) -> None:
    """As its FinetuneDataset puts a conversation together: turn by turn, the first with special tokens."""
    write_words(tmp_path / "words.json", start=start)
    prompting = types.ModuleType("prompting")
    prompting.PromptBuilder = type("PromptBuilder", (), {"__init__": lambda *_: None})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prismatic.models.backbones.llm.prompting", prompting)
    ours = TextTokenizer(tmp_path / "words.json", 400, literal=True)
    settings = build_start_settings(
        typed(prompt="vicuna"), LanguageModel.model_validate(MODEL), tokenizer=ours.file, end_of_text="<|endoftext|>",
        start_of_text=ours.start_of_text[0] if start else None,
    )  # fmt: skip
    theirs, prompt = (
        start_program.build_tokenizer_class()(settings, 800),
        start_program.build_prompt_class(settings)("prismatic"),
    )
    record = conversation(1)
    record["conversations"][1]["value"] = "green, not a <s>"
    ids: list[int] = []
    for number, turn in enumerate(record["conversations"]):
        ids += theirs(prompt.add_turn(turn["from"], turn["value"]), add_special_tokens=number == 0).input_ids
    tokens, _ = encode_turns(ours, TEMPLATES["vicuna"], "r", parse_record("r", record).turns)
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
            return (self.output(self.compute_hidden(inputs_embeds)),)

    model, norms = types.ModuleType("open_lm.model"), types.ModuleType("open_lm.norms")
    vars(model)["Transformer"], vars(model)["Params"], vars(norms)["get_norm_class"] = Transformer, dict, str
    for module in (model, norms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    vlm = VLM(LanguageModel.model_validate(MODEL), Vision.model_validate(VISION))
    language = tmp_path / "language.pt"
    write_parent_weights(
        vlm.collect_weights(), Vision.model_validate(VISION), projector=tmp_path / "p.pt", language_model=language
    )
    settings = {"shape": {"dim": 32, "vocab_size": 400}, "language_model": str(language), "start_of_text": start}
    theirs = start_program.build_language_model_class(settings)()
    image, text = vlm.project(torch.randn(1, 729, 1152)), torch.tensor([[7, 8, 9, 10]])
    first = theirs.model.tok_embeddings(torch.tensor([[start or 399]]))
    labels = torch.tensor([[-100] * (1 + 729 + 2) + [9, 10]])
    given = torch.cat((first, image, vlm.lm.embed(text)), dim=1)
    ours = torch.cat(([first] if start else []) + [image, vlm.lm.embed(text)], dim=1)
    logits = vlm.lm.output(vlm.lm.compute_hidden(ours))[0, -3:-1]
    loss = theirs(None, given, labels).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([9, 10])))
    assert theirs(None, given, torch.full_like(labels, -100)).loss == 0, "a batch without a target is no NaN"
