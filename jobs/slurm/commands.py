"""Runs one of Slurm's programs: no shell, a time limit, a process group of its own, an environment of ours."""

import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.environment import select_job_variables
from jobs.reconcile.failures import format_one_line

logger = logging.getLogger(__name__)

PERSONAL = ("SBATCH_", "SQUEUE_", "SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_", "SALLOC_", "SLURM_")
"""Variables with which a person changes what the programs ask or print, or which a job's environment leaves behind."""
KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}
"""Where the cluster is, and who asks."""
CLUSTER_VARIABLES = ("SLURM_CLUSTERS", "SBATCH_CLUSTERS")
"""They choose one of several clusters; every program is given it as an option (`jobs.slurm.site.chosen_cluster`)."""
ASKING = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "TZ": "UTC"}
"""Times as Unix seconds, UTC where a program should not know that; array expressions are not cut off (sacct(1))."""
ENGLISH = {"LC_ALL": "C.UTF-8"}
"""C alone would make jobs that inherit it print ASCII."""
AFTER_KILL_S = 2.0
"""A killed process is waited for so long; one that hangs in the kernel is left behind."""

ERROR_LINE = re.compile(r"^(?:\w+: )?(?:error|fatal): ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutput:
    """What a program said."""

    text: str = ""
    """Standard output; not to be trusted in full with a problem."""
    errors: str = ""
    """Standard error."""
    problem: str = ""
    """Empty after exit code 0; else one line for people."""
    returncode: int | None = None
    """None: it could not be started, or was killed for want of an answer."""
    started: bool = False
    """Whether there was a process at all."""


class ProgramRunner(Protocol):
    """What is needed of `jobs.slurm.client.SlurmClient` to ask questions."""

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        """Runs one of Slurm's programs for a bounded time."""
        ...


def build_query_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """For questions: plain English, plain times, nobody's personal defaults."""
    return _cleaned(environment) | ASKING


def build_submit_environment(environment: Mapping[str, str], named: Collection[str] = ()) -> dict[str, str]:
    """For sbatch, whose whole environment its jobs inherit: what is to enter them, and where the cluster is. `named`:
    variables that the jobs' plan asks for by name."""
    where = {name: value for name, value in environment.items() if name in KEPT}
    return {**select_job_variables(environment, same_machine=False, named=named), **where, **ENGLISH}


def list_ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Names in `environment` that would change what Slurm's programs do and are kept from them."""
    ours = {*KEPT, *CLUSTER_VARIABLES}
    return sorted(name for name in environment if name.startswith(PERSONAL) and name not in ours)


def run_program(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    limit: float,
    script: str = "",
    clock: Clock = SYSTEM_CLOCK,
) -> ProgramOutput:
    """Runs `argv`, with `script` as its standard input, for `limit` seconds at most. Never raises for what it does."""
    began = clock.monotonic()
    logger.debug("runs %s", shlex.join(argv))
    output = _run(argv, environment, limit, script)
    took_s = clock.monotonic() - began
    logger.info("%s: %s after %.2f s, %d characters", argv[0], output.problem or "done", took_s, len(output.text))
    return output


def _run(argv: Sequence[str], environment: Mapping[str, str], limit: float, script: str) -> ProgramOutput:
    with _whole_file(script) if script else contextlib.nullcontext(subprocess.DEVNULL) as given:
        try:
            process = _started(argv, environment, given)
        except OSError as error:
            return ProgramOutput(problem=f"{argv[0]} cannot be run: {error.strerror or error}")
    try:
        text, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return ProgramOutput(
            problem=f"{argv[0]} gave no answer within {limit:g} s", errors=_killed(process), started=True
        )
    except KeyboardInterrupt:
        _killed(process)  # leave nothing behind
        raise
    problem = "" if process.returncode == 0 else find_error_line(argv[0], errors, process.returncode)
    return ProgramOutput(text=text, errors=errors, problem=problem, returncode=process.returncode, started=True)


def find_error_line(program: str, errors: str, returncode: int) -> str:
    """The most telling line of standard error: the last that calls itself an error, else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if not lines:
        return f"{program} ended with code {returncode} and said nothing"
    marked = [line for line in lines if ERROR_LINE.match(line)]
    return format_one_line(strip_error_prefix((marked or lines)[-1]))


def strip_error_prefix(line: str) -> str:
    """`sbatch: error: text` as `text`."""
    return re.sub(r"^(?:(?:\w+: )?(?:error|fatal): |\w+: )", "", line)


def _started(argv: Sequence[str], environment: Mapping[str, str], given: IO[str] | int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(argv),
        stdin=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )


def _whole_file(script: str) -> IO[str]:
    """Not a pipe: were this process killed half way, sbatch would take the first half for the whole."""
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
    file.write(script)
    file.flush()
    file.seek(0)
    return file


def _killed(process: subprocess.Popen[str]) -> str:
    """Ends the process and its children; what it had said on standard error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=AFTER_KILL_S)[1]
    except subprocess.TimeoutExpired:
        return ""


def _cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    ignored = {*list_ignored_variables(environment), *CLUSTER_VARIABLES}
    kept = {name: value for name, value in environment.items() if name not in ignored}
    return kept | ENGLISH
