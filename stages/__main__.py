"""`python -m stages JOB_JSON`: runs one job. Exit codes: 0 done, 75 saved and stopped, 1 failed, 2 usage."""

import errno
import faulthandler
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from stages.config import STAGES, find_engine
from stages.errors import (
    ConfigError,
    OtherRankError,
    StageError,
    find_mount_errno,
    find_permission_errno,
    find_storage_errno,
)
from stages.files import create_json, write_json
from stages.job_file import JobFile, read_job, summarize_error
from stages.memory import prepare_memory
from stages.stop import STOPPED, StopFlag


def main(arguments: list[str]) -> int:
    """Runs the job that the command line names and returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m stages JOB_JSON", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    # before anything imports tqdm, which reads it once: a log file is no terminal, and takes a bar's every step
    os.environ.setdefault("TQDM_DISABLE", "1")
    stop = StopFlag()
    stop.install()
    try:
        job = read_job(Path(arguments[0]))
    except StageError as error:
        print(f"stages: {error}", file=sys.stderr)
        return 1
    prepare_memory()
    with keep_stacks(job):
        code = run(job, stop)
    stop.ignore()
    if code == 1 and has_several_processes():
        exit_at_once(code)
    return code


@contextmanager
def keep_stacks(job: JobFile) -> Iterator[None]:
    """Under a supervisor, stacks of all threads go into the attempt's folder at SIGUSR1, and into the log at a crash.

    Both work while the process waits in a library.
    """
    if not os.environ.get("SWEEP_ATTEMPT"):
        yield
        return
    faulthandler.enable(2)
    try:
        stacks = job.error.with_name(f"stacks-{os.environ.get('RANK', '0')}.txt").open("w")
    except OSError as error:  # a store that refuses this will be named by what needs it
        print(f"stages: no stacks will be kept: {error}", file=sys.stderr)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it comes all the same where another rank has its file
        yield
        return
    with stacks:
        faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
        yield
        faulthandler.unregister(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the work is over


def exit_at_once(code: int) -> None:
    """Ends the process at once. After a failure among several, Python's own way out would wait for a GPU or a thread
    that waits for a process which is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(job: JobFile, stop: StopFlag) -> int:
    """Runs the job; a failure is printed to stderr and recorded in the attempt's error.json."""
    try:
        check_single_process(job)
        return 0 if load_job_runner(job)(job, stop) else STOPPED
    except Exception as error:  # noqa: BLE001 - the one place where whatever went wrong becomes the attempt's record
        text = traceback.format_exc()
        print(text if not isinstance(error, StageError) else f"stages: {error}", file=sys.stderr)
        if not is_lost_peer_error(error):
            record_failure(job, error, text)
        return 1


StageFunction = Callable[[JobFile, StopFlag], bool]
"""Runs a job; true when result.json is written, false when it saved and stopped as the flag asked."""


def load_stage(name: str) -> StageFunction:
    """The named stage's function; ConfigError if there is none of that name."""
    if name not in STAGES:
        raise ConfigError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
    return load_run_function(STAGES[name].module)


def load_job_runner(job: JobFile) -> StageFunction:
    """What runs the job: the stage of its name, or another program in its stead."""
    return load_run_function("stages.engines.run") if find_engine(job.config) else load_stage(job.stage)


def load_run_function(module: str) -> StageFunction:
    """The function `run` of a module."""
    function: StageFunction = import_module(module).run
    return function


def has_several_processes() -> bool:
    """Whether a launcher started more than one."""
    return os.environ.get("WORLD_SIZE", "") not in {"", "1"}


def check_single_process(job: JobFile) -> None:
    """ConfigError for a stage that would write the same folder from each."""
    engine = find_engine(job.config)
    if has_several_processes() and (engine or not STAGES[job.stage].many_processes):
        what = "an engine" if engine else job.stage
        raise ConfigError(
            f"{what} runs in one process, not in {os.environ['WORLD_SIZE']}: ask for one node with at most one GPU"
        )


OWN_GPU = re.compile("unhandled cuda error|cuda failure", re.IGNORECASE)
"""What NCCL says of this process's own GPU, in an error of the same type as those about peers."""


def is_lost_peer_error(error: BaseException | None) -> bool:
    """Whether an error only says that another process of the job does not answer: that one knows what happened.

    torch raises its DistError, and for gloo plain RuntimeErrors that name gloo's transport. Asked without torch, and of
    the causes too, as a thread that reads data may have met it first.
    """
    while error is not None:
        if OWN_GPU.search(str(error)):
            return False
        names = {kind.__name__ for kind in type(error).__mro__}
        if (
            isinstance(error, OtherRankError)
            or "DistError" in names
            or (isinstance(error, RuntimeError) and "gloo" in str(error))
        ):
            return has_several_processes()
        error = error.__cause__
    return False


def record_failure(job: JobFile, error: Exception, text: str) -> None:
    """error.json: class, one line, traceback. On a full disk it may fail; the log has the message then.

    Of several processes the first to fail writes it; those that fail of its end, later, do not.
    """
    content = {
        "class": "node_fault" if is_read_only_elsewhere(error, job.run) else classify_failure(error),
        "message": summarize_error(error)
        if isinstance(error, StageError)
        else f"{type(error).__name__}: {summarize_error(error)}",
        "traceback": text,
        "damaged_key": error.damaged_key if isinstance(error, StageError) else "",
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "node_unsure": (isinstance(error, StageError) and error.node_unsure)
        or find_mount_errno(error) is not None
        or is_read_only_elsewhere(error, job.run),
        "cause_in_log": isinstance(error, StageError) and error.cause_in_log,
    }
    try:
        if has_several_processes():
            create_json(job.error, content)
        else:
            write_json(job.error, content)
    except FileExistsError:
        print(f"stages: {job.error}: another process has written it", file=sys.stderr)
    except (StageError, OSError) as second:
        print(f"stages: {job.error}: not written: {second}", file=sys.stderr)


def is_read_only_elsewhere(error: Exception, run: Path) -> bool:
    """Whether a node of a cluster refused a write outside of the job's store, such as into a home folder that is
    read-only there. Jobs whose store refuses are sent again without end; these must not be."""
    if not isinstance(error, OSError) or error.errno != errno.EROFS or not isinstance(error.filename, str):
        return False
    store = [run, *run.parents][:4][-1]  # STORE/runs/STAGE/KEY
    return "SLURMD_NODENAME" in os.environ and not Path(error.filename).resolve().is_relative_to(store.resolve())


def classify_failure(error: Exception) -> str:
    """The class of docs/formats.md that an error belongs to."""
    if find_mount_errno(error) is not None:
        # on one machine there is no other node, and nothing else would fare better
        return "node_fault" if "SLURMD_NODENAME" in os.environ else "storage"
    if find_permission_errno(error) is not None:
        return "storage"
    if isinstance(error, StageError):
        return error.failure_class
    if find_storage_errno(error) is not None:
        return "storage"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return "out_of_memory"
    return "code"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
