"""The last line of a command on stderr: the one command to type next, as it can be pasted into the shell here."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.job import Job
from jobs.store.paths import Store
from sweep.arguments import find_default_store


@dataclass(frozen=True, slots=True)
class NextStep:
    """Writes commands of one store."""

    store: Path

    def format_command(self, *words: str) -> str:
        """`sweep status demo`, in quotes for the reader and with the store where it is not the default."""
        import shlex

        given = [] if self.store == find_default_store() else ["--store", str(self.store)]
        return f"`{shlex.join(['sweep', *words, *given])}`"

    def suggest(self, what: str, *words: str) -> str:
        """The line itself. `what`: what the command does, behind it."""
        return f"next: {self.format_command(*words)} {what}"

    # Why: docs/decisions.md, D184
    def suggest_for_states(
        self, name: str, states: Mapping[str, int], cells: Sequence[str] = (), jobs: Iterable[Job] = ()
    ) -> str:
        """What the states of a sweep's jobs ask for, or of the jobs of `cells` alone. With all of the sweep's `jobs`
        what is written already is not suggested again."""
        of = Counter(states)
        failed, unknown, cancelled = of["failed"], of["unknown"], of["cancelled"]
        if failed:
            line = self.suggest(f"tries the {count_jobs(failed, 'failed job')} again", "resume", name, *cells)
            return f"{line}; {self.format_command('logs', name, *cells)} shows why"
        if unknown:
            doubtful = count_jobs(unknown, "job")
            return self.suggest(f"asks again what became of the {doubtful} in doubt", "status", name, *cells, "--fresh")
        if of["running"] or of["queued"]:
            line = self.suggest("follows the log of a running job", "logs", name, *cells, "-f")
        elif cancelled:
            line = self.suggest(f"puts the {count_jobs(cancelled, 'cancelled job')} back", "resume", name, *cells)
        elif of["ready"] or of["interrupted"]:
            line = self.suggest("runs what is missing", "submit", name, *cells)
        elif of.total() > of["done"]:
            line = self.suggest("shows what the rest waits for", "status", name, "--all")
        else:
            line = self._suggest_for_done(name, cells, jobs)
        return line

    def _suggest_for_done(self, name: str, cells: Sequence[str], jobs: Iterable[Job]) -> str:
        """Tables and figures, then the report, then where a row comes from: the first that is not there as it would be
        now. Without `jobs` nobody knows, and it is the first."""
        store = Store(self.store)
        newest = max((read_time(store.locate_run(job.stage, job.key).result) for job in jobs), default=0.0)
        folder = store.locate_sweep(name).results
        drawn = max((read_time(path) for path in folder.glob("figures/*")), default=0.0)
        if not newest or min(read_time(folder / "results.parquet"), drawn) < newest:
            return self.suggest("writes tables and figures", "results", name, *cells)
        if read_time(folder / "report.html") < newest:
            return self.suggest("makes a page of it to send", "report", name)
        return self.suggest("shows the models, each by its name", "list", name)


def read_time(path: Path) -> float:
    """Unix seconds of the file server at which the file was written; 0 if there is none that can be seen."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def count_jobs(number: int, word: str) -> str:
    """`failed job`, `3 failed jobs`: for behind `the`."""
    return word if number == 1 else f"{number:,} {word}s"
