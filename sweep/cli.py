"""The command line: finds the command, parses its options, turns an expected error into one line and an exit code.

Exit codes: 0 done, 1 a user-level error or failed cells, 2 wrong usage, 130 interrupted.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

COMMANDS = (
    "plan", "doctor", "submit", "tick", "status", "resume", "cancel", "logs", "results", "explain", "export",
    "data", "completion",
)  # fmt: skip
"""In the order of use. `sweep NAME` is the module `sweep.commands.NAME`: HELP, add_arguments(parser), run(options)."""

EPILOG = """example:
  sweep plan manifests/demo.yaml     what it would run and cost
  sweep submit demo                  run what is missing; again at any time
  sweep status demo                  what is done, what failed and why
  sweep results demo                 tables and figures
"""


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of `sweep` with the commands `names`; fewer commands start faster."""
    parser = argparse.ArgumentParser(
        prog="sweep",
        description="Plan, run and tabulate experiment sweeps of hundreds of models as dependent job chains.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in names:
        module = import_command(name)
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--store",
            type=Path,
            default=Path(os.environ.get("SWEEP_STORE", "store")),
            metavar="DIR",
            help="folder that holds all sweeps and runs (default: $SWEEP_STORE, else ./store)",
        )
        module.add_arguments(command)
    return parser


def import_command(name: str) -> ModuleType:
    """The module of one command, imported when it is asked for."""
    return import_module(f"sweep.commands.{name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. A user-level error (`SweepError`) becomes one line on stderr."""
    from sweep.errors import SweepError, UsageError

    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(given[:1] if given[:1] and given[0] in COMMANDS else COMMANDS)
    options = parser.parse_args(given)
    if options.version:
        return print_version()
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(import_command(options.command).run(options))
    except SweepError as error:
        print(f"sweep {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"sweep {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`head`, a closed pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


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
