"""`sweep completion SHELL`: a completion script, made by shtab from the parser itself."""

import argparse
from dataclasses import dataclass

from sweep.options import CommonOptions

SHELLS = ("bash", "zsh", "tcsh")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(CommonOptions):
    """What `sweep completion` was given."""

    shell: str
    """One of `SHELLS`."""


OPTIONS = CompletionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)
    parser.epilog = "example:\n  sweep completion bash > ~/.local/share/bash-completion/completions/sweep"


def run(options: CompletionOptions) -> int:
    import shtab

    from sweep.cli import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0
