"""Runs Slurm's programs, for questions and for orders. The only place where they are run."""

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.counted import format_counted
from jobs.slurm.commands import (
    ProgramOutput,
    ProgramRunner,
    build_query_environment,
    build_submit_environment,
    find_error_line,
    run_program,
)
from jobs.slurm.parsing import (
    QUEUE_FORMAT,
    SEPARATOR,
    STEP_FIELDS,
    AccountRow,
    HiddenUsers,
    QueueRow,
    SlurmAnswer,
    StepMemory,
    parse_accounting,
    parse_config,
    parse_controller_time,
    parse_queue,
    parse_step_memory,
    select_fields,
)
from jobs.slurm.sbatch_errors import SubmitRefusal, SubmittedJob, UnknownSubmit, parse_submit_answer, parse_test_answer
from jobs.slurm.states import QUEUED
from jobs.slurm.timeouts import SlurmTimeouts

LONGEST_WORD = 100_000
"""Characters of one argument; Linux takes 131,071 (execve(2))."""
LONGEST_CALL = 1_000_000
"""Characters of all arguments of one call; Linux takes about 2 million with the environment."""
TERM_TO_KILL_S = 5
FEDERATED = {"squeue", "sacct", "scancel", "scontrol", "sinfo"}
"""Programs that are given the cluster; sacctmgr is asked about one by name."""
EMPTY_SCRIPT = "#!/bin/sh\n"
CLOCKS_DIFFER_S = 86_400
"""In a search by name sacct's window begins so much earlier than needed: the clock of the machine that sent may be
ahead of the controller's. Rows are recognised by name, so too many do no harm."""

NOT_THE_WHOLE = ("Invalid user", "slurm_load_jobs error", "Unable to contact")
"""squeue ends with code 0 and leaves out the jobs of a user whose name cannot be resolved at the moment."""
NOT_THERE_ANY_MORE = ("Invalid job id specified", "already completing or completed")
"""Complaints about jobs that have left the queue meanwhile."""
HIDING = {"jobs", "all"}
"""Words of PrivateData with which squeue and sacct show a user no jobs of others (slurm.conf(5), slurmdbd.conf(5))."""
NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting_storage plugin")


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalReport:
    """What became of jobs and array tasks that were to leave the queue, as squeue shows it after scancel."""

    gone: frozenset[str] = frozenset()
    """They were pending, and are in the queue no more."""
    kept: frozenset[str] = frozenset()
    """They are in the queue: scancel was refused, or they had begun before it was called."""
    problem: str = ""
    """One line from scancel or squeue. What is neither gone nor kept is not known then."""


