"""`sweep data tokenizer`: trains a small tokenizer on text files (`python -m stages.prepare tokenizer`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_positive_int
from sweep.commands.data.text import add_reading_arguments
from sweep.options import CommonOptions

HELP = "train a byte-level BPE tokenizer on text files"
NEEDED = {"tokenizers": "tokenizers", "numpy": "numpy", "safetensors": "safetensors", "zstandard": "zstandard"}
EPILOG = """example:
  sweep data tokenizer corpus/ --vocabulary 8192 --out data/tokenizer.json
  sweep data text corpus/ --tokenizer data/tokenizer.json --out data/corpus

<|endoftext|> is its first token and every byte is one, so that any text can be encoded. The same texts give the same
file. The file appears whole; one that is there and differs is kept."""


@dataclass(frozen=True, kw_only=True)
class DataTokenizerOptions(CommonOptions):
    """What `sweep data tokenizer` was given."""

    inputs: tuple[Path, ...]
    out: Path
    vocabulary: int
    """Tokens at most."""
    special: str
    """Special tokens besides the end of text, with commas between."""
    field: str
    """JSON key or column of the text."""
    txt: str
    """What a document of a .txt file is."""
    bad_limit: int
    """Lines without text that may be left out."""


OPTIONS = DataTokenizerOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the tokenizer.json to write")
    parser.add_argument(
        "--vocabulary",
        type=parse_positive_int,
        default=4_096,
        metavar="N",
        help="tokens at most, special ones and 256 bytes included (default: %(default)s)",
    )
    parser.add_argument(
        "--special", default="", metavar="TOKENS", help="more special tokens, with commas between: '<s>,<pad>'"
    )
    add_reading_arguments(parser)
    parser.epilog = EPILOG


def run(options: DataTokenizerOptions) -> int:
    """Prints the file once it is there."""
    from sweep.commands.data.process import make_output

    return make_output("tokenizer", "training a tokenizer", NEEDED, options, inputs=options.inputs, out=options.out)
