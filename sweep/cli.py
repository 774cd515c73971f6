"""The command line: finds the command, parses its options, turns an expected error into one line and an exit code.

Exit codes: 0 done, 1 a user-level error or failed cells, 2 wrong usage, 130 interrupted, 141 the reader of a pipe left.
"""

import argparse
import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType

from sweep.arguments import (
    CommandParser,
    TerminalHelpFormatter,
    add_common_arguments,
    add_verbose_argument,
    find_close_words,
    find_default_store,
    quote_word,
)

COMMANDS = {
    "init": "look at data and write a first sweep file of your own",
    "plan": "check a sweep file, say what it runs and costs, and store the plan",
    "doctor": "check the cluster and the store: what they offer, what they lack, what to do about it",
    "submit": "run what is missing of a sweep, or hand it to Slurm; safe to repeat at any time",
    "tick": "one round on Slurm: record what ended, send what is missing, refresh the tables; made for cron",
    "notices": "show what people were told of a sweep and what waits to be told; with --test try the receivers",
    "limits": "show, change or lift what was chosen for a sweep and lasts: queue cap, budget, cells, pace, back end",
    "list": "show the sweeps of the store, or the cells of one, with what is done of each",
    "status": "show what is done, what runs, what failed and why, and how long it still takes",
    "forecast": "say when a sweep ends, cell by cell, and what holds it up; `what if` by options",
    "costs": "say what a sweep has cost and will cost, in hours, money and energy, by phase, block and cell",
    "resume": "give failed and cancelled jobs a new budget and go on from their last checkpoints",
    "cancel": "stop running jobs after they have saved, and take the rest of a sweep out until `sweep resume`",
    "logs": "print the log of a job's newest attempt",
    "results": "write the tables and figures of a sweep",
    "report": "write the report of a sweep as one HTML file for people, to open, send and keep",
    "explain": "show where a cell comes from, what it reuses, what it costs and what happened to its jobs",
    "gc": "free disk by what the jobs that are left still need: say what may go, set it aside, remove it",
    "export": "write a model that others can load with transformers, or an index of all models of a sweep",
    "demo": "make data, plan, run, draw: a small study on this machine, or with --quick a picture within a minute",
    "data": "make training data, or check it before a sweep does",
    "schema": "print the JSON Schema of a sweep file, by which editors complete and check one",
    "completion": "print a completion script for your shell",
}
"""Name and help in the order of use. `sweep.commands` says what the module of a command holds."""

EPILOG = """example:
  sweep demo --quick                 a picture within a minute, on this machine
  sweep plan manifests/demo.yaml     what it would run and cost
  sweep submit demo                  run what is missing; again at any time
  sweep status demo                  what is done, what failed and why
  sweep results demo                 tables and figures
"""

PLAIN = frozenset({"logs", "completion", "data"})
"""Commands whose output is another program's: no word of it is coloured."""
LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"


