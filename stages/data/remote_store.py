"""Files of an object store or a web server: their size and version, and their content. No shell, no chained addresses.

Web servers are read with the standard library; fsspec's own way there needs aiohttp. The others go through fsspec and
its back ends, which take their credentials from their own environment variables and files.
"""

import shutil
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from stages.errors import DataError

BACK_ENDS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": ""}
"""Package that each scheme needs besides fsspec."""
WEB = ("http", "https")
TIMEOUT_SECONDS = 60.0
VERSION_NAMES = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""Where back ends say which version of a file it is; the first that is there counts."""


class Version(NamedTuple):
    """Which content a file has."""

    size: int
    tag: str
    """What the store names the version; empty if it does not say."""


class RemoteStore(Protocol):
    """A folder of files. FileNotFoundError and PermissionError are final; other errors may pass."""

    def version(self, name: str) -> Version: ...

    def download(self, name: str, path: Path) -> None:
        """Writes the file's content, or as much of it as came, to `path`."""
        ...


def open_store(address: str) -> RemoteStore:
    """The folder at a checked address; DataError names the package that a scheme lacks."""
    scheme = urlsplit(check_address(address)).scheme
    if scheme in WEB:
        return WebStore(address)
    try:
        import fsspec  # type: ignore[import-untyped]

        return FsspecStore(address, fsspec.filesystem(scheme))
    except ImportError as error:
        package = BACK_ENDS[scheme] or "fsspec"
        raise DataError(f"{address}: {scheme}:// needs {package}; install it beside the stages: {error}") from error


def check_address(address: str) -> str:
    """The address of a folder, or of one tar, without a slash at its end; DataError if it is none that is read."""
    parts = urlsplit(address)
    if parts.scheme not in {*BACK_ENDS, *WEB} or "://" not in address:
        known = ", ".join(f"{scheme}://" for scheme in (*BACK_ENDS, *WEB) if scheme != "memory")
        raise DataError(f"{address!r}: not an address that is read; a local path or one of {known}")
    strange = not address.isprintable() or set(address) & set(" \\?#*[") or "::" in address
    if strange or "@" in parts.netloc or not parts.netloc or {"..", "."} & set(parts.path.split("/")):
        raise DataError(f"{address!r}: a plain SCHEME://PLACE/FOLDER is expected: no password, query, pattern or chain")
    return address.rstrip("/")


@dataclass(frozen=True)
class FsspecStore:
    """A folder behind fsspec."""

    address: str
    files: Any

    def version(self, name: str) -> Version:
        info = self.files.info(f"{self.address}/{name}")
        tag = next((str(info[key]) for key in VERSION_NAMES if info.get(key)), "")
        return Version(int(info["size"]), tag)

    def download(self, name: str, path: Path) -> None:
        self.files.get_file(f"{self.address}/{name}", str(path))


class WebStore:
    """A folder on a web server that tells its files' lengths."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = OpenerDirector()  # its own, as the usual one would follow a redirection to ftp:// and file://
        for handler in (
            ProxyHandler(), HTTPHandler(), HTTPSHandler(),
            HTTPDefaultErrorHandler(), HTTPRedirectHandler(), HTTPErrorProcessor(),
        ):  # fmt: skip
            self._opener.add_handler(handler)

    def version(self, name: str) -> Version:
        with self._request("HEAD", name) as response:
            headers = response.headers
        if not headers.get("Content-Length", "").isdecimal():
            raise DataError(f"{self.address}/{name}: the server does not tell its length")
        return Version(int(headers["Content-Length"]), headers.get("ETag") or headers.get("Last-Modified") or "")

    def download(self, name: str, path: Path) -> None:
        with self._request("GET", name) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)

    def _request(self, method: str, name: str) -> Any:
        url = f"{self.address}/{name}"
        try:
            return self._opener.open(Request(url, method=method), timeout=TIMEOUT_SECONDS)  # noqa: S310 - http(s) alone
        except HTTPError as error:
            error.close()
            if error.code in {404, 410}:
                raise FileNotFoundError(f"{url}: {error.reason}") from error
            if error.code in {401, 403}:
                raise PermissionError(f"{url}: {error.reason}") from error
            raise
        except HTTPException as error:  # a server that breaks off, or speaks another language
            raise OSError(f"{url}: {type(error).__name__}: {error}") from error
