"""tokenizer.json files, changed, and what training, fine-tuning and export do with one."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.data.conversations import ConversationReader, parse_record
from stages.data.prompts import PLAIN
from stages.data.sample import BadSampleError
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.errors import StageError
from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.json_changes import Pairs, Raw, change_tree, load_pairs, render_json
from tests.stages.data.tokenizer_kinds import KINDS

VOCABULARY = 400
TEXTS = (
    *(
        "",
        " ",
        "In: What colours are the 2 cars?\nOut: Red.",
        "a" * 3000,
        "a " * 1500,
        "é🙂\u0300\u200b\ufeff",
        "\0\x1b[31m",
    ),
    *(
        "<|endoftext|> </s> <s> [CLS] <image>",
        "x" * 40 + "!",
        "    \n\n\t  ",
        "½ ² ﬁ Ⅳ",
        "\u202eabc",
        "1234567890" * 50,
    ),
)
EXPONENTIAL = (r"(a+)+$", r"(a|a)*b", r"(?:a*)*b", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(x+x+)+y", r"(.*)*=", r"(\s|\S)+$")
ODD_REGEXES = (
    *EXPONENTIAL,
    "(",
    "[",
    "*",
    "",
    "(?=a)",
    r"\1",
    "a{1000000}",
    "(?i)é",
    r"\p{Foo}",
    ".",
    "(?<=a+)b",
    "\0",
    "^",
    "$",
)
ODD_PARTS: tuple[Any, ...] = tuple(
    load_pairs(text)
    for text in (
        '{"type": "Replace", "pattern": {"String": ""}, "content": "x"}',
        '{"type": "Replace", "pattern": {"String": "a"}, "content": ""}',
        '{"type": "Prepend", "prepend": ""}',
        '{"type": "Precompiled", "precompiled_charsmap": ""}',
        '{"type": "Precompiled", "precompiled_charsmap": "AAAA"}',
        '{"type": "Strip", "strip_left": true, "strip_right": true}',
        '{"type": "Sequence", "normalizers": []}',
        '{"type": "NFKD"}',
        '{"type": "Lowercase"}',
        '{"type": "ByteLevel"}',
        '{"type": "Whitespace"}',
        '{"type": "Digits", "individual_digits": true}',
        '{"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": true}',
        '{"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false}',
        '{"type": "CharDelimiterSplit", "delimiter": "ab"}',
        '{"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}',
        '{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],'
        ' "pair": [], "special_tokens": {}}',
        '{"type": "BertProcessing", "sep": ["x", 9999], "cls": ["y", -1]}',
        '{"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "",'
        ' "max_input_chars_per_word": 0, "vocab": {}}',
        '{"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}',
        '{"type": "Unigram", "unk_id": 5, "vocab": [], "byte_fallback": true}',
        '{"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]], "byte_fallback": true}',
        '{"type": "BPE", "vocab": {}, "merges": []}',
        '{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"],'
        ' "unk_token": "z", "fuse_unk": true, "byte_fallback": true}',
        '{"max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"}',
        '{"strategy": {"Fixed": 100000000}, "direction": "Right",'
        ' "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": ""}',
    )
)
SECTIONS = (
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
)


class TokenizerFiles:
    """See `tests.fuzz.campaign.Program`."""

    name = "tokenizers"

    def __init__(self, folder: Path) -> None:
        self._sound = {name: build(folder / f"{name}.json").read_bytes() for name, build in KINDS.items()}

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        kind = dice.choice(sorted(self._sound))
        content, change = change_tokenizer(dice, self._sound[kind])
        path = folder / "tokenizer.json"
        path.write_bytes(content)
        try:
            tokenizer = TextTokenizer(path, VOCABULARY, literal=dice.random() < 0.5)
            use_tokenizer(tokenizer)
            check_tokenizer(tokenizer, PLAIN)
        except StageError as error:
            if len(str(error)) > 3000:
                raise ViolationError(f"a message of {len(str(error))} letters: {str(error)[:300]}") from error
            return Verdict(Outcome.REFUSED, f"{kind}, {change}")
        return Verdict(Outcome.PASSED, f"{kind}, {change}")


def use_tokenizer(tokenizer: TextTokenizer) -> None:
    """What a job does with it. ViolationError for a token beyond the model's vocabulary."""
    found = [tokenizer.encode(text) for text in TEXTS]
    if tokenizer.encode_batch(TEXTS) != found:
        raise ViolationError("a batch gives other tokens than its texts alone")
    for tokens in found:
        tokenizer.decode(tokens[:200])
        if any(not 0 <= token < VOCABULARY for token in tokens):
            raise ViolationError(f"token {max(tokens)} of {VOCABULARY}")
    if any(not 0 <= token < VOCABULARY for token in (*tokenizer.start_of_text, *tokenizer.control)):
        raise ViolationError(f"special tokens {sorted(tokenizer.control)} of {VOCABULARY}")
    if not isinstance(tokenizer.end_of_text_name, str):
        raise ViolationError("the end-of-text token has no name")
    turns = [{"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "red"}]
    reader = ConversationReader(tokenizer.file.parent, tokenizer=tokenizer, images=None, max_length=64)
    with suppress(BadSampleError):
        reader.read_document(parse_record("record 0", {"conversations": turns}))


def change_tokenizer(dice: random.Random, content: bytes) -> tuple[bytes, str]:
    """The file after a change, and the change's name."""
    kind = dice.random()
    if kind < 0.1:
        return change_bytes(dice, content), "bytes"
    tree = load_pairs(content)
    if kind < 0.55:
        change = dice.choice(CHANGES)
        change(dice, tree)
        return render_json(tree).encode("utf-8", "surrogatepass"), change.__name__[1:]
    section = dice.choice(SECTIONS)
    places = dict(tree)
    for _ in range(dice.choice((1, 1, 2, 4))):
        places[section] = change_tree(dice, places[section])
    return render_json(Pairs(places.items())).encode("utf-8", "surrogatepass"), f"section {section}"


def _set(tree: Pairs, name: str, value: Any) -> None:
    tree[:] = [(key, value if key == name else part) for key, part in tree]


def _get(tree: Pairs, name: str) -> Any:
    return dict(tree)[name]


def _add_token(dice: random.Random, tree: Pairs) -> None:
    names = ("", " ", "a", "\0", "é", "<|endoftext|>", "</s>", "\n", "x" * 500, "ab", "<image>", "\ud800")
    made = Pairs(
        [
            ("id", dice.choice((0, 1, 5, 299, 399, 400, 2**31, 2**32 - 1, -1, Raw("1e3"), "7"))),
            ("content", dice.choice(names)),
            *((flag, dice.random() < 0.5) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")),
        ]
    )
    _get(tree, "added_tokens").append(made)


def _drop_tokens(dice: random.Random, tree: Pairs) -> None:
    _set(tree, "added_tokens", Pairs() if dice.random() < 0.3 else [])


def _set_regex(dice: random.Random, tree: Pairs) -> None:
    pattern = Pairs([("Regex", dice.choice(ODD_REGEXES))])
    if dice.random() < 0.5:
        part = Pairs([("type", "Replace"), ("pattern", pattern), ("content", dice.choice(("", "a", "aa", "\\1")))])
        _set(tree, "normalizer", part)
        return
    behavior = dice.choice(("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
    part = Pairs([("type", "Split"), ("pattern", pattern), ("behavior", behavior), ("invert", dice.random() < 0.5)])
    _set(tree, "pre_tokenizer", part)


def _set_part(dice: random.Random, tree: Pairs) -> None:
    _set(tree, dice.choice(SECTIONS), dice.choice(ODD_PARTS))


def _nest_part(dice: random.Random, tree: Pairs) -> None:
    """A sequence in a sequence in ..., of a normalizer or a pre-tokenizer."""
    name, inner = dice.choice(
        (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders"))
    )
    text = render_json(_get(tree, name))
    depth = dice.choice((2, 50, 120, 2000, 100_000))
    _set(tree, name, Raw(f'{{"type": "Sequence", "{inner}": [' * depth + text + "]}" * depth))


def _drop_part(dice: random.Random, tree: Pairs) -> None:
    section = dice.choice(SECTIONS)
    if dice.random() < 0.5:
        _set(tree, section, None)
    else:
        tree[:] = [(key, part) for key, part in tree if key != section]


def _change_vocabulary(dice: random.Random, tree: Pairs) -> None:
    """Words taken out, ids changed, words that do not fit the merges."""
    vocabulary = _get(_get(tree, "model"), "vocab")
    for _ in range(dice.choice((1, 1, 5, 50))):
        place = dice.randrange(len(vocabulary)) if vocabulary else 0
        match dice.randrange(4):
            case 0 if vocabulary:
                del vocabulary[place]
            case 1 if isinstance(vocabulary, Pairs):
                vocabulary[place] = (vocabulary[place][0], dice.choice((0, -1, 399, 400, 2**32, Raw("1.5"), None, "1")))
            case 2 if isinstance(vocabulary, Pairs):
                vocabulary[place] = (dice.choice(("", "\ud800", "a b", "x" * 1000)), vocabulary[place][1])
            case 3 if not isinstance(vocabulary, Pairs):
                vocabulary[place] = [
                    dice.choice(("", "a", "▁")),
                    dice.choice((0.0, -1e308, 1e308, Raw("1e999"), Raw("NaN"))),
                ]


def _change_merges(dice: random.Random, tree: Pairs) -> None:
    model = dict(_get(tree, "model"))
    merges = list(model.get("merges", []))
    odd = dice.choice(("", "a", "a b", "a b c", ["a", "b"], ["a"], [], ["", ""], 5, "Ġ Ġ", ["zz", "zz"]))
    merges.insert(dice.randrange(len(merges) + 1), odd)
    model["merges"] = merges if dice.random() < 0.8 else dice.choice((None, {}, "a b", merges[:1] * 3))
    _set(tree, "model", Pairs(model.items()))


def _change_model(dice: random.Random, tree: Pairs) -> None:
    model = dict(_get(tree, "model"))
    names = (
        *("unk_token", "unk_id", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"),
        *("fuse_unk", "ignore_merges", "max_input_chars_per_word", "type", "cache_capacity"),
    )
    name = dice.choice(names)
    model[name] = dice.choice(
        (None, "", "x", "é", 0, -1, 1, 0.5, 1.5, 10**6, True, False, "BPE", "Unigram", "WordLevel")
    )
    _set(tree, "model", Pairs(model.items()))


CHANGES = (
    *(_add_token, _add_token, _drop_tokens, _set_regex, _set_regex, _set_part, _set_part, _nest_part, _drop_part),
    *(_change_vocabulary, _change_vocabulary, _change_merges, _change_model, _change_model),
)
