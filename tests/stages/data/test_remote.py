"""Shards of a store: fetched whole, kept bounded, refused when they are not what they were."""

import multiprocessing
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec  # type: ignore[import-untyped]
import pytest

from stages.data import remote as remote_shards
from stages.data.remote import RemoteFolder, check_address, resolve_cache_folder
from stages.data.shards import TarShards
from stages.data.text import TokenShards
from stages.errors import DataError
from tests.stages.training.training_case import (
    CONTEXT,
    World,
    final_weights,
    run_here,
    same_bits,
    text_config,
    write_text,
    write_tokenizer,
)


class Server(SimpleHTTPRequestHandler):
    """A web server of a folder that may break off."""

    broken: ClassVar[dict[str, int]] = {}
    """How many more times each file's content ends half way; below 0: the server fails before it."""
    asked: ClassVar[list[str]] = []
    endless: ClassVar[list[str]] = []
    """Files whose content does not stop, whatever length was promised."""
    sent: ClassVar[list[int]] = []
    """Bytes of endless contents."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if name in self.endless:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(512):
                    self.wfile.write(bytes(1 << 20))
                    self.sent.append(1 << 20)
            return
        if not self.broken.get(name):
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        if self.broken[name] < 0:
            self.broken[name] += 1
            self.send_error(503)
            return
        self.broken[name] -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    Server.broken, Server.asked, Server.endless, Server.sent = {}, [], [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server's folder of three shards of ten sequences."""
    write_text(tmp_path / "remote" / "text", shards=3, sequences=10)
    with serving(tmp_path / "remote") as root:
        yield f"{root}/text"


def remote(
    address: str, tmp_path: Path, waits: tuple[float, ...] = (0.01, 0.01), sleep: Callable[[float], None] = time.sleep
) -> RemoteFolder:
    return RemoteFolder(address, tmp_path / "cache", waits, sleep)


def copies(tmp_path: Path) -> list[str]:
    return sorted(path.name.partition("-shard")[0] for path in (tmp_path / "cache").rglob("*.tar"))


def test_shards_of_a_web_server_are_those_of_its_folder(address: str, tmp_path: Path) -> None:
    here = TokenShards("text", tmp_path / "remote" / "text", context=CONTEXT, vocabulary=300, seed=0)
    there = TokenShards("text", remote(address, tmp_path), context=CONTEXT, vocabulary=300, seed=0)
    assert there.shard_sizes == [10, 10, 10]
    for index in range(30):
        one, other = here.read_document(index, 0), there.read_document(index, 0)
        assert one is not None
        assert other is not None
        assert list(one.tokens) == list(other.tokens)
    assert sorted(Server.asked) == ["/text/manifest.jsonl", *(f"/text/shard-{n}.tar" for n in range(3))]
    again = TarShards(remote(address, tmp_path))
    assert [again.find_sample(index).extensions for index in (0, 29)] == [("json.gz",)] * 2
    assert len(Server.asked) == 4  # what is on the node is not fetched again


def test_a_single_tar_needs_no_manifest(address: str, tmp_path: Path) -> None:
    shards = TarShards(remote(f"{address}/shard-1.tar", tmp_path))
    assert (shards.size, shards.find_sample(0).extensions) == (10, ("json.gz",))


def test_a_store_behind_fsspec_is_read_too(tmp_path: Path) -> None:
    write_text(tmp_path / "text", shards=2, sequences=5)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "text"), "/bucket/text", recursive=True)
    try:
        shards = TarShards(remote("memory://bucket/text/", tmp_path))
        assert [shards.find_sample(index).where for index in (0, 9)]
        files.rm("/bucket/text/shard-1.tar")
        (found,) = (tmp_path / "cache").rglob("shard-1*")
        found.unlink()
        with pytest.raises(DataError, match=r"^memory://bucket/text/shard-1\.tar: FileNotFoundError"):
            TarShards(remote("memory://bucket/text", tmp_path)).find_sample(9)
    finally:
        files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("times", [2, -2])
def test_a_broken_download_is_tried_again(address: str, tmp_path: Path, times: int) -> None:
    Server.broken["shard-0.tar"] = times
    assert TarShards(remote(address, tmp_path)).find_sample(0).extensions == ("json.gz",)
    assert Server.asked.count("/text/shard-0.tar") == 3


def test_a_download_that_stays_broken_names_the_address_and_leaves_nothing(address: str, tmp_path: Path) -> None:
    Server.broken["shard-0.tar"] = 3
    with pytest.raises(DataError, match=r"/text/shard-0\.tar: 3 tries: OSError: \d+ bytes of \d+ came"):
        TarShards(remote(address, tmp_path)).find_sample(0)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in {".tar", ".part"}]


def test_a_server_that_sends_more_than_it_promised_is_stopped_there(address: str, tmp_path: Path) -> None:
    Server.endless.append("shard-0.tar")
    with pytest.raises(
        DataError, match=r"shard-0\.tar: 3 tries: OSError: more than the \d+ bytes came that it promised"
    ):
        TarShards(remote(address, tmp_path)).find_sample(0)
    assert sum(Server.sent) < 3 * (64 << 20)  # what lay in the sockets' buffers
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in {".tar", ".part"}]


def test_a_server_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/text/manifest\.jsonl: 3 tries: URLError"):
        TarShards(remote("http://127.0.0.1:9/text", tmp_path))


