"""Chromium driven by its own protocol through two pipes, without a library: commands, events, screenshots."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120.0
"""For one answer: a page of 20,000 jobs on a busy machine takes some."""
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
"""The last: what would leave this machine finds no address; that it was asked for is noticed all the same."""


PACKAGES = ("chromium", "fonts-dejavu-core")
INSTALL_LINE = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"


class BrowserError(Exception):
    """Chromium said no, said nothing, or is not there."""


def find_chromium() -> str | None:
    """Its program."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Chromium:
    """A running browser with one open page."""

    pid: int
    to: int
    back: int
    number: int = 0
    session: str = ""
    unread: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self.receive(end)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def receive(self, end: float) -> dict[str, Any]:
        """The next message; events are kept."""
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self.back, 2**20) if ready else b""
            if not piece:
                raise BrowserError("Chromium ended" if ready else f"no answer in {SECONDS:.0f} s")
            self.unread += piece
        line, _, self.unread = self.unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open_page(
        self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True
    ) -> None:
        """Shows a file and waits until it is loaded."""
        self.events.clear()
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        loader = self.call("Page.navigate", url=path.resolve().as_uri())["loaderId"]
        self.wait_until_loaded(loader)

    def wait_until_loaded(self, loader: str) -> None:
        """Until the document of this navigation has its load event; that of the one before may come late."""
        end = time.monotonic() + SECONDS
        place, committed = 0, False
        while True:
            for event in self.events[place:]:
                committed |= event["method"] == "Page.frameNavigated" and event["params"]["frame"]["loaderId"] == loader
                if committed and event["method"] == "Page.loadEventFired":
                    return
            place = len(self.events)
            self.receive(end)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; BrowserError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def take_screenshot(self, path: Path, *, whole: bool = False) -> None:
        """What is seen as PNG, or the whole page."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options |= {
                "captureBeyondViewport": True,
                "clip": {**size, "height": min(size["height"], 12_000), "scale": 1},
            }
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    def list_complaints(self) -> list[str]:
        """Errors and warnings of the console and of scripts, and what the content policy has blocked."""
        found = []
        for event in self.events:
            about = event.get("params", {})
            if event["method"] == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
                found.append(about["entry"]["text"])
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(" ".join(str(each.get("value")) for each in about["args"]))
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
        return found

    def list_requests(self) -> list[str]:
        """Addresses that were asked for."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def start_chromium() -> Iterator[Chromium]:
    """A browser with a profile of its own; ended with all its processes."""
    program = find_chromium()
    if program is None:
        raise BrowserError(f"there is no chromium; as root: {INSTALL_LINE}")
    commands, to = (move_high(each) for each in os.pipe())
    back, answers = (move_high(each) for each in os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = str(Path(profile, "log.txt"))
        words = [program, *OPTIONS, f"--user-data-dir={profile}/profile", "about:blank"]
        if os.geteuid() == 0:
            words.insert(1, "--no-sandbox")  # Chromium refuses root with it
        pid = os.posix_spawn(
            program,
            words,
            {**os.environ, "HOME": profile},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, commands, 3),
                (os.POSIX_SPAWN_DUP2, answers, 4),
            ],
            setpgroup=0,
        )
        os.close(commands)
        os.close(answers)
        browser = Chromium(pid, to, back)
        try:
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.call(f"{domain}.enable")
            yield browser
        finally:
            os.close(to)
            os.close(back)
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def move_high(descriptor: int) -> int:
    """The same pipe under a number that is not 3 or 4, which Chromium's own ends have; closed in other programs."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high
