"""Starts prismatic's scripts/pretrain.py with one more language model: open_lm's, with the parent's weights.

Copied as start.py into the engine's folder and run by prismatic's interpreter, with start.json beside it: it imports
nothing of ours. Nothing of the checkout is changed; prismatic's registry is given one more entry.

prismatic puts an image behind the first token of a text. Where a tokenizer has no start of text, that first token is
a filler, which the language model here leaves out again: it sees the image, then the text, as in pre-training.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

SETTINGS = Path(__file__).with_name("start.json")
PAD = "<PAD>"


def build_tokenizer_class() -> Any:
    """A tokenizer of any tokenizer.json, of a class that prismatic's FinetuneDataset lets through."""
    transformers: Any = importlib.import_module("transformers")

    class Words(transformers.CodeGenTokenizerFast):  # type: ignore[misc]
        """Special tokens' names in a text are plain letters, but for the end of text at its end."""

        def __init__(self, settings: dict[str, Any], max_length: int) -> None:
            end = settings["end_of_text"]
            transformers.PreTrainedTokenizerFast.__init__(
                self, tokenizer_file=settings["tokenizer"], eos_token=end, bos_token=end, unk_token=end, pad_token=PAD,
                model_max_length=max_length, padding_side="right",
            )  # fmt: skip
            own = self.backend_tokenizer
            own.no_padding()
            own.no_truncation()
            own.encode_special_tokens = True
            start = settings["start_of_text"]
            self.first = self.pad_token_id if start is None else start

        def encode(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> list[int]:
            """Ids of a turn; of the first one (`add_special_tokens`) with a start."""
            ended = text.endswith(self.eos_token)
            plain = text.removesuffix(self.eos_token) if ended else text
            ids = self.backend_tokenizer.encode(plain, add_special_tokens=False).ids
            return [*([self.first] if add_special_tokens else []), *ids, *([self.eos_token_id] if ended else [])]

        def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> Any:
            ids = self.encode(text, add_special_tokens=add_special_tokens)
            return transformers.BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})

    return Words


def build_prompt_class(settings: dict[str, Any]) -> Any:
    """The job's words around questions and answers, as a PromptBuilder of prismatic's."""
    prompting: Any = importlib.import_module("prismatic.models.backbones.llm.prompting")
    words = settings["prompt"]

    class Prompt(prompting.PromptBuilder):  # type: ignore[misc]
        def __init__(self, model_family: str, system_prompt: str | None = None) -> None:
            super().__init__(model_family, system_prompt)
            self.prompt, self.turns = "", 0

        def add_turn(self, role: str, message: str) -> str:  # noqa: ARG002 - turns alternate, which was checked
            text = message.replace("<image>", "").strip() if self.turns % 2 == 0 else message.strip()
            turn: str = words["answer"].replace("{text}", text) + settings["end_of_text"]
            if self.turns % 2 == 0:
                turn = (words["system"] if self.turns == 0 else "") + words["question"].replace("{text}", text)
            self.prompt += turn
            self.turns += 1
            return turn

        def get_potential_prompt(self, user_msg: str) -> str:
            return f"{self.prompt}{words['question'].replace('{text}', user_msg)}"

        def get_prompt(self) -> str:
            return str(self.prompt)

    return Prompt


def build_language_model_class(settings: dict[str, Any]) -> Any:
    """open_lm's Transformer as prismatic's LLMBackbone wants it."""
    torch: Any = importlib.import_module("torch")
    open_lm: Any = importlib.import_module("open_lm.model")
    norms: Any = importlib.import_module("open_lm.norms")
    outputs: Any = importlib.import_module("transformers.modeling_outputs")

    class LanguageModel(torch.nn.Module):  # type: ignore[misc]
        """Weights are the parent's, under `model.`."""

        generation_config = None

        def __init__(self) -> None:
            super().__init__()
            shape = settings["shape"]
            norm = norms.get_norm_class("gain_only_lp_layer_norm")
            self.model = open_lm.Transformer(open_lm.Params(**shape, model_norm=norm))
            weights = torch.load(settings["language_model"], map_location="cpu", weights_only=True)["state_dict"]
            self.model.load_state_dict(weights)
            self.config = importlib.import_module("types").SimpleNamespace(hidden_size=shape["dim"])

        def forward(self, input_ids: Any, inputs_embeds: Any, labels: Any) -> Any:
            """`loss`: the mean over the positions (B, T) whose next label counts. Padding stands behind all of them."""
            embeddings = self.model.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
            if settings["start_of_text"] is None:
                embeddings = embeddings[:, 1:]
                labels = labels[:, 1:] if labels is not None else None
            logits = self.model(inputs_embeds=embeddings)[0]
            loss = None
            if labels is not None:
                wanted = labels[:, 1:].to(logits.device).flatten()
                total = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted, reduction="sum")
                loss = total / (wanted >= 0).sum().clamp(min=1)  # a batch whose answers were cut off teaches nothing
            return outputs.CausalLMOutputWithPast(loss=loss, logits=logits)

    return LanguageModel


def build_backbone_class(settings: dict[str, Any]) -> Any:
    """The entry for prismatic's registry of language models."""
    torch: Any = importlib.import_module("torch")
    open_lm: Any = importlib.import_module("open_lm.model")
    base: Any = importlib.import_module("prismatic.models.backbones.llm.base_llm")
    prompt = build_prompt_class(settings)

    class OpenLMBackbone(base.LLMBackbone):  # type: ignore[misc]
        prompt_builder_fn = prompt
        transformer_layer_cls = open_lm.Block
        half_precision_dtype = torch.bfloat16
        get_fsdp_wrapping_policy = base.HFCausalLLMBackbone.get_fsdp_wrapping_policy

        def __init__(self, llm_backbone_id: str, llm_max_length: int, **_: Any) -> None:
            super().__init__(llm_backbone_id)
            self.llm = build_language_model_class(settings)()
            self.tokenizer = build_tokenizer_class()(settings, llm_max_length)

        def enable_gradient_checkpointing(self) -> None:
            self.llm.model.set_grad_checkpointing(True)

        def embed_input_ids(self, input_ids: Any) -> Any:
            return self.llm.model.tok_embeddings(input_ids)

        def forward(self, input_ids: Any = None, inputs_embeds: Any = None, labels: Any = None, **_: Any) -> Any:
            return self.llm(input_ids, inputs_embeds, labels)

    return OpenLMBackbone


# Why: docs/decisions.md, D58
def register_backbone(settings: dict[str, Any], name: str = "open_lm") -> None:
    """Makes `name` a language model of prismatic's."""
    registry: Any = importlib.import_module("prismatic.models.materialize")
    registry.LLM_BACKBONES[name] = {"cls": build_backbone_class(settings), "kwargs": {}}


def main() -> None:
    """prismatic's own script, with the words of this command line."""
    register_backbone(json.loads(SETTINGS.read_text()))
    package: Any = importlib.import_module("prismatic")
    script = Path(package.__file__).resolve().parent.parent / "scripts" / "pretrain.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
