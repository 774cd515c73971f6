"""How an event reaches a command, a webhook and sendmail; and that no secret is told on the way."""

import json
import random
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep.notices import deliver as module
from sweep.notices.deliver import DeliveryError, build_body, build_mail, build_notice_json, deliver
from sweep.notices.log import NoticeEvent
from sweep.notices.settings import Receiver
from tests.sweep.notices.receiver import Inbox, serve

EVENT = NoticeEvent(
    id="failed-1",
    kind="failed",
    title="toy: 2 jobs failed <for> good",
    lines=("a & b",),
    step="sweep status toy",
    time=5.0,
)
NOTICE = build_notice_json(EVENT, "toy")
HOOK = Receiver(name="hook", kind="webhook", url_variable="HOOK")


@pytest.fixture
def inbox() -> Any:
    with serve(Inbox(random.Random(1))) as found:
        yield found


def test_a_webhook_gets_the_documented_json(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", inbox.url)
    deliver(HOOK, NOTICE)
    assert inbox.taken == [NOTICE]
    assert (NOTICE["id"], NOTICE["needs_person"], NOTICE["test"]) == ("failed-1", True, False)


def test_slack_and_teams_get_their_forms() -> None:
    assert build_body("slack", NOTICE) == {
        "text": "toy: 2 jobs failed &lt;for&gt; good\n  a &amp; b\nnext: sweep status toy\n"
    }
    [card] = build_body("teams", NOTICE)["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert [block["text"] for block in card["content"]["body"]] == [EVENT.title, "a & b", "sweep status toy"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("refuse", "the webhook answered 500"),
        ("drop", "the webhook cannot be reached: RemoteDisconnected"),
        ("hang", "cannot be reached: TimeoutError"),
        ("redirect", "the webhook answered 307"),
    ],
)
def test_a_webhook_that_fails_is_told_of_without_its_address(
    answer: str, problem: str, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", f"{inbox.url}/secret-word")
    monkeypatch.setattr(module, "SOCKET_SECONDS", 0.2)
    monkeypatch.setattr(inbox, "choose_answer", lambda: answer)
    with pytest.raises(DeliveryError) as error:
        deliver(HOOK, NOTICE)
    assert problem in str(error.value)
    assert "secret-word" not in str(error.value)
    assert inbox.url not in str(error.value)


def test_a_webhook_that_answers_byte_by_byte_is_left_in_time(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", inbox.url)
    monkeypatch.setattr(module, "WEBHOOK_SECONDS", 0.2)
    monkeypatch.setattr(inbox, "choose_answer", lambda: "hang")
    with pytest.raises(DeliveryError, match="no answer within 0 s"):
        deliver(HOOK, NOTICE)


def test_an_address_comes_from_a_file_that_nobody_else_may_read(inbox: Inbox, tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(f"{inbox.url}\n")
    path.chmod(0o600)
    hook = replace(HOOK, url_variable="", url_file=str(path))
    deliver(hook, NOTICE)
    assert len(inbox.taken) == 1
    path.chmod(0o640)
    with pytest.raises(DeliveryError, match="may be read by others; `chmod 600` it"):
        deliver(hook, NOTICE)
    path.unlink()
    with pytest.raises(DeliveryError, match="cannot be read: No such file"):
        deliver(hook, NOTICE)


@pytest.mark.parametrize("text", ["", "ftp://a/b", "file:///etc/passwd", "http://a b", "-x"])
def test_what_is_no_address_is_refused_and_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", text)
    with pytest.raises(DeliveryError) as error:
        deliver(HOOK, NOTICE)
    assert "$HOOK" in str(error.value)
    assert not text or text not in str(error.value)


def test_a_command_gets_the_event_on_its_stdin_and_no_shell_reads_its_words(tmp_path: Path) -> None:
    out = tmp_path / "out; touch shell"
    program = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    deliver(Receiver(name="c", kind="command", command=(sys.executable, "-c", program, str(out))), NOTICE)
    assert json.loads(out.read_text()) == NOTICE
    assert not (tmp_path / "shell").exists()


def test_a_command_that_fails_hangs_or_is_not_there_has_not_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND_SECONDS", 0.3)
    words: list[tuple[tuple[str, ...], str]] = [
        (("/bin/false",), "false ended with 1"),
        (("/bin/sleep", "60"), "sleep did not end within 0 s"),
        (("/nowhere/x",), "x cannot be started: No such file or directory"),
    ]
    for command, problem in words:
        with pytest.raises(DeliveryError, match=problem):
            deliver(Receiver(name="c", kind="command", command=command), NOTICE)


def test_mail_goes_through_sendmail(tmp_path: Path) -> None:
    sendmail, out = tmp_path / "sendmail", tmp_path / "mail"
    sendmail.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {out}.words\ncat > {out}\n')
    sendmail.chmod(sendmail.stat().st_mode | stat.S_IXUSR)
    event = {**NOTICE, "title": "toy: broken\nBcc: everybody@example.org"}
    deliver(Receiver(name="m", kind="mail", to=("ann@example.org",), sendmail=str(sendmail)), event)
    head = out.read_text().partition("\n\n")[0]
    assert "Subject: toy: broken Bcc: everybody@example.org" in head
    assert not any(line.startswith("Bcc") for line in head.splitlines())
    assert "X-Sweep-Event: failed-1" in head
    assert Path(f"{out}.words").read_text().split() == ["-i", "--", "ann@example.org"]


def test_an_identity_with_line_breaks_is_one_line_of_a_mail() -> None:
    mail = build_mail(Receiver(name="ann", kind="mail", to=("ann@example.org",)), {**NOTICE, "id": "a\nBcc: x@y.z"})
    assert b"X-Sweep-Event: a Bcc: x@y.z\n" in mail
