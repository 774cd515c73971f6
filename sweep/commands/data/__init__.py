"""`sweep data`: makes and checks training data. All work is done in processes of their own (`python -m stages...`)."""

import argparse
from importlib import import_module
from pathlib import Path

from sweep.arguments import TerminalHelpFormatter, add_verbose_argument

PARTS = ("demo", "tokenizer", "text", "captions", "manifest", "check")
"""`sweep data NAME` is the module of that name here: what `sweep.commands` says, and HELP, its line of help."""

EPILOG = """example:
  sweep data demo                                       the demo's data set
  sweep data text corpus/ --tokenizer tokenizer.json --out data/corpus
  sweep data captions photos/ --out data/photos         shards of images and captions
  sweep data manifest data/datacomp                     count shards once
  sweep data check manifests/demo.yaml                  all data of a sweep file

`sweep data NAME --help` says more of each; docs/data.md describes the formats."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parts = parser.add_subparsers(dest="part", metavar="NAME", title="names", required=True, prog="sweep data")
    for name in PARTS:
        module = import_module(f"{__name__}.{name}")
        part = parts.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            formatter_class=TerminalHelpFormatter,
        )
        part.set_defaults(module=module)
        # the command's own option, which may also stand behind the name
        part.add_argument("--store", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="as of sweep data")
        add_verbose_argument(part)
        module.add_arguments(part)
