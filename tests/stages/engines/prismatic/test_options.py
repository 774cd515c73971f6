import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from stages.config import LanguageModel, Vision
from stages.data.tokenizer import TextTokenizer
from stages.engines.prismatic.options import build_config, build_start_settings, check_tokenizer
from stages.errors import ConfigError
from tests.stages.engines.prismatic.prismatic_case import MODEL, VISION, typed, write_words

GOLDEN = Path(__file__).with_name("golden_files.json")


def test_the_files_given_to_prismatic_are_these() -> None:
    vision = Vision.model_validate(VISION)
    rendered = {
        "config.json": build_config(typed(), vision, start_tokens=0, images=Path("/data/llava")),
        "start.json": build_start_settings(
            typed(), LanguageModel.model_validate(MODEL),
            tokenizer=Path("/data/tokenizer.json"), end_of_text="<|endoftext|>", start_of_text=None,
        ),
    }  # fmt: skip
    assert rendered == json.loads(GOLDEN.read_text())


def test_a_tokenizer_that_prismatics_model_refuses_is_named(tmp_path: Path) -> None:
    write_words(tmp_path / "words.json")
    tokenizer = TextTokenizer(tmp_path / "words.json", 400, literal=True)
    check_tokenizer(tokenizer, 400)
    largest = max(Tokenizer.from_file(str(tmp_path / "words.json")).get_vocab().values())
    with pytest.raises(ConfigError, match="needs a token for padding"):
        check_tokenizer(tokenizer, largest + 1)
    bytes_only = Tokenizer(models.BPE(vocab={"a": 0, "<|endoftext|>": 1}, merges=[]))
    bytes_only.save(str(tmp_path / "bytes.json"))
    with pytest.raises(ConfigError, match="one token for each of True, Yes"):
        check_tokenizer(TextTokenizer(tmp_path / "bytes.json", 400, literal=True), 400)