class SlurmClient:
    """One cluster: the one that the environment (SLURM_CONF) or /etc/slurm names. May be used by several threads."""

    def __init__(
        self,
        timeouts: SlurmTimeouts | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        cluster: str = "",
    ) -> None:
        """`environment`: os.environ at the time of each call, unless given. `cluster`: as slurmdbd names it."""
        self.timeouts = timeouts or SlurmTimeouts()
        self.cluster = cluster
        self.kept: ProgramRunner = self
        """Answers what seldom changes: `jobs.slurm.site.site_facts`, or this client."""
        self.named_variables: Collection[str] = ()
        """Of the environment, what jobs get besides the usual because their plan asks for it by name."""
        self._environment = environment
        self._account_fields: tuple[str, ...] = ()

    def run(self, program: str, *arguments: str, limit: float | None = None) -> ProgramOutput:
        """Any of Slurm's programs: no shell, at most `limit` seconds (default: call_s), plain English and times."""
        environment = build_query_environment(self._read_environment())
        where = self._list_cluster_options() if program in FEDERATED else []
        return run_program(
            [program, *where, *arguments],
            environment=environment,
            limit=self.timeouts.call_s if limit is None else limit,
        )

    def query_queue(self, users: Collection[str]) -> SlurmAnswer[QueueRow]:
        """All unfinished jobs of these users (none: of everybody), array tasks one by one, in one squeue."""
        return self._query_queue(*([f"--user={','.join(sorted(users))}"] if users else []))

    def query_queue_by_name(self, names: Collection[str], *, ended_too: bool = False) -> SlurmAnswer[QueueRow]:
        """All unfinished jobs with these names, whoever sent them: for users who have left the system.

        `ended_too`: with those that the controller still knows (for MinJobAge seconds after their end).
        """
        rows: list[QueueRow] = []
        for word in pack_words(names):
            answer = self._query_queue(f"--name={word}", *(["--states=all"] if ended_too else []))
            if not answer.ok:
                return answer
            rows += answer.rows
        return SlurmAnswer(rows=tuple(rows))

    def _query_queue(self, *whose: str) -> SlurmAnswer[QueueRow]:
        output = self.run("squeue", "--array", "--noheader", "--all", *whose, f"--format={QUEUE_FORMAT}")
        warning = next((line for line in output.errors.splitlines() if any(sign in line for sign in NOT_THE_WHOLE)), "")
        if output.problem or warning:
            return SlurmAnswer(problem=output.problem or warning.strip())
        return parse_queue(output.text)

    def query_recent_jobs(self, ids: Collection[str]) -> SlurmAnswer[QueueRow]:
        """What the controller still knows (for MinJobAge seconds after its end) of these array tasks, ended or not, and
        of all others of their arrays: that it has the array tells of the tasks that it has forgotten."""
        rows: list[QueueRow] = []
        arrays = {each.partition("_")[0] for each in ids}
        for word in pack_words(arrays):
            what = (f"--jobs={word}", "--states=all", f"--format={QUEUE_FORMAT}")
            output = self.run("squeue", "--array", "--noheader", "--all", *what)
            if NOT_THERE_ANY_MORE[0] in output.errors:
                continue
            answer: SlurmAnswer[QueueRow] = (
                SlurmAnswer(problem=output.problem) if output.problem else parse_queue(output.text)
            )
            if not answer.ok:
                return answer
            rows += (row for row in answer.rows if row.id.partition("_")[0] in arrays)
        return SlurmAnswer(rows=tuple(rows))

    # Why: docs/decisions.md, D116
    def query_accounting(self, ids: Collection[str]) -> SlurmAnswer[AccountRow]:
        """All executions of these jobs (123, 123_4; of an array's id all its tasks), however old."""
        return self._query_accounting(f"--jobs={word}" for word in pack_words(ids))

    def query_accounting_by_name(self, names: Collection[str], since: float) -> SlurmAnswer[AccountRow]:
        """All executions of jobs with these names since a day before that moment (Unix seconds).

        Jobs that never got past a dependency are not shown (sacct(1)).
        """
        begin = f"--starttime=uts{max(1, int(since) - CLOCKS_DIFFER_S)}"
        return self._query_accounting((f"--name={word}" for word in pack_words(names)), begin)

    def query_step_memory(self, ids: Collection[str]) -> list[StepMemory]:
        """What the steps of these jobs used, of all their executions; empty where nothing was sampled or sacct does not
        answer: nothing depends on it."""
        found: list[StepMemory] = []
        for words in _split_calls(f"--jobs={word}" for word in pack_words(ids)):
            output = self.run(
                *("sacct", "--noheader", "--parsable2", "--duplicates", "--allusers"),
                *(f"--delimiter={SEPARATOR}", f"--format={','.join(STEP_FIELDS)}", *words),
            )
            found += parse_step_memory(output.text) if not output.problem else ()
        return found

    def query_queue_and_accounting(
        self, users: Collection[str], ids: Collection[str]
    ) -> tuple[SlurmAnswer[QueueRow], SlurmAnswer[AccountRow]]:
        """`query_queue` and `query_accounting` at once: with both services down it costs one time limit."""
        answers: list[SlurmAnswer[AccountRow]] = []
        asking = threading.Thread(target=lambda: answers.append(self.query_accounting(ids)), daemon=True)
        asking.start()
        queue = self.query_queue(users)
        asking.join()
        return queue, answers[0] if answers else SlurmAnswer(problem="sacct could not be asked")

    def submit(self, arguments: Sequence[str], script: str) -> SubmittedJob | SubmitRefusal | UnknownSubmit:
        """sbatch with `script` on standard input. `timeout` ends it even if this process is killed meanwhile."""
        limit = self.timeouts.submit_s
        sbatch = self.build_submit_words(arguments)
        argv = ["timeout", f"--kill-after={TERM_TO_KILL_S}", f"{limit:g}", *sbatch]
        environment = build_submit_environment(self._read_environment(), self.named_variables)
        return parse_submit_answer(
            run_program(argv, environment=environment, limit=limit + 2 * TERM_TO_KILL_S, script=script)
        )

    def build_submit_words(self, arguments: Sequence[str]) -> list[str]:
        """What `submit` runs within its time limit."""
        return ["sbatch", *self._list_cluster_options(), "--parsable", *arguments]

    def query_request(self, options: Sequence[str]) -> SubmitRefusal | UnknownSubmit | None:
        """Whether Slurm would take a job with these options, by `sbatch --test-only`, which sends none. None: it would.

        Slurm judges the nodes as they are now, and says yes to some jobs that it would keep pending for ever.
        """
        environment = build_submit_environment(self._read_environment())
        argv = [
            "sbatch",
            *self._list_cluster_options(),
            "--test-only",
            "--input=/dev/null",
            "--output=/dev/null",
            *options,
        ]
        output = run_program(argv, environment=environment, limit=self.timeouts.call_s, script=EMPTY_SCRIPT)
        return parse_test_answer(output)

    def cancel(self, ids: Collection[str], *, signal: str = "", batch: bool = False) -> str:
        """scancel for jobs and array tasks, many in one call; ended ones are no error. Returns a problem or "".

        `signal`: send it instead of ending the job; `batch`: to the batch process alone.
        """
        options = [*([f"--signal={signal}"] if signal else []), *(["--batch"] if batch else [])]
        problems = [
            _find_cancel_problem(self.run("scancel", *options, *words)) for words in _split_calls(render_array_ids(ids))
        ]
        return next((problem for problem in problems if problem), "")

    # Why: docs/decisions.md, D101
    def withdraw(self, ids: Collection[str]) -> WithdrawalReport:
        """Takes those of the jobs and array tasks out of the queue that wait a moment before, held ones included.

        scancel's own `--state` is not used: asked for one pending task of an array, it ends all of them (seen with
        22.05), and it does not count a job that is requeued and held among the pending ones.
        """
        before, problem = self._query_states(ids)
        if problem:
            return WithdrawalReport(problem=problem)
        pending = {each for each, state in before.items() if state in QUEUED}
        begun = before.keys() - pending
        problem = self.cancel(pending)
        after, unseen = self._query_states(pending)
        if unseen:
            return WithdrawalReport(kept=frozenset(begun), problem=problem or unseen)
        left = {each for each, state in after.items() if state != "COMPLETING"}  # Slurm has ended it
        if left and not problem:
            problem = (
                f"scancel reports no error, and {format_counted(len(left), 'job is', 'jobs are')} still in the queue"
            )
        return WithdrawalReport(gone=frozenset(pending - left), kept=frozenset(begun | left), problem=problem)

    def _query_states(self, ids: Collection[str]) -> tuple[dict[str, str], str]:
        """States of those of the jobs and array tasks that have not ended, or a problem."""
        found: dict[str, str] = {}
        for word in pack_words({each.partition("_")[0] for each in ids}):
            output = self.run("squeue", "--array", "--noheader", "--all", f"--jobs={word}", "--format=%i %T")
            if output.problem and NOT_THERE_ANY_MORE[0] not in output.errors:
                return {}, output.problem
            rows = (line.split() for line in output.text.splitlines())
            found |= {row[0]: row[1] for row in rows if len(row) == 2}
        return {each: found[each] for each in found.keys() & set(ids)}, ""

    def requeue(self, job_id: str) -> str:
        """`scontrol requeue`. Returns a problem or ""."""
        return self.run("scontrol", "requeue", job_id).problem

    def query_batch_script(self, job_id: str) -> str | None:
        """The script of a job that the controller remembers; None if it does not, or may not show it."""
        output = self.run("scontrol", "write", "batch_script", job_id.partition("_")[0], "-")
        return None if output.problem or not output.text else output.text

    def query_controller_time(self) -> float:
        """Unix seconds by the controller's clock; 0 if it does not tell."""
        # sdiag's option is its own, and takes one cluster alone
        output = self.run("sdiag", *([f"--cluster={self.cluster}"] if self.cluster else []))
        return 0.0 if output.problem else parse_controller_time(output.text)

    # Why: docs/decisions.md, D117
    def query_hidden_users(self, own: str, others: Collection[str]) -> HiddenUsers:
        """Which of the `others` this cluster hides from `own`, the asking user. What cannot be asked counts as hidden.

        A coordinator of their account sees them all the same: what is shown outweighs this.
        """
        if not others or os.geteuid() == 0:
            return HiddenUsers()
        config, queue_hides = self._query_config("scontrol", "show", "config")
        accounts = "slurmdbd" in config.get("AccountingStorageType", "slurmdbd")
        records_hide = accounts and self._query_config("sacctmgr", "--readonly", "show", "config")[1]
        if not (queue_hides or records_hide) or self._sees_everybody(own, config, accounts=accounts):
            return HiddenUsers()
        users = frozenset(others)
        return HiddenUsers(users if queue_hides else frozenset(), users if records_hide else frozenset())

    def _query_config(self, *argv: str) -> tuple[Mapping[str, str], bool]:
        """A daemon's settings, and whether it hides jobs of other users, or may do so."""
        output = self.run(*argv)
        config = parse_config(output.text)[0]
        words = {word.strip().lower() for word in config.get("PrivateData", "").split(",")}
        return config, bool(output.problem) or bool(words & HIDING)

    def _sees_everybody(self, own: str, config: Mapping[str, str], *, accounts: bool) -> bool:
        """Whether the user runs Slurm, or is its operator or administrator."""
        if config.get("SlurmUser", "").partition("(")[0] == own:
            return True
        if not accounts:
            return False
        what = ("user", "where", f"name={own}", "format=AdminLevel")
        output = self.run("sacctmgr", "--readonly", "--parsable2", "--noheader", "show", *what)
        return not output.problem and output.text.strip().startswith(("Operator", "Admin"))

    def _query_accounting(self, wanted: Iterable[str], *window: str) -> SlurmAnswer[AccountRow]:
        rows: list[AccountRow] = []
        for words in _split_calls(iter(wanted)):
            fields, problem = self._query_account_fields()
            if problem:
                return SlurmAnswer(problem=problem)
            output = self.run(
                *("sacct", "--noheader", "--parsable2", "--duplicates", "--allocations", "--allusers"),
                *(f"--delimiter={SEPARATOR}", *window, f"--format={','.join(fields)}", *words),
            )
            if output.problem:
                return SlurmAnswer(problem=output.problem, absent=_is_absent(output))
            answer = parse_accounting(output.text, fields)
            if not answer.ok:
                return answer
            rows += answer.rows
        return SlurmAnswer(rows=tuple(rows))

    def _query_account_fields(self) -> tuple[tuple[str, ...], str]:
        """sacct's fields that this version knows. `sacct --helpformat` costs milliseconds, but it too waits for a
        slurmdbd that hangs: then the second value says so, and sacct need not be asked anything else."""
        if not self._account_fields:
            output = self.kept.run("sacct", "--helpformat")
            if output.problem:
                hangs = output.started and output.returncode is None
                return select_fields(()), output.problem if hangs else ""
            self._account_fields = select_fields(output.text.split())
        return self._account_fields, ""

    def _list_cluster_options(self) -> list[str]:
        return [f"--clusters={self.cluster}"] if self.cluster else []

    def _read_environment(self) -> Mapping[str, str]:
        return os.environ if self._environment is None else self._environment


