"""lm-eval on our model gives what its HFLM gives on the same weights: StableLM expresses OpenLM without qk-norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from stages.config import LanguageModel as Shape
from stages.data.tokenizer import TextTokenizer
from stages.demo.text import VOCABULARY
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.text import block_network
from stages.models.vlm import VLM
from tests.stages.evaluation.transformers_model import fast_tokenizer, stablelm

CONTEXT, END = 64, "<|endoftext|>"
TEXTS = [
    ("The list is", (" sorted in place.", " empty", " the")),
    ("Return the number of items that are in the list before the first one. " * 6, ("It is", " is returned here")),
    ("Trailing spaces belong to the answer  ", ("of it", "x")),
    ("", ("alone", " a text without a context")),
]


@pytest.fixture(scope="module", params=["no start-of-text token", "a start-of-text token"])
def tokenizer(request: pytest.FixtureRequest, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, and one that begins each text with the token that ends it."""
    if not request.param.startswith("a "):
        return small_demo / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(small_demo / "tokenizer.json"))
    special = [(END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=special)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def subject(tokenizer: Path) -> EvaluatedModel:
    torch.manual_seed(3)
    vlm = VLM(Shape(d_model=32, layers=2, heads=2, vocabulary=VOCABULARY, qk_norm=False)).eval()
    with torch.no_grad():
        for gain in (parameter for parameter in vlm.lm.parameters() if parameter.ndim == 1):
            gain.add_(torch.randn_like(gain) / 10)
    ours = TextTokenizer(tokenizer, VOCABULARY, literal=True)
    return EvaluatedModel(
        vlm=vlm,
        tokenizer=ours,
        device=torch.device("cpu"),
        precision="fp32",
        context=CONTEXT,
        max_new_tokens=8,
        start=ours.start_of_text,
    )


@torch.inference_mode()
def test_stablelm_with_our_weights_has_our_logits(subject: EvaluatedModel) -> None:
    tokens = torch.randint(0, VOCABULARY, (3, 40))
    theirs = stablelm(subject.vlm.lm, CONTEXT)(tokens).logits
    torch.testing.assert_close(subject.vlm.lm(tokens), theirs, rtol=1e-5, atol=1e-5)


def both(subject: EvaluatedModel, tokenizer: Path) -> tuple[Any, Any]:
    with block_network():
        from lm_eval.models.huggingface import HFLM

        from stages.evaluation.language_model import LMEvalModel

        theirs = stablelm(subject.vlm.lm, CONTEXT)
        return LMEvalModel(subject), HFLM(
            pretrained=theirs,
            tokenizer=fast_tokenizer(tokenizer, END),
            batch_size=3,
            max_length=CONTEXT,
            truncation=True,
        )


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=argument, idx=0) for argument in arguments]


def test_likelihoods_rolling_likelihoods_and_answers_are_hflms(subject: EvaluatedModel, tokenizer: Path) -> None:
    ours, theirs = both(subject, tokenizer)
    pairs = requests("loglikelihood", [(context, ending) for context, endings in TEXTS for ending in endings])
    found, expected = ours.loglikelihood(pairs), theirs.loglikelihood(pairs, disable_tqdm=True)
    assert [pair[0] for pair in found] == pytest.approx([pair[0] for pair in expected], abs=1e-4)
    assert [pair[1] for pair in found] == [bool(pair[1]) for pair in expected]

    texts = requests("loglikelihood_rolling", [(context + endings[0],) for context, endings in TEXTS])
    rolling = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(rolling, abs=1e-3)

    settings = {"until": ["zzz"], "max_gen_toks": 12, "do_sample": False}
    asked = requests("generate_until", [(context, settings) for context, _ in TEXTS if context])
    answers = ours.generate_until(asked)
    assert answers == theirs.generate_until(asked, disable_tqdm=True)
    assert all(answers)
