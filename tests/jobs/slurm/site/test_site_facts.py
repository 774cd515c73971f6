"""What is kept of a site's answers, for whom, and when it is asked again."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.slurm.client import SlurmClient
from jobs.slurm.commands import ProgramOutput
from jobs.slurm.site.site_facts import SiteFacts, query_kept_site
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.paths import Store
from tests.jobs.fake_clock import FakeClock
from tests.jobs.slurm.site_texts import V22, Told

KEPT = ["sacctmgr", "sacctmgr", "sacctmgr", "sacctmgr", "scontrol config"]
LIVE = ["scontrol partition", "sinfo"]


@dataclass
class Asked(SlurmClient):
    """A cluster that answers as one of the recorded ones, and notes what it is asked."""

    told: Told
    cluster: str = ""
    questions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.timeouts = SlurmTimeouts()

    def run(self, program: str, *arguments: str, limit: float | None = None) -> ProgramOutput:
        assert limit is None
        self.questions.append(f"{program} {arguments[-1]}" if program == "scontrol" else program)
        if program == "sacct":
            return ProgramOutput(text="JobID", returncode=0, started=True)
        return self.told.run(program, *arguments)

    def take(self) -> list[str]:
        """The questions since the last time, but for sacct's fields."""
        found = sorted(each for each in self.questions if each != "sacct")
        self.questions.clear()
        return found


@pytest.fixture
def client() -> Asked:
    return Asked(Told(V22))


def ask(client: Asked, store: Store, clock: FakeClock, *, fresh: bool = False) -> SiteFacts:
    facts = SiteFacts(client, store, "ann", fresh=fresh, clock=clock)
    assert query_kept_site(facts, "ann").version
    facts.save()
    return facts


def test_answers_are_kept_for_a_day_and_for_one_user_on_one_cluster(client: Asked, store: Store) -> None:
    clock = FakeClock()
    ask(client, store, clock)
    assert client.take() == sorted([*KEPT, *LIVE])
    clock.sleep(86_000)
    ask(client, store, clock)
    assert client.take() == LIVE
    assert SiteFacts(client, store, "bob", clock=clock).path != SiteFacts(client, store, "ann", clock=clock).path
    client.cluster = "east"
    ask(client, store, clock)
    assert client.take() == sorted([*KEPT, *LIVE])
    client.cluster = ""
    clock.sleep(1_000)
    ask(client, store, clock)
    assert client.take() == sorted([*KEPT, *LIVE])


def test_another_configuration_is_another_site(
    client: Asked, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=east\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    clock = FakeClock()
    ask(client, store, clock)
    client.take()
    monkeypatch.setenv("SLURM_JWT", "a token that is another one each hour")
    ask(client, store, clock)
    assert client.take() == LIVE
    conf.write_text("ClusterName=east\nMaxArraySize=7\n")
    ask(client, store, clock)
    assert client.take() == sorted([*KEPT, *LIVE])


def test_a_doubt_renews_what_is_older_than_an_hour(client: Asked, store: Store) -> None:
    clock = FakeClock()
    ask(client, store, clock).drop_old("refused")
    client.take()
    clock.sleep(3_000)
    ask(client, store, clock).drop_old("refused")
    assert client.take() == LIVE
    clock.sleep(1_000)
    ask(client, store, clock).drop_old("refused")
    assert client.take() == LIVE
    ask(client, store, clock)
    assert client.take() == sorted([*KEPT, *LIVE])


def test_on_demand_all_is_asked_and_kept_anew(client: Asked, store: Store) -> None:
    clock = FakeClock()
    ask(client, store, clock)
    clock.sleep(80_000)
    client.take()
    ask(client, store, clock, fresh=True)
    assert client.take() == sorted([*KEPT, *LIVE])
    clock.sleep(80_000)
    ask(client, store, clock)
    assert client.take() == LIVE


def test_a_controller_that_is_silent_now_is_not_hidden_by_what_is_kept(client: Asked, store: Store) -> None:
    clock = FakeClock()
    ask(client, store, clock)
    client.told = Told({}, dict.fromkeys(("config", "partition", "sinfo", "qos"), "Unable to contact slurm controller"))
    facts = SiteFacts(client, store, "ann", clock=clock)
    assert query_kept_site(facts, "ann").problem


def test_a_damaged_file_is_asked_anew(client: Asked, store: Store) -> None:
    clock = FakeClock()
    ask(client, store, clock)
    (path,) = store.site.iterdir()
    for text in ("", "{}", '{"format": 1, "asked_at": "x", "answers": 3}'):
        path.write_text(text)
        client.take()
        ask(client, store, clock)
        assert client.take() == sorted([*KEPT, *LIVE])
