"""`sweep schema`: what a sweep file may say, for editors as a JSON Schema and for readers as a page."""

import argparse
import sys
from dataclasses import dataclass

from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class SchemaOptions(CommonOptions):
    """What `sweep schema` was given."""

    markdown: bool
    """The page of all settings in place of the JSON Schema."""


OPTIONS = SchemaOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="print the page of all settings (docs/settings.md)")
    parser.epilog = (
        "example:\n  sweep schema > sweep.schema.json\n\n"
        "A sweep file with this first line is completed and checked by editors with a YAML language server:\n"
        "  # yaml-language-server: $schema=sweep.schema.json"
    )


def run(options: SchemaOptions) -> int:
    if options.markdown:
        from sweep.reference.settings_page import render_settings_page

        sys.stdout.write(render_settings_page())
        return 0
    from sweep.reference.json_schema import render_sweep_schema

    sys.stdout.write(render_sweep_schema())
    if sys.stdout.isatty():
        next_step = (
            "next: sweep schema > sweep.schema.json, and the line `# yaml-language-server: $schema=...` in the file"
        )
        print(next_step, file=sys.stderr)
    return 0
