"""trioserve: when the client goes away, the work stops at once, leaves no mess, and somebody is told the truth."""

from trioserve.app.application import App
from trioserve.app.events import Event, SendEvent
from trioserve.app.forms import Form
from trioserve.app.headers import MutableHeaders
from trioserve.app.multidict import MultiDict
from trioserve.app.request import Request
from trioserve.app.response import Response
from trioserve.app.router import Middleware, Next, PolicyOptions, RouteOptions, Router
from trioserve.app.routing import Converter
from trioserve.app.streaming import Send
from trioserve.app.uploads import UploadedFile
from trioserve.app.websocket import WebSocket, WebSocketClosed
from trioserve.core.engine import EngineName
from trioserve.core.errors import (
    ClientGone,
    ConfigError,
    DropConnection,
    HTTPError,
    RequestError,
    ResponseError,
    TrioserveError,
)
from trioserve.core.forwarded import ForwardedFields
from trioserve.core.lifecycle import CANCEL, FINISH, Cause, DisconnectPolicy, Grace, HalfClose, Outcome, Phase
from trioserve.core.limits import Deadlines, Limits
from trioserve.core.messages import Headers
from trioserve.core.records import Abandoned, Completed
from trioserve.observe.observer import Observer
from trioserve.server.certificates import tls_context
from trioserve.server.config import Config, HangupNews, OpenSocket, TcpAddress, UnixAddress
from trioserve.server.server import serve

__all__ = [
    "Router",
    "RouteOptions",
    "PolicyOptions",
    "Next",
    "Middleware",
    "Converter",
    "CANCEL",
    "FINISH",
    "Abandoned",
    "App",
    "Cause",
    "ClientGone",
    "Completed",
    "Config",
    "ConfigError",
    "Deadlines",
    "DisconnectPolicy",
    "DropConnection",
    "EngineName",
    "Event",
    "Form",
    "ForwardedFields",
    "Grace",
    "HTTPError",
    "HalfClose",
    "HangupNews",
    "Headers",
    "Limits",
    "MultiDict",
    "MutableHeaders",
    "Observer",
    "OpenSocket",
    "Outcome",
    "Phase",
    "Request",
    "RequestError",
    "Response",
    "ResponseError",
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
