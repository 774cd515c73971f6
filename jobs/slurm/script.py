"""The batch script of an array, and sbatch's command line. Pure text.

All options go on the command line as one word each, none as an `#SBATCH` line; what stands in the script is quoted. Its
last line replaces the shell by the attempt's supervisor, which so is the batch process that Slurm signals.
"""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.exit_codes import ExitCode
from jobs.job import Resources
from jobs.slurm.batches import NAME, SlurmBatch, build_task_id
from jobs.slurm.sbatch_options import build_sbatch_options
from jobs.store.paths import Store
from jobs.store.reading import parse_object

TASKS_LINE = "# tasks: "
TASK_INDEX = re.compile(r"[0-9]{1,9}")
"""Before the batch's tasks as JSON: a script that is found in the queue says what its ledger line would."""

LONGEST_GRACE_SECONDS = 300
GRACE_SHARE = 4
"""At most a quarter of the time limit is kept for saving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """What all scripts of a submission have in common."""

    store: Store
    sweep: str
    program: Sequence[str]
    """Runs a stage; it is given job.json's path."""
    code: Path
    """The zip that the jobs import instead of the checkout."""
    revision: str
    python: str = sys.executable
    code_sha256: str = ""
    """Of the zip's bytes, which each job compares before it imports them; empty: nothing was written yet."""


def render_batch_script(batch: SlurmBatch, launch: LaunchSettings) -> str:
    """The whole script, safe for any content of the batch but its set-up lines, which are shell by their nature."""
    keys = " ".join(f"[{index}]={shlex.quote(key)}" for index, key in batch.tasks.items())
    lines = [
        "#!/bin/bash",
        f"{TASKS_LINE}{json.dumps({str(index): key for index, key in batch.tasks.items()})}",
        *batch.resources.setup,
        "trap '' USR2",  # until the supervisor listens, the signal before the time limit must not end it
        f"keys=({keys})",
        *render_code_lines(launch),
        f"exec {render_attempt_command(batch, launch)}",
    ]
    return "\n".join(lines) + "\n"


# Why: docs/decisions.md, D166, D167
def render_code_lines(launch: LaunchSettings) -> list[str]:
    """Python finds the submitted code first, after that code was looked at, and nothing in the current folder.

    An empty or relative entry of PYTHONPATH, which modules and profiles leave there, would mean that folder.
    """
    code = shlex.quote(str(launch.code))
    checked = (
        f'[[ $(sha256sum < {code}) == {launch.code_sha256}* ]] || {{ echo {code}" is not the code that was submitted:'
        f' submit again" >&2; exit {int(ExitCode.NOT_SET_UP)}; }}'
    )
    return [
        *([checked] if launch.code_sha256 else []),
        f"path={code}",
        'while IFS= read -rd: entry; do if [[ $entry == /* ]]; then path+=:$entry; fi; done <<< "${PYTHONPATH-}:"',
        'export PYTHONPATH="$path" PYTHONSAFEPATH=1',
    ]


def render_attempt_command(batch: SlurmBatch, launch: LaunchSettings) -> str:
    """The supervisor's command line; words with `$` are filled in by the shell from Slurm's numbers alone."""
    asked = batch.resources
    task = "${SLURM_JOB_ID}" if batch.is_single else "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    index = "0" if batch.is_single else "$SLURM_ARRAY_TASK_ID"
    identity = NAME.fullmatch(batch.name)
    words = [
        *quote_words([launch.python, "-m", "jobs.attempt"]),
        *quote_words(["--store", str(launch.store.root.resolve()), "--sweep", launch.sweep, "--backend", "slurm"]),
        *("--key", f'"${{keys[{index}]}}"'),
        *("--attempt", f'"slurm-{task}-r${{SLURM_RESTART_COUNT:-0}}-{identity["identity"][:6] if identity else "x"}"'),
        *("--job-id", f'"{task}"', "--restart", '"${SLURM_RESTART_COUNT:-0}"'),
        *quote_words([f"--batch={batch.name}", f"--revision={launch.revision}"]),
        *quote_words([f"--cpus={asked.cpus * asked.nodes}", f"--gpus={asked.gpus}", f"--nodes={asked.nodes}"]),
        *quote_words([f"--gpu-type={asked.gpu_type}", "--", *asked.launcher, *launch.program]),
    ]
    return " ".join(words)


