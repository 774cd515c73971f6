"""The live view from its first screen to its last: what keys do, and when the screen is drawn."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import JobsError
from sweep.errors import SweepError
from sweep.report.attempt_log import AttemptLog, LogReader, describe_log, find_job_log
from sweep.report.history import build_history, format_history
from sweep.stored_sweep import StoredSweep
from sweep.watch.feed import SweepFeed
from sweep.watch.terminal import WatchEndedError, WatchTerminal, open_watch_terminal
from sweep.watch.view import FILTERS, SORTS, ViewState, describe_next, draw_screen, list_rows

LOOK_S = 2.0
"""Between two looks at the store."""
REDRAW_S = 15.0
"""Without news the screen is drawn so often, for the times that it shows: what is idle must cost nothing."""
LOG_TAIL_BYTES = 256 << 10
"""Of a log that is opened; `sweep logs` prints all of it."""
MOST_LOG_LINES = 5_000
MOST_CURVES = 200
"""Running jobs whose metrics are read; a terminal shows no more of them at once."""


# Why: docs/decisions.md, D190
def run_watch(stored: StoredSweep, clock: Clock = SYSTEM_CLOCK) -> int:
    """Shows the sweep until the user quits; the exit code."""
    feed = SweepFeed(stored, clock)
    feed.read_all()  # before the screen is touched: what fails at first is an ordinary error
    try:
        with open_watch_terminal() as terminal:
            WatchSession(feed, terminal, clock).run()
    except KeyboardInterrupt:
        code = 130
    except WatchEndedError as error:
        # ended by its signal, as whoever sent it expects; the terminal is restored by now
        signal.signal(error.number, signal.SIG_DFL)
        os.kill(os.getpid(), error.number)
        code = 128 + error.number
    except EOFError:
        return 1  # the terminal is gone, and nobody reads a last word
    else:
        code = 1 if feed.report["states"]["failed"] else 0
    print(f"{stored.manifest.sweep}: no longer watched; jobs are not touched by that. Next: {describe_next(feed)}",
          file=sys.stderr)  # fmt: skip
    return code


@dataclass
class WatchSession:
    """One view of one sweep on one terminal."""

    feed: SweepFeed
    terminal: WatchTerminal
    clock: Clock
    view: ViewState = field(default_factory=ViewState)
    _reader: LogReader | None = None
    _log: AttemptLog | None = None
    _quits: bool = False

    def run(self) -> None:
        """Until `q`. WatchEndedError, KeyboardInterrupt, EOFError where something else ends it."""
        looked = drawn = -REDRAW_S
        while not self._quits:
            now = self.clock.monotonic()
            news = self.terminal.resized
            if now - looked >= LOOK_S:
                looked = now
                news = self._look() or news
            if news or now - drawn >= REDRAW_S:
                self._draw()
                drawn = now
            keys = self.terminal.wait_for_keys(LOOK_S)
            for key in keys:
                self._press(key)
            if keys and not self._quits:
                self._draw()
                drawn = self.clock.monotonic()
            if self.terminal.suspended:
                self._suspend()

    def _look(self, *, force: bool = False) -> bool:
        """Takes in what is new. A store or a cluster that fails meanwhile is told in the title, and tried again."""
        changed, problem = False, ""
        try:
            changed = self.feed.refresh(force=force)
            changed = self.feed.update_curves(self.feed.running[:MOST_CURVES]) or changed
            changed = self._read_log() or changed
        except (OSError, JobsError, SweepError) as error:
            problem = str(error)
        if problem != self.feed.problem:
            self.feed.problem, changed = problem, True
        return changed

    def _draw(self) -> None:
        self.terminal.resized = False
        lines = draw_screen(
            self.feed, self.view, self.terminal.size, self.clock.now(), blocks=self.terminal.draws_blocks
        )
        self.terminal.show(lines)

    def _press(self, key: str) -> None:
        """What a key does."""
        if self.view.typing:
            self._type(key)
            return
        action = self._find_action(key)
        if action is None:
            return
        try:
            action()
        except (OSError, JobsError, SweepError) as error:  # a log or a history that cannot be read
            self.view.lines = [str(error)]

    def _find_action(self, key: str) -> Callable[[], None] | None:
        actions: dict[str, Callable[[], None]] = {
            "q": self._quit,
            "?": lambda: self._open("help"),
            "r": self._read_again,
            "up": lambda: self._move(-1), "k": lambda: self._move(-1),
            "down": lambda: self._move(1), "j": lambda: self._move(1),
            "page up": lambda: self._move(-self.view.page), "page down": lambda: self._move(self.view.page),
            "home": lambda: self._move(-(10**9)), "g": lambda: self._move(-(10**9)),
            "end": lambda: self._move(10**9), "G": lambda: self._move(10**9),
        }  # fmt: skip
        if self.view.screen == "jobs":
            actions |= {
                "enter": self._open_history, "h": self._open_history, "right": self._open_history,
                "l": self._open_log, "s": self._sort, "S": self._turn, "f": self._filter,
                "/": self._begin_typing, "escape": self._drop_word,
            }  # fmt: skip
        else:
            actions |= {"escape": self._close, "left": self._close, "backspace": self._close, "l": self._open_log,
                        "h": self._open_history}  # fmt: skip
        return actions.get(key)

    def _quit(self) -> None:
        self._quits = True

    def _read_again(self) -> None:
        self._look(force=True)

    def _open(self, screen: str) -> None:
        self.view.screen, self.view.top, self.view.lines = screen, 0, []
        self._reader = self._log = None

    def _close(self) -> None:
        self._open("jobs")

    def _move(self, by: int) -> None:
        view = self.view
        if view.screen != "jobs":
            view.follows = by >= 10**9
            view.top = max(0, view.top + by)
            return
        keys = [row.job.key for row in list_rows(self.feed, view, self.clock.now())]
        if keys:
            place = keys.index(view.key) if view.key in keys else 0
            view.key = keys[max(0, min(len(keys) - 1, place + by))]

    def _sort(self) -> None:
        self.view.sort = SORTS[(SORTS.index(self.view.sort) + 1) % len(SORTS)]

    def _turn(self) -> None:
        self.view.reverse = not self.view.reverse

    def _filter(self) -> None:
        self.view.filter = FILTERS[(FILTERS.index(self.view.filter) + 1) % len(FILTERS)]
        self.view.top = 0

    def _begin_typing(self) -> None:
        self.view.typing, self.view.word = True, ""

    def _drop_word(self) -> None:
        self.view.word = ""

    def _type(self, key: str) -> None:
        view = self.view
        if key == "escape":
            view.typing, view.word = False, ""
        elif key == "enter":
            view.typing = False
        elif key == "backspace":
            view.word = view.word[:-1]
        elif len(key) == 1 and len(view.word) < 60:
            view.word += key

    def _open_history(self) -> None:
        job = self.feed.snapshot.by_key.get(self.view.key)
        if job is None:
            return
        self._open("history")
        history = build_history(job, self.feed.snapshot)
        self.view.lines = format_history(job, history) or ["nothing has happened to it yet"]
        logs = [row.log for row in history.executions if row.log]
        self.view.lines += ["", f"cells: {', '.join(job.cells) or 'none of its own'}"]
        self.view.lines += [f"log: {path}" for path in logs[-1:]]
        self.view.title, self.view.follows = f"history of {job.phase} {' '.join([*job.cells[:1], job.key])}", False

    def _open_log(self) -> None:
        job = self.feed.snapshot.by_key.get(self.view.key)
        if job is None:
            return
        self._open("log")
        self.view.follows = True
        self._log = find_job_log(self.feed.snapshot, job, self.feed.stored.paths)
        if self._log is None:
            self.view.title, self.view.lines = f"log of {job.phase} {job.key}", ["it has not started: there is no log"]
            return
        size = self._log.path.stat().st_size if self._log.path.exists() else 0
        self._reader = LogReader(self._log.path, at=max(0, size - LOG_TAIL_BYTES))
        self.view.title = describe_log(self._log, self.clock.now())
        self._read_log()
        if not self.view.lines:
            self.view.lines = [""]

    def _read_log(self) -> bool:
        """Whether there was something new; a log of the next attempt takes the place of the one before."""
        if self._reader is None or self._log is None:
            return False
        text = self._reader.read_new()
        if not text and self._log.has_successor():
            self.feed.read_all()
            self._open_log()
            return True
        if text:
            *lines, rest = text.split("\n")
            last = self.view.lines.pop() if self.view.lines else ""
            self.view.lines += [last + lines[0], *lines[1:], rest] if lines else [last + rest]
            del self.view.lines[:-MOST_LOG_LINES]
        return bool(text)

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and the view comes back with `fg`."""
        self.terminal.stop_for_shell()