def test_a_server_that_is_gone_is_tried_again_after_longer_and_longer_waits(tmp_path: Path) -> None:
    slept: list[float] = []
    with pytest.raises(DataError, match=f"{len(remote_shards.RETRY_DELAYS) + 1} tries"):
        TarShards(remote("http://127.0.0.1:9/text", tmp_path, remote_shards.RETRY_DELAYS, slept.append))
    assert slept == list(remote_shards.RETRY_DELAYS)
    assert slept == sorted(slept)


def test_a_folder_without_a_manifest_is_an_error(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/other/manifest\.jsonl: FileNotFoundError.*need a manifest\.jsonl"):
        TarShards(remote(address.replace("/text", "/other"), tmp_path))


def test_a_shard_that_changes_under_a_job_is_refused(address: str, tmp_path: Path) -> None:
    folder = remote(address, tmp_path)
    shards = TarShards(folder)
    shards.find_sample(0)
    write_text(tmp_path / "other", shards=1, sequences=10, length=CONTEXT + 9)
    changed = (tmp_path / "other" / "shard-0.tar").read_bytes()
    (tmp_path / "remote" / "text" / "shard-0.tar").write_bytes(changed)
    os.utime(tmp_path / "remote" / "text" / "shard-0.tar", (2e9, 2e9))  # the server tells whole seconds
    with pytest.raises(DataError, match=r"shard-0\.tar: it has changed since this job read it"):
        folder.fetch_local("shard-0.tar")
    # a new job takes the new one, not the copy of the old
    assert remote(address, tmp_path).fetch_local("shard-0.tar").read_bytes() == changed


def test_copies_are_bounded_and_the_oldest_go(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_shards, "SHARDS_KEPT", 2)
    folder = remote(address, tmp_path)
    open_shards = TarShards(folder)
    for number in range(3):
        open_shards.find_sample(10 * number)
        path = folder.fetch_local(f"shard-{number}.tar")
        os.utime(path, (number + 1e9, number + 1e9))
    assert [name.partition("-")[2][0] for name in sorted(path.name for path in folder.copies.glob("*.tar"))] == [
        "1",
        "2",
    ]
    assert open_shards.find_sample(5).read("json.gz")  # it is open still
    (folder.copies / ".shard-9.tar.1.1.part").touch()
    os.utime(folder.copies / ".shard-9.tar.1.1.part", (1e9, 1e9))
    folder.fetch_local("shard-0.tar")
    assert not list(folder.copies.glob(".*.part"))


def test_shards_are_fetched_ahead_of_use(address: str, tmp_path: Path) -> None:
    shards = TarShards(remote(address, tmp_path))
    shards.prefetch([2, 0])
    until = time.monotonic() + 120
    while len(copies(tmp_path)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert Server.asked[1:] == ["/text/shard-2.tar", "/text/shard-0.tar"]


def fetch_all(address: str, folder: Path) -> int:
    """In a process of its own: every shard of the address."""
    shards = TarShards(RemoteFolder(address, folder))
    return sum(len(shards.find_sample(index).read("json.gz")) for index in range(shards.size))


def test_processes_of_a_node_fetch_each_shard_once(address: str, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sizes = pool.starmap(fetch_all, [(address, tmp_path / "cache")] * 2)
        pool.close()
        pool.join()
    assert len(set(sizes)) == 1
    assert sorted(Server.asked) == ["/text/manifest.jsonl", *(f"/text/shard-{n}.tar" for n in range(3))]


def test_a_folder_can_go_to_another_process(address: str, tmp_path: Path) -> None:
    shards = TarShards(remote(address, tmp_path))
    shards.find_sample(0)
    shards.prefetch([1])
    assert pickle.loads(pickle.dumps(shards)).find_sample(29).read("json.gz") == shards.find_sample(29).read("json.gz")  # noqa: S301


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc", "pipe:cat x", "ftp://host/x", "s3://", "http://user:word@host/x", "http://host/x?y=1", "s3://b/../x",
        "simplecache::s3://bucket/x", "s3://bucket/x::file:///etc", "http://host/a b", "memory://x/*", "local:///x",
    ],
)  # fmt: skip
def test_addresses_that_mean_something_else_are_refused(address: str) -> None:
    with pytest.raises(DataError):
        check_address(address)


def test_a_missing_back_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(DataError, match=r"^s3://bucket/text: s3:// needs s3fs; install it"):
        remote("s3://bucket/text", tmp_path)


def test_the_node_s_folder_is_this_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = resolve_cache_folder("", tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(DataError, match="set local_cache"):
        resolve_cache_folder("", tmp_path)
    assert resolve_cache_folder("shards", tmp_path / "run") == tmp_path / "run" / "shards"


def test_a_job_trains_on_a_store_as_on_a_folder(address: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    write_tokenizer(world.data / "tokenizer.json")
    write_text(world.data / "text", shards=3, sequences=10)
    here = world.run("here", "pretrain", text_config(3))
    there = world.job("there", "pretrain", text_config(3), local_cache=str(tmp_path / "cache"))
    job = replace(there, data={**there.data, "text": address})
    assert run_here(job)
    assert same_bits(final_weights(here), final_weights(job))
    assert (tmp_path / "cache").is_dir()
