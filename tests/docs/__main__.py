"""The documentation's own program.

python -m tests.docs write            generated pages, anew
python -m tests.docs list             every command of the pages: where it runs, or why nowhere
python -m tests.docs run PAGE...      runs the local commands of these pages in turn, and prints what they print
python -m tests.docs fill PAGE...     the same, written below those that show nothing or something else
python -m tests.docs build [FOLDER]   the site, strictly (build/site)
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.docs.commands_page import PAGE, build_commands_page
from tests.docs.pages import LOCAL, NOWHERE, PAGES, ROOT, PageCommand, read_steps
from tests.docs.world import enter_world, is_as_shown, prepare_world, take_step


def run_pages(names: list[str], *, fill: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "study"
        prepare_world(folder)
        for page in [ROOT / name for name in names]:
            printed: dict[int, tuple[Sequence[str], int]] = {}
            with enter_world(folder):
                for step in read_steps(page):
                    if isinstance(step, PageCommand) and step.mark.place != LOCAL:
                        continue
                    happened = take_step(step, folder)
                    if isinstance(step, PageCommand) and happened:
                        print(f"$ {step.text}", *happened.printed, sep="\n")
                        print(f"[{happened.code}]" if happened.code else "", flush=True)
                        if step.printed is None or not is_as_shown(step.printed, happened.printed):
                            printed[step.line + step.text.count("\n")] = happened.printed, len(step.printed or ())
            if fill:
                fill_page(page, printed)


def fill_page(page: Path, printed: Mapping[int, tuple[Sequence[str], int]]) -> None:
    """Writes lines behind lines of a page, by number, in place of so many that are there."""
    lines, left_out = [], 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if left_out:
            left_out -= 1
            continue
        lines.append(line)
        if number in printed and line.startswith("$ "):
            more, left_out = printed[number]
            lines += more
    page.write_text("\n".join(lines) + "\n")


def list_commands() -> None:
    for page in PAGES:
        for step in read_steps(page):
            if isinstance(step, PageCommand):
                why = f": {step.mark.reason}" if step.mark.place == NOWHERE else ""
                print(f"{step.name}\n    {step.mark.place or 'NOT SAID'}{why}")


def main(words: list[str]) -> int:
    match words:
        case ["write"]:
            PAGE.write_text(build_commands_page())
        case ["list"]:
            list_commands()
        case ["run" | "fill" as how, *names]:
            run_pages(names, fill=how == "fill")
        case ["build", *folder]:
            environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
            command += ["--site-dir", str(Path(folder[0]).absolute())] if folder else []
            return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
