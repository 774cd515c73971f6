"""Tokenizers of several kinds for tests, trained on the spot."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

UNKNOWN = "[UNK]"

LINES = [
    "In: What colours are the 2 cars (left, right)?\nOut: Red, and dark-blue.",
    "USER: Is 0 + 1 = 1? ASSISTANT: yes! <image> </s> <|endoftext|> [SEP] [CLS]",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 3 4 5 6 7 8 9",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
]


def byte_level(path: Path) -> Path:
    """As GPT-NeoX: no start-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    return trained(tokenizer, trainer, path)


def word_piece(path: Path) -> Path:
    """As BERT: lower case, with a token before each text and one behind it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[UNK]", "[CLS]", "[SEP]", "</s>"]
    trained(tokenizer, trainers.WordPieceTrainer(vocab_size=250, special_tokens=specials, show_progress=False), path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(path))
    return path


def unigram(path: Path) -> Path:
    """As Llama: `<s>` before each text. Its vocabulary holds `</s>` as a piece that text may become."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",  # noqa: S106 - no password
        show_progress=False,
    )
    trained(tokenizer, trainer, path)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))
    return path


def metaspace_first(path: Path) -> Path:
    """As `unigram`, with a blank before the first piece of a text alone, as newer Llama-like files have it."""
    unigram(path)
    content = json.loads(path.read_text())
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    path.write_text(json.dumps(content))
    return path


def prepending(path: Path) -> Path:
    """As Llama 2's own file: a normalizer puts a blank before each text, and nothing splits words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained(tokenizer, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False), path)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))
    content = json.loads(path.read_text())
    content["added_tokens"] = content["added_tokens"][:3]
    path.write_text(json.dumps(content))
    return path


def trained(tokenizer: Tokenizer, trainer: trainers.Trainer, path: Path) -> Path:
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.save(str(path))
    return path


LLAMA_LIKE = {"unigram": unigram, "metaspace first": metaspace_first, "prepending": prepending}
"""Those that begin each text with a blank, each in its own way."""
KINDS = {"byte-level": byte_level, "word-piece": word_piece, "unigram": unigram}
