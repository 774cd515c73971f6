"""The report in a real Chromium: nothing leaves, nothing planted runs, and a reader can do what it promises."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from jinja2 import Environment

from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.page import write as page_writer
from sweep.page.write import write_page
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.browser.chromium import Chromium, start_chromium
from tests.sweep import synthetic_store
from tests.sweep.page.stores import GRIDS, build_store
from tests.sweep.synthetic_store import START, Grid, Written, finish, plan, write_attempt

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with start_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(build_store(tmp_path_factory.mktemp("half"), GRIDS[72], "half"))


def write(written: Written) -> Path:
    stored = open_sweep(written.store.root, written.sweep)
    return write_page(stored, write_tables(stored), now=1_790_050_000.0)


def click_tool(browser: Chromium, table: str, name: str) -> None:
    """A button of a table."""
    buttons = f"[...document.querySelectorAll('[data-tools={table}] button')]"
    browser.evaluate(f"{buttons}.find((each) => each.innerText === '{name}').click()")


# What must not happen.


@pytest.mark.parametrize("state", ["done", "half", "failed", "empty"])
def test_it_asks_for_nothing_and_complains_of_nothing(state: str, browser: Chromium, tmp_path: Path) -> None:
    path = write(build_store(tmp_path, Grid("small", branches=(0, 100), shares=(0.0, 0.5), epochs=(1, 2)), state))
    for width, dark in ((1280, False), (400, True)):
        browser.open_page(path, width=width, dark=dark)
        assert browser.list_complaints() == []
        assert browser.list_requests() == [path.resolve().as_uri()]
        # nothing makes the page wider than its window: what is wide scrolls in its own place
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_narrow_window_shows_states_and_captions_whole(half: Path, browser: Chromium) -> None:
    browser.open_page(half, width=400)
    below = """[...document.querySelectorAll('td.state')].map((place) => {
        const text = document.createRange();
        text.selectNodeContents(place);
        return text.getBoundingClientRect().top - place.getBoundingClientRect().top;
    })"""
    assert max(browser.evaluate(below)) < 12  # a state does not stand below its dot
    wide = "[...document.querySelectorAll('caption span')].map((each) => each.getBoundingClientRect().right)"
    assert max(browser.evaluate(wide)) <= 400
    letters = "document.querySelector('svg.timeline .tick').getBoundingClientRect().height"
    assert browser.evaluate(letters) > 9


PLANTED = (
    "</script><script>window.planted=1</script>",
    '"><img src=x onerror="window.planted=1">',
    "'><svg onload=window.planted=1>",
    "<!--<script>window.planted=1</script>",
    "<style>body{display:none}</style>",
    "<base href=http://leaves.invalid/><link rel=stylesheet href=http://leaves.invalid/x.css>",
    "{{ 7*7 }}<iframe srcdoc='<script>parent.planted=1</script>'>",
)
HOSTILE = "".join(PLANTED)


def plant_everywhere(folder: Path) -> Written:
    """Scripts in all that a page shows of others: description, sweep file, axes, captions, blocks, tasks, messages,
    nodes, models, packages, revisions, data sets."""
    written = plan(Store(folder), Grid("planted", branches=(0, 100), shares=(0.5,), epochs=(1, 2)))
    for cell in written.cells:
        cell["block"] = HOSTILE
        cell["axes"] |= {"captions": HOSTILE, "encoder": HOSTILE, "model": HOSTILE, "finetune.note": HOSTILE}
        cell["axes"][HOSTILE.replace(".", "")] = cell["axes"]["branch"]
    synthetic_store.write_manifest(written)
    manifest = written.store.locate_sweep("planted").manifest
    header, _, rest = manifest.read_text().partition("\n")
    named = {**json.loads(header), "data": {HOSTILE: HOSTILE}}
    manifest.write_text(json.dumps(named) + "\n" + rest)
    written.store.locate_sweep("planted").source.write_text(json.dumps({"name": "planted", "description": HOSTILE}))
    keys = list(written.jobs)
    finish(written, keys[:-1])
    for key in keys[:-1]:
        path = written.run(key).result
        result = json.loads(path.read_text())
        result["versions"] = {HOSTILE: HOSTILE}
        if result["scores"]:
            result["scores"][HOSTILE] = synthetic_store.task("vision", 0.5, 0.2, 0.01)
        path.write_text(json.dumps(result))
        job = json.loads(written.run(key).job.read_text())
        job["code"]["revision"] = HOSTILE
        written.run(key).job.write_text(json.dumps(job))
    write_attempt(written, keys[-1], "a1", START, 9.0, failure=FailureClass.CODE, message=HOSTILE, gpu_type=HOSTILE)
    start = written.run(keys[-1]).locate_attempt("a1").start
    start.write_text(json.dumps({**json.loads(start.read_text()), "host": HOSTILE, "node": HOSTILE}))
    return written


OPEN_ALL = """
for (const link of document.querySelectorAll(".heat a")) { link.click(); document.getElementById("cell")?.close(); }
document.querySelectorAll("th button").forEach((each) => each.click());
document.querySelectorAll("details").forEach((each) => { each.open = true; });
new Promise((done) => setTimeout(() => done(window.planted ?? 0), 300))
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return plant_everywhere(tmp_path_factory.mktemp("planted"))


