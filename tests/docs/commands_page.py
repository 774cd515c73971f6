"""docs/commands.md, made from the parser of the command line: the same on every Python, whose help differs in form."""

import argparse
import re
from collections.abc import Iterator

from sweep.cli import build_parser
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "commands.md"
HEAD = """\
# Commands

This page is made from the program itself (`python -m tests.docs write`): `sweep COMMAND --help` says the same. Every
command also takes the options of the first table.
"""
COMMON = {"help", "verbose", "store"}
"""Options of every command."""


def build_commands_page() -> str:
    """The page as it must be."""
    parser = build_parser()
    commands = dict(_iter_commands("sweep", parser))
    common = [action for action in commands["sweep plan"]._actions if action.dest in COMMON]
    parts = [HEAD, *_format_table([*common, *(each for each in parser._actions if each.dest == "version")])]
    for words, command in commands.items():
        own = [action for action in command._actions if action.dest not in COMMON and not _is_group(action)]
        parts += [f"## {words}", "", _make_sentence(command.description or ""), ""]
        if any(_is_group(action) for action in command._actions):
            continue
        positional = [_format_name(action) for action in own if not action.option_strings]
        parts += [
            f"    {' '.join([words, *positional, '[OPTIONS]' if len(own) > len(positional) else '']).rstrip()}",
            "",
        ]
        parts += [*_format_table(own)] if own else []
        if command.epilog:
            parts += ["```text", *command.epilog.strip().splitlines(), "```", ""]
    return "\n".join(parts)


def _iter_commands(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its words, those of `sweep data` too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield f"{words} {name}", child
                yield from _iter_commands(f"{words} {name}", child)


def _make_sentence(text: str) -> str:
    return f"{text[:1].upper()}{_escape(text[1:])}."


def _is_group(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _format_table(actions: list[argparse.Action]) -> Iterator[str]:
    yield from ("| argument | meaning |", "|---|---|")
    for action in actions:
        yield f"| `{_escape(_format_name(action))}` | {_escape(_format_help(action))} |"
    yield ""


def _format_help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default))


def _format_name(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else _format_value(action)
    if not action.option_strings:
        return value
    return f"{', '.join(action.option_strings)} {value}".strip()


def _format_value(action: argparse.Action) -> str:
    chosen = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    name = action.metavar if isinstance(action.metavar, str) else chosen
    match action.nargs:
        case "+":
            return f"{name}..."
        case "*":
            return f"[{name}...]"
        case "?":
            return f"[{name}]"
        case _:
            return name


def _escape(text: str) -> str:
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|")


def list_examples() -> list[str]:
    """Lines of help that show a command."""
    page = re.sub(r"\s*\\\n\s*", " ", build_commands_page())  # continued lines are one command
    lines = (line.strip() for line in page.splitlines())
    return [line.split("  ")[0] for line in lines if line.startswith("sweep ") and "OPTIONS" not in line]
