"""The reserve of descriptors: what accepting leaves for handlers.

To serve a request often takes more than the connection: the file of a response, a form's temporary file, a connection
to a database. If accepting took the last descriptor, these would fail, and clients that are being served would be
answered 500, while others are let in. So accepting pauses before that, as it does where there is none at all; who comes
meanwhile waits in the listener's backlog.

The system gives out the lowest number that is free. So it is asked for one before each connection is accepted, which
costs a microsecond; if that lies below the mark, so will the connection's. Thus connections never have a descriptor
of the reserve, and there are always so many for all else.

What must stay true: a server without a connection accepts one, whatever else its process has opened.
"""

from __future__ import annotations

import errno
import math
import os
import sys

MOST = 256
"""The largest reserve. A quarter of the 1,024 descriptors that most systems allow."""


def mark_of(limit: float, used: int) -> float:
    """The lowest descriptor of the reserve: it is a quarter of those that were not in use before, up to `MOST`."""
    return limit - min((limit - used) // 4, MOST) if limit < math.inf else math.inf


if sys.platform == "win32":

    def _limit() -> float:
        return math.inf

else:
    import resource

    def _limit() -> float:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return math.inf if soft == resource.RLIM_INFINITY else soft


class Reserve:
    """Keeps accepting from touching the reserve. Made before the first connection is accepted."""

    def __init__(self) -> None:
        # What the process had open before.
        self._used = _given_back(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def check(self, listener: int) -> None:
        """To be called before each connection is accepted, but for the only one.

        Args:
            listener: any descriptor that is open. A second one of it costs a quarter of what opening a file does.

        Raises:
            OSError: only the reserve is left (EMFILE), or not even that.
        """
        if _given_back(os.dup(listener)) >= mark_of(_limit(), self._used):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _given_back(descriptor: int) -> int:
    os.close(descriptor)
    return descriptor
