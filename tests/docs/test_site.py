"""The site builds without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import GENERATED, PAGES, ROOT
from tests.docs.site_hooks import OUTSIDE, indent_list_items


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: an unknown link or anchor, or a page outside the navigation, ends it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs", "build", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class AssetFinder(HTMLParser):
    """Addresses that a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "audio", "video", "embed", "input"}:
            self.found += [given.get("src") or "", given.get("srcset") or ""]
        if tag == "object":
            self.found.append(given.get("data") or "")
        if tag == "link" and given.get("rel") not in {"canonical", "next", "prev", "alternate"}:
            self.found.append(given.get("href") or "")
        if style := given.get("style"):
            self.found += re.findall(r"url\(([^)]*)\)", style)


def find_assets(html: str) -> list[str]:
    finder = AssetFinder()
    finder.feed(html)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", html, flags=re.DOTALL)
    loaded = [each for style in styles for each in re.findall(r"""(?:url\(|@import\s+)["']?([^"')\s]+)""", style)]
    return [each for each in (*finder.found, *loaded) if each and not each.startswith("data:")]


def test_the_site_has_every_page(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if page.is_relative_to(ROOT / "docs")]
    wanted = {str(page.with_suffix(".html")) for page in (*pages, *map(Path, (*GENERATED, *OUTSIDE)))}
    wanted = wanted - {"README.html"} | {"index.html"}
    assert sorted(name for name in wanted if not (site / name).is_file()) == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assets = {(page.name, asset) for page in pages for asset in find_assets(page.read_text())}
    assert len(assets) > 3 * len(pages)  # style sheets and scripts are found
    assert sorted(each for each in assets if re.match(r"(\w+:)?//", each[1])) == []
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"""(?:url\(|@import\s+)["']?([^"')\s]+)""", sheet.read_text())
        assert [each for each in addresses if re.match(r"(\w+:)?//", each)] == [], sheet.name


def test_no_page_asks_the_theme_for_what_it_fetches(site: Path) -> None:
    """The theme's script fetches a program for diagrams from a CDN, and emoji, only where a page has them."""
    for page in site.rglob("*.html"):
        assert not re.search(r'class="(mermaid|twemoji [^"]*external)', page.read_text()), page.name


@pytest.mark.parametrize(
    ("html", "assets"),
    [
        ('<script src="https://a.b/c.js">', ["https://a.b/c.js"]),
        ('<link rel="stylesheet" href="//a.b/c.css"><link rel="canonical" href="https://x.y">', ["//a.b/c.css"]),
        (
            '<style>@import "https://a.b";p{background:url(https://c.d/e.png)}</style>',
            ["https://a.b", "https://c.d/e.png"],
        ),
        ('<a href="https://a.b"><img src="data:image/png;base64,AA==">', []),
    ],
)
def test_what_a_browser_loads_is_found(html: str, assets: list[str]) -> None:
    assert find_assets(html) == assets


def test_items_of_a_list_keep_what_belongs_to_them() -> None:
    assert indent_list_items("1. a\n   b\n\n       code\n2. c\n\ntext\n   d\n") == (
        "1. a\n    b\n\n        code\n2. c\n\ntext\n   d\n"
    )
