"""mkdocs' hooks: pages from files outside docs/, and links that lead out of the site.

README, CONTRIBUTING, CHANGELOG and the benchmarks' page stand where a reader of the repository looks for them. The site
has them as pages too, with their links turned. A link to a source file has no target in the site, so only its name is
kept; a target that does not exist is left as it is, and the strict build refuses it.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = {
    "readme.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
}
"""Page of the site -> its file in the repository."""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
ITEM = re.compile(r"\d+\. ")
CODE = re.compile(r"(^```.*?^```|^(?: {4}|\t).*$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links outside code."""
    source = ROOT / OUTSIDE[page.file.src_uri] if page.file.src_uri in OUTSIDE else DOCS / page.file.src_uri
    parts = CODE.split(markdown)  # every second one is code
    turned = (part if index % 2 else turn_links(part, source, page) for index, part in enumerate(parts))
    return indent_list_items("".join(turned))


def indent_list_items(markdown: str) -> str:
    """What belongs to an item of a numbered list, by four spaces: three are enough for GitHub alone."""
    lines, within = [], False
    for line in markdown.splitlines():
        if ITEM.match(line):
            within = True
        elif line and not line.startswith("   "):
            within = False
        lines.append(f" {line}" if within and line.startswith("   ") else line)
    return "\n".join(lines) + "\n"


def turn_links(text: str, source: Path, page: Page) -> str:
    return LINK.sub(lambda found: turn_link(found, source, page), text)


def turn_link(found: "re.Match[str]", source: Path, page: Page) -> str:
    target, hash_sign, anchor = found["target"].partition("#")
    if "://" in target or not target:
        return found[0]
    path = (source.parent / target).resolve()
    outside = {(ROOT / file).resolve(): name for name, file in OUTSIDE.items()}
    if path in outside:
        place = outside[path]
    elif path.is_relative_to(DOCS) and path.exists():
        place = "README.md" if path == DOCS else path.relative_to(DOCS).as_posix()
    elif path.exists():
        return found["text"]
    else:
        return found[0]
    relative = os.path.relpath(place, Path(page.file.src_uri).parent)
    return f"{found['image']}[{found['text']}]({relative}{hash_sign}{anchor})"
