import json

from stages.engines.vla_foundry.data import PADDING, chat_template, image_config, processor_config, tokenizer_config
from stages.engines.vla_foundry.options import options
from stages.engines.vla_foundry.weights import timm_config
from stages.vision.specs import encoder_spec
from tests.stages.engines.vla_foundry import vla_foundry_case as case


def test_the_files_given_to_vla_foundry_are_these() -> None:
    rendered = {
        kind: options(case.config_of(kind), log_steps=10, start=start, weights_only=start is not None)
        for kind, start in (("text", None), ("siglip", "start/checkpoint_0.pt"))
    }
    rendered |= {f"{kind} encoder": timm_config(encoder_spec(name)) for kind, (name, _) in case.ENCODERS.items()}
    rendered["processor"] = {
        "processor_config.json": processor_config(encoder_spec("patches-16-32")),
        "preprocessor_config.json": image_config(encoder_spec("patches-16-32")),
        "tokenizer_config.json": tokenizer_config("<|endoftext|>", PADDING),
        "chat_template.jinja": chat_template("<|endoftext|>"),
    }
    assert rendered == json.loads(case.FILES.read_text())
