"""Our decoder as transformers knows it: StableLM without norm biases is OpenLM without qk-norm, weight for weight."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.models.openlm import NORM_EPS, OpenLM


def stablelm(model: OpenLM, context: int) -> Any:
    """A StableLmForCausalLM with copies of the model's weights, in evaluation mode; its kernel is torch's fused one."""
    from transformers import StableLmConfig, StableLmForCausalLM

    shape = model.config
    if shape.qk_norm:
        raise ValueError("StableLM norms queries and keys by head, so that it cannot express qk_norm")
    config = StableLmConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.feed_forward_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        layer_norm_eps=NORM_EPS,
        hidden_act="silu",
        tie_word_embeddings=False,
        use_qkv_bias=False,
        qk_layernorm=False,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    other: Any = StableLmForCausalLM(config)
    other.set_attn_implementation("sdpa")
    other = other.float().eval()
    other.load_state_dict(renamed(model))
    return other


def renamed(model: OpenLM) -> dict[str, Tensor]:
    """The weights under StableLM's names; its norms' biases are zero."""
    own = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    weights = {"model.embed_tokens.weight": own["tok_embeddings.weight"], "lm_head.weight": own["output.weight"]}
    norms = {"model.norm": own["norm.weight"]}
    for number in range(model.config.layers):
        old, new = f"layers.{number}.", f"model.layers.{number}."
        for name, part in zip("qkv", own[old + "attention.in_proj.weight"].chunk(3), strict=True):
            weights[f"{new}self_attn.{name}_proj.weight"] = part
        gate, up = own[old + "feed_forward.w12.weight"].chunk(2)
        weights |= {f"{new}mlp.gate_proj.weight": gate, f"{new}mlp.up_proj.weight": up}
        weights[f"{new}mlp.down_proj.weight"] = own[old + "feed_forward.w3.weight"]
        weights[f"{new}self_attn.o_proj.weight"] = own[old + "attention.out_proj.weight"]
        norms[f"{new}input_layernorm"] = own[old + "attention_norm.weight"]
        norms[f"{new}post_attention_layernorm"] = own[old + "ffn_norm.weight"]
    for name, gain in norms.items():
        weights |= {f"{name}.weight": gain, f"{name}.bias": torch.zeros_like(gain)}
    return weights


def fast_tokenizer(file: Path, end_of_text: str) -> Any:
    """transformers' tokenizer of a tokenizer.json."""
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast  # untyped
    return build(tokenizer_file=str(file), eos_token=end_of_text, pad_token=end_of_text)
