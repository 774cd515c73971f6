"""`sweep completion SHELL`: a completion script, made by shtab from the parser itself."""

import argparse

HELP = "print a completion script for your shell"
SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)
    parser.epilog = "example:\n  sweep completion bash > ~/.local/share/bash-completion/completions/sweep"


def run(options: argparse.Namespace) -> int:
    import shtab

    from sweep.cli import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0
