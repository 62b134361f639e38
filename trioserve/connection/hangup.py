"""The hangup watch: one epoll object for all connections of a trio run, which hears FIN and RST the moment they come.

Theory
------
A socket registered for EPOLLRDHUP alone, edge-triggered, costs nothing while data flows, and fires once for a FIN and
once for a RST, whatever lies unread before it, whoever else waits on the socket, and whether a send is blocked or
not. The epoll object is itself a file descriptor: one system task waits until it is readable and calls the listeners
of the sockets that fired. Listeners run between two steps of the scheduler; they may cancel scopes and set marks, and
must not block, wait, or close a watched socket.

A FIN that cannot arrive, because the client's unread bytes have closed our receive window, is the one thing that the
kernel cannot tell. For a connection that is in this danger `hear_bytes` adds EPOLLIN, so that the connection can act
when the unread bytes pile up.

The watch is a system task and not a server's child, so that it outlives a server's cancellation: a handler that
cleans up under a shield while the server stops is still watched.
"""

from __future__ import annotations

import logging
import select
from typing import Protocol

import trio

_log = logging.getLogger("trioserve")


class Listener(Protocol):
    """What a watched socket's owner does with the news. Neither method may raise."""

    def hung_up(self) -> None: ...

    def bytes_arrived(self) -> None: ...


def kernel_watch_available() -> bool:
    """True where the kernel can tell a hangup without a read: Linux."""
    return hasattr(select, "epoll") and hasattr(select, "EPOLLRDHUP")


class HangupWatch:
    """The watched sockets of one trio run. Get it from `current_hangup_watch`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._listeners: dict[int, Listener] = {}

    def add(self, fd: int, listener: Listener) -> None:
        """Watch `fd`. A hangup that has happened already is heard too."""
        self._epoll.register(fd, _HANGUP)
        self._listeners[fd] = listener

    def hear_bytes(self, fd: int) -> None:
        """Hear of arriving bytes too, beginning with those that lie there now."""
        self._epoll.modify(fd, _HANGUP | select.EPOLLIN)

    def hear_hangups_only(self, fd: int) -> None:
        """Take `hear_bytes` back."""
        self._epoll.modify(fd, _HANGUP)

    def remove(self, fd: int) -> None:
        """Stop watching `fd`. Must come before the socket is closed: numbers of descriptors are used again."""
        del self._listeners[fd]
        self._epoll.unregister(fd)

    def look(self) -> None:
        """Tell the listeners all that has happened. Costs a fifth of a microsecond when nothing has."""
        for fd, events in self._epoll.poll(0):
            listener = self._listeners.get(fd)
            if listener is None:
                continue  # removed by a listener that was called just before
            try:
                if events & _HUNG_UP:
                    listener.hung_up()
                if events & select.EPOLLIN:
                    listener.bytes_arrived()
            except Exception:
                # One connection's mistake must not blind the watch for all the others.
                _log.exception("trioserve: internal error in a hangup listener; please report it")

    async def run(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.look()
        finally:
            self._epoll.close()


if kernel_watch_available():
    _HANGUP = select.EPOLLRDHUP | select.EPOLLET
    _HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

_watch: trio.lowlevel.RunVar[HangupWatch] = trio.lowlevel.RunVar("trioserve.hangup_watch")


def current_hangup_watch() -> HangupWatch:
    """The hangup watch of the current trio run, started at the first call."""
    try:
        return _watch.get()
    except LookupError:
        watch = HangupWatch()
        _watch.set(watch)
        trio.lowlevel.spawn_system_task(watch.run, name="trioserve hangup watch")
        return watch
