"""What is known of a sweep's jobs at one moment: evidence from the store, wishes from the ledger, states from both."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from jobs.cluster import Observation
from jobs.facts import NO_ENDINGS, Evidence, Gatherer, facts_of
from jobs.graph import by_key
from jobs.job import Job
from jobs.reconcile.executions import Ending
from jobs.reconcile.state import Facts, JobStatus, State, graph_status
from jobs.store.ledger import Wishes, read_events, wishes
from jobs.store.paths import Store
from jobs.store.records import FailureClass


class Picture:
    """Jobs with their evidence and status. `jobs`: parents before children."""

    def __init__(self, jobs: Sequence[Job], store: Store, ledger: Path) -> None:
        self.jobs = jobs
        self.store = store
        self.by_key = by_key(jobs)
        self.evidence: dict[str, Evidence] = {}
        self.statuses: dict[str, JobStatus] = {}
        self.endings: Mapping[str, Sequence[Ending]] = NO_ENDINGS
        """What the cluster knows of executions that ended, by key."""
        self.observed: dict[str, Observation] = {}
        """What the cluster last said of each key."""
        self.remarks: tuple[str, ...] = ()
        """What the cluster could not tell, one line each, for whoever shows the picture."""
        self.wishes = Wishes()
        self._gatherer = Gatherer(store)
        self._ledger = ledger
        self._ledger_stamp: object = None
        self._facts: dict[str, Facts] = {}

    def look_at_everything(
        self, observed: Mapping[str, Observation], endings: Mapping[str, Sequence[Ending]] = NO_ENDINGS
    ) -> None:
        """Reads all facts anew; `observed` and `endings` are what the cluster says of what lives and what ended."""
        self.endings = endings
        self.evidence = self._gatherer.all(self.jobs, endings)
        self.read_wishes(but_not_of="")
        self.judge(self.by_key, observed)

    def look_at(self, keys: Iterable[str]) -> None:
        """Reads some run folders anew; `judge` them afterwards."""
        for key in keys:
            self.evidence[key] = self._gatherer.one(self.by_key[key], self.endings.get(key, ()))

    def judge(
        self,
        keys: Iterable[str],
        observed: Mapping[str, Observation],
        endings: Mapping[str, Sequence[Ending]] | None = None,
    ) -> None:
        """Brings the states up to date after something about `keys` has changed.

        With `endings`, which then stand for all that is known, the folders of those among `keys` are read anew about
        which they say something else than before.
        """
        keys = list(keys)
        if endings is not None:
            before, self.endings = self.endings, endings
            self.look_at(key for key in keys if list(before.get(key, ())) != list(endings.get(key, ())))
        for key in keys:
            self.observed.pop(key, None)
            if key in observed:
                self.observed[key] = observed[key]
            self._facts[key] = facts_of(
                key,
                self.evidence[key],
                self.wishes,
                observed.get(key),
                restarts=self.by_key[key].resources.restarts,
            )
        self.statuses = graph_status(self.jobs, self._facts)

    def read_wishes(self, *, but_not_of: str) -> bool:
        """Reads cancellations and resumptions; False if no file of the ledger but the writer's own has grown."""
        stamp = _sizes(self._ledger, but_not_of)
        if stamp == self._ledger_stamp:
            return False
        self._ledger_stamp = stamp
        self.wishes = wishes(read_events(self._ledger))
        return True

    @property
    def live(self) -> list[Job]:
        """Jobs whose lock a process of this machine holds."""
        return [job for job in self.jobs if self.evidence[job.key].live]

    def in_state(self, states: Collection[State]) -> list[Job]:
        """Jobs in one of these states, in the manifest's order."""
        return [job for job in self.jobs if self.statuses[job.key].state in states]

    def damaged_parents(self) -> dict[str, str]:
        """Finished parents whose checkpoint a child could not read, and which have not run since; with the child."""
        found = {}
        for key, evidence in self.evidence.items():
            end = evidence.last.end if evidence.last else None
            if end is None or end.failure is not FailureClass.DAMAGED_INPUT or self.statuses[key].state is State.FAILED:
                continue
            parents = self.by_key[key].parents
            parent = end.damaged_key or next(iter(parents), "")
            if parent in parents and self._finished_before(parent, end.ended_at):
                found[parent] = key
        return found

    def _finished_before(self, key: str, moment: float) -> bool:
        try:
            return self.evidence[key].run.result.stat().st_mtime < moment
        except FileNotFoundError:
            return False


def _sizes(folder: Path, without: str) -> list[tuple[str, int]]:
    files = sorted(folder.glob("*.jsonl")) if folder.exists() else []
    return [(path.name, path.stat().st_size) for path in files if path.stem != without]
