"""`sweep data captions`: makes webdataset shards of images and captions (`python -m stages.prepare captions`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_count, parse_positive_int
from sweep.options import CommonOptions

HELP = "make shards of captioned images from a folder, CSV, JSON lines or Parquet"
NEEDED = {
    "webdataset": "webdataset", "PIL": "pillow", "tokenizers": "tokenizers", "numpy": "numpy",
    "safetensors": "safetensors", "zstandard": "zstandard",
}  # fmt: skip
EPILOG = """example:
  sweep data captions photos/ --out data/photos              photos/a.jpg beside photos/a.txt
  sweep data captions pairs.csv --images photos/ --image file --caption title --out data/pairs
  sweep data captions 'part-0.parquet' 'part-1.parquet' --out data/parts

The result depends on the inputs and the options alone, not on --workers. Rows that cannot be used are counted and
named. A run that was interrupted goes on when the same command is given again, and gives the same bytes."""


@dataclass(frozen=True, kw_only=True)
class DataCaptionsOptions(CommonOptions):
    """What `sweep data captions` was given."""

    inputs: tuple[Path, ...]
    out: Path
    images: Path | None
    """Folder below which rows' images lie; None: each table's own."""
    image: str
    """Column of the image; empty: a usual one."""
    caption: str
    """Columns of captions with commas between; empty: a usual one, or the .txt beside an image."""
    shard_samples: int
    decode: str
    """`all` or `none`."""
    workers: int | None
    """Processes; None: one for each core."""
    bad_limit: int
    """Rows without a usable image or caption that may be left out."""


OPTIONS = DataCaptionsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="a folder of images with captions beside them, or .csv, .tsv, .jsonl (also .gz, .zst), .parquet",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; kept if complete")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the images lie that rows name (default: the table's folder)"
    )
    parser.add_argument(
        "--image", default="", metavar="NAME", help="column of the image's path or bytes (default: image, file_name...)"
    )
    parser.add_argument(
        "--caption",
        default="",
        metavar="NAMES",
        help="column of the caption; several with commas between (default: caption, text...; of a folder: the .txt)",
    )
    parser.add_argument(
        "--shard-samples",
        type=parse_positive_int,
        default=5_000,
        metavar="N",
        help="rows of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--decode", choices=("all", "none"), default="all", help="whether images are decoded as a check (default: all)"
    )
    parser.add_argument(
        "--workers", type=parse_positive_int, metavar="N", help="processes (default: one for each core)"
    )
    parser.add_argument(
        "--bad-limit",
        type=parse_count,
        default=100,
        metavar="N",
        help="rows that cannot be used to leave out (default: %(default)s)",
    )
    parser.epilog = EPILOG


def run(options: DataCaptionsOptions) -> int:
    """Prints the folder once it is complete."""
    from sweep.commands.data.process import make_output

    return make_output("captions", "making shards", NEEDED, options, inputs=options.inputs, out=options.out)