def build_parser(names: Iterable[str] = COMMANDS, *, with_arguments: bool = True) -> CommandParser:
    """The parser of `sweep` with the commands `names`; fewer commands start faster, and so do names without arguments.

    A parsed namespace has the command's module as `module`.
    """
    parser = CommandParser(
        prog="sweep",
        description="Plan, run and tabulate experiment sweeps of hundreds of models as dependent job chains.",
        epilog=EPILOG,
        formatter_class=TerminalHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    add_verbose_argument(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="sweep")
    for name in names:
        command = commands.add_parser(
            name, help=COMMANDS[name], description=COMMANDS[name], formatter_class=TerminalHelpFormatter
        )
        if with_arguments:
            module = import_command(name)
            command.set_defaults(module=module)
            add_common_arguments(command)
            module.add_arguments(command)
    return parser


def build_command_parser(name: str, part: str = "") -> CommandParser:
    """The parser of one command alone, or of one part of a command with parts: options may stand anywhere."""
    words = [name, part] if part else [name]
    module = import_command(".".join(words))
    parser = CommandParser(
        prog=" ".join(["sweep", *words]),
        description=module.HELP if part else COMMANDS[name],
        formatter_class=TerminalHelpFormatter,
    )
    parser.set_defaults(module=module)
    add_common_arguments(parser)
    module.add_arguments(parser)
    return parser


def import_command(name: str) -> ModuleType:
    """The module of one command, imported when it is asked for."""
    return import_module(f"sweep.commands.{name}")


# Why: docs/decisions.md, D180
def parse_arguments(given: Sequence[str]) -> tuple[CommandParser, argparse.Namespace]:
    """The parser, with no more commands than it needs, and the parsed words. SystemExit on wrong usage and for help.

    A namespace without a command has no `module`.
    """
    name, rest = split_command(given)
    if not name or "--version" in given[: given.index(name)]:
        parser = build_parser(with_arguments=False)
        return parser, parser.parse_args(["--version"] if name else given)
    if name not in COMMANDS:
        parser, problem = build_parser(with_arguments=False), f"there is no command {quote_word(name)}"
        second, _ = split_command(rest)
        if second in COMMANDS and not find_close_words(name, COMMANDS):  # a sweep may be called as a command is
            parser.error(f"{problem}; the command comes first: `sweep {second} NAME`")
        parser.refuse(problem, [name], COMMANDS)
    parts: Sequence[str] = getattr(import_command(name), "PARTS", ())
    part, behind = split_command(rest) if parts else ("", rest)
    if not part:
        parser = build_command_parser(name)
        return parser, parser.parse_args(rest) if parts else parser.parse_words(rest)
    if part not in parts:
        build_command_parser(name).refuse(f"there is no `sweep {name} {part}`", [part], parts)
    parser = build_command_parser(name, part)
    return parser, parser.parse_words(behind)


VALUED_OPTIONS = frozenset({"--store"})
"""Options with a value that may stand before the command."""


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The first word that is no option and no option's value, and all words but that; empty if there is none."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in VALUED_OPTIONS else 1
    if position >= len(words):
        return "", [*words]
    return words[position], [*words[:position], *words[position + 1 :]]


PIPE_CLOSED = 141
"""As a shell has it of a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. A user-level error (`SweepError`) becomes one line on stderr, and
    nothing that is printed steers the terminal."""
    from sweep.terminal import drop_unwritten, wrap_output

    try:
        with wrap_output():
            return run_words(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:  # the reader (`head`, a closed pager) has seen enough
        for stream in (sys.stdout, sys.stderr):
            drop_unwritten(stream)
        return PIPE_CLOSED
    except OSError as error:  # stdout or stderr itself: a full disk below a redirection
        from jobs.errors import describe_storage_error

        drop_unwritten(sys.stdout)
        with suppress(OSError):
            print(f"sweep: {describe_storage_error(error)}", file=sys.stderr)
        return 1


def run_words(words: Sequence[str]) -> int:
    """The same of these words. Raises OSError where stdout or stderr takes no more."""
    from sweep.errors import SweepError, UsageError

    parser, given = parse_arguments(words)
    if getattr(given, "version", False):
        return print_version()
    if not hasattr(given, "module"):
        parser.print_help(sys.stderr)
        return 2
    try:
        with log_to_stderr(getattr(given, "verbose", 0)):
            return run_parsed(given)
    except SweepError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing is lost, run it again to go on", file=sys.stderr)
        return 130


# Why: docs/decisions.md, D155
def run_parsed(given: argparse.Namespace) -> int:
    """Runs the command of a parsed command line. What it creates in a shared store is the group's to write.

    The one place where what execution and the operating system say becomes an error of one line.
    """
    from jobs.store.sharing import adopt_group_umask
    from sweep.options import read_options
    from sweep.stored_sweep import print_user_errors
    from sweep.terminal import colour_output

    options = read_options(given.module.OPTIONS, given)
    if options.store.parts[:1] == ("..",) and options.store == find_default_store():
        print(f"sweep: the store is {options.store} (there is none in this folder)", file=sys.stderr)
    if given.module.__name__.split(".")[2] not in PLAIN and not any(map(vars(given).get, ("as_json", "as_csv"))):
        colour_output()
    with print_user_errors(), adopt_group_umask(options.store):
        return int(given.module.run(options))


@contextmanager
def log_to_stderr(verbose: int) -> Iterator[None]:
    """Shows the log of our modules on stderr while the block runs: warnings; with 1 INFO too; with 2 DEBUG too."""
    import logging

    from stages.printable import render_line

    class PrintableFormatter(logging.Formatter):
        """One printable line a record: names that files or Slurm gave cannot steer the terminal."""

        def format(self, record: logging.LogRecord) -> str:
            return render_line(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(LOG_FORMAT, "%H:%M:%S"))
    loggers = [logging.getLogger(package) for package in ("sweep", "jobs")]
    for logger in loggers:
        logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def run_command_line() -> int:
    """`main` as the whole of a process, which then ends at once."""
    code = main()
    gc.freeze()  # the interpreter's last collections would walk all that is alive: 80 ms after a plan
    return code


def print_version() -> int:
    """The installed version, on stdout."""
    from importlib.metadata import version

    print(version("sweep-vlm"))
    return 0
