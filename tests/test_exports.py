"""What users import: a name that comes or goes here is a line in CHANGELOG.md."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import trioserve
import trioserve.testing

PUBLIC = [
    "Abandoned",
    "App",
    "CANCEL",
    "Cause",
    "ClientGone",
    "Completed",
    "Config",
    "ConfigError",
    "Converter",
    "Deadlines",
    "DisconnectPolicy",
    "DropConnection",
    "EngineName",
    "Event",
    "FINISH",
    "Form",
    "ForwardedFields",
    "Grace",
    "HTTPError",
    "HalfClose",
    "HangupNews",
    "Headers",
    "Limits",
    "Middleware",
    "Next",
    "MultiDict",
    "MutableHeaders",
    "Observer",
    "OpenSocket",
    "Outcome",
    "Phase",
    "PolicyOptions",
    "Request",
    "RequestError",
    "Response",
    "ResponseError",
    "RouteOptions",
    "Router",
    "Send",
    "SendEvent",
    "TcpAddress",
    "TrioserveError",
    "UnixAddress",
    "WebSocket",
    "WebSocketClosed",
    "UploadedFile",
    "serve",
    "tls_context",
]

PUBLIC_FOR_TESTS = [
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
    "Marks",
    "LeftAMess",
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


def test_the_public_names_are_these():
    assert sorted(trioserve.__all__) == sorted(PUBLIC)
    assert sorted(trioserve.testing.__all__) == sorted(PUBLIC_FOR_TESTS)


@pytest.mark.parametrize("module", [trioserve, trioserve.testing], ids=lambda module: module.__name__)
def test_nothing_else_is_found_there_but_modules_and_private_names(module):
    others = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    # Some are imported only when they are asked for, since they need an extra.
    lazy = set(vars(module).get("_NEED", ()))
    assert others | lazy == set(module.__all__)
    assert not others & lazy


@pytest.mark.parametrize("name", [*PUBLIC, *(f"testing.{name}" for name in PUBLIC_FOR_TESTS)])
def test_every_public_name_has_a_docstring_of_its_own(name):
    module = trioserve.testing if name.startswith("testing.") else trioserve
    value = getattr(module, name.removeprefix("testing."))
    assert inspect.cleandoc(value.__doc__ or "")
    if inspect.isclass(value):
        # Neither inherited nor made up by dataclass, whose own is the signature.
        assert value.__dict__["__doc__"] is not None
        assert not value.__doc__.startswith(f"{value.__name__}(")


def test_every_module_can_be_imported_and_says_what_it_is_for():
    root = Path(trioserve.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "__main__.py" or not path.read_text():
            continue
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        assert importlib.import_module(name).__doc__, name
