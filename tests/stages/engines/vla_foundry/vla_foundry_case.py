"""Small models and a captioned image, on which real vla_foundry and our own code are compared.

`make_golden.py` asks vla_foundry, and saves what it says; the tests beside it ask ours.
"""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from stages.config import PretrainConfig
from stages.engines.vla_foundry.weights import PROJECTION, PROJECTOR_WEIGHT, FoundryWeightNames
from stages.models.vlm import VLM
from stages.vision.encoders import PatchEncoder, build_empty_transformer
from stages.vision.specs import EncoderSpec, resolve_encoder_spec
from tests.stages.training.training_case import MODEL, TEXT, text_config

STEPS = 8
SEED = 3
ENGINE = {"kind": "vla_foundry", "revision": "1", "arguments": {"num_checkpoints": 2}}
SHAPE = {**MODEL, "vocabulary": 304}
"""With room for a padding token behind the tokenizer's 300."""
CAPTION = " a red square, then a blue one\n"
GOLDEN = Path(__file__).with_name("golden.json")
FILES = Path(__file__).with_name("golden_files.json")
ENCODERS = {"patches": ("patches-16-32", True), "siglip": ("siglip-tiny-32", False)}
"""Encoders that are compared, and whether they are frozen."""
KINDS = ("text", *ENCODERS)


def text_job(**changes: Any) -> dict[str, Any]:
    """A trunk on text."""
    return text_config(STEPS, **{"engine": ENGINE, "model": SHAPE, **changes})


def image_job(encoder: str = "patches", **changes: Any) -> dict[str, Any]:
    """An image-text run on captions, as a sweep plans it: text is named and has no share."""
    name, frozen = ENCODERS[encoder]
    return text_job(
        **{
            "sources": [{**TEXT, "share": 0.0}, {"name": "captions", "kind": "captions", "share": 1.0}],
            "vision": {"encoder": name, "projector": "linear", "frozen": frozen},
            "tokenizer": {"name": "tokenizer"},
            "packing": "padded",
            **changes,
        }
    )


def typed(content: dict[str, Any]) -> PretrainConfig:
    return PretrainConfig.model_validate(content)


def build_encoder(spec: EncoderSpec) -> nn.Module:
    """An encoder with weights of a seed."""
    if spec.architecture == "patches":
        return PatchEncoder(spec)
    encoder = build_empty_transformer(spec)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.2)
    return encoder


def model(config: PretrainConfig) -> tuple[VLM, nn.Module | None]:
    """Our model with weights of a seed, the projector's those that vla_foundry would get; and the encoder."""
    encoder = build_encoder(resolve_encoder_spec(config.vision.encoder)) if config.vision else None
    torch.manual_seed(SEED)
    trained = encoder if config.vision and not config.vision.frozen else None
    vlm = VLM(config.model, config.vision, trained)
    if encoder is not None:
        given = {**vlm.collect_weights(), PROJECTOR_WEIGHT: theirs(config, vlm, encoder)[PROJECTION]}
        vlm.load_weights({name: tensor * (name != "projector.0.bias") for name, tensor in given.items()})
    return vlm, encoder


def theirs(config: PretrainConfig, vlm: VLM, encoder: nn.Module | None) -> dict[str, Tensor]:
    """The same weights as a state dictionary of vla_foundry."""
    own = dict(encoder.named_parameters()) if encoder is not None else {}
    return FoundryWeightNames(config).convert_to_foundry(
        vlm.collect_weights(), {name: tensor.detach() for name, tensor in own.items()}, SEED
    )


def weighted_sum(tensor: Tensor) -> float:
    """A number that changes when parts of a tensor change places."""
    numbers = tensor.detach().double().flatten()
    return float(numbers @ torch.linspace(1, 2, len(numbers), dtype=torch.float64))


def tokens() -> Tensor:
    """(2, 16) ids."""
    return torch.randint(1, 299, (2, 16), generator=torch.Generator().manual_seed(SEED))


def pixels() -> Tensor:
    """(2, 3, 32, 32), uint8."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)


def picture() -> bytes:
    """A PNG of many colours, as large as the encoders take it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels()[0].permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@torch.no_grad()
def our_logits(config: PretrainConfig) -> Tensor:
    """(2, T, V): of the tokens, with an image before them where the model sees any."""
    vlm, encoder = model(config)
    vlm.eval()
    ids = tokens()
    if encoder is None:
        logits: Tensor = vlm.lm(ids)
        return logits
    image = vlm.image_tokens
    rows = torch.cat([torch.zeros(2, image, dtype=torch.long), ids], dim=1)
    places = torch.arange(2)[:, None] * rows.shape[1] + torch.arange(image)
    seen = pixels() if vlm.encoder is not None else encoder(pixels())
    seeing: Tensor = vlm.lm(inputs_embeds=vlm.embed(rows, seen, places))
    return seeing


def config_of(kind: str) -> PretrainConfig:
    """Of `KINDS`."""
    return typed(text_job() if kind == "text" else image_job(kind))


def moments(config: PretrainConfig, state: dict[str, Tensor], step: int) -> dict[str, Any]:
    """AdamW's, in the optimizer's two groups."""
    without, with_decay = FoundryWeightNames(config).group_by_decay()
    kept = {
        number: {"step": torch.tensor(float(step)), "exp_avg": state[name] / 2, "exp_avg_sq": state[name] ** 2}
        for number, name in enumerate([*without, *with_decay])
    }
    count = len(without)
    return {
        "state": kept,
        "param_groups": [{"params": list(range(count))}, {"params": list(range(count, count + len(with_decay)))}],
    }
