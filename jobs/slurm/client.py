"""Asks Slurm's programs, and tells them to do something. The only place where they are run."""

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from jobs.slurm.commands import Output, asking_environment, complaint, run_program, sending_environment
from jobs.slurm.parsing import (
    FORMAT,
    SEPARATOR,
    AccountRow,
    Answer,
    QueueRow,
    fields_for,
    read_accounting,
    read_config,
    read_queue,
    read_records,
    read_table,
)
from jobs.slurm.sbatch_errors import NoAnswer, Refusal, RefusalKind, Sent, judge
from jobs.slurm.timeouts import Patience

__all__ = ["NoAnswer", "Output", "Refusal", "RefusalKind", "Sent", "SlurmClient"]

LONGEST_WORD = 100_000
"""Characters of one argument; Linux takes 131,071 (execve(2))."""
LONGEST_CALL = 1_000_000
"""Characters of all arguments of one call; Linux takes about 2 million with the environment."""
TERM_TO_KILL_S = 5
CLOCKS_DIFFER_S = 3600
"""sacct's window begins so much before what is asked for: rows are told apart by name, so too many do no harm."""

NOT_THE_WHOLE = ("Invalid user", "slurm_load_jobs error", "Unable to contact")
"""squeue ends with code 0 and leaves out the jobs of a user whose name cannot be looked up at the moment."""
NOT_THERE_ANY_MORE = ("Invalid job id specified", "already completing or completed")
"""Complaints about jobs that have left the queue meanwhile."""
NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting_storage plugin")


