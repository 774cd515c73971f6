"""Answers on disk as they come, so that a long evaluation that was stopped or killed goes on where it was.

`answers-NAME.RANK.jsonl`: a line that says what was asked, then {"id": ..., "answer": ...} a line. What a kill tore is
dropped. All ranks' files are read, so that an evaluation may go on with another number of processes. Ranks that work
together tell each other what is in them (`stages.sharing`): on a network disk another node's file may show late.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from stages.evaluation.questions import VisionTask
from stages.files import check_fence, storage_errors

FORMAT = 1


class AnswerLog:
    """The answers to one task's questions so far."""

    def __init__(self, folder: Path, task: VisionTask, rank: int = 0) -> None:
        """Reads what is there; a file about other questions counts for nothing. `rank`: whose file to write."""
        self._pattern = f"answers-{task.name}.*.jsonl"
        self._path = folder / f"answers-{task.name}.{rank}.jsonl"
        self._head = json.dumps({"format": FORMAT, "task": task.name, "asked": asked(task)})
        self._size = 0
        """Bytes of whole lines in this rank's own file."""
        self.answers: dict[str, str] = {}
        for path in sorted(self._path.parent.glob(self._pattern)):
            found, size = whole_answers(path.read_bytes(), self._head)
            self.answers |= found
            self._size = size if path == self._path else self._size

    def add(self, answers: Mapping[str, str]) -> None:
        """Appends answers by question id; on disk when this returns. StorageError, FencedError."""
        lines = [] if self._size else [self._head]
        lines += [json.dumps({"id": name, "answer": answer}) for name, answer in answers.items()]
        content = "".join(f"{line}\n" for line in lines).encode()
        check_fence()
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.truncate(self._size)  # what a kill tore, or what was about other questions
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._size += len(content)
        self.answers |= answers


def asked(task: VisionTask) -> str:
    """A digest of all that an answer depends on and that the task's files hold."""
    digest = sha256()
    for question in task.questions:
        digest.update(json.dumps([question.id, question.image, task.prompt_of(question)]).encode())
    return digest.hexdigest()


def whole_answers(content: bytes, head: str) -> tuple[dict[str, str], int]:
    """A file's answers up to the first line that is torn, and how many bytes they are; none under another head."""
    answers: dict[str, str] = {}
    if not content.startswith(f"{head}\n".encode()):
        return answers, 0
    size = len(head.encode()) + 1
    for line in content[size:].splitlines(keepends=True):
        found = answer_of(line)
        if found is None:
            break
        answers[found[0]] = found[1]
        size += len(line)
    return answers, size


def answer_of(line: bytes) -> tuple[str, str] | None:
    """Question id and answer of a whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: Any = json.loads(line)
        return str(entry["id"]), str(entry["answer"])
    except (ValueError, KeyError, TypeError):
        return None
