"""A zstd file as a stream of bytes that knows a cut-off file from a whole one."""

import io
from typing import BinaryIO

import zstandard

ZSTD_CHUNK = 1 << 13
"""Compressed bytes taken at once. Small, as 4 of them can stand for 128 KiB."""
WINDOW = 1 << 31
"""Of `zstd --long=31`, the largest there is."""


class ZstdFile(io.RawIOBase):
    """All frames of a file one after the other; EOFError if the last one is unfinished.

    zstandard's own reader takes the end of the file for the end of the data, frame or no frame.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while not self._ready:
            self._compressed = self._compressed or self._file.read(ZSTD_CHUNK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = self._frame.decompress(self._compressed)
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
