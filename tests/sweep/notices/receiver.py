"""A real HTTP server that takes notices, refuses them, hangs, or takes them and says nothing."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Inbox:
    """What has arrived, in order, whatever the answer was."""

    dice: random.Random
    trouble: float = 0.0
    """Share of the calls that go wrong."""
    taken: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def choose_answer(self) -> str:
        if self.dice.random() >= self.trouble:
            return "ok"
        return self.dice.choice(["refuse", "hang", "drop", "take and drop", "take and hang", "redirect"])

    @property
    def ids(self) -> list[str]:
        return [str(each["id"]) for each in self.taken]


@contextmanager
def serve(inbox: Inbox) -> Iterator[Inbox]:
    """Runs the server while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = inbox.choose_answer()
            if answer in {"ok", "take and drop", "take and hang"}:
                try:
                    inbox.taken.append(json.loads(body))
                except ValueError:
                    inbox.bad.append(repr(body))
            if answer.endswith("hang"):
                inbox.over.wait(3.0)
            elif answer == "refuse":
                self.send_error(500)
            elif answer == "redirect":
                self.send_response(307)
                self.send_header("Location", f"{inbox.url}/elsewhere")
                self.end_headers()
            elif answer == "ok":
                self.send_response(200)
                self.end_headers()
            self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    inbox.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        inbox.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
