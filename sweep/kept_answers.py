"""Answers of `python -m stages.prepare` about local data, kept in the store for as long as the files are the same.

Two commands of that program are asked so: `count` (`sweep.cost.counts`) and `inspect` (`sweep.preflight`).
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobs.environment import build_child_environment
from jobs.store.job_file import find_own_code
from jobs.store.paths import write_json
from jobs.store.reading import parse_json, read_file
from sweep.file_facts import FileFacts

TIMEOUT_SECONDS = 600.0


class UnansweredError(Exception):
    """The program gave no answers; the message says why."""


class KeptAnswers:
    """Answers in a folder of the store, each a JSON file with the digest of its question for a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[str, Any] = {}

    def read_answer(self, digest: str) -> Any:
        """The kept answer. OSError or ValueError where there is none, or none that can be read."""
        return parse_json(read_file(self.folder / f"{digest}.json"))

    def add_answer(self, digest: str, answer: Any) -> None:
        """Remembers an answer for `save`."""
        self._new[digest] = answer

    def save(self) -> None:
        """Writes what was added. OSError."""
        for digest, answer in self._new.items():
            write_json(self.folder / f"{digest}.json", answer, lasting=False)
        self._new.clear()


def compute_question_digest(question: Sequence[object], facts: Iterable[FileFacts]) -> str:
    """Of a question, as JSON types, and of what tells its files from others."""
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode())
    for name, size, changed in facts:
        digest.update(f"{name} {size} {changed}\n".encode())
    return digest.hexdigest()[:24]


# Why: docs/decisions.md, D90
def query_program(command: str, program: str, questions: Sequence[object]) -> list[Any]:
    """What `python -m stages.prepare COMMAND` answers to each question, in a process of its own.

    `program`: its name in messages. Raises UnansweredError.
    """
    words = [sys.executable, "-m", "stages.prepare", "--parent", str(os.getpid()), command]
    try:
        done = subprocess.run(
            words,
            input=json.dumps(questions),
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_SECONDS,
            env=build_child_environment(os.environ, find_own_code()),
        )
        answers: list[Any] = json.loads(done.stdout)
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise ValueError("another number of answers than of questions")
    except subprocess.TimeoutExpired:
        problem = f"{program} took more than {TIMEOUT_SECONDS / 60:g} minutes"
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
        problem = f"{program} ended: {said[-1]}"
    except (OSError, ValueError) as error:
        problem = f"{program} gave no answers: {error}"
    else:
        return answers
    raise UnansweredError(problem)
