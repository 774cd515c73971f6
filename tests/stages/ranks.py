"""Jobs of several real processes for tests, forked from one that has loaded torch already: a start costs little.

`python -m tests.stages.ranks` is that one process; it takes a job a line and answers with a line.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.job_file import JobFile

TAKEN = "taken-{rank}.jsonl"
"""What each rank has learned from, a line a step."""
ANSWER_SECONDS = 240
"""Longest wait for a job of ranks: seconds where a core is free, minutes where many others want it."""


class RankServer:
    """The process that ranks are forked from."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.stages.ranks"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def start(self, job: JobFile, ranks: int, *, backend: str = "inductor") -> "Ranks":
        """The job's processes, running. `backend`: of torch.compile."""
        request = {"job": str(job.run / "job.json"), "ranks": ranks, "port": free_port(), "backend": backend}
        return Ranks(self, job, self.ask(request))

    def run(self, job: JobFile, ranks: int) -> list[int]:
        """The exit codes of the job's processes."""
        return self.start(job, ranks).wait()

    def ask(self, request: dict[str, Any]) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            raise TimeoutError(f"no answer to {request}")
        answer: list[int] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=600)


@dataclass
class Ranks:
    """The processes of a started job."""

    server: RankServer
    job: JobFile
    pids: list[int]

    def wait(self) -> list[int]:
        """Exit codes in the order of ranks; minus the signal's number for one that was killed."""
        return self.server.ask({"wait": self.pids})

    def output(self) -> str:
        return "".join((self.job.run / f"rank-{rank}.log").read_text() for rank in range(len(self.pids)))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def serve() -> None:
    """Forks ranks until standard input ends."""

    import stages.evaluation.run
    import stages.training.finetune
    import stages.training.pretrain  # noqa: F401 - what the ranks need is loaded once, here

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in request["wait"]]
        else:
            answer = [fork_rank(request, rank) for rank in range(request["ranks"])]
        print(json.dumps(answer), flush=True)


def fork_rank(request: dict[str, Any], rank: int) -> int:
    """The process id of a new rank."""
    if pid := os.fork():
        return pid
    run = Path(request["job"]).parent
    for descriptor in (1, 2):
        os.dup2(os.open(run / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["ranks"]),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"]),
    }  # fmt: skip
    note_what_is_taken(run / TAKEN.format(rank=rank))
    if request["backend"] != "inductor":
        import torch

        torch.compiler.set_default_backend(request["backend"])
    from stages.__main__ import main

    code = main([request["job"]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def note_what_is_taken(path: Path) -> None:
    """Writes a line for each finished step: its number, and the tokens of the rank's sequences."""
    from stages.training.loop import Training

    gradients, train_step = Training.compute_gradients, Training.train_step
    rows: list[list[int]] = []

    def noted_gradients(self: Training, state: Any, batch: Any, stop: Any) -> Any:
        rows[:] = [row for part in batch.micro_batches for row in part.tokens.tolist()]
        return gradients(self, state, batch, stop)

    def noted_step(self: Training, state: Any, stop: Any) -> Any:
        outcome = train_step(self, state, stop)
        with path.open("a") as log:
            log.write(json.dumps({"step": state.step, "rows": rows}) + "\n")
        return outcome

    Training.compute_gradients = noted_gradients  # type: ignore[method-assign]
    Training.train_step = noted_step  # type: ignore[method-assign]


def taken_by(job: JobFile, ranks: Sequence[int]) -> dict[int, list[list[int]]]:
    """Sequences that each step has learned from, in order; of a step that was done twice, those of the last time."""
    steps: dict[int, dict[int, list[list[int]]]] = {}
    for rank in ranks:
        for line in (job.run / TAKEN.format(rank=rank)).read_text().splitlines():
            entry = json.loads(line)
            steps.setdefault(entry["step"], {})[rank] = entry["rows"]
    return {step: [row for rank in sorted(parts) for row in parts[rank]] for step, parts in steps.items()}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()
