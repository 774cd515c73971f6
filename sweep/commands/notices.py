"""`sweep notices [NAME]`: what people were told of a sweep, what waits, and whether the receivers can be reached."""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.notices.log import NoticeHistory
    from sweep.notices.settings import NoticeSettings
    from sweep.stored_sweep import StoredSweep


@dataclass(frozen=True, kw_only=True)
class NoticesOptions(CommonOptions):
    """What `sweep notices` was given."""

    name: str | None
    """None: that of a store that holds one."""
    test: bool
    """Send a test notice to every receiver, now."""
    as_json: bool


OPTIONS = NoticesOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of the sweep; may be left out if the store holds one"
    )
    parser.add_argument("--test", action="store_true", help="send every receiver a test notice now, in quiet hours too")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print it as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep notices paper\n  sweep notices paper --test\n"
        "`sweep tick` tells; who is told stands in the sweep file (`notices`) and in ~/.config/sweep/notices.yaml.\n"
        "exit code: 1 if a receiver of --test took nothing"
    )


def run(options: NoticesOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from sweep.next_step import NextStep
    from sweep.notices.log import NoticeLog
    from sweep.notices.tell import build_test_event, load_settings, try_delivery
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    with print_user_errors():
        stored, _ = open_sweep_to_read(options.store, options.name, ())
        settings, history = load_settings(stored), NoticeLog(stored.paths.notices).read()
    name, tests = stored.manifest.sweep, []
    if options.test:
        event = build_test_event(name, SYSTEM_CLOCK.now())
        tests = [try_delivery(each, event, name, is_test=True) for each in settings.receivers]
    report = build_report(stored, settings, history, SYSTEM_CLOCK.now())
    report["tests"] = [{"receiver": each.receiver, "problem": each.problem} for each in tests]
    if options.as_json:
        print(json.dumps(report, indent=1))
    else:
        print(format_report(report))
        words = ("tick", name) if settings.receivers else ("status", name)
        what = (
            "tells what waits" if settings.receivers else "shows how it stands; docs/how-to/notices.md names receivers"
        )
        print(NextStep(options.store).suggest(what, *words), file=sys.stderr)
    return 1 if any(each.problem for each in tests) else 0


def build_report(
    stored: "StoredSweep", settings: "NoticeSettings", history: "NoticeHistory", now: float
) -> dict[str, Any]:
    """Section `notices` of docs/json.md."""
    from sweep.notices.log import ReceiverRecord
    from sweep.notices.tell import list_waiting

    receivers = []
    for each in settings.receivers:
        record = history.receivers.get(each.name, ReceiverRecord())
        receivers.append(
            {
                "name": each.name,
                "kind": each.kind,
                "told": sum(event.id in record.told for event in history.events.values()),
                "waiting": [event.id for event in list_waiting(history, each)],
                "failures": record.failures,
                "problem": record.problem,
                "next_try": record.find_next_try() or None,
                "quiet": each.is_quiet(now),
            }
        )
    events = [
        {
            "id": event.id,
            "kind": event.kind,
            "title": event.title,
            "lines": list(event.lines),
            "time": event.time,
            "told": {
                name: record.told_at[event.id] for name, record in history.receivers.items() if event.id in record.told
            },
        }
        for event in history.events.values()
    ]
    return {"format": 1, "sweep": stored.manifest.sweep, "receivers": receivers, "events": events}


MOST_EVENTS = 20


def format_report(report: dict[str, Any]) -> str:
    """The receivers, then the newest events."""
    from sweep.report.history import format_time
    from sweep.text_format import format_columns, format_labelled_lines

    lines = [f"{report['sweep']}: who is told"]
    rows = [["receiver", "kind", "told", "waiting", ""]]
    for each in report["receivers"]:
        state = "quiet now" if each["quiet"] else ""
        if each["failures"]:
            state = f"{each['problem']}; next try {format_time(each['next_try'])}"
        rows.append([each["name"], each["kind"], str(each["told"]), str(len(each["waiting"])), state])
    lines += format_columns(rows, left=2, rules=[1]) if report["receivers"] else ["nobody: no receivers are named"]
    labelled = [
        (format_time(event["time"]), f"{event['title']}  ({', '.join(event['told']) or 'nobody yet'})")
        for event in report["events"][-MOST_EVENTS:]
    ]
    lines += ["", *format_labelled_lines(labelled)] if labelled else []
    lines += [f"test: {each['receiver']} {'took none: ' + each['problem'] if each['problem'] else 'took it'}"
              for each in report["tests"]]  # fmt: skip
    return "\n".join(lines)
