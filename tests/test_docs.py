"""What the pages name exists: links, files, modules, names in modules, commands, numbers of decisions."""

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from stages.plugins import NOUNS
from sweep.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
PACKAGES = "sweep|jobs|stages|tests|benchmarks"
FOLDERS = f"{PACKAGES}|docs|manifests|requirements"
FILE = re.compile(rf"(?<![\w/$.-])(?:{FOLDERS})/[\w./-]*\.(?:py|md|yaml|json|txt)\b")
FOLDER = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
PROGRAM = re.compile(rf"-m ((?:{PACKAGES})(?:\.\w+)*)")
NAME = re.compile(r"`((?:sweep|jobs|stages|tests)(?:\.\w+)+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REASON = re.compile(r"# Why: docs/decisions\.md, (D\d+)")
WRITTEN_BY_THE_READER = {"stages/count.py"}
"""Files that a page tells its reader to write."""
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@EVERY_PAGE
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(without_code(page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            wrong.append(link)
    assert wrong == []


@EVERY_PAGE
def test_every_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = {*FILE.findall(text), *FOLDER.findall(text)} - WRITTEN_BY_THE_READER
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@EVERY_PAGE
def test_every_program_that_a_page_starts_exists(page: Path) -> None:
    started = set(PROGRAM.findall(page.read_text()))
    assert sorted(module for module in started if not find_program(module)) == []


@EVERY_PAGE
def test_every_name_in_a_module_that_a_page_gives_exists(page: Path) -> None:
    given = {name for name in NAME.findall(page.read_text()) if not (ROOT / name).exists()}
    given = {name for name in given if name.rpartition(".")[2] not in {"yaml", "json", "md", "parquet"}} - {*NOUNS}
    assert sorted(name for name in given if not is_known(name)) == []


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index = set(LINK.findall((docs / "README.md").read_text()))
    assert sorted({path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - index) == ["README.md"]


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [command for command in COMMANDS if f"`sweep {command} " not in text] == []


def test_the_decisions_are_numbered_without_gaps_and_in_the_index() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    numbers = re.findall(r"^## (D\d+)\. ", text, flags=re.MULTILINE)
    assert numbers == [f"D{number}" for number in range(1, len(numbers) + 1)]
    assert re.findall(r"^\| \[(D\d+)\]", text, flags=re.MULTILINE) == numbers


def test_a_comment_that_names_a_decision_is_in_a_file_that_the_decision_names() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    decisions = {part.split(".")[0]: part for part in re.split(r"^## (?=D\d)", text, flags=re.MULTILINE)[1:]}
    wrong = [
        f"{file}: {number}"
        for file, number in iter_reasons()
        if f"(../{file})" not in decisions.get(number, "").split("\n\n")[0]
    ]
    assert wrong == []


WHOLE_FILE = re.compile(r"^(?:#.*\n)*name: [\s\S]*^blocks:$", flags=re.MULTILINE)


def list_sweep_files(page: Path) -> list[str]:
    """The examples of a page that begin as a sweep file does and leave nothing out."""
    text = page.read_text()
    fenced = re.findall(r"^```ya?ml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, flags=re.MULTILINE)]
    return [block for block in (each.strip() for each in [*fenced, *indented]) if WHOLE_FILE.match(block)]


@EVERY_PAGE
def test_every_whole_sweep_file_of_a_page_is_planned(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(list_sweep_files(page)):
        if "{...}" in text:
            continue  # an outline
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert main(["plan", str(file), "--store", str(tmp_path / "store")]) == 0, capsys.readouterr().err


def test_the_readme_has_a_whole_sweep_file() -> None:
    assert len(list_sweep_files(ROOT / "README.md")) == 1


def without_code(text: str) -> str:
    """Code is no link, whatever brackets it has."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE))


@cache
def list_anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def find_program(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def is_known(name: str) -> bool:
    """A module, or a name at the top of one."""
    parts = name.split(".")
    if any(part.isupper() for part in parts[:-1]):
        return True  # a place for a name, as in `sweep.commands.NAME`
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").exists() or parts[-1].isupper():
        return True
    module = ROOT.joinpath(*parts[:-1])
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    return file.exists() and parts[-1] in list_names(file)


def list_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign(targets=[ast.Name(id="__all__")]):  # names that load when they are asked for
                names.update(ast.literal_eval(node.value))
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def iter_reasons() -> Iterator[tuple[str, str]]:
    """(file, number of the decision) of every comment that leads to one."""
    for package in ("sweep", "jobs", "stages"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for number in REASON.findall(path.read_text()):
                yield str(path.relative_to(ROOT)), number
