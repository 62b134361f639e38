"""systemd: sockets that it has opened for us, and what it wants to be told.

Both are protocols of a few lines, so there is no library for them. Sockets come as descriptors from 3 on, announced by
LISTEN_FDS to the process of which LISTEN_PID is the id (sd_listen_fds(3)). What we tell goes as a datagram to the
socket NOTIFY_SOCKET (sd_notify(3)): a service of `Type=notify` counts as started, and as reloaded, when it says so.

The variables of the sockets are taken out of the environment, as they are meant for this process and not for its
children. NOTIFY_SOCKET stays: the application may have something to tell too, such as `WATCHDOG=1`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from trioserve.core.errors import ERROR_LOGGER, ConfigError

_FIRST = 3
"""SD_LISTEN_FDS_START."""

_log = logging.getLogger(ERROR_LOGGER)


def take_descriptors(environment: MutableMapping[str, str], pid: int) -> tuple[int, ...]:
    """The descriptors of the sockets that systemd has opened for the process `pid`; none if it has not.

    Raises:
        ConfigError: the variables are garbled.
    """
    for_whom, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if for_whom != str(pid):
        return ()
    if not (count.isascii() and count.isdigit()):
        raise ConfigError(f"LISTEN_FDS is {count!r}; systemd gives the number of sockets there")
    return tuple(range(_FIRST, _FIRST + int(count)))


class Notifier:
    """Tells systemd how far the service is. Without NOTIFY_SOCKET it is silent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._path = environment.get("NOTIFY_SOCKET")

    def ready(self) -> None:
        """The service has started, or is through with a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It begins to reload, until `ready`."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It begins to stop."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0)  # nothing waits for systemd
                sock.sendto(os.fsencode(state), address)
        except OSError as error:
            _log.warning("cannot tell systemd %s: %s", state.partition("\n")[0], error.strerror)
