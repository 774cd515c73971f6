"""CPU time and memory of `sweep status` over a store of 22,000 jobs, mostly done or mostly waiting, on both backends.

    python benchmarks/status.py [--repeat 5] [--stores FOLDER] [--only slurm-done] [--profile]

The plan is real (`sweep plan` of a generated sweep file). What attempts, stages and Slurm would have left is written
here in their formats; squeue and sacct are two scripts that print a file. CPU seconds are of the whole process with its
children, the least of the repetitions, and also as they would be on a machine on which `python -c pass` takes 0.05 s:
that is measured in the same run, turn by turn with the command. The first run of a store reads all results ("first");
later ones trust what was read before. Memory is the peak resident set. `--stores` keeps the stores for another run;
`--profile` prints where one run spends its time instead.
"""

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.slurm_status import TRES  # noqa: E402 - found from the root
from jobs.slurm.parsing import SEPARATOR  # noqa: E402

SWEEP_FILE = """\
name: large
backend: BACKEND
data:
  dclm: {kind: text, path: $STORE/data/dclm}
  datacompdr: {kind: captions, path: $STORE/data/datacompdr}
  llava: {kind: conversations, path: $STORE/data/llava}
  gpt-neox-20b: {kind: tokenizer, path: $STORE/data/gpt-neox-20b/tokenizer.json}
  tasks: {kind: tasks, path: $STORE/data/tasks}
  siglip: {kind: encoder, path: $STORE/encoders/siglip}
defaults:
  model: 79m
  pretrain: {restart_lr: 3.0e-3}
  evaluate: {text_tasks: [arc_easy, piqa], vision_tasks: [vqav2, pope]}
blocks:
  # 10 x 11 x 22 = 2,420 cells of 9 jobs, and 9 trunk segments
  - axes:
      branch: [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
      image_share: [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1]
      seed: [SEEDS]
  # and 25 more: 22,014 jobs
  - axes: {branch: [90], image_share: [0.1], seed: [MORE]}
epochs: [1, 2, 3, 4]
"""
JOBS = 22_014
TASKS = 500
"""Of an array."""
RUNNING = 100
WEIGHTS = {"model.safetensors": 71_136, "record.json": 268, "state.json": 7_845}
PROGRAMS = {"squeue": "squeue.txt", "sacct": "sacct.txt"}
REFERENCE_START_S = 0.05
"""CPU seconds of `python -c pass` on the machine that the goal is about."""


@dataclass(frozen=True)
class StoreKind:
    """What one generated store holds."""

    backend: str
    done: float
    """Part of the jobs."""
    failed: float

    @property
    def name(self) -> str:
        return f"{self.backend}-{'done' if self.done > 0.5 else 'waiting'}"


