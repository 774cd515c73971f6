"""Every command of the pages is run, or named with the reason why it cannot be, and does what the page shows."""

import contextlib
import io
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.store.paths import Store
from sweep.cli import COMMANDS, build_parser
from sweep.plan.manifest import read_manifest, write_manifest
from tests.docs.commands_page import PAGE, build_commands_page, list_examples
from tests.docs.pages import LOCAL, NOWHERE, PAGES, ROOT, SLURM, PageCommand, PageFile, read_commands, read_steps
from tests.docs.world import Happened, check_step, enter_world, is_as_shown, prepare_world, take_step
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import PATIENCE, plan_paper_graph, sweep

NOT_RUN_AT_MOST = 80
"""Commands that no test here can run. Each has its reason on its page; `python -m tests.docs list` shows them."""


def test_every_command_says_where_it_runs() -> None:
    commands = [step for page in PAGES for step in read_steps(page) if isinstance(step, PageCommand)]
    assert [command.name for command in commands if command.mark.place not in {LOCAL, SLURM, NOWHERE}] == []
    counts = Counter(command.mark.place for command in commands)
    assert counts[LOCAL] >= 40
    assert counts[SLURM] > 10
    assert counts[NOWHERE] <= NOT_RUN_AT_MOST


def test_a_command_that_runs_nowhere_has_its_reason() -> None:
    assert [each.name for each in read_commands(NOWHERE) if len(each.mark.reason.split()) < 4] == []


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_local_commands_do_what_the_pages_show(tmp_path: Path) -> None:
    """The tutorial from its first line to its last, then all other pages, in the tutorial's folder."""
    folder = tmp_path / "study"
    prepare_world(folder)
    with enter_world(folder):
        for page in sorted(PAGES, key=lambda page: page.name != "tutorial.md"):
            for step in read_steps(page):
                if isinstance(step, PageFile):
                    take_step(step, folder)
                elif step.mark.place == LOCAL and (happened := take_step(step, folder)):
                    check_step(step, happened)


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_commands_for_slurm_do_what_the_pages_show(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real cluster, with the paper's plan, whose jobs ask for a core each and wait."""
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", PATIENCE)
    folder = tmp_path / "study"
    prepare_world(folder)
    with enter_world(folder):
        plan_for_later(Store(folder / "store"))
        # the paper's data are not here: accepted once and for all, as on a cluster whose nodes alone have them
        assert sweep("submit", "paper", "--ignore-data", "--max-queued", "1").code == 0
        assert sweep("limits", "paper", "--max-queued", "none").code == 0
        for step in read_commands(SLURM):
            if happened := take_step(step, folder):
                check_step(step, allow_small_disk(happened))
            if step.text.startswith("sweep plan"):
                plan_for_later(Store(folder / "store"))
        assert sweep("cancel", "paper").code == 0
        wait_for("an empty queue", lambda: not slurm.output("squeue", "-h"), seconds=60, every=0.5)


def allow_small_disk(happened: Happened) -> Happened:
    """`sweep doctor` is right that a test's disk has no room for the paper's checkpoints; nothing else may be wrong."""
    problems = [line for line in happened.printed if line.startswith("problem ")]
    is_small_disk = bool(problems) and all(line.split()[1] == "space" for line in problems)
    return replace(happened, code=0) if is_small_disk else happened


def plan_for_later(store: Store) -> None:
    """The paper's plan, with requests that the tests' cluster takes, and begins to start in some hours."""
    plan_paper_graph(store)
    path = store.locate_sweep("paper").manifest
    manifest = read_manifest(path)
    later = tuple(
        replace(job, resources=replace(job.resources, options={"begin": "now+9hours"})) for job in manifest.jobs
    )
    write_manifest(path, replace(manifest, jobs=later))


PLACEHOLDERS = {"SHELL": "bash", "N": "1", "X": "1"}
INCOMPLETE = re.compile("arguments are required: |expected at least one argument$")
"""What the parser says of a command that a sentence only begins."""
COMMAND_IN_TEXT = re.compile(r"`(sweep (?:[^`\n]|\n(?!\n))+)`")


def list_commands_in_text() -> list[str]:
    """Commands in the sentences and tables of the pages."""
    found = {
        " ".join(each.split())
        for page in PAGES
        for each in COMMAND_IN_TEXT.findall(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S))
    }
    return sorted(each for each in found if len(each.split()) > 2 and each.split()[1] in COMMANDS)


def find_usage_problem(line: str) -> str:
    """What the parser says against a line; empty if it takes it."""
    plain = re.split(r" [>|]|;", line.removesuffix(" ..."))[0]
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(plain)[1:]]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            build_parser([words[0]]).parse_args(words)
    except SystemExit as stop:
        return "" if stop.code == 0 else said.getvalue().splitlines()[-1]
    return ""


def test_commands_in_sentences_are_taken_by_the_command_line() -> None:
    found = list_commands_in_text()
    assert len(found) > 30
    told = {line: find_usage_problem(line) for line in found}
    assert {line: problem for line, problem in told.items() if problem and not INCOMPLETE.search(problem)} == {}


def test_the_examples_of_help_are_taken_by_the_command_line() -> None:
    examples = [line.split(" > ")[0] for line in list_examples() if "|" not in line]
    assert len(examples) > 20
    assert {line: problem for line in examples if (problem := find_usage_problem(line))} == {}


def test_the_page_of_commands_is_what_the_program_says() -> None:
    assert PAGE.read_text() == build_commands_page(), "run `python -m tests.docs write`"


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (["a  b"], ["a b"], True),
        (["a", "..."], ["a", "x", "y"], True),
        (["...", "z"], ["a", "z"], True),
        (["...", "z"], ["a", "y"], False),
        (["a", "b"], ["a"], False),
        (["made in 3.7 s"], ["made in 61 s"], True),
        (["score 0.53"], ["score 0.61"], True),
        (["score 0.53"], ["score 2.5"], False),
        (["0.750 [0.687, 0.750]"], ["0.717 ±0.058"], True),
        (["used 0.011"], ["used <0.001"], True),
        (["7 jobs"], ["8 jobs"], False),
        (["trunk ddcfa02c88f5d022"], ["trunk 01fe26ee1abfe681"], True),
        (["trunk ddcfa02c88f5d022"], ["pretrain 01fe26ee1abfe681"], False),
    ],
)
def test_what_is_printed_is_compared_word_by_word(shown: list[str], printed: list[str], fits: bool) -> None:
    assert is_as_shown(shown, printed) == fits


def test_a_page_is_read_as_a_reader_reads_it(tmp_path: Path) -> None:
    page = ROOT / "docs" / "page.md"
    text = (
        "<!-- run: local -->\n    sweep plan a.yaml   # why\n\ntext\n\n<!-- file: b.yaml -->\n```yaml\nname: b\n```\n"
        "<!-- run: local, exit 1 -->\n```console\n$ sweep plan c\nwrong\n```\n<!-- not run: it would take a year -->\n"
        "    make tests\n    no command\n"
    )
    copy = tmp_path / "page.md"
    copy.write_text(text)
    steps = list(read_steps(copy))
    assert page.parent.is_dir()
    assert [step.content for step in steps if isinstance(step, PageFile)] == ["name: b\n"]
    commands = [step for step in steps if isinstance(step, PageCommand)]
    assert [(each.text, each.mark.place, each.mark.code, each.printed) for each in commands] == [
        ("sweep plan a.yaml   # why", LOCAL, 0, None),
        ("sweep plan c", LOCAL, 1, ("wrong",)),
        ("make tests", NOWHERE, 0, None),
    ]
