"""What a site says of itself and changes seldom, kept in the store for a day: configuration, limits, sacct's fields.

STORE/site/: one file for each cluster and user, which may be removed at any time. Kept are the programs' own answers,
so that whoever reads them need not know whether they are new. What partitions and nodes are like is asked each time.
"""

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.slurm.client import SlurmClient
from jobs.slurm.commands import ProgramOutput
from jobs.slurm.site.site import Site, query_site
from jobs.store.paths import Store, write_json
from jobs.store.records import read_record

logger = logging.getLogger(__name__)

FORMAT = 1
CONFIGURED = ("SLURM_CONF", "SLURM_CONF_SERVER")
DEFAULT_CONF = "/etc/slurm/slurm.conf"
ACCOUNT_FIELDS = ("sacct", "--helpformat")
SELDOM = (("scontrol", "show", "config"), ("sacctmgr",), ACCOUNT_FIELDS)
"""How the questions begin whose answers are kept."""
DOUBTED_AFTER_S = 3600.0
"""A refusal that may mean that the site has changed renews what was asked longer ago than this."""


# Why: docs/decisions.md, D112
class SiteFacts:
    """Runs Slurm's programs as `SlurmClient` does, except that a kept answer serves for a kept question.

    `fresh`: everything is asked anew, and kept. A store that refuses the write is no error.
    """

    def __init__(
        self, client: SlurmClient, store: Store, user: str, *, fresh: bool = False, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.client = client
        self.clock = clock
        self.path = store.site / f"{_identify_site(user, client.cluster)}.json"
        self.asked_at = clock.now()
        """Unix seconds of the oldest answer that serves."""
        self._kept: dict[tuple[str, ...], str] = {}
        self._new = False
        if not fresh:
            self._read()

    @property
    def are_kept(self) -> bool:
        """Whether some answer was given to an earlier command."""
        return bool(self._kept) and not self._new

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        """The program's answer, or that of an earlier command to the same question."""
        words = (program, *arguments)
        if not any(words[: len(each)] == each for each in SELDOM):
            return self.client.run(program, *arguments)
        if words in self._kept:
            return ProgramOutput(text=self._kept[words], returncode=0, started=True)
        output = self.client.run(program, *arguments)
        if not output.problem:
            self._kept[words] = output.text
            self._new = True
        return output

    def drop(self) -> None:
        """The next question of each kind goes to the cluster."""
        self._kept.clear()
        self.asked_at = self.clock.now()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def drop_old(self, why: str) -> None:
        """Something was refused: what was asked some time ago is asked again by the next command."""
        if self.clock.now() - self.asked_at > DOUBTED_AFTER_S:
            logger.info("%s: what is known of the site is asked again", why)
            self.drop()

    def save(self) -> None:
        """Keeps what was asked."""
        if not self._new:
            return
        answers = [{"words": list(words), "text": text} for words, text in self._kept.items()]
        with contextlib.suppress(OSError):
            write_json(self.path, {"format": FORMAT, "asked_at": self.asked_at, "answers": answers}, lasting=False)

    def _read(self) -> None:
        record = read_record(self.path) or {}
        with contextlib.suppress(KeyError, TypeError, ValueError):
            age_s = self.clock.now() - float(record["asked_at"])
            if record["format"] == FORMAT and 0 <= age_s <= self.client.timeouts.site_facts_s:
                self._kept = {tuple(map(str, each["words"])): str(each["text"]) for each in record["answers"]}
                self.asked_at = float(record["asked_at"])


def query_kept_site(facts: SiteFacts, user: str) -> Site:
    """`query_site`, with what was kept. What contradicts what the cluster says now is asked anew."""
    site = query_site(facts, user)
    if facts.are_kept and (reason := find_contradiction(site)):
        logger.info("what is known of the site is asked again: %s", reason)
        facts.drop()
        site = query_site(facts, user)
    if site.accounting_answers:
        facts.run(*ACCOUNT_FIELDS)  # now, and not in the first round in which nothing else happens
    return site


def find_contradiction(site: Site) -> str:
    """What of a site's partitions does not go with its kept configuration and limits; empty if all does."""
    if site.partitions is None:
        return "scontrol does not answer"
    unknown = [each.qos for each in site.partitions if each.qos and site.qos is not None and each.qos not in site.qos]
    return f"a partition has the QOS {unknown[0]}, which was not there" if unknown else ""


def _identify_site(user: str, cluster: str) -> str:
    """A file name for the cluster that the environment names, as it is configured now, and the user."""
    conf = os.environ.get("SLURM_CONF", DEFAULT_CONF)
    known: dict[str, Any] = {name: os.environ.get(name, "") for name in CONFIGURED}
    with contextlib.suppress(OSError):  # without a file the configuration comes from the controller (slurmd(8))
        found = Path(conf).stat()
        known["conf"] = [found.st_size, found.st_mtime_ns]
    digest = hashlib.sha256(json.dumps([user, cluster, known]).encode()).hexdigest()[:16]
    return f"{os.geteuid()}-{digest}"
