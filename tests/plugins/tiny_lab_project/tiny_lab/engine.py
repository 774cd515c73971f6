"""The engine inside a job: a program of this package, which is given the request of the `command` engine."""

from pathlib import Path

from stages.engines.command.run import CommandRun
from stages.engines.engine import EngineCommand
from stages.job_file import JobFile


class NudgeRun(CommandRun):
    """As `command`, with a program that needs no checkout."""

    def prepare(self) -> EngineCommand:
        interpreter, request = super().prepare().argv
        program = Path(__file__).with_name("program.py")
        return EngineCommand(argv=(interpreter, str(program), request), folder=self.folder)


def open_run(job: JobFile) -> NudgeRun:
    """The job in the program's hands."""
    return NudgeRun(job)
