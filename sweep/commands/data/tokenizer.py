"""`sweep data tokenizer`: trains a small tokenizer on text files (`python -m stages.prepare tokenizer`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_count, parse_positive_int
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
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help=".jsonl, .json or .txt (also .gz, .zst), .parquet, or folders of them",
    )
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
    parser.add_argument(
        "--field", default="text", metavar="NAME", help="JSON key or column with the text (default: text)"
    )
    parser.add_argument(
        "--txt",
        choices=("file", "blank-line", "line"),
        default="file",
        help="what a document of a .txt file is (default: file)",
    )
    parser.add_argument(
        "--bad-limit",
        type=parse_count,
        default=100,
        metavar="N",
        help="lines without text to leave out (default: %(default)s)",
    )
    parser.epilog = EPILOG


def run(options: DataTokenizerOptions) -> int:
    """Prints the file once it is there."""
    from sweep.commands.data.process import build_words, check_installed, run_prepare

    check_installed("training a tokenizer", NEEDED)
    words = build_words(options, without={"store", "inputs"})
    finished = run_prepare(["tokenizer", *words, "--", *map(str, options.inputs)])
    if finished.returncode == 0:
        print(options.out)
    return 1 if finished.returncode else 0
