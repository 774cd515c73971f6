"""Two sites as their clients tell of them, and jobs and rows of the queue to hold against their limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.job import Job, Resources
from jobs.slurm.parsing import QueueRow
from jobs.slurm.sbatch_errors import SubmitRefusal, UnknownSubmit
from jobs.slurm.site.site import query_site
from tests.jobs.slurm.site_texts import V22, V24, Told
from tests.jobs.toy import toy_job

OLD = query_site(Told(V22), "ann")
NEW = query_site(Told(V24), "ann")


def a_job(partition: str = "", qos: str = "", account: str = "", **resources: Any) -> Job:
    given = {"partition": partition, "qos": qos, "account": account}
    options = {name: value for name, value in given.items() if value}
    return toy_job("a", resources=Resources(**{"options": options, **resources}))


def rows(number: int, **fields: str) -> list[QueueRow]:
    given = {"name": "x", "user": "ann", "state": "PENDING", "qos": "normal", "account": "sub", "partition": "main"}
    return [QueueRow(id=f"7_{index}", **{**given, **fields}) for index in range(number)]  # type: ignore[arg-type]


Answer = SubmitRefusal | UnknownSubmit | None


@dataclass
class TestedSlurm:
    """Stands for `sbatch --test-only`: one answer for all, or `judge` gives it of the options' words."""

    __test__ = False

    answer: Answer = None
    judge: Callable[[Sequence[str]], Answer] | None = None
    asked: list[Sequence[str]] = field(default_factory=list)

    def query_request(self, options: Sequence[str]) -> Answer:
        self.asked.append(options)
        return self.judge(options) if self.judge else self.answer
