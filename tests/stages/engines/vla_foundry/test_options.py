import json

from stages.engines.vla_foundry.data import (
    PADDING,
    build_chat_template,
    build_image_config,
    build_processor_config,
    build_tokenizer_config,
)
from stages.engines.vla_foundry.options import build_options
from stages.engines.vla_foundry.weights import build_timm_config
from stages.vision.specs import resolve_encoder_spec
from tests.stages.engines.vla_foundry import vla_foundry_case as case


def test_the_files_given_to_vla_foundry_are_these() -> None:
    rendered = {
        kind: build_options(case.config_of(kind), log_steps=10, start=start, weights_only=start is not None)
        for kind, start in (("text", None), ("siglip", "start/checkpoint_0.pt"))
    }
    rendered |= {
        f"{kind} encoder": build_timm_config(resolve_encoder_spec(name)) for kind, (name, _) in case.ENCODERS.items()
    }
    rendered["processor"] = {
        "processor_config.json": build_processor_config(resolve_encoder_spec("patches-16-32")),
        "preprocessor_config.json": build_image_config(resolve_encoder_spec("patches-16-32")),
        "tokenizer_config.json": build_tokenizer_config("<|endoftext|>", PADDING),
        "chat_template.jinja": build_chat_template("<|endoftext|>"),
    }
    assert rendered == json.loads(case.FILES.read_text())
