"""`python -m sweep`: the same as the `sweep` command."""

import sys

from sweep.cli import command

sys.exit(command())
