"""`sweep data manifest`: counts shards once, so that no start of a job has to (`python -m stages.prepare manifest`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_positive_int
from sweep.options import CommonOptions

HELP = "count the samples of webdataset shards and write their manifest"
NEEDED = {"numpy": "numpy", "safetensors": "safetensors"}
EPILOG = """example:
  sweep data manifest data/datacomp                       writes data/datacomp/manifest.jsonl
  sweep data manifest 's3://bucket/{00000..01279}.tar' --out datacomp.jsonl

Samples are counted as webdataset counts them. Damaged shards are named, and then no manifest is written (exit code 1).
What is counted is kept: after an interruption the same command goes on."""


@dataclass(frozen=True, kw_only=True)
class DataManifestOptions(CommonOptions):
    """What `sweep data manifest` was given."""

    places: tuple[str, ...]
    """A folder of tars, tars, or webdataset's patterns of them, here or elsewhere."""
    out: Path | None
    """None: manifest.jsonl beside the shards."""
    workers: int | None
    """Processes; None: one for each core."""
    replace: bool
    """Take over a manifest that says something else."""


OPTIONS = DataManifestOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places",
        nargs="+",
        metavar="SHARDS",
        help="a folder of tars, tars, or patterns: 'data/*.tar', 's3://bucket/{0000..0127}.tar' (in quotes)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the manifest (default: manifest.jsonl beside the shards)"
    )
    parser.add_argument(
        "--workers", type=parse_positive_int, metavar="N", help="processes (default: one for each core)"
    )
    parser.add_argument("--replace", action="store_true", help="take over a manifest that says something else")
    parser.epilog = EPILOG


def run(options: DataManifestOptions) -> int:
    """The program prints the manifest's path once it is written."""
    from sweep.commands.data.process import check_installed, run_prepare

    check_installed("counting", NEEDED)
    words = [f"--out={options.out}"] if options.out else []
    words += [f"--workers={options.workers}"] if options.workers else []
    words += ["--replace"] if options.replace else []
    return 1 if run_prepare(["manifest", *words, "--", *options.places]).returncode else 0
