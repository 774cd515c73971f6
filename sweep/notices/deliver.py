"""Takes one event to one receiver: a command, a webhook, or mail. Short, bounded, and without a word of any secret."""

import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any

from jobs.store.reading import open_regular
from sweep.notices.log import NoticeEvent
from sweep.notices.settings import Receiver

COMMAND_SECONDS = 30.0
SOCKET_SECONDS = 10.0
WEBHOOK_SECONDS = 20.0
"""The whole call: a receiver that answers a byte a second would outlast every wait for the next one."""
MOST_URL = 4_000
NEEDS_PERSON = frozenset({"failed", "held", "refused", "disk"})
ADDRESS = re.compile(r"https?://[^\s]+")


class DeliveryError(Exception):
    """The receiver did not take it, or did not say that it did. The message has no secret."""


def build_notice_json(event: NoticeEvent, sweep: str, *, is_test: bool = False) -> dict[str, Any]:
    """Section `notice` of docs/json.md."""
    return {
        "format": 1,
        "id": event.id,
        "sweep": sweep,
        "kind": event.kind,
        "needs_person": event.kind in NEEDS_PERSON,
        "title": event.title,
        "lines": list(event.lines),
        "step": event.step,
        "time": event.time,
        "test": is_test,
    }


def deliver(receiver: Receiver, notice: Mapping[str, Any]) -> None:
    """Returns once the receiver has taken it. Raises DeliveryError."""
    if receiver.kind == "command":
        run_program(receiver.command, f"{json.dumps(notice)}\n".encode())
    elif receiver.kind == "mail":
        run_program((receiver.sendmail, "-i", "--", *receiver.to), build_mail(receiver, notice))
    else:
        post_webhook(read_url(receiver), json.dumps(build_body(receiver.form, notice)).encode())


def run_program(words: tuple[str, ...], given: bytes) -> None:
    """Without a shell; what it prints is dropped. DeliveryError."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise DeliveryError(f"{Path(words[0]).name} cannot be started: {getattr(error, 'strerror', error)}") from None
    try:
        process.communicate(given, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"{Path(words[0]).name} did not end within {COMMAND_SECONDS:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise DeliveryError(f"{Path(words[0]).name} ended with {process.returncode}")


def build_mail(receiver: Receiver, notice: Mapping[str, Any]) -> bytes:
    """The message for sendmail."""
    mail = EmailMessage()
    mail["To"] = ", ".join(receiver.to)
    mail["Subject"] = " ".join(str(notice["title"]).split())[:200]
    mail["X-Sweep-Event"] = " ".join(str(notice["id"]).split())[:200]
    mail.set_content(format_plain(notice))
    return mail.as_bytes()


def format_plain(notice: Mapping[str, Any]) -> str:
    """Title, lines, the next command."""
    lines = [str(notice["title"]), *(f"  {line}" for line in notice["lines"] if line not in notice["title"])]
    return "\n".join([*lines, *([f"next: {notice['step']}"] if notice["step"] else [])]) + "\n"


# Why: docs/decisions.md, D236
def read_url(receiver: Receiver) -> str:
    """The webhook's address from the environment, or from its file. DeliveryError names where it was looked for."""
    if receiver.url_variable:
        where, text = f"${receiver.url_variable}", os.environ.get(receiver.url_variable, "")
    else:
        where, text = receiver.url_file, read_secret(Path(receiver.url_file))
    text = text.strip()
    if not text:
        raise DeliveryError(f"{where} has no address")
    if len(text) > MOST_URL or not ADDRESS.fullmatch(text) or not text.isprintable():
        raise DeliveryError(f"what {where} has is no http or https address")
    return text


def read_secret(path: Path) -> str:
    """A file that belongs to this user, and that nobody else may read. DeliveryError."""
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), 0}:
                raise DeliveryError(f"{path} may be read by others; `chmod 600` it")
            return file.read(MOST_URL + 1).decode(errors="replace")
    except OSError as error:
        raise DeliveryError(f"{path} cannot be read: {error.strerror}") from None


def build_body(form: str, notice: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted, in the receiver's form."""
    if form == "slack":
        return {"text": escape_markup(format_plain(notice))}
    if form == "teams":
        blocks = [{"type": "TextBlock", "text": notice["title"], "weight": "bolder", "wrap": True}]
        blocks += [{"type": "TextBlock", "text": line, "wrap": True} for line in notice["lines"]]
        blocks += [{"type": "TextBlock", "text": notice["step"], "fontType": "monospace", "wrap": True}]
        card = {"type": "AdaptiveCard", "version": "1.4", "body": blocks}
        return {
            "type": "message",
            "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
        }
    return {**notice}


def escape_markup(text: str) -> str:
    """For Slack, where these three mean links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


NO_REDIRECTS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
)
"""A webhook stands where it stands: nothing is posted to an address that an answer names."""


def post_webhook(url: str, body: bytes) -> None:
    """Within `WEBHOOK_SECONDS`. DeliveryError, never with the address."""
    outcome: list[str] = []

    def post() -> None:
        outcome.append(try_post(url, body))

    worker = threading.Thread(target=post, daemon=True)
    worker.start()
    worker.join(WEBHOOK_SECONDS)
    problem = outcome[0] if outcome else f"no answer within {WEBHOOK_SECONDS:.0f} s"
    if problem:
        raise DeliveryError(problem)


def try_post(url: str, body: bytes) -> str:
    """Why it was not taken; empty if it was."""
    request = urllib.request.Request(  # noqa: S310 - `read_url` has looked at the scheme
        url, data=body, headers={"Content-Type": "application/json", "User-Agent": "sweep"}, method="POST"
    )
    opener = urllib.request.OpenerDirector()
    for handler in NO_REDIRECTS:
        opener.add_handler(handler())
    try:
        with opener.open(request, timeout=SOCKET_SECONDS) as answer:
            return "" if 200 <= answer.status < 300 else f"the webhook answered {answer.status}"
    except urllib.error.HTTPError as error:
        error.close()
        return f"the webhook answered {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"the webhook cannot be reached: {type(reason).__name__}"
