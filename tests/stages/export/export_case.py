"""Runs with small models to export, and what an export is asked for."""

import json
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from stages.checkpoint.files import save_checkpoint
from stages.config import LanguageModel, Vision
from stages.export.request import ExportRequest, ModelFacts
from stages.models.vlm import VLM
from stages.vision.encoders import build_encoder_module

NORMED = LanguageModel(d_model=32, layers=2, heads=2, vocabulary=96)
PATCHES = Vision(encoder="patches-16-64", projector="fused-gelu-mlp", transform="letterbox")


def picture() -> bytes:
    file = BytesIO()
    Image.linear_gradient("L").resize((90, 40)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def write_tokenizer(folder: Path, *, start: bool = False) -> Path:
    """Words of one letter, the end of text, and a start if asked for."""
    words = {"<|endoftext|>": 0, "<s>": 1, "?": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>", "<s>"])
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def make_run(folder: Path, model: LanguageModel, vision: Vision | None, **state: object) -> VLM:
    """A finished run of a model whose norms' gains are not one, and whose activations have a mean."""
    torch.manual_seed(5)
    vlm = VLM(model, vision, build_encoder_module(vision) if vision else None).eval()
    with torch.no_grad():
        for _, weight in vlm.iter_named_weights():
            weight.nan_to_num_(nan=0.02)  # of an encoder that waits for its weights
            weight.copy_(torch.rand_like(weight) + 0.5 if weight.dim() == 1 else 2 * weight + 0.01)
    whole = {"step": 3, "model": model.model_dump(), "vision": vision.model_dump() if vision else None, **state}
    path = save_checkpoint(folder / "checkpoints", whole, vlm.collect_weights(), None)
    (folder / "result.json").write_text(json.dumps({"checkpoint": path.relative_to(folder).as_posix()}))
    return vlm


def request_for(
    run: Path, out: Path, *, stage: str = "pretrain", tokenizer: str = "", **facts: object
) -> ExportRequest:
    told = {"sweep": "toy", "cell": "m-b0", "stage": stage, "key": "a" * 16, **facts}
    return ExportRequest(
        run=str(run), out=str(out), context=64, tokenizer=tokenizer, facts=ModelFacts.model_validate(told)
    )