def build_sbatch_arguments(batch: SlurmBatch, launch: LaunchSettings, batch_ids: Mapping[str, str]) -> list[str]:
    """sbatch(1)'s options. `batch_ids`: ids of this round's batches that were sent already, by name."""
    indices = render_indices(list(batch.tasks))
    dependency = render_dependency(batch, batch_ids)
    return [
        *("--parsable", f"--job-name={batch.name}", f"--comment={batch.name}"),
        *([] if batch.is_single else [f"--array={indices}"]),
        # Why: docs/decisions.md, D32
        *("--requeue", "--open-mode=append", "--kill-on-invalid-dep=yes", "--input=/dev/null"),
        f"--output={build_log_pattern(launch.store, launch.sweep, is_single=batch.is_single)}",
        f"--chdir={launch.store.root.resolve()}",
        f"--signal=B:USR2@{compute_grace_seconds(batch.resources)}",
        *([f"--dependency={dependency}"] if dependency else []),
        *build_sbatch_options(
            batch.resources,
            gpu_type=batch.gpu_type,
            memory_tracked=batch.memory_tracked,
            exclude=(*batch.exclude, *batch.avoid),
        ),
    ]


def render_dependency(batch: SlurmBatch, batch_ids: Mapping[str, str]) -> str:
    """`aftercorr:ID` or `afterok:ID:ID`; empty if it waits for nobody. Raises KeyError for a batch that has no id."""
    if batch.corresponds_id or batch.corresponds_batch:
        return f"aftercorr:{batch.corresponds_id or batch_ids[batch.corresponds_batch]}"
    ids = [
        *batch.after_ids,
        *(build_task_id(batch_ids[name], index, is_single=batch.is_single) for name, index in batch.after_tasks),
    ]
    return ":".join(["afterok", *ids]) if ids else ""


def build_log_pattern(store: Store, sweep: str, *, is_single: bool = False) -> str:
    """Where the batch script and slurmstepd write: one file for each task, all of its runs after one another."""
    return str(store.locate_sweep(sweep).slurm_logs.resolve()).replace("%", "%%") + (
        "/%j.log" if is_single else "/%A_%a.log"
    )


def find_path_problem(root: Path) -> str:
    """Why Slurm could not write logs below this store, in one line with what would do; empty if it can."""
    if "\\" in str(root.resolve()):
        return (
            f"{root.resolve()}: Slurm fills in no job number in a log's path with a backslash, so that no job could "
            "open its log; choose another folder with --store"
        )
    return ""


def compute_grace_seconds(resources: Resources) -> int:
    """From the signal to save to the time limit. Slurm may send it up to 60 s earlier (sbatch(1))."""
    return max(1, min(LONGEST_GRACE_SECONDS, resources.time_minutes * 60 // GRACE_SHARE))


def render_indices(indices: Sequence[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7: sbatch's notation."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_script_tasks(script: str) -> dict[int, str]:
    """The tasks that a script of ours names; empty for any other script."""
    line = next((line for line in script.splitlines() if line.startswith(TASKS_LINE)), "")
    try:
        content = parse_object(line.removeprefix(TASKS_LINE))
    except ValueError:
        return {}
    return {int(index): str(key) for index, key in content.items() if TASK_INDEX.fullmatch(index)}


def quote_words(words: Sequence[str]) -> list[str]:
    """Each as one word for the shell."""
    return [shlex.quote(word) for word in words]
