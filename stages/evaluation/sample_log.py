"""The log of an evaluation's text documents: samples/TASK.jsonl beside result.json, a JSON object a line.

Kept on request (`log_samples` of the job's settings). Keys: `doc_id` (number of the document, from 0), `doc` (its row),
`target`, `arguments` (of each request: context and continuation, or context and generation settings), `resps` (of each
request: log-probability in nats and whether it is the greedy continuation; a text's log-probability; or the answer),
`filter`, and each metric by its name.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.files import replacing

LEFT_OUT = ("doc_hash", "prompt_hash", "target_hash", "filtered_resps", "metrics")


def write_samples(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes lm-eval's samples of one task, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as unfinished:
        lines = (json.dumps(record(sample), ensure_ascii=False, default=str) for sample in samples)
        unfinished.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def record(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the log: what lm-eval keeps, less its hashes and what says the same twice."""
    kept = {name: value for name, value in sample.items() if name not in LEFT_OUT}
    kept["resps"] = [answers[0] for answers in sample["resps"]]  # one answer to each request: nothing is repeated
    return kept