def weaken(monkeypatch: pytest.MonkeyPatch, *, escape: bool, policy: bool) -> None:
    """Takes guards of the page away, so that a test can tell that the others, or none, hold."""
    if not escape:
        template = Environment(autoescape=False).from_string(page_writer.read_asset("page.html.j2"))  # noqa: S701 - the point
        monkeypatch.setattr(page_writer, "load_template", lambda: template)
        monkeypatch.setattr(page_writer, "embed_json", json.dumps)
    if not policy:
        monkeypatch.setattr(page_writer, "build_policy", lambda *_: "default-src * data: blob: 'unsafe-inline'")


@pytest.mark.parametrize(
    ("escape", "policy"),
    [(True, True), (True, False), (False, True), (False, False)],
    ids=["both guards", "escapes alone", "policy alone", "no guard"],
)
def test_what_is_planted_runs_only_where_no_guard_stands(
    escape: bool, policy: bool, browser: Chromium, planted: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaken(monkeypatch, escape=escape, policy=policy)
    path = write(planted)
    browser.open_page(path)
    assert bool(browser.evaluate(OPEN_ALL)) == (not escape and not policy)
    if escape and policy:
        assert browser.list_complaints() == []
        assert browser.list_requests() == [path.resolve().as_uri()]
        assert browser.evaluate("document.querySelectorAll('iframe, img, body style, script').length") == 2
        # and the words are there, as words
        assert browser.evaluate("document.body.textContent.split('window.planted=1').length") > 20


# What a reader can do.


def test_the_program_shows_the_rows_that_stand_in_the_page(browser: Chromium, half: Path) -> None:
    texts = "JSON.stringify([...document.querySelectorAll('table[data-table] tbody')].map((each) => each.innerText))"
    browser.open_page(half, script=False)
    # Chromium still evaluates for the test what it does not run for the page
    before = browser.evaluate(texts)
    browser.open_page(half)
    assert json.loads(browser.evaluate(texts)) == json.loads(before)


def test_without_javascript_tables_and_figures_are_seen(browser: Chromium, half: Path) -> None:
    browser.open_page(half, script=False)
    assert browser.evaluate("document.querySelector('.heat').getBoundingClientRect().height") > 50
    assert browser.evaluate("document.querySelector('svg.chart').getBoundingClientRect().height") > 100
    assert browser.evaluate("document.querySelector('[data-table=models] tbody').rows.length") == 27
    assert browser.evaluate("document.querySelector('noscript').innerText").startswith("JavaScript is off")
    target = (
        "document.getElementById(decodeURIComponent(document.querySelector('.heat a').getAttribute('href').slice(1)))"
    )
    assert browser.evaluate(f"{target}.tagName") == "TR"


def test_a_place_of_the_grid_opens_its_cell_by_mouse_and_by_keys(browser: Chromium, half: Path) -> None:
    browser.open_page(half)
    browser.evaluate("document.querySelector('.heat a').click()")
    text = browser.evaluate("document.getElementById('cell').innerText")
    for expected in ("2m-b0-i0-dense-s0", "3 of 3 models finished", "vqav2", "pretrain loss", "Executions", "node7"):
        assert expected in text
    browser.press("Escape", 27)
    assert browser.evaluate("document.getElementById('cell').open") is False
    browser.evaluate("document.querySelector('.heat a').focus()")
    browser.press("ArrowRight", 39)
    browser.press("ArrowDown", 40)
    assert browser.evaluate("document.activeElement.getAttribute('href')") == "#cell-2m-b50-i20-dense-s0"
    assert browser.evaluate("document.querySelectorAll('.heat a[tabindex=\"0\"]').length") == 1
    browser.evaluate("location.hash = '#cell-2m-b100-i50-dense-s0'")
    browser.evaluate("new Promise((done) => setTimeout(done, 100))")
    assert "2m-b100-i50-dense-s0" in browser.evaluate("document.getElementById('cell').innerText")
    assert browser.list_complaints() == []


def test_a_table_sorts_filters_and_pages(browser: Chromium, tmp_path: Path) -> None:
    path = write(
        build_store(
            tmp_path, Grid("wide", branches=(0, 50), shares=(0.0, 0.5), seeds=tuple(range(7)), epochs=(1, 2, 4))
        )
    )
    browser.open_page(path)
    models = "document.querySelector('[data-table=models]')"
    tools = "document.querySelector('[data-tools=models]')"
    column = f"[...{models}.tHead.rows[0].cells].findIndex((each) => each.innerText.startsWith('vision'))"
    values = (
        f"[...{models}.tBodies[0].rows].map((row) => parseFloat(row.cells[{column}].innerText.replace(/^[^0-9]/, '-')))"
    )
    assert browser.evaluate(f"{tools}.querySelector('[role=status]').innerText") == "1 to 84 of 84"
    browser.evaluate(f"{models}.tHead.rows[0].cells[{column}].querySelector('button').click()")
    found = browser.evaluate(values)
    assert found == sorted(found, reverse=True)
    assert browser.evaluate(f"{models}.tHead.rows[0].cells[{column}].getAttribute('aria-sort')") == "descending"
    browser.evaluate(f"{tools}.querySelector('input').focus()")
    browser.call("Input.insertText", text="b50 s3")
    assert browser.evaluate(f"{models}.tBodies[0].rows.length") == 6
    jobs = "document.querySelector('[data-table=jobs]')"
    assert browser.evaluate(f"{jobs}.tBodies[0].rows.length") == 100
    click_tool(browser, "jobs", "next")
    assert (
        browser.evaluate("document.querySelector('[data-tools=jobs] [role=status]').innerText") == "101 to 197 of 197"
    )


def test_a_csv_holds_all_rows_and_no_formula(browser: Chromium, planted: Written, tmp_path: Path) -> None:
    key = list(planted.jobs)[-1]
    for message in ("=HYPERLINK(1)", "+1", "-1+2", "@SUM(A1)", "\t=1"):
        write_attempt(
            planted,
            key,
            f"b{ord(message[0])}",
            START + 50 + ord(message[0]),
            9.0,
            failure=FailureClass.CODE,
            message=message,
        )
    browser.open_page(write(planted))
    browser.evaluate("window.made = []; URL.createObjectURL = (blob) => { window.made.push(blob); return '#none'; };")
    click_tool(browser, "failures", "CSV")
    lines = browser.evaluate("window.made[0].text()").split("\r\n")
    assert lines[0] == "ended,phase,cell,reason,message,then,state,node,attempt,key"
    for guarded in ("'=HYPERLINK(1)", "'+1", "'-1+2", "'@SUM(A1)"):
        assert any(f",{guarded}," in line for line in lines)
    assert not any(place.startswith(("=", "+", "@")) for line in lines for place in line.split(","))
    click_tool(browser, "effects", "CSV")
    differences = browser.evaluate("window.made[1].text()")
    assert ",-0." in differences or ",0." in differences  # numbers stay numbers


def test_light_and_dark_follow_the_system_and_the_switch(browser: Chromium, half: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(13, 17, 23)"
    for system, expected in ((False, light), (True, dark)):
        browser.open_page(half, dark=system)
        browser.evaluate("localStorage.clear()")
        browser.open_page(half, dark=system)
        assert browser.evaluate(colour) == expected
    seen = []
    for _ in range(3):
        browser.evaluate("document.getElementById('theme').click()")
        seen.append((browser.evaluate("document.getElementById('theme').innerText"), browser.evaluate(colour)))
    assert seen == [("Theme: light", light), ("Theme: dark", dark), ("Theme: auto", dark)]


def test_on_paper_it_is_light_and_without_controls(browser: Chromium, half: Path) -> None:
    browser.open_page(half, dark=True)
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert len(browser.call("Page.printToPDF")["data"]) > 20_000


def test_a_screen_reader_finds_names_for_what_it_meets(browser: Chromium, half: Path) -> None:
    browser.open_page(half)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    browser.evaluate("document.querySelector('.heat a').click()")
    tree += browser.call("Accessibility.getFullAXTree")["nodes"]  # what is behind an open dialog is not in it
    seen = [node for node in tree if not node["ignored"]]
    for role in ("button", "link", "searchbox", "combobox", "image", "region", "table", "dialog"):
        found = [node.get("name", {}).get("value", "") for node in seen if node["role"]["value"] == role]
        assert found, f"no {role}"
        assert all(found), f"{role} without a name"
    browser.press("Escape", 27)
    headings = browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((each) => Number(each.tagName[1]))")
    assert headings[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_dark_enough_on_its_ground(dark: bool, browser: Chromium, half: Path) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    browser.open_page(half, dark=dark)
    ratios = browser.evaluate(Path(__file__).with_name("contrasts.js").read_text())
    assert len(ratios) > 20
    assert [each for each in ratios if each[1] < 4.5] == []
