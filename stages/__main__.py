"""`python -m stages JOB_JSON`: runs one job. Exit codes: 0 done, 75 saved and stopped, 1 failed, 2 usage."""

import os
import sys
import traceback
from pathlib import Path

from stages.errors import ConfigError, StageError, storage_errno
from stages.files import write_json
from stages.job_file import JobFile, one_line, read_job
from stages.registry import load_stage
from stages.stop import STOPPED, StopFlag


def main(arguments: list[str]) -> int:
    """Runs the job that the command line names and returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m stages JOB_JSON", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    stop = StopFlag()
    stop.install()
    try:
        job = read_job(Path(arguments[0]))
    except StageError as error:
        print(f"stages: {error}", file=sys.stderr)
        return 1
    code = run(job, stop)
    stop.ignore()
    return code


def run(job: JobFile, stop: StopFlag) -> int:
    """Runs the job; a failure is printed to stderr and recorded in the attempt's error.json."""
    try:
        refuse_several_processes(os.environ.get("WORLD_SIZE", ""))
        return 0 if load_stage(job.stage)(job, stop) else STOPPED
    except Exception as error:  # noqa: BLE001 - the one place where whatever went wrong becomes the attempt's record
        text = traceback.format_exc()
        print(text if not isinstance(error, StageError) else f"stages: {error}", file=sys.stderr)
        record_failure(job, error, text)
        return 1


def refuse_several_processes(world_size: str) -> None:
    """ConfigError under a launcher of several: each would write the same folder."""
    if world_size not in {"", "1"}:
        raise ConfigError(f"this stage runs in one process, not in {world_size}: ask for one node with at most one GPU")


def record_failure(job: JobFile, error: Exception, text: str) -> None:
    """error.json: class, one line, traceback. On a full disk it may fail; the log has the message then."""
    content = {
        "class": failure_class(error),
        "message": one_line(error) if isinstance(error, StageError) else f"{type(error).__name__}: {one_line(error)}",
        "traceback": text,
        "damaged_key": error.damaged_key if isinstance(error, StageError) else "",
    }
    try:
        write_json(job.error, content)
    except (StageError, OSError) as second:
        print(f"stages: {job.error}: not written: {second}", file=sys.stderr)


def failure_class(error: Exception) -> str:
    """The class of docs/formats.md that an error belongs to."""
    if isinstance(error, StageError):
        return error.failure_class
    if storage_errno(error) is not None:
        return "storage"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return "out_of_memory"
    return "code"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
