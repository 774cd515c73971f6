"""`sweep completion SHELL`: a completion script, made by shtab from the parser; it asks us for sweeps and cells."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.options import CommonOptions

PLACES = {
    "bash": "~/.local/share/bash-completion/completions/sweep",
    "zsh": "~/.zfunc/_sweep",
    "fish": "~/.config/fish/completions/sweep.fish",
    "tcsh": "~/.sweep-completion.tcsh",
}
"""Where each shell looks for the script, or where a line of its start-up file may load it from."""
AFTER = {
    "zsh": "with `fpath=(~/.zfunc $fpath); autoload -U compinit; compinit` in ~/.zshrc",
    "tcsh": "with `source ~/.sweep-completion.tcsh` in ~/.tcshrc",
}


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(CommonOptions):
    """What `sweep completion` was given."""

    shell: str
    """One of `PLACES`."""
    words: str | None
    """For the scripts: the words of a command line up to the one that is completed, one a line."""


OPTIONS = CompletionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(PLACES))
    parser.add_argument("--words", help=argparse.SUPPRESS)
    parser.epilog = "\n".join(
        ["example:", *(f"  sweep completion {shell} > {place}" for shell, place in PLACES.items())]
    )


def run(options: CompletionOptions) -> int:
    if options.words is not None:
        print("\n".join(list_candidates(options.store, options.words.split("\n"))))
        return 0
    import shtab

    from sweep.cli import build_parser

    parser = build_parser()
    mark_actions(parser, shtab)
    print(shtab.complete(parser, options.shell))
    place = " ".join(filter(None, (PLACES[options.shell], AFTER.get(options.shell, ""))))
    print(f"next: put this into {place}, and start a new shell", file=sys.stderr)
    return 0


# What completes names of sweeps and cells.

ASK = {
    "bash": """
_sweep_words() {
  compgen -W "$("${COMP_WORDS[0]}" completion bash --words="$(printf '%s\\n' "${COMP_WORDS[@]:1:COMP_CWORD-1}")" \
2>/dev/null)" -- "$1"
}
""",
    "zsh": """
_sweep_words() {
  local -a before found
  before=("${(@Q)words[1,CURRENT-1]}")
  found=(${(f)"$(sweep completion zsh --words="${(F)before}" 2>/dev/null)"})
  compadd -a found
}
""",
    "fish": """
function _sweep_words
    sweep completion fish --words=(commandline -opc | string collect) 2>/dev/null
end
""",
}
"""A function of each shell that asks `sweep completion` for the names that may stand where the cursor is."""
WORDS: dict[str, Any] = {"bash": "_sweep_words", "zsh": "_sweep_words", "fish": "(_sweep_words)", "preamble": ASK}


def mark_actions(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Tells shtab what completes the arguments, which it takes from an attribute of each."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for part in action.choices.values():
                mark_actions(part, shtab)
        elif action.dest in {"name", "cells", "only"}:
            action.complete = WORDS  # type: ignore[attr-defined]
        elif action.metavar in {"FILE", "INPUT", "DIR"}:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]


# Why: docs/decisions.md, D187
def list_candidates(root: Path, words: list[str]) -> Iterator[str]:
    """Names that may come next: cells of the sweep that is named, or of the only one; else the sweeps."""
    from jobs.store.paths import SAFE_NAME, Store

    given = [word.partition("=")[2] for word in words if word.startswith("--store=")]
    given += [value for option, value in itertools.pairwise(words) if option == "--store"]
    store = Store(Path(given[-1]).expanduser() if given else root)
    sweeps = sorted(path.parent.name for path in store.sweeps.glob("*/manifest.jsonl"))
    sweeps = [name for name in sweeps if SAFE_NAME.fullmatch(name)]
    named = [word for word in words if word in sweeps]
    if not named:
        yield from sweeps
    for name in named[:1] or (sweeps if len(sweeps) == 1 else ()):
        yield from iter_cell_names(store.locate_sweep(name).manifest)


def iter_cell_names(manifest: Path) -> Iterator[str]:
    """Cells of a plan, without reading its jobs, which stand behind them."""
    import json

    from jobs.store.paths import SAFE_NAME

    with manifest.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith('{"record":"job"'):
                return
            if line.startswith('{"record":"cell"'):
                try:
                    name = str(json.loads(line)["name"])
                except (ValueError, KeyError):
                    continue  # a damaged plan is told by the command itself
                if SAFE_NAME.fullmatch(name):
                    yield name
