"""Makes golden.json: what real vla_foundry says, to which the tests hold ours.

    python -m tests.stages.engines.vla_foundry.make_golden CHECKOUT COMMIT

CHECKOUT is a work tree of TRI-ML/vla_foundry (COMMIT 515b045 made the file), whose packages this interpreter has. Its
own models are built from the configuration that an engine's job gives it, and get weights of ours; their names, sums
and order, the optimizer's groups and the logits are saved, and the logits compared with ours at once. Its own
processor makes tokens and pixels of an image and a caption, and its own loss is taken of them.
"""

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from stages.data.tokenizer import TextTokenizer
from stages.engines.vla_foundry.data import write_processor
from stages.engines.vla_foundry.options import ENCODER, PROCESSOR, build_options
from stages.engines.vla_foundry.weights import write_encoder
from stages.vision.specs import resolve_encoder_spec
from tests.stages.engines.vla_foundry import vla_foundry_case as case
from tests.stages.training.training_case import write_tokenizer


def main() -> int:
    """Writes the file; 1 if the logits differ."""
    checkout, commit = sys.argv[1:]
    sys.path.insert(0, checkout)
    found: dict[str, Any] = {"commit": commit, "torch": str(torch.__version__)}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_tokenizer(Path("tokenizer.json"))
        for name in ("text", *case.ENCODERS):
            found[name], difference = ask(name)
            print(f"{name}: largest difference of a logit {difference:g}")
            worst = max(worst, difference)
    case.GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    return int(worst > 1e-5)


def their(module: str) -> Any:
    """A module of the checkout."""
    return import_module(f"vla_foundry.{module}")


def ask(name: str) -> tuple[dict[str, Any], float]:
    """What vla_foundry says of one configuration, and by how much its logits differ from ours."""
    create_model = their("models").create_model
    create_optimizer = their("optimizer").create_optimizer
    parameters_of = their("params.train_experiment_params").TrainExperimentParams

    config = case.typed(case.text_job() if name == "text" else case.image_job(name))
    vlm, encoder = case.model(config)
    if encoder is not None and config.vision is not None:
        spec = resolve_encoder_spec(config.vision.encoder)
        write_encoder(spec, encoder, Path(ENCODER))
        write_processor(TextTokenizer(Path("tokenizer.json"), 300), spec, config.model.vocabulary, Path(PROCESSOR))
    tree = build_options(config, log_steps=10, start=None, weights_only=False)
    cfg = parameters_of.from_dict(tree)
    real = create_model(cfg.model)
    real.load_state_dict(case.theirs(config, vlm, encoder))
    parameters = [name for name, parameter in real.named_parameters() if parameter.requires_grad]
    order = {id(parameter): name for name, parameter in real.named_parameters()}
    groups = [
        [order[id(each)] for each in group["params"]] for group in create_optimizer(cfg.hparams, real).param_groups
    ]
    logits, row, loss = run(cfg, real.eval(), encoder is not None)
    difference = float((logits - case.our_logits(config)).abs().max())
    sums = {name: case.weighted_sum(tensor) for name, tensor in real.state_dict().items()}
    said = {"trained": parameters, "groups": groups, "sums": sums, "row": row, "loss": loss}
    return {**said, "logits": logits[:, -1, ::25].tolist()}, difference


@torch.no_grad()
def run(cfg: Any, real: Any, images: bool) -> tuple[torch.Tensor, list[int], float]:
    """Logits of tokens behind an image; the token ids of an image and a caption, and their loss without z-loss."""
    if not images:
        return real(input_ids=case.tokens()).logits, [], 0.0
    made = captioned(cfg)
    row = made["input_ids"][0].tolist()
    ids = torch.cat([torch.full((2, row.count(cfg.model.image_token_id)), cfg.model.image_token_id), case.tokens()], 1)
    logits = real(input_ids=ids, pixel_values=(case.pixels().float() / 255 - 0.5) / 0.5).logits
    handler = their("models.registry").create_batch_handler("vlm")
    inputs, targets, mask = handler.prepare_inputs_and_targets(dict(made), torch.device("cpu"), cfg)
    loss_of = their("losses").CrossEntropyLossWithZLoss(0.0)
    return logits, row, float(handler.compute_loss(real(**inputs), targets, loss_of, cfg, mask=mask))


def captioned(cfg: Any) -> Any:
    """What its pipeline makes of an image and a caption."""
    processors = their("data.processor")
    processor = processors.get_processor(cfg.data)
    decoded = their("data.augmentations.decode_and_augment").fast_image_decoder("png", case.picture())
    return processor(
        images=[[decoded]], text=[processors.apply_chat_template(processor, 1, case.CAPTION)], return_tensors="pt",
        padding="max_length", padding_side="right", max_length=cfg.data.seq_len + 1, truncation=True,
        **cfg.data.processor_kwargs,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