def pack_words(values: Collection[str], longest: int = LONGEST_WORD) -> Iterator[str]:
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


def render_array_ids(ids: Collection[str]) -> Iterator[str]:
    """Ids as scancel takes them: 7_0, 7_2, 8 as `7_[0,2]`, `8`."""
    tasks: dict[str, list[str]] = {}
    for each in sorted(set(ids)):
        array, _, index = each.partition("_")
        if index:
            tasks.setdefault(array, []).append(index)
        else:
            yield each
    for array, indices in tasks.items():
        yield from (f"{array}_[{word}]" for word in pack_words(indices, LONGEST_WORD))


def _split_calls(words: Iterator[str]) -> Iterator[list[str]]:
    """Words of so many calls as are needed: one, nearly always."""
    call: list[str] = []
    for word in words:
        if call and sum(map(len, call)) + len(word) > LONGEST_CALL:
            yield call
            call = []
        call.append(word)
    if call:
        yield call


def _find_cancel_problem(output: ProgramOutput) -> str:
    """scancel's complaint about a job that is still there, or about Slurm itself."""
    lines = [line for line in output.errors.splitlines() if line.strip()]
    left = [line for line in lines if not any(sign in line for sign in NOT_THERE_ANY_MORE)]
    if output.returncode and lines:
        return find_error_line("scancel", "\n".join(left), output.returncode) if left else ""
    return output.problem


def _is_absent(output: ProgramOutput) -> bool:
    return any(sign in output.errors or sign in output.text for sign in NO_ACCOUNTING)
