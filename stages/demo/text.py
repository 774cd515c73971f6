"""The demo's text: split by document, its tokenizer, token shards in open_lm's format, and the two text tasks."""

import gzip
import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.demo.prose import Document
from stages.prepare.tar_files import write_manifest, write_tar

VOCABULARY = 2_048
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
SAID_SHARE = 0.1
CONTEXT = 128
"""Tokens of a sequence; a shard's line holds one more, so that each token has a next one."""
SEQUENCES_PER_SHARD = 512
HELD_OUT_EVERY = 16
"""One document in this many is held out."""
CLOZE_QUESTIONS = 200
CLOZE_CONTEXT, CLOZE_ENDING = 16, 8
"""Words of a cloze question's beginning, and of each of its endings."""
CHOICES = 4
LOSS_DOCUMENTS, LOSS_BYTES = 120, 400


def held_out(document: Document) -> bool:
    """By the digest of the document's name: the same on every machine, whatever other documents there are."""
    return int.from_bytes(hashlib.sha256(document.name.encode()).digest()[:4]) % HELD_OUT_EVERY == 0


def train_tokenizer(texts: list[str], said: list[str]) -> Tokenizer:
    """Byte-level BPE with END_OF_TEXT as token 0 and PADDING as token 1, as GPT-NeoX has them.

    `said` of images is repeated until it is SAID_SHARE of the whole: its few words should be tokens of their own.
    """
    repeats = math.ceil(SAID_SHARE * sum(map(len, texts)) / max(1, sum(map(len, said))))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(said * repeats)], trainer)
    return tokenizer


def write_token_shards(folder: Path, documents: Sequence[Document], tokenizer: Tokenizer, rng: random.Random) -> int:
    """Shuffled documents as one stream of tokens, cut into lines of CONTEXT + 1; returns the number of lines.

    Lines share no token: the stream advances by CONTEXT + 1. Its end that fills no line is dropped.
    """
    order = rng.sample(documents, len(documents))
    lines = _lines(_token_stream(order, tokenizer))
    shards: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    while batch := list(islice(lines, SEQUENCES_PER_SHARD)):
        name = f"shard-{len(shards):06d}"
        members = ((f"{index:06d}.json.gz", _gzipped(line)) for index, line in enumerate(batch))
        write_tar(folder / f"{name}.tar", members)
        shards[name] = len(batch)
    write_manifest(folder, shards.items())
    return sum(shards.values())


def cloze_rows(documents: Sequence[Document], rng: random.Random) -> list[dict[str, object]]:
    """Four-way questions: which ending follows this beginning? In the wrong ones two neighbouring words are exchanged.

    So all endings have the same words, and only a model of the language can tell them apart.
    """
    passages = [words for document in documents for words in _passages(document)]
    chosen = rng.sample(passages, min(CLOZE_QUESTIONS, len(passages)))
    rows: list[dict[str, object]] = []
    for passage in chosen:
        right = _ending(passage)
        gold = rng.randrange(CHOICES)
        endings = _exchanged(right, CHOICES - 1, rng)
        endings.insert(gold, right)
        context, choices = " ".join(passage[:CLOZE_CONTEXT]), [" ".join(ending) for ending in endings]
        rows.append({"context": context, "endings": choices, "gold": gold})
    return rows


def loss_rows(documents: Sequence[Document], rng: random.Random) -> list[dict[str, object]]:
    """Beginnings of held-out documents, whole paragraphs up to about LOSS_BYTES bytes each."""
    long = [document for document in documents if len(document.text) >= LOSS_BYTES // 2]
    chosen = rng.sample(long, min(LOSS_DOCUMENTS, len(long)))
    return [{"text": document.text[:LOSS_BYTES].rsplit(" ", 1)[0]} for document in chosen]


def write_text_task(folder: Path, name: str, rows: Sequence[object], settings: dict[str, object]) -> None:
    """An lm-eval task of its own: NAME.yaml and its data, NAME.jsonl, beside it."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))


CLOZE_TASK: dict[str, object] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{endings}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 1, "chance": 1 / CHOICES},
}
LOSS_TASK: dict[str, object] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte"}],
    "metadata": {"version": 1},
}


def _token_stream(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[int]:
    for encoding in tokenizer.encode_batch([document.text + END_OF_TEXT for document in documents]):
        yield from encoding.ids


def _lines(tokens: Iterator[int]) -> Iterator[list[int]]:
    while len(line := list(islice(tokens, CONTEXT + 1))) == CONTEXT + 1:
        yield line


def _gzipped(line: list[int]) -> bytes:
    return gzip.compress(json.dumps(line).encode(), compresslevel=1, mtime=0)


def _passages(document: Document) -> Iterator[list[str]]:
    for paragraph in document.paragraphs:
        words = paragraph.split()
        if len(words) >= CLOZE_CONTEXT + CLOZE_ENDING and len(_exchangeable(_ending(words))) >= CHOICES - 1:
            yield words


def _ending(words: list[str]) -> list[str]:
    return words[CLOZE_CONTEXT : CLOZE_CONTEXT + CLOZE_ENDING]


def _exchangeable(words: list[str]) -> list[int]:
    """Places of words that differ from the next one."""
    return [place for place, pair in enumerate(pairwise(words)) if pair[0] != pair[1]]


def _exchanged(words: list[str], count: int, rng: random.Random) -> list[list[str]]:
    """`words` with two neighbours exchanged, in `count` different ways."""
    chosen = rng.sample(_exchangeable(words), count)
    return [[*words[:place], words[place + 1], words[place], *words[place + 2 :]] for place in chosen]
