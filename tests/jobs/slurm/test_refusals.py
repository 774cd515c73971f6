"""The last refusals of a sweep on disk, and what they say."""

from pathlib import Path

import pytest

from jobs.slurm.refusals import Refusal, explain_refusal, list_choices, read_refusals, update_refusals
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal
from jobs.slurm.site.site import Site
from jobs.store.paths import Store
from tests.jobs.slurm.site_case import OLD

NO_GPU = Refusal(text="no GPU", advice="lower gpus_per_node", when=1000.0, kind=RefusalKind.INVALID)
LATER = Refusal(text="partition x takes no jobs", when=2000.0, kind=RefusalKind.DELAYED)
PLAN = ("a", "b", "c", "d")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.locate_sweep("s").root.mkdir(parents=True)
    return made


def test_a_refusal_stays_until_the_job_is_sent_or_leaves_the_plan(store: Store) -> None:
    update_refusals(store, "s", {"a": NO_GPU, "b": NO_GPU, "c": LATER}, settled=(), planned=PLAN)
    assert read_refusals(store, "s") == {"a": NO_GPU, "b": NO_GPU, "c": LATER}
    update_refusals(store, "s", {"d": LATER}, settled={"a"}, planned=PLAN)
    assert read_refusals(store, "s") == {"b": NO_GPU, "c": LATER, "d": LATER}
    update_refusals(store, "s", {"b": LATER}, settled=(), planned=("a", "b"))
    assert read_refusals(store, "s") == {"b": LATER}
    update_refusals(store, "s", {}, settled=PLAN, planned=PLAN)
    assert not store.locate_sweep("s").refusals.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 9, "answers": []}', '{"format": 1, "answers": [{"text": 1}]}']
)
def test_a_damaged_file_counts_as_none(store: Store, text: str) -> None:
    store.locate_sweep("s").refusals.write_text(text)
    assert read_refusals(store, "s") == {}


def test_a_store_that_refuses_the_write_is_no_error(tmp_path: Path) -> None:
    update_refusals(Store(tmp_path / "nowhere"), "s", {"a": NO_GPU}, settled=(), planned=PLAN)


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Invalid partition name specified; invalid partition specified: x", "correct partition: main, short"),
        ("Invalid account or account/partition combination specified", "correct account: yours: solo, sub"),
        ("Invalid feature specification", "correct constraint"),
        ("Unspecified error; your project has no hours left", "your project has no hours left); ask the"),
        ("words that nobody knows", "Slurm refuses it: words that nobody knows; change `resources`"),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits); "
            "QOSMaxWallDurationPerJobLimit",
            "above the QOS limit on wall-clock time of one job",
        ),
    ],
)
def test_slurms_words_come_with_their_meaning_and_what_to_change(reason: str, part: str) -> None:
    told = str(explain_refusal(SubmitRefusal(RefusalKind.INVALID, reason), 1.0, list_choices(OLD)))
    assert part in told
    assert reason in told


def test_without_a_word_of_the_site_the_reader_is_told_who_has_it() -> None:
    choices = list_choices(Site())
    refusal = SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    assert "`sacctmgr show qos` lists them" in str(explain_refusal(refusal, 1.0, choices))


def test_what_passes_by_itself_has_no_advice() -> None:
    told = explain_refusal(SubmitRefusal(RefusalKind.LIMIT, "QOSMaxSubmitJobPerUserLimit"), 1.0, {})
    assert (str(told), told.kind) == ("QOSMaxSubmitJobPerUserLimit", RefusalKind.LIMIT)
