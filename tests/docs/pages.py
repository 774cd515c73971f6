"""Pages as a reader works through them: their commands with what they print, and the files that a reader saves.

A block of code whose first word of a line is a program's is a block of commands. A comment before it says where they
run, for this block and those behind it:

    <!-- run: local -->                   on this machine, in the folder that the tutorial makes
    <!-- run: slurm -->                   on the tests' Slurm cluster
    <!-- run: local, exit 1 -->           the same for the next block alone: each command ends with this code
    <!-- not run: REASON -->              nowhere in the tests
    <!-- file: study.yaml -->             the next block alone is the content of a file

In a block with lines that begin with `$ ` these are the commands, and the lines behind each are what it prints: `...`
stands for any number of lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = {"commands.md"}
"""Pages that a program makes: their text is help, and their examples are parsed by another test."""
FIRST = [ROOT / "README.md", ROOT / "docs" / "tutorial.md"]
PAGES = [
    *FIRST,
    *sorted({*ROOT.glob("docs/**/*.md")} - {*FIRST} - {ROOT / "docs" / name for name in GENERATED}),
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
]
"""In the order in which their commands run: others go on where the tutorial ends."""

PROGRAMS = frozenset(
    """
    bash cat cd chmod cp crontab echo export git head kill ls make mkdir mkdocs module mv mypy pip pytest python python3
    rm ruff sacct sbatch scancel scontrol sed sinfo source squeue sweep truncate unset
    """.split()  # noqa: SIM905
)
MARK = re.compile(r"^<!-- (run|not run|file): (.+?) -->$")
LOCAL, SLURM, NOWHERE = "local", "slurm", "not run"


@dataclass(frozen=True, slots=True)
class Mark:
    """Where commands run."""

    place: str
    """LOCAL, SLURM, NOWHERE; empty where the page does not say."""
    reason: str = ""
    """Why nowhere."""
    code: int = 0
    """With which each command ends."""


@dataclass(frozen=True, slots=True)
class PageCommand:
    """One command of a page."""

    page: Path
    line: int
    text: str
    """With its continued lines and its here-document."""
    mark: Mark
    printed: tuple[str, ...] | None = None
    """What the page shows below it; None where it shows nothing."""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text.splitlines()[0]}"


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file that a page tells its reader to save."""

    name: str
    content: str


@dataclass(slots=True)
class _Block:
    first: int
    """Number of its first line, from 1."""
    lines: list[str] = field(default_factory=list)


Step = PageCommand | PageFile


def read_steps(page: Path) -> Iterator[Step]:
    """The commands and files of a page in its order."""
    mark, saved = Mark(""), ""
    once: Mark | None = None
    for item in _iter_marks_and_blocks(page.read_text()):
        if isinstance(item, _Block):
            if saved:
                yield PageFile(saved, "\n".join(item.lines).rstrip("\n") + "\n")
            else:
                yield from _read_commands(page, item, once or mark)
            saved, once = "", None
        elif item[0] == "file":
            saved = item[1]
        elif item[0] == "not run":
            mark = Mark(NOWHERE, reason=item[1])
        else:
            place, _, rest = item[1].partition(", exit ")
            mark = mark if rest else Mark(place)
            once = Mark(place, code=int(rest)) if rest else None


def read_commands(place: str) -> list[PageCommand]:
    """All commands of all pages that run at `place`."""
    steps = (step for page in PAGES for step in read_steps(page))
    return [step for step in steps if isinstance(step, PageCommand) and step.mark.place == place]


def _iter_marks_and_blocks(text: str) -> Iterator[tuple[str, str] | _Block]:
    """Marks, and blocks of code without their fence or indentation."""
    block: _Block | None = None
    margin = fence = before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            if line.strip() == fence and block:
                yield block
                block, fence = None, ""
            elif block:
                block.lines.append(line.removeprefix(margin))
        elif found := re.match(r"( *)(```+)", line):
            if block:
                yield block
            margin, fence, block = found[1], found[2], _Block(number + 1)
        elif line.startswith("    ") and (block or not before.strip() or before.startswith(("#", "<!--"))):
            block = block or _Block(number)
            block.lines.append(line[4:])
        elif block and not line.strip():
            block.lines.append("")
        else:
            if block:
                yield block
                block = None
            if mark := MARK.match(line):
                yield mark[1], mark[2]
        before = line
    if block:
        yield block


def _read_commands(page: Path, block: _Block, mark: Mark) -> Iterator[PageCommand]:
    has_prompts = any(line.startswith("$ ") for line in block.lines)
    command: PageCommand | None = None
    open_until = ""
    """The end of a here-document, or a backslash for a continued line."""
    printed: list[str] = []
    for number, line in enumerate(block.lines, block.first):
        if command and open_until:
            command = replace(command, text=f"{command.text}\n{line}")
            open_until = open_until if open_until not in {line, "\\"} else _find_open_end(line)
        elif line.startswith("$ ") if has_prompts else _names_program(line):
            if command:
                yield _finish(command, printed)
            command, printed = PageCommand(page, number, line.removeprefix("$ "), mark), []
            open_until = _find_open_end(line)
        elif has_prompts:
            printed.append(line)
    if command:
        yield _finish(command, printed)


def _find_open_end(line: str) -> str:
    if found := re.search(r"<<'?(\w+)'?", line):
        return found[1]
    return "\\" if line.endswith("\\") else ""


def _finish(command: PageCommand, printed: list[str]) -> PageCommand:
    while printed and not printed[-1].strip():
        printed = printed[:-1]
    return replace(command, printed=tuple(printed) if printed else None)


def _names_program(line: str) -> bool:
    """Whether a line begins with a program, behind variables that are set for it."""
    words = line.split()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return bool(words) and not line.startswith(" ") and (words[0] in PROGRAMS or words[0].startswith(".venv/bin/"))