class SlurmClient:
    """One cluster: the one that the environment (SLURM_CONF) or /etc/slurm names. May be used by several threads."""

    def __init__(self, patience: Patience | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: os.environ at the time of each call, unless given."""
        self.patience = patience or Patience()
        self._environment = environment
        self._account_fields: tuple[str, ...] = ()

    def run(self, program: str, *arguments: str, limit: float | None = None) -> Output:
        """Asks any of Slurm's programs: no shell, at most `limit` seconds (patience.call), plain English and times."""
        environment = asking_environment(self._now())
        return run_program(
            [program, *arguments], environment=environment, limit=self.patience.call if limit is None else limit
        )

    def queue(self, users: Collection[str]) -> Answer[QueueRow]:
        """All unfinished jobs of these users, array tasks one by one, in one squeue."""
        users_word = ",".join(sorted(users))
        output = self.run("squeue", "--array", "--noheader", "--all", f"--user={users_word}", f"--format={FORMAT}")
        doubt = next((line for line in output.errors.splitlines() if any(sign in line for sign in NOT_THE_WHOLE)), "")
        if output.problem or doubt:
            return Answer(problem=output.problem or doubt.strip())
        return read_queue(output.text)

    def remembered(self, ids: Collection[str]) -> Answer[QueueRow]:
        """What the controller still knows (for MinJobAge seconds after its end) of these array tasks, ended or not."""
        rows: list[QueueRow] = []
        for word in joined({each.partition("_")[0] for each in ids}):
            what = (f"--jobs={word}", "--states=all", f"--format={FORMAT}")
            output = self.run("squeue", "--array", "--noheader", "--all", *what)
            if NOT_THERE_ANY_MORE[0] in output.errors:
                continue
            answer: Answer[QueueRow] = Answer(problem=output.problem) if output.problem else read_queue(output.text)
            if not answer.ok:
                return answer
            rows += (row for row in answer.rows if row.id in ids)
        return Answer(rows=tuple(rows))

    def accounting(self, ids: Collection[str], since: float) -> Answer[AccountRow]:
        """All executions of these jobs (123, 123_4; of an array's id all its tasks) since then (Unix seconds)."""
        return self._accounting("--jobs", ids, since)

    def accounting_by_name(self, names: Collection[str], since: float) -> Answer[AccountRow]:
        """All executions of jobs with these names. Jobs that never got past a dependency are not shown (sacct(1))."""
        return self._accounting("--name", names, since)

    def ask(
        self, users: Collection[str], ids: Collection[str], since: float
    ) -> tuple[Answer[QueueRow], Answer[AccountRow]]:
        """`queue` and `accounting` at the same time: with both services down it costs one time limit, not two."""
        answers: list[Answer[AccountRow]] = []
        asking = threading.Thread(target=lambda: answers.append(self.accounting(ids, since)), daemon=True)
        asking.start()
        queue = self.queue(users)
        asking.join()
        return queue, answers[0] if answers else Answer(problem="sacct could not be asked")

    def submit(self, arguments: Sequence[str], script: str) -> Sent | Refusal | NoAnswer:
        """sbatch with `script` on standard input. `timeout` ends it even if this process is killed meanwhile."""
        limit = self.patience.submit
        argv = ["timeout", f"--kill-after={TERM_TO_KILL_S}", f"{limit:g}", "sbatch", "--parsable", *arguments]
        environment = sending_environment(self._now())
        return judge(run_program(argv, environment=environment, limit=limit + 2 * TERM_TO_KILL_S, script=script))

    def cancel(
        self, ids: Collection[str], *, signal: str = "", state: str = "", batch: bool = False, full: bool = False
    ) -> str:
        """scancel for jobs and array tasks, many in one call; ended ones are no error. Returns a problem or "".

        `signal`: send it instead of ending the job; `batch`: to the batch process alone, `full`: to it and all steps.
        `state`: only those in this state (PENDING) a moment before. scancel's own `--state` is not used: asked for one
        pending task of an array, it ends all of them (seen with 22.05).
        """
        if state:
            ids, problem = self._in_state(ids, state)
            if problem:
                return problem
        options = [
            *([f"--signal={signal}"] if signal else []),
            *(["--batch"] if batch else []),
            *(["--full"] if full else []),
        ]
        problems = [_not_cancelled(self.run("scancel", *options, *words)) for words in _calls(together(ids))]
        return next((problem for problem in problems if problem), "")

    def _in_state(self, ids: Collection[str], state: str) -> tuple[Collection[str], str]:
        """Those of the jobs and array tasks that are in a state now, or a problem."""
        found: set[str] = set()
        for word in joined({each.partition("_")[0] for each in ids}):
            what = (f"--jobs={word}", f"--states={state}", "--format=%i")
            output = self.run("squeue", "--array", "--noheader", "--all", *what)
            if output.problem and NOT_THERE_ANY_MORE[0] not in output.errors:
                return (), output.problem
            found.update(output.text.split())
        return found & set(ids), ""

    def update(self, job_id: str, **fields: str) -> str:
        """`scontrol update jobid=ID FIELD=VALUE...`. Returns a problem or ""."""
        return self.run(
            "scontrol", "update", f"jobid={job_id}", *(f"{key}={word}" for key, word in fields.items())
        ).problem

    def requeue(self, job_id: str) -> str:
        """`scontrol requeue`. Returns a problem or ""."""
        return self.run("scontrol", "requeue", job_id).problem

    def batch_script(self, job_id: str) -> str | None:
        """The script of a job that the controller remembers; None if it does not, or may not show it."""
        output = self.run("scontrol", "write", "batch_script", job_id.partition("_")[0], "-")
        return None if output.problem or not output.text else output.text

    def config(self) -> Answer[Mapping[str, str]]:
        """`scontrol show config` as one row."""
        return self._table(read_config, "scontrol", "show", "config")

    def partitions(self) -> Answer[Mapping[str, str]]:
        """`scontrol show partition`, one row a partition."""
        return self._table(read_records, "scontrol", "--oneliner", "--all", "show", "partition")

    def associations(self, user: str, fields: Sequence[str]) -> Answer[Mapping[str, str]]:
        """`sacctmgr show associations` of a user, with the given fields by the given names."""
        return self._sacctmgr(fields, "associations", "where", f"user={user}")

    def qos(self, fields: Sequence[str]) -> Answer[Mapping[str, str]]:
        """`sacctmgr show qos`, with the given fields by the given names."""
        return self._sacctmgr(fields, "qos")

    def _sacctmgr(self, fields: Sequence[str], *what: str) -> Answer[Mapping[str, str]]:
        command = ("--noheader", "--parsable2", "--readonly", "show", *what, f"format={','.join(fields)}")
        return self._table(lambda text: read_table(text, fields), "sacctmgr", *command)

    def _table(
        self, read: Callable[[str], tuple[Mapping[str, str], ...]], program: str, *arguments: str
    ) -> Answer[Mapping[str, str]]:
        output = self.run(program, *arguments)
        if output.problem:
            return Answer(problem=output.problem, absent=_is_absent(output))
        return Answer(rows=read(output.text))

    def _accounting(self, option: str, values: Collection[str], since: float) -> Answer[AccountRow]:
        begin = f"--starttime=uts{max(1, int(since) - CLOCKS_DIFFER_S)}"
        rows: list[AccountRow] = []
        for words in _calls(f"{option}={word}" for word in joined(values)):
            fields, problem = self._fields()
            if problem:
                return Answer(problem=problem)
            output = self.run(
                *("sacct", "--noheader", "--parsable2", "--duplicates", "--allocations", "--allusers"),
                *(f"--delimiter={SEPARATOR}", begin, f"--format={','.join(fields)}", *words),
            )
            if output.problem:
                return Answer(problem=output.problem, absent=_is_absent(output))
            answer = read_accounting(output.text, fields)
            if not answer.ok:
                return answer
            rows += answer.rows
        return Answer(rows=tuple(rows))

    def _fields(self) -> tuple[tuple[str, ...], str]:
        """sacct's fields that this version knows. `sacct --helpformat` costs milliseconds, but it too waits for a
        slurmdbd that hangs: then the second value says so, and sacct need not be asked anything else."""
        if not self._account_fields:
            output = self.run("sacct", "--helpformat")
            if output.problem:
                hangs = output.started and output.returncode is None
                return fields_for(()), output.problem if hangs else ""
            self._account_fields = fields_for(output.text.split())
        return self._account_fields, ""

    def _now(self) -> Mapping[str, str]:
        return os.environ if self._environment is None else self._environment


def joined(values: Collection[str], longest: int = LONGEST_WORD) -> Iterator[str]:
    """The values with commas between them, in as few words of at most `longest` characters as it takes."""
    word = ""
    for each in sorted(set(values)):
        if word and len(word) + 1 + len(each) > longest:
            yield word
            word = each
        else:
            word = f"{word},{each}" if word else each
    if word:
        yield word


def together(ids: Collection[str]) -> Iterator[str]:
    """Ids as scancel takes them: 7_0, 7_2, 8 as `7_[0,2]`, `8`."""
    tasks: dict[str, list[str]] = {}
    for each in sorted(set(ids)):
        array, _, index = each.partition("_")
        if index:
            tasks.setdefault(array, []).append(index)
        else:
            yield each
    for array, indices in tasks.items():
        yield from (f"{array}_[{word}]" for word in joined(indices, LONGEST_WORD))


def _calls(words: Iterator[str]) -> Iterator[list[str]]:
    """Words of so many calls as are needed: one, nearly always."""
    call: list[str] = []
    for word in words:
        if call and sum(map(len, call)) + len(word) > LONGEST_CALL:
            yield call
            call = []
        call.append(word)
    if call:
        yield call


def _not_cancelled(output: Output) -> str:
    """scancel's complaint about a job that is still there, or about Slurm itself."""
    lines = [line for line in output.errors.splitlines() if line.strip()]
    left = [line for line in lines if not any(sign in line for sign in NOT_THERE_ANY_MORE)]
    if output.returncode and lines:
        return complaint("scancel", "\n".join(left), output.returncode) if left else ""
    return output.problem


def _is_absent(output: Output) -> bool:
    return any(sign in output.errors or sign in output.text for sign in NO_ACCOUNTING)
