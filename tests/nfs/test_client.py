"""The mount does what NFS does: what is seen late, what is asked, what is refused. Else tests on it show nothing."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.nfs import Machine, SharedFolder

CACHE_SECONDS = 6.0
"""Longer than a busy machine takes from one look to the next."""
Pair = tuple[Machine, Machine]
FACTS = "print(os.uname().nodename, Path('/proc/sys/kernel/random/boot_id').read_text())"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with SharedFolder.make(cache_seconds=CACHE_SECONDS, seconds_ahead=47) as shared:
        yield shared.boot("node-a"), shared.boot("node-b")


def test_two_machines_have_a_name_and_a_boot_of_their_own_and_one_folder(pair: Pair) -> None:
    facts = [machine.python(FACTS) for machine in pair]
    assert facts[0] != facts[1]
    pair[0].python("(folder / 'one').write_text('1')")
    assert pair[1].python("print((folder / 'one').read_text())") == "1"


def on_both(reader: Machine, act: Callable[[], object], ask: str) -> list[str]:
    """What `ask` prints on a machine before `act`, right after it, after an open of the folder, and late."""
    code = (
        f"{ask}\nsys.stdin.readline()\n{ask}\nos.close(os.open(folder, os.O_RDONLY))\n{ask}\n"
        f"time.sleep({CACHE_SECONDS + 0.5})\n{ask}"
    )
    return reader.converse(code, act)


def test_an_absent_name_stays_absent_until_the_folder_is_opened(pair: Pair) -> None:
    here, there = pair
    seen = on_both(
        there, lambda: here.python("(folder / 'late').touch()"), "print(os.path.exists(folder / 'late'), flush=True)"
    )
    assert seen == ["False", "False", "True", "True"]


def test_attributes_are_old_until_the_file_is_opened_or_the_cache_ends(pair: Pair) -> None:
    here, there = pair
    here.python("(folder / 'grows').write_text('1')")
    ask = "print(os.stat(folder / 'grows').st_size, flush=True)"
    assert on_both(there, lambda: here.python("open(folder / 'grows', 'a').write('23')"), ask) == ["1", "1", "1", "3"]
    opened = "print(os.stat(folder / 'grows').st_size, len((folder / 'grows').read_text()), flush=True)"
    assert on_both(there, lambda: here.python("open(folder / 'grows', 'a').write('45')"), opened)[1:3] == ["3 5", "5 5"]


def test_what_is_written_is_seen_elsewhere_when_it_is_flushed(pair: Pair) -> None:
    here, there = pair
    code = (
        "file = open(folder / 'slow', 'w', buffering=1)\nfile.write('x\\n')\nprint('written', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    sizes: list[str] = []

    def look() -> None:
        sizes.append(there.python("print(len((folder / 'slow').read_text()))"))

    here.converse(code + "os.fsync(file.fileno())\nprint('flushed', flush=True)", look)
    look()
    assert sizes == ["0", "2"]


def test_a_file_that_is_replaced_elsewhere_while_it_is_open_is_stale(pair: Pair) -> None:
    here, there = pair
    here.python("(folder / 'replaced').write_text('old')")
    code = (
        "file = os.open(folder / 'replaced', os.O_RDONLY)\nprint('open', flush=True)\nsys.stdin.readline()\n"
        f"time.sleep({CACHE_SECONDS + 0.5})\n"
        "try:\n    print(os.read(file, 9))\nexcept OSError as error:\n    print(error.strerror)\n"
    )
    told = there.converse(
        code, lambda: here.python("(folder / 'n').write_text('new'); os.replace(folder / 'n', folder / 'replaced')")
    )
    assert told == ["open", "Stale file handle"]


def test_a_file_that_is_removed_here_while_it_is_open_keeps_a_name_until_it_is_closed(pair: Pair) -> None:
    code = (
        "os.mkdir(folder / 'd')\nfile = open(folder / 'd' / 'f', 'w')\nos.unlink(folder / 'd' / 'f')\n"
        "print([name[:4] for name in os.listdir(folder / 'd')])\nfile.close()\nprint(os.listdir(folder / 'd'))"
    )
    assert pair[0].python(code).splitlines() == ["['.nfs']", "[]"]


def test_one_of_two_machines_creates_a_name_and_links_it(pair: Pair) -> None:
    code = (
        "wins = 0\nfor number in range(60):\n    try:\n"
        "        os.close(os.open(folder / f'race-{number}', os.O_CREAT | os.O_EXCL | os.O_WRONLY))\n"
        "        wins += 1\n    except FileExistsError:\n        pass\n"
        "own = folder / f'own-{os.uname().nodename}'\nown.touch()\n"
        "for number in range(60):\n    try:\n        os.link(own, folder / f'link-{number}')\n        wins += 1\n"
        "    except FileExistsError:\n        pass\nprint(wins)"
    )
    processes = [machine.begin(code) for machine in pair]
    assert sum(int(process.communicate(timeout=600)[0]) for process in processes) == 120


def test_a_lock_that_one_machine_holds_is_not_to_be_had_on_the_other(pair: Pair) -> None:
    here, there = pair
    take = (
        "import fcntl\nfile = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT)\n"
        "try:\n    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    print('taken', flush=True)\n"
        "except BlockingIOError:\n    print('held', flush=True)\n"
    )
    told: list[str] = []
    here.converse(take + "sys.stdin.readline()\n", lambda: told.append(there.python(take)))
    told.append(there.python(take))
    assert told == ["held", "taken"]


def test_a_lock_that_is_local_is_to_be_had_on_both() -> None:
    take = (
        "import fcntl\nfile = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nprint('taken', flush=True)\n"
    )
    with SharedFolder.make(cache_seconds=CACHE_SECONDS) as shared:
        shared.local_locks = True
        here, there = shared.boot("node-a"), shared.boot("node-b")
        told: list[str] = []
        here.converse(take + "sys.stdin.readline()\n", lambda: told.append(there.python(take)))
    assert told == ["taken"]


def test_times_are_the_servers(pair: Pair) -> None:
    ahead = float(pair[0].python("(folder / 'now').touch(); print((folder / 'now').stat().st_mtime - time.time())"))
    assert 45 < ahead < 48
    before = time.time()
    touched = float(pair[0].python("os.utime(folder / 'now'); print((folder / 'now').stat().st_mtime)"))
    assert touched > before + 45


def test_a_crash_loses_what_was_not_flushed_and_the_machine_comes_back_with_another_boot(pair: Pair) -> None:
    here, there = pair
    there.python("(folder / 'kept').write_text('1')")
    boot = there.python("print(open('/proc/sys/kernel/random/boot_id').read())")
    there.crash()
    there.boot()
    assert there.python("print(open('/proc/sys/kernel/random/boot_id').read())") != boot
    assert (
        there.python("print((folder / 'kept').read_text())")
        == here.python("print((folder / 'kept').read_text())")
        == "1"
    )
