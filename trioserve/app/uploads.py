"""Uploads: the files of a form, and where their content is while the exchange lasts.

The content of a form's files is in memory up to a bound that they share. What goes beyond it is in one temporary file
for the whole form, so there is one descriptor however many files there are. It has no name where the system can do
that. It is written and read in worker threads.

When the exchange has ended, however it did, the temporary file is gone, and nothing can be read any more: neither from
the files that were on disk nor from those that happened to be small.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import trio

from trioserve.core.messages import Headers

READ_SIZE = 65_536
"""Bytes in a chunk of an uploaded file: what one send takes."""


class UploadedFile:
    """A file in a form. It can be read until the exchange has ended; what is to be kept is copied with `save`.

    Attributes:
        name: the form field's name.
        filename: as the client says it, or "". It may be anything, also "../../x": never use it as a path.
        headers: the part's header section; the client says what it likes here too.
        size: in bytes.

    Reading a file that is on disk happens in a worker thread. Cancellation: a read that has begun is waited for, and
    the position has then not moved.
    """

    __slots__ = ("_content", "_position", "filename", "headers", "name")

    def __init__(self, name: str, filename: str, headers: Headers, content: Content) -> None:
        self.name = name
        self.filename = filename
        self.headers = headers
        self._content = content
        self._position = 0

    @property
    def content_type(self) -> str | None:
        """The media type that the client claims for it; None if it claims none."""
        return self.headers.get("content-type")

    @property
    def size(self) -> int:
        return self._content.size

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end and none behind it; with a negative `size` all that are left.

        Raises:
            trio.ClosedResourceError: the exchange has ended.
        """
        left = max(self.size - self._position, 0)
        data = await self._content.read(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    async def seek(self, position: int) -> None:
        """Read on from `position`, counted in bytes from the beginning. A checkpoint.

        Raises:
            ValueError: it is negative.
        """
        if position < 0:
            raise ValueError(f"seek to {position}: a position is counted from the beginning of the file")
        await trio.lowlevel.checkpoint()
        self._position = position

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks from the position on, to the end."""
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read(READ_SIZE)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole file to `path`, in a worker thread. What was there is replaced when the copy is complete.

        Cancellation: at the next chunk; then, and if it fails, all is as if it had not been called.

        Raises:
            OSError: it cannot be written.
            trio.ClosedResourceError: the exchange has ended.
        """
        await trio.to_thread.run_sync(self._save, Path(path))

    def _save(self, path: Path) -> None:
        # Under another name beside it, so that nobody ever sees half a file there.
        unfinished = path.with_name(f".upload-{secrets.token_hex(8)}")
        try:
            with unfinished.open("xb") as file:
                for position in range(0, self.size, READ_SIZE):
                    trio.from_thread.check_cancelled()
                    file.write(self._content.read_now(position, min(READ_SIZE, self.size - position)))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<UploadedFile {self.name!r}: {self.filename!r}, {self.size} bytes>"


class Storage:
    """What the files of one form contain: some of it in memory, and what goes beyond that in a temporary file.

    The content of files is put one after the other, so each file on disk is a stretch of the temporary one.

    Args:
        memory: bytes that may stay in memory.
    """

    __slots__ = ("_closed", "_file", "_memory_left", "_unwritten", "_using", "_written")

    def __init__(self, memory: float) -> None:
        self._memory_left = memory
        # Made when it is needed. Unbuffered, so that a full disk is heard of where it is written, and not at the close.
        self._file: IO[bytes] | None = None
        self._written = 0
        self._unwritten = bytearray()
        # The file has one position, and two files of the form may be read by two tasks; and it is closed by a third.
        self._using = threading.Lock()
        self._closed = False

    # While the form is decoded

    def has_memory(self, size: int) -> bool:
        return size <= self._memory_left

    def take_memory(self, size: int) -> None:
        self._memory_left -= size

    @property
    def end(self) -> int:
        """Where the next byte that is put will stand in the temporary file."""
        return self._written + len(self._unwritten)

    def put(self, data: bytes | bytearray) -> None:
        self._unwritten += data

    @property
    def unwritten(self) -> int:
        return len(self._unwritten)

    async def write(self) -> None:
        """Write what was put, in a worker thread. One that is cancelled before it has a thread can be made again.

        Raises:
            trio.ClosedResourceError: the exchange has ended.
        """
        # Not in the server's threads for handlers: a plain handler that asks for a form would wait for itself.
        await trio.to_thread.run_sync(self._write)

    def _write(self) -> None:
        # Whoever reads the form may outlive the exchange: then no file is made any more.
        with self._using:
            self.check_open()
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by aclose
            self._file.seek(self._written)
            data = bytes(self._unwritten)
            while data:
                data = data[self._file.write(data) :]
            self._written += len(self._unwritten)
            self._unwritten.clear()

    # When it is there

    def check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(
                "the exchange has ended, and with it the form's files; keep one with `await file.save(path)`"
            )

    def read(self, start: int, size: int) -> bytes:
        """Bytes from the temporary file; blocks."""
        with self._using:
            self.check_open()
            assert self._file is not None, "what is read was written"
            self._file.seek(start)
            data = b""
            while size > len(data) and (piece := self._file.read(size - len(data))):
                data += piece
            return data

    async def aclose(self) -> None:
        """Remove the temporary file, if there is one; one that is being made or written is waited for.

        Cannot be cancelled.
        """
        self._closed = True
        if self.end:  # else nothing goes to disk
            # In a thread, as freeing gigabytes takes time; in one more if need be, as nothing may be left waiting.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._remove, limiter=trio.CapacityLimiter(1))

    def _remove(self) -> None:
        with self._using:
            if self._file is not None:
                self._file.close()
                self._file = None


class Content:
    """What one file contains: all of it in memory, or all of it in the temporary file."""

    __slots__ = ("_in_memory", "_start", "_storage", "size")

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.size = 0
        self._in_memory = bytearray()
        # Where it begins in the temporary file; None if it is in memory.
        self._start: int | None = None

    def append(self, data: bytes) -> None:
        """More of it; only for the form's last file."""
        self.size += len(data)
        if self._start is None:
            if self._storage.has_memory(len(data)):
                self._storage.take_memory(len(data))
                self._in_memory += data
                return
            self._start = self._storage.end
            self._storage.put(self._in_memory)
            self._storage.take_memory(-len(self._in_memory))
            self._in_memory = bytearray()
        self._storage.put(data)

    async def read(self, position: int, size: int) -> bytes:
        """Bytes in the bounds of the file. A checkpoint."""
        if self._start is None or not size:
            await trio.lowlevel.checkpoint()
            return self.read_now(position, size)
        return await trio.to_thread.run_sync(self.read_now, position, size)

    def read_now(self, position: int, size: int) -> bytes:
        """The same without a checkpoint; blocks if it is on disk."""
        self._storage.check_open()
        if self._start is None:
            return bytes(memoryview(self._in_memory)[position : position + size])
        return self._storage.read(self._start + position, size) if size else b""
