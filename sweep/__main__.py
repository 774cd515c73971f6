"""`python -m sweep`: the same as the `sweep` command."""

import sys

from sweep.cli import run_command_line

sys.exit(run_command_line())
