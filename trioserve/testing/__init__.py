"""For tests: the real server on connections in memory with TCP's semantics, in virtual time if you like.

What needs httpx is found here too, and asks for `pip install 'trioserve[testing]'` where that is missing; the rest
needs nothing that trioserve does not.
"""

import importlib
import typing

from trioserve.testing.allowed import Allowed, allowed_after_leaving
from trioserve.testing.answers import Asked, RawAnswer, WrongAnswer, read_answers, read_answers_before_leaving
from trioserve.testing.clock import VirtualClock, run
from trioserve.testing.facts import Cut, Ending, Wait
from trioserve.testing.handlers import Handler, Marks, Service
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way
from trioserve.testing.model import ModelBroken, breaches, check_script
from trioserve.testing.peer import Left, Peer
from trioserve.testing.places import Place
from trioserve.testing.points import Tally, leave_at_every_point
from trioserve.testing.records import Records
from trioserve.testing.report import LeftAMess
from trioserve.testing.residue import Residue, left
from trioserve.testing.scripts import (
    Course,
    Leave,
    Pause,
    Quiet,
    Reach,
    Read,
    Script,
    Send,
    Stay,
    Visit,
    play_script,
    play_scripts,
)
from trioserve.testing.served import Served, served
from trioserve.testing.server import MemoryServer, memory_server
from trioserve.testing.transport import MemoryPeer, MemoryTransport, memory_connection
from trioserve.testing.watching import SwallowedTooOften, Watch
from trioserve.testing.wire import Wire, wire_of

if typing.TYPE_CHECKING:
    from trioserve.testing.client import Answer, TestClient

__all__ = [
    "Allowed",
    "Answer",
    "Asked",
    "BodyBytes",
    "Checkpoint",
    "Course",
    "Cut",
    "Ending",
    "Handler",
    "HeadBytes",
    "Leave",
    "Left",
    "LeftAMess",
    "Marks",
    "MemoryPeer",
    "MemoryServer",
    "MemoryTransport",
    "ModelBroken",
    "Pause",
    "Peer",
    "Place",
    "Point",
    "Quiet",
    "RawAnswer",
    "Reach",
    "Read",
    "Records",
    "Residue",
    "ResponseBytes",
    "Script",
    "Send",
    "Served",
    "Service",
    "Stay",
    "SwallowedTooOften",
    "Tally",
    "TestClient",
    "VirtualClock",
    "Visit",
    "Wait",
    "Watch",
    "Way",
    "Wire",
    "WrongAnswer",
    "allowed_after_leaving",
    "breaches",
    "check_script",
    "left",
    "leave_at_every_point",
    "memory_connection",
    "memory_server",
    "play_script",
    "play_scripts",
    "read_answers",
    "read_answers_before_leaving",
    "run",
    "served",
    "wire_of",
]

# By their modules, and what they need: an extra's package.
_NEED = {"Answer": ("trioserve.testing.client", "httpx"), "TestClient": ("trioserve.testing.client", "httpx")}


def __getattr__(name: str) -> typing.Any:
    if name not in _NEED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, package = _NEED[name]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{__name__}.{name} needs the package {package}; install it with pip install 'trioserve[testing]'",
            name=package,
        ) from None
