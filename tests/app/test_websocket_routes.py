"""WebSockets as routes: found beside GET, with path parameters, dependencies and middleware, refused like others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from support.server import start
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from trioserve import App, ConfigError, HTTPError, Response, Router, WebSocket
from trioserve import Request as HandshakeRequest


class Peer:
    """A WebSocket client on a socket, by wsproto."""

    def __init__(self, stream: trio.SocketStream, target: str) -> None:
        self._stream = stream
        self._target = target
        self._wsproto = WSConnection(ConnectionType.CLIENT)

    async def ask(self) -> AcceptConnection | RejectConnection:
        await self.send(Request(host="example", target=self._target))
        return await self.next()

    async def send(self, event) -> None:
        await self._stream.send_all(self._wsproto.send(event))

    async def next(self):
        with trio.fail_after(5):
            while True:
                for event in self._wsproto.events():
                    if not isinstance(event, RejectData):
                        return event
                self._wsproto.receive_data(await self._stream.receive_some() or None)


@contextlib.asynccontextmanager
async def peer(nursery, app: App, target: str) -> AsyncIterator[Peer]:
    server = await start(nursery, app)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        yield Peer(stream, target)


class Room:
    def __init__(self, name: str) -> None:
        self.name = name
        self.left = trio.Event()


async def test_a_websocket_takes_path_parameters_and_dependencies(nursery):
    app, rooms = App(), []

    @app.dependency
    async def room(socket_request: HandshakeRequest) -> AsyncIterator[Room]:
        rooms.append(Room(socket_request.path_params["name"]))
        yield rooms[0]
        rooms[0].left.set()

    @app.websocket("/rooms/{name}")
    async def talk(socket: WebSocket, name: str, room: Room) -> None:
        async for message in socket:
            await socket.send(f"{name} {room.name} {message}")

    async with peer(nursery, app, "/rooms/blue") as client:
        assert isinstance(await client.ask(), AcceptConnection)
        await client.send(Message(data="hello"))
        event = await client.next()
        assert isinstance(event, TextMessage)
        assert event.data == "blue blue hello"
        assert not rooms[0].left.is_set()
        await client.send(CloseConnection(code=1000))
        assert isinstance(await client.next(), CloseConnection)
        with trio.fail_after(5):
            await rooms[0].left.wait()


async def test_middleware_may_refuse_a_handshake_and_sees_a_session_as_one_call(nursery):
    app, seen = App(), []
    over = trio.Event()

    @app.middleware
    async def guard(request, call_next):
        if "key" not in request.query:
            raise HTTPError(403, "bring a key")
        response = await call_next(request)
        seen.append(response.status)
        over.set()
        return response

    @app.websocket("/x")
    async def x(socket: WebSocket) -> None:
        await socket.send("in")

    server = await start(nursery, app)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        refusal = await Peer(stream, "/x").ask()
        assert isinstance(refusal, RejectConnection)
        assert refusal.status_code == 403
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        client = Peer(stream, "/x?key")
        assert isinstance(await client.ask(), AcceptConnection)
        assert (await client.next()).data == "in"
        assert isinstance(await client.next(), CloseConnection)
        await client.send(CloseConnection(code=1000))
        with trio.fail_after(5):
            await over.wait()
    assert seen == [101]


async def test_an_error_after_the_handshake_meets_no_error_handler(nursery, caplog):
    app, met = App(), []

    @app.error_handler(LookupError)
    async def answer(request, error):
        met.append(error)
        return Response(status=404)

    @app.websocket("/x")
    async def x(socket: WebSocket) -> None:
        await socket.accept()
        raise KeyError("late")

    async with peer(nursery, app, "/x") as client:
        assert isinstance(await client.ask(), AcceptConnection)
        event = await client.next()
        assert isinstance(event, CloseConnection)
        assert event.code == 1011
    assert met == []
    assert "handler of GET /x raised KeyError" in caplog.text


async def test_an_error_before_the_handshake_meets_its_error_handler(nursery):
    app = App()

    @app.error_handler(LookupError)
    async def answer(request, error):
        return Response(status=404)

    @app.websocket("/x")
    async def x(socket: WebSocket) -> None:
        raise KeyError("early")

    async with peer(nursery, app, "/x") as client:
        assert (await client.ask()).status_code == 404


async def test_a_get_and_a_websocket_may_share_an_address(nursery):
    app = App()
    router = Router()

    @router.get("/x")
    async def page() -> str:
        return "page"

    @router.websocket("/x")
    async def x(socket: WebSocket) -> None:
        await socket.send("socket")

    app.include(router)
    server = await start(nursery, app)
    assert (await (await server.connect()).get("/x")).body == b"page"
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        client = Peer(stream, "/x")
        await client.ask()
        assert (await client.next()).data == "socket"


async def test_where_only_a_websocket_is_served_others_hear_of_it(nursery):
    app = App()

    @app.websocket("/x")
    async def x(socket: WebSocket) -> None: ...

    server = await start(nursery, app)
    answer = await (await server.connect()).get("/x")
    assert (answer.status, answer.get("upgrade")) == (426, "websocket")
    answer = await (await server.connect()).get("/x", method="POST")
    assert (answer.status, answer.get("allow")) == (405, "GET, OPTIONS")


async def test_rfc9110_7_8_a_wish_for_an_upgrade_is_ignored_where_there_is_none(nursery):
    app = App()

    @app.get("/page")
    async def page() -> str:
        return "page"

    @app.websocket("/x")
    async def x(socket: WebSocket) -> None: ...

    async with peer(nursery, app, "/page") as client:
        assert (await client.ask()).status_code == 200


def test_a_plain_function_is_no_handler_of_a_websocket():
    with pytest.raises(ConfigError, match=r"handler .*plain .* must be async def"):

        @App().websocket("/x")
        def plain(socket: WebSocket) -> None: ...


@pytest.mark.parametrize("options", [{"ping": 0}, {"max_message": -1}])
def test_a_wrong_option_of_a_websocket_is_a_config_error(options):
    with pytest.raises(ConfigError, match="must be a positive number"):
        App().websocket("/x", **options)
