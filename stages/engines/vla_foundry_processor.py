"""The processor that vla_foundry is given: transformers' files that make our sequence of an image and its caption.

That is the image's tokens, the caption, the end-of-text token, and padding. LLaVA's processor puts as many tokens in
an image's place as the encoder gives; the chat template writes no other words.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from stages.data.tokenizer import TextTokenizer
from stages.encoder_spec import EncoderSpec
from stages.errors import ConfigError
from stages.files import replacing, write_json

IMAGE, PADDING = "<|vla foundry: image|>", "<|vla foundry: padding|>"
KNOWN_PADDING = ("<|padding|>", "<|pad|>", "<pad>", "[PAD]")
THEIR_VOCABULARY = 50_432
"""Its default, which it takes for "not given": the model then gets as many tokens as the tokenizer has."""
SAMPLE = " Two small (red) squares, left of A BLUE one. "


def write_processor(tokenizer: TextTokenizer, spec: EncoderSpec, vocabulary: int, folder: Path) -> None:
    """The folder that `data.processor` names. ConfigError if this tokenizer cannot be used with vla_foundry."""
    extended = Tokenizer.from_file(str(tokenizer.file))
    extended.no_padding()
    extended.no_truncation()
    padding = add_tokens(extended, tokenizer, vocabulary)
    check_sequence(extended, tokenizer, vocabulary, padding)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "tokenizer.json") as unfinished:
        extended.save(str(unfinished))
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer.end_of_text_name, padding))
    write_json(folder / "processor_config.json", processor_config(spec))
    write_json(folder / "preprocessor_config.json", image_config(spec))
    with replacing(folder / "chat_template.jinja") as unfinished:
        unfinished.write_text(chat_template(tokenizer.end_of_text_name))


def add_tokens(extended: Tokenizer, tokenizer: TextTokenizer, vocabulary: int) -> str:
    """Adds the tokens of images and of padding; the latter's name. It is one that is never a target: vla_foundry
    leaves padding out of the loss by its id."""
    known = (name for name in KNOWN_PADDING if extended.token_to_id(name) not in {None, tokenizer.end_of_text})
    padding = next(known, PADDING)
    extended.add_special_tokens([token(padding), token(IMAGE)])
    size = extended.get_vocab_size(with_added_tokens=True)
    if vocabulary == THEIR_VOCABULARY:
        extended.add_special_tokens([token(f"<|vla foundry: {number}|>") for number in range(size, vocabulary)])
    return padding


def token(name: str) -> AddedToken:
    """One that stands for itself."""
    return AddedToken(name, special=True, normalized=False)


def check_sequence(extended: Tokenizer, tokenizer: TextTokenizer, vocabulary: int, padding: str) -> None:
    """ConfigError unless a captioned image becomes the tokens that our own stage makes of it."""
    size = extended.get_vocab_size(with_added_tokens=True)
    if vocabulary == THEIR_VOCABULARY and size != vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: {size - 1} tokens leave no room for one more in the model's {vocabulary}, and "
            "vla_foundry takes that number for its default; give the model another vocabulary"
        )
    place = extended.token_to_id(padding)
    if place is None or place >= vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: it knows no padding token ({', '.join(KNOWN_PADDING)}), and the model's vocabulary of "
            f"{vocabulary} has no room for one; vla_foundry needs it"
        )
    made = extended.encode(f"{IMAGE}{SAMPLE.strip()}{tokenizer.end_of_text_name}", add_special_tokens=False).ids
    wanted = [extended.token_to_id(IMAGE), *tokenizer.encode(SAMPLE.strip()), tokenizer.end_of_text]
    if made != wanted:
        raise ConfigError(
            f"{tokenizer.file}: a caption behind an image becomes other tokens than alone, and vla_foundry writes both "
            "as one text; take a tokenizer without a blank before a text's first word"
        )


def tokenizer_config(end_of_text: str, padding: str) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": padding,
        "eos_token": end_of_text,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }


def processor_config(spec: EncoderSpec) -> dict[str, Any]:
    """processor_config.json: one token for each patch, none for a class."""
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": spec.patch_size,
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
        "image_token": IMAGE,
    }


def image_config(spec: EncoderSpec) -> dict[str, Any]:
    """preprocessor_config.json: stretched to a square (bicubic), then the encoder's normalisation."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": spec.image_size, "width": spec.image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def chat_template(end_of_text: str) -> str:
    """For Jinja: the image, the caption without blanks at its ends, the end-of-text token."""
    image, end = json.dumps(IMAGE), json.dumps(end_of_text)
    return (
        "{%- for part in messages[0]['content'] -%}"
        "{%- if part['type'] == 'image' -%}{{- " + image + " -}}"
        "{%- else -%}{{- part['text'] | trim -}}{%- endif -%}"
        "{%- endfor -%}{{- " + end + " -}}"
    )
