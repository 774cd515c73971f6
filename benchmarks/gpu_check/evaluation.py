"""Requests a second of an evaluation with random weights: log-likelihoods, answers to text, answers about images.

Questions and tokenizer are those of `benchmarks/evaluate.py`. Never run on a GPU. The CPU half takes a model of 0.3M
weights and few questions.
"""

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.evaluate import read_rows, score, write_tokenizer
from benchmarks.gpu_check.parts import Check, Row
from stages.config import LanguageModel, Vision
from stages.data.tokenizer import TextTokenizer
from stages.distributed import select_device
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.language_model import LMEvalModel
from stages.models.generation import generate_greedy
from stages.models.vlm import VLM
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import load_catalog

PROMPT_TOKENS = 64


def measure(check: Check) -> Iterator[Row]:
    """A row for each kind of request. 411M on a GPU."""
    documents, prompts, new_tokens = (400, 64, 64) if check.on_gpu else (4, 2, 4)
    questions = read_rows(None, documents)
    subject = build_subject(check, questions, new_tokens)
    device, vlm = subject.device, subject.vlm
    model = LMEvalModel(subject)

    def time_requests(ask: Callable[[], object], count: int) -> float:
        """Requests a second, after the same once without a clock."""
        for _ in range(2):
            began = time.perf_counter()
            ask()
            if check.on_gpu:
                torch.cuda.synchronize(device)
        return count / (time.perf_counter() - began)

    width = resolve_encoder_spec(choose_shape(check)[1].encoder).feature_width
    requests = sum(len(question["choices"]) for question in questions)
    rate = time_requests(lambda: score(model, questions), requests)
    yield Row(name="log-likelihoods of four choices", figures={"per_second": rate, "unit": "requests"})

    generator = torch.Generator().manual_seed(0)
    shape = (prompts, PROMPT_TOKENS)
    texts = torch.randint(1, vlm.lm.config.vocabulary, shape, generator=generator).tolist()
    features = torch.randn(prompts, vlm.image_tokens, width, generator=generator)
    for name, images in (("to text", None), ("about an image", features)):

        def ask(images: torch.Tensor | None = images) -> object:
            with subject.enter_inference():
                return generate_greedy(
                    vlm, texts, max_new_tokens=new_tokens, stop_token=-1, features=images, batch_size=32
                )

        rate = time_requests(ask, prompts)
        yield Row(
            name=f"answers of {new_tokens} tokens {name}",
            figures={"per_second": rate, "unit": "answers", "new_tokens_per_second": rate * new_tokens},
        )


def choose_shape(check: Check) -> tuple[LanguageModel, Vision]:
    """411M and SigLIP; on a CPU small ones."""
    if check.on_gpu:
        return load_catalog().models["411m"].shape, Vision(encoder="siglip-so400m-14-384")
    return LanguageModel(d_model=64, layers=2, heads=2, vocabulary=1_000), Vision(encoder="siglip-tiny-32")


def build_subject(check: Check, questions: list[dict[str, object]], new_tokens: int) -> EvaluatedModel:
    """A model that sees images, with random weights on the device."""
    device = select_device(check.device)
    shape, vision = choose_shape(check)
    path = check.folder / "tokenizer.json"
    write_tokenizer(path, questions, shape.vocabulary)
    torch.manual_seed(0)
    with device:
        vlm = VLM(shape, vision).eval()
    return EvaluatedModel(
        vlm=vlm.to(device),
        tokenizer=TextTokenizer(path, shape.vocabulary),
        device=device,
        precision="bf16" if check.on_gpu else "fp32",
        context=2_048 if check.on_gpu else 256,
        max_new_tokens=new_tokens,
    )