KINDS = [StoreKind(backend, *parts) for backend in ("local", "slurm") for parts in ((0.94, 0.02), (0.03, 0.001))]


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--stores", type=Path)
    options.add_argument("--only", choices=[kind.name for kind in KINDS])
    options.add_argument("--profile", action="store_true")
    given = options.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}")
    print(f"{'store':16} {'jobs':>7} {'first':>7} {'CPU s':>7} {'python -c pass':>15} {'scaled':>7} {'MiB':>5}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if given.only in {None, kind.name}:
                print(
                    measure(kind, (given.stores or Path(folder)) / kind.name, given.repeat, given.profile), flush=True
                )


def measure(kind: StoreKind, store: Path, repeat: int, profile: bool) -> str:
    """One line of the table."""
    if not (store / "complete").exists():
        write_store(kind, store)
    manifest = store / "sweeps" / "large" / "manifest.jsonl"
    command = [sys.executable, "-m", "sweep", "status", "large", "--store", str(store), "--fresh"]
    with hold_locks(kind, store, manifest):
        environment = {**os.environ, "PATH": f"{write_programs(store)}:{os.environ['PATH']}"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(store / "bytecode")}
        subprocess.run([*command[:3], "--help"], cwd=ROOT, env=environment, check=True, capture_output=True)
        measure_process(command, environment)  # compiles the modules, as an installation does
        if profile:
            command[1:2] = ["-m", "cProfile", "-s", "tottime", "-m"]
            run = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
            return "\n".join(run.stdout.splitlines()[:90])
        (store / "sweeps" / "large" / "checked-results.txt").unlink(missing_ok=True)
        first_s, first_mib = measure_process(command, environment)
        costs = []
        for _ in range(repeat):
            start_s, _ = measure_process([sys.executable, "-c", "pass"], environment)
            costs.append((*measure_process(command, environment), start_s))
    cpu_s, start_s = min(cost[0] for cost in costs), min(cost[2] for cost in costs)
    scaled = cpu_s * REFERENCE_START_S / start_s
    mib = max(first_mib, *(cost[1] for cost in costs))
    return f"{kind.name:16} {JOBS:7,} {first_s:7.2f} {cpu_s:7.2f} {start_s:15.3f} {scaled:7.2f} {mib:5.0f}"


def measure_process(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU seconds of the process and its children, and its peak memory in MiB."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    if process.returncode not in {0, 1} or "Traceback" in errors:  # 1: some jobs have failed
        raise SystemExit(errors)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def write_store(kind: StoreKind, store: Path) -> None:
    """Plans, and writes what the jobs and Slurm would have left."""
    store.mkdir(parents=True)
    file = store / "large.yaml"
    seeds, more = (", ".join(map(str, numbers)) for numbers in (range(22), range(9_000, 9_025)))
    file.write_text(SWEEP_FILE.replace("BACKEND", kind.backend).replace("SEEDS", seeds).replace("MORE", more))
    command = [sys.executable, "-m", "sweep", "plan", str(file), "--store", str(store)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    now, keys = time.time(), []
    jobs = iter_jobs(store / "sweeps" / "large" / "manifest.jsonl")
    for number, (job, state) in enumerate(zip(jobs, choose_states(kind), strict=True)):
        keys.append(job["key"])
        if state != "waiting":
            write_run(
                kind, store / "runs" / job["stage"] / job["key"], job, Place(state, number, now - 90_000 + number)
            )
    if kind.backend == "slurm":
        write_slurm(kind, store, keys, now)
    (store / "complete").touch()


def iter_jobs(manifest: Path) -> Iterator[dict[str, Any]]:
    """The plan's jobs, parents before children. None is kept: a process begins with the peak memory of its parent."""
    with manifest.open() as file:
        for line in file:
            if line.startswith('{"record":"job"'):
                yield json.loads(line)


def choose_states(kind: StoreKind) -> list[str]:
    """A state for each: parents come first, and so are done first."""
    states = ["done"] * round(JOBS * kind.done) + ["failed"] * round(JOBS * kind.failed) + ["running"] * RUNNING
    return [*states, *["waiting"] * (JOBS - len(states))]


def name_attempt(kind: StoreKind, number: int, attempt: int) -> str:
    """As the backends name attempts."""
    return (
        f"local-{attempt + 1:04}" if kind.backend == "local" else f"slurm-{name_task(number)}-r{attempt}-{number:06x}"
    )


def name_task(number: int) -> str:
    """Slurm's id of the job with this place in the plan."""
    return f"{1_000_000 + number // TASKS}_{number % TASKS}"


def name_batch(number: int) -> str:
    """Job name of the job's batch."""
    return f"sw-{number // TASKS:012x}-finetune-large"


@dataclass(frozen=True)
class Place:
    """Where a job stands in the sweep."""

    state: str
    number: int
    """Place in the plan."""
    began: float
    """Unix seconds."""


def write_run(kind: StoreKind, run: Path, job: dict[str, Any], place: Place) -> None:
    """A job's folder: one attempt, two of every tenth job and of those that failed."""
    state, number, began = place.state, place.number, place.began
    attempts = 2 if number % 10 == 0 or state == "failed" else 1
    for attempt in range(attempts):
        last = attempt + 1 == attempts
        folder = run / "attempts" / name_attempt(kind, number, attempt)
        folder.mkdir(parents=True)
        write(folder / "start.json", build_start(kind, job, number, attempt, began + 4_000 * attempt))
        (folder / "log.txt").write_text("step 10\n" * 20)
        if not (last and state == "running"):
            write(folder / "exit.json", build_exit(job, folder.name, state, began + 4_000 * attempt + 3_600, last=last))
    (run / "lock").touch()
    write(run / "job.json", {"format": 1, "key": job["key"], "stage": job["stage"], "config": job["config"]})
    if job["stage"] != "evaluate":
        lines = [{"step": 10 * step, "total_steps": 3_000, "loss": 3.2, "time": began + step} for step in range(1, 40)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if state == "done":
        files = {}
        if job["stage"] != "evaluate":
            (run / "checkpoints" / "step-00003000").mkdir(parents=True)
            for name, size in WEIGHTS.items():
                files[f"checkpoints/step-00003000/{name}"] = size
                with (run / "checkpoints" / "step-00003000" / name).open("wb") as file:
                    file.truncate(size)
        write(run / "result.json", build_result(job, files, began + 3_500))


def build_start(kind: StoreKind, job: dict[str, Any], number: int, attempt: int, began: float) -> dict[str, Any]:
    """start.json."""
    resources = job["resources"]
    on_slurm = kind.backend == "slurm"
    return {
        "attempt": name_attempt(kind, number, attempt),
        "key": job["key"],
        "stage": job["stage"],
        "backend": kind.backend,
        "host": f"n{number % 400}" if on_slurm else os.uname().nodename,
        "pid": 22_860,
        "pid_started": 75_285.0,
        "boot_id": "00000000-0000-4000-8000-000000000000",
        "started_at": began,
        "cpus": resources.get("cpus", 1),
        "gpus": resources.get("gpus_per_node", 0) * resources.get("nodes", 1),
        "gpu_type": resources.get("gpu_type", ""),
        "job_id": name_task(number) if on_slurm else "",
        "batch": name_batch(number) if on_slurm else "",
        "restart": attempt if on_slurm else 0,
        "node": f"n{number % 400}" if on_slurm else "",
    }


def build_exit(job: dict[str, Any], attempt: str, state: str, ended: float, *, last: bool) -> dict[str, Any]:
    """exit.json."""
    failure = {"failed": "code"}.get(state, None if last else "interrupted")
    return {
        "attempt": attempt,
        "key": job["key"],
        "ended_at": ended,
        "returncode": 1 if failure else 0,
        "failure": failure,
        "message": "ValueError: example" if failure == "code" else "",
        "traceback_digest": "ab12" if failure == "code" else "",
        "checkpoint_step": 3_000,
        "checkpoint_at": ended - 10,
    }


def build_result(job: dict[str, Any], files: dict[str, int], finished: float) -> dict[str, Any]:
    """result.json, with the scores of 14 tasks for an evaluation."""
    task = {"kind": "vision", "metrics": {"acc": 0.51, "acc/dark": 0.4}, "score": 0.51, "stderr": 0.02, "chance": 0.25}
    return {
        "format": 1,
        "key": job["key"],
        "stage": job["stage"],
        "finished_at": finished,
        "files": files,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "steps": 3_000,
        "tokens": 12_288_000,
        "seconds": 3_400.0,
        "tokens_per_second": 3_614.0,
        "loss": 2.5,
        "checkpoint": "checkpoints/step-00003000" if files else "",
        "sources": {"llava": {"sequences": 12, "samples": 12, "tokens": 390, "image_tokens": 48, "images": 12}},
        "scores": {} if files else {f"task_{number}": {**task, "n": 800} for number in range(14)},
    }


def write(path: Path, content: object) -> None:
    """As `jobs.store.paths.write_json` does, without its fsync."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_slurm(kind: StoreKind, store: Path, keys: Sequence[str], now: float) -> None:
    """The ledger of all batches, and what squeue and sacct say of those with open jobs."""
    states = choose_states(kind)
    ledger, queue, accounting = [], [], []
    for first in range(0, JOBS, TASKS):
        batch, numbers = name_batch(first), range(first, min(first + TASKS, JOBS))
        sent, array = now - 95_000 + first, str(1_000_000 + first // TASKS)
        tasks = {str(number - first): keys[number] for number in numbers}
        head = {"batch": batch, "what": "intent", "time": sent, "phase": "finetune", "tasks": tasks}
        ledger += [{**head, "user": read_user()}, {"batch": batch, "what": "sent", "time": sent + 1, "id": array}]
        for number in numbers:
            ended = states[number] in {"done", "failed"}
            if ended:
                ledger.append({"ending": build_ending(keys[number], number, sent, failed=states[number] == "failed")})
            else:
                queue.append(render_queue_row(number, sent, running=states[number] == "running"))
            if not all(states[each] in {"done", "failed"} for each in numbers) and states[number] != "waiting":
                accounting.append(render_account_row(number, sent, states[number]))
    folder = store / "sweeps" / "large" / "ledger"
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(line) + "\n" for line in ledger)
    (folder / "w-login-1-1790000000000.jsonl").write_text(lines)
    (store / PROGRAMS["squeue"]).write_text("".join(queue))
    (store / PROGRAMS["sacct"]).write_text("".join(accounting))


def read_user() -> str:
    """Whose jobs they are."""
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def build_ending(key: str, number: int, sent: float, *, failed: bool) -> dict[str, Any]:
    """The ledger's note of an end."""
    return {
        "id": name_task(number),
        "batch": name_batch(number),
        "key": key,
        "state": "FAILED" if failed else "COMPLETED",
        "failure": "unknown" if failed else None,
        "submitted_at": sent,
        "started_at": sent + 60,
        "ended_at": sent + 3_660,
        "elapsed_seconds": 3_600,
        "gpus": 4,
        "cpus": 8,
        "nodes": f"n{number % 400}",
        "failed_node": "",
        "exit_code": int(failed),
        "signal": 0,
        "message": f"ended with code {int(failed)}",
    }


def render_queue_row(number: int, sent: float, *, running: bool) -> str:
    """A line of squeue."""
    state = ("RUNNING", "None", "(null)") if running else ("PENDING", "Priority", "(null)")
    begun = str(int(sent) + 60) if running else "N/A"
    moments = (
        str(int(sent)),
        begun,
        f"n{number % 400}" if running else "",
        str(int(sent) + 90_000) if running else "N/A",
    )
    return (
        SEPARATOR.join(
            (name_task(number), *state, read_user(), "normal", "vision", "gpu", *moments, name_batch(number))
        )
        + "\n"
    )


def render_account_row(number: int, sent: float, state: str) -> str:
    """A line of sacct."""
    ended = {"running": "Unknown"}.get(state, str(int(sent) + 3_660))
    word = {"running": "RUNNING", "failed": "FAILED"}.get(state, "COMPLETED")
    moments = (str(int(sent)), str(int(sent) + 60), ended, "3600")
    code = "1:0" if state == "failed" else "0:0"
    row = (name_task(number), word, *moments, TRES, "8", f"n{number % 400}", code, "None", "", name_batch(number))
    return SEPARATOR.join(row) + "\n"


def write_programs(store: Path) -> Path:
    """Two scripts that stand in for squeue and sacct."""
    folder = store / "programs"
    folder.mkdir(exist_ok=True)
    fields = "JobID State Submit Start End ElapsedRaw AllocTRES AllocCPUS NodeList ExitCode Reason FailedNode JobName"
    for name, file in PROGRAMS.items():
        path = folder / name
        helps = f'[ "$1" = --helpformat ] && {{ echo "{fields}"; exit; }}\n' if name == "sacct" else ""
        path.write_text(f"#!/bin/sh\n{helps}exec cat {store.resolve() / file}\n")
        path.chmod(0o755)
    return folder


@contextmanager
def hold_locks(kind: StoreKind, store: Path, manifest: Path) -> Iterator[None]:
    """The locks of the jobs that run on this machine."""
    pairs = zip(iter_jobs(manifest), choose_states(kind), strict=True)
    live = [job for job, state in pairs if state == "running" and kind.backend == "local"]
    held = [os.open(store / "runs" / job["stage"] / job["key"] / "lock", os.O_RDWR) for job in live]
    try:
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


if __name__ == "__main__":
    main()
