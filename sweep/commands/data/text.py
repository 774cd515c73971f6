"""`sweep data text`: makes token shards of text files (`python -m stages.prepare text`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_count, parse_positive_int
from sweep.options import CommonOptions

HELP = "tokenize text files into the token shards that pre-training reads"
NEEDED = {"tokenizers": "tokenizers", "numpy": "numpy", "safetensors": "safetensors", "zstandard": "zstandard"}
EPILOG = """example:
  sweep data text corpus/ more.jsonl.zst --tokenizer tokenizer.json --out data/corpus --context 2048

Of a folder other endings are passed over (.md, .rst: copy plain text to NAME.txt), and counted in a line; text in a
form such as .csv, .html or .jsonl.xz is an error. The result depends on the inputs and the options alone, not on
--workers. A run that was interrupted goes on when the same command is given again, and gives the same bytes."""


@dataclass(frozen=True, kw_only=True)
class DataTextOptions(CommonOptions):
    """What `sweep data text` was given."""

    inputs: tuple[Path, ...]
    tokenizer: Path
    out: Path
    context: int
    """Tokens of a sequence."""
    field: str
    """JSON key or column of the text."""
    txt: str
    """What a document of a .txt file is: `file`, `blank-line` or `line`."""
    seed: int
    shard_sequences: int
    """Sequences of a shard."""
    vocabulary: int | None
    """Ids of the model; None: the tokenizer's own."""
    end_of_text: str
    """Token behind a document; empty: found in the tokenizer."""
    workers: int | None
    """Processes; None: one for each core."""
    bad_limit: int
    """Lines without text that may be left out."""


OPTIONS = DataTextOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="a tokenizer.json, or its folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; kept if complete")
    parser.add_argument(
        "--context",
        type=parse_positive_int,
        default=2_048,
        metavar="N",
        help="tokens of a sequence (default: %(default)s)",
    )
    parser.add_argument("--seed", type=parse_count, default=0, metavar="N", help="of the sequences' order (default: 0)")
    parser.add_argument(
        "--shard-sequences",
        type=parse_positive_int,
        default=2_048,
        metavar="N",
        help="sequences of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--vocabulary", type=parse_positive_int, metavar="N", help="of the model: refuse a tokenizer with ids from N on"
    )
    parser.add_argument(
        "--end-of-text", default="", metavar="TOKEN", help="what ends a document (default: <|endoftext|>...)"
    )
    parser.add_argument(
        "--workers", type=parse_positive_int, metavar="N", help="processes (default: one for each core)"
    )
    add_reading_arguments(parser)
    parser.epilog = EPILOG


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """What text is read and how, of this command and `sweep data tokenizer`."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help=".jsonl, .json or .txt (also .gz, .zst), .parquet, or folders of them",
    )
    parser.add_argument(
        "--field", default="text", metavar="NAME", help="JSON key or column with the text (default: text)"
    )
    parser.add_argument(
        "--txt",
        choices=("file", "blank-line", "line"),
        default="file",
        help="what a document of a .txt file is: the file, lines up to a blank one, or a line (default: file)",
    )
    parser.add_argument(
        "--bad-limit",
        type=parse_count,
        default=100,
        metavar="N",
        help="lines without text to leave out (default: %(default)s)",
    )


def run(options: DataTextOptions) -> int:
    """Prints the folder once it is complete."""
    from sweep.commands.data.process import make_output

    return make_output("text", "tokenizing", NEEDED, options, inputs=options.inputs, out=options.out)
