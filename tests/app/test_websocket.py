"""WebSockets: the handshake, messages both ways, Close frames, limits; departures on every stage."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import struct

import pytest
import trio
import trio.lowlevel
import websockets.exceptions
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from lifecycle.stage import Stage, Visit, every_stage, in_memory
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from tests.support.server import start
from tests.support.websocket import ACCEPTED, HANDSHAKE, Frames, OneWebSocket, shaken
from trioserve import (
    CANCEL,
    FINISH,
    Cause,
    Completed,
    Config,
    ConfigError,
    Deadlines,
    DropConnection,
    Grace,
    HTTPError,
    Limits,
    Outcome,
    Phase,
    ResponseError,
    WebSocket,
    WebSocketClosed,
)
from trioserve.app.handshake import is_websocket_upgrade
from trioserve.app.websocket import load_wsproto
from trioserve.core.messages import RequestHead
from trioserve.testing import memory_server

WAYS = ["FIN", "RESET"]


async def echo(socket: WebSocket) -> None:
    async for message in socket:
        await socket.send(message)


class Idle:
    """A handler that accepts and then does nothing; tests look at what becomes of it."""

    def __init__(self) -> None:
        self.visit = Visit()
        self.socket: WebSocket | None = None

    async def __call__(self, socket: WebSocket) -> None:
        self.socket = socket
        await socket.accept()
        await self.visit.until_cancelled()


# The handshake: RFC 6455 §4.2


@every_stage
async def test_the_handshake_of_the_rfc_is_answered_as_in_the_rfc(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(echo)) as theatre:
        client = await theatre.connect()
        await client.send(HANDSHAKE)
        assert await shaken(client) == ACCEPTED
        client.leave("FIN")
        assert (await theatre.abandoned()).sent_status == 101


@pytest.mark.parametrize(
    ("old", "new", "status", "says"),
    [
        (b"Upgrade: WebSocket\r\n", b"", 426, b"upgrade: websocket"),
        (b"Upgrade: WebSocket", b"Upgrade: h2c", 426, b"upgrade: websocket"),
        (b"keep-alive, Upgrade", b"keep-alive", 426, b"upgrade: websocket"),
        (b"GET / HTTP/1.1", b"GET / HTTP/1.0", 426, b"upgrade: websocket"),
        (b"Version: 13", b"Version: 8", 426, b"sec-websocket-version: 13"),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 426, b"sec-websocket-version: 13"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400, b"Sec-WebSocket-Key"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j", 400, b"16 bytes"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ", 400, b"16 bytes"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j\xe9Q==", 400, b"16 bytes"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400, b"one Sec-WebSocket-Key"),
        (b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nab", 400, b"no content"),
    ],
)
async def test_what_is_no_handshake_is_refused_and_no_handler_runs(old, new, status, says, nursery):
    async def never(_: WebSocket) -> None:
        raise AssertionError

    running = await start(nursery, OneWebSocket(never), access_log=False)
    client = await running.ask(HANDSHAKE.replace(old, new))
    received = b""
    while says not in received:
        received += await client.receive()
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert (await running.records.next(Completed)).status == status


@pytest.mark.parametrize(
    ("method", "version", "upgrade", "connection", "is_one"),
    [
        ("GET", "1.1", b"websocket", b"upgrade", True),
        ("GET", "1.1", b"h2c, WEBSOCKET", b"keep-alive , UPGRADE", True),
        ("POST", "1.1", b"websocket", b"upgrade", False),
        ("GET", "1.0", b"websocket", b"upgrade", False),
        ("GET", "1.1", b"websockets", b"upgrade", False),
        ("GET", "1.1", b"websocket", b"close", False),
    ],
)
def test_what_asks_for_a_websocket(method, version, upgrade, connection, is_one):
    fields = [(b"upgrade", upgrade), (b"connection", connection)]
    assert is_websocket_upgrade(RequestHead(method, "/", version, fields, 0)) is is_one
    assert not is_websocket_upgrade(RequestHead(method, "/", version, fields[:1], 0))
    assert not is_websocket_upgrade(RequestHead(method, "/", version, fields[1:], 0))


@every_stage
async def test_an_error_before_accepting_is_an_ordinary_answer(stage: Stage) -> None:
    async def refuse(socket: WebSocket) -> None:
        raise HTTPError(403, f"not from {socket.request.headers.get('origin')}")

    async with stage.serve(OneWebSocket(refuse)) as theatre:
        client = await theatre.connect()
        for _ in range(2):  # the connection stays
            await client.send(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"))
            status, body = await client.response()
            assert status == 403
            assert b"not from http://evil.example" in body
        assert [record.status for record in await theatre.records(2)] == [403, 403]


@every_stage
async def test_a_failure_before_accepting_is_a_500(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: WebSocket) -> None:
        raise ValueError("oh")

    async with stage.serve(OneWebSocket(fail)) as theatre:
        client = await theatre.connect()
        await client.send(HANDSHAKE)
        assert (await client.response())[0] == 500
        assert (await theatre.completed()).status == 500
        (logged,) = caplog.records
        # The handler's own error, and nothing of the nursery in which it ran.
        assert logged.exc_info is not None
        assert isinstance(logged.exc_info[1], ValueError)
        assert logged.exc_info[1].__context__ is None


@every_stage
async def test_one_of_the_offered_subprotocols_and_further_fields_go_into_the_answer(stage: Stage) -> None:
    async def choose(socket: WebSocket) -> None:
        await socket.accept(socket.subprotocols[-1], {"X-Shard": "7"})

    offer = HANDSHAKE.replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat.v1, chat.v2\r\nSec-WebSocket-Protocol: chat.v3\r\n\r\n"
    )
    async with stage.serve(OneWebSocket(choose)) as theatre:
        client = await theatre.connect()
        await client.send(offer)
        head = await shaken(client)
        assert b"\r\nsec-websocket-protocol: chat.v3\r\n" in head
        assert b"\r\nx-shard: 7\r\n" in head


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"subprotocol": "chat"}, "offers .* not the subprotocol 'chat'"),
        ({"headers": {"Sec-WebSocket-Accept": "x"}}, "not yours"),
        ({"headers": {"Connection": "close"}}, "not yours"),
        ({"headers": {"x": "a\r\nb"}}, "x"),
    ],
)
async def test_an_accept_that_cannot_be_is_a_500(arguments, says, nursery, caplog):
    async def accept(socket: WebSocket) -> None:
        with pytest.raises(ResponseError, match=says):
            await socket.accept(**arguments)
        raise HTTPError(503)

    running = await start(nursery, OneWebSocket(accept), access_log=False)
    client = await running.ask(HANDSHAKE)
    assert (await client.answer()).status == 503


@every_stage
async def test_there_is_one_accept(stage: Stage) -> None:
    async def twice(socket: WebSocket) -> None:
        await socket.accept()
        with pytest.raises(ResponseError, match="accepted already"):
            await socket.accept()

    async with stage.serve(OneWebSocket(twice)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1000, "")


@in_memory
async def test_tasks_that_accept_at_once_by_receiving_and_sending_do_not_get_in_each_others_way(stage: Stage) -> None:
    async def both(socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.receive)
            nursery.start_soon(socket.send, "hello")

    async with stage.serve(OneWebSocket(both)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.message() == "hello"
        await client.send("x")
        assert await client.closed() == (1000, "")


def test_without_wsproto_it_is_said_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("wsproto"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"trioserve\[websocket\]"):
        load_wsproto()


# Messages


MESSAGES = ["", "text", "grüße 🎈", b"", b"\0bytes\xff", "x" * 70_000, b"y" * 70_000, "\r\n"]


@every_stage
async def test_messages_come_and_go_as_they_are(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(echo)) as theatre:
        client = await Frames.connect(theatre)
        for message in MESSAGES:
            await client.send(message)
            assert await client.message() == message
        await client.close(1000)
        assert await client.closed() == (1000, "")
        assert await client.next() is None
        record = await theatre.completed()
        assert record.status == 101
        assert record.response_body_bytes > 140_000


@every_stage
async def test_bytes_like_objects_and_json_are_messages_too(stage: Stage) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.send(bytearray(b"a"))
        await socket.send(memoryview(b"b"))
        value = await socket.receive_json()
        await socket.send_json({"got": value, "ü": None})
        with pytest.raises(ValueError, match="Expecting"):
            await socket.receive_json()
        with pytest.raises(ValueError, match="JSON"):
            await socket.send_json(math.nan)
        with pytest.raises(TypeError, match="send_json"):
            await socket.send({"a": 1})  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            await socket.send("\ud800")

    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.message() == b"a"
        assert await client.message() == b"b"
        await client.send('{"b": [1]}')
        assert json.loads(await client.message()) == {"got": {"b": [1]}, "ü": None}
        await client.send("no json")
        assert await client.closed() == (1000, "")


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A client's frame, RFC 6455 §5.2."""
    mask = bytes([1, 2, 3, 4])
    length = len(payload)
    if length < 126:
        size = bytes([length | 0x80 * masked])
    elif length < 65536:
        size = bytes([126 | 0x80 * masked]) + struct.pack("!H", length)
    else:
        size = bytes([127 | 0x80 * masked]) + struct.pack("!Q", length)
    if masked:
        payload = mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return bytes([opcode | 0x80 * final]) + size + payload


def fragmented(message: str | bytes, cuts: list[int]) -> list[bytes]:
    """The frames of a message, cut at these places of its payload."""
    payload = message.encode() if isinstance(message, str) else message
    places = sorted({0, len(payload), *(cut % (len(payload) + 1) for cut in cuts)})
    pieces = [payload[a:b] for a, b in itertools.pairwise(places)] or [payload]
    opcodes = [1 if isinstance(message, str) else 2] + [0] * (len(pieces) - 1)
    return [
        frame(opcode, piece, final=number == len(pieces))
        for number, (opcode, piece) in enumerate(zip(opcodes, pieces, strict=True), 1)
    ]


@settings(deadline=None)
@given(
    messages=st.lists(st.tuples(st.text() | st.binary(), st.lists(st.integers(0, 50), max_size=4)), max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    ping=st.booleans(),
)
def test_however_messages_are_fragmented_and_cut_into_segments_they_come_out_the_same(messages, cuts, ping):
    received: list[str | bytes] = []

    async def collect(socket: WebSocket) -> None:
        received.extend([message async for message in socket])

    frames = []
    for message, places in messages:
        for part in fragmented(message, places):
            frames.append(part)
            if ping:  # may stand between the fragments of a message
                frames.append(frame(9, b"?"))
    data = HANDSHAKE + b"".join(frames) + frame(8, b"\x03\xe8")

    async def play() -> None:
        async with memory_server(OneWebSocket(collect), Config(access_log=False)) as server:
            peer = server.connect()
            places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
            for start_, end in itertools.pairwise(places):
                await peer.send_all(data[start_:end])
                await wait_all_tasks_blocked()
            answer = b""
            while some := await peer.receive_some():
                answer += some
            assert answer.startswith(ACCEPTED)
            assert answer.endswith(b"\x88\x02\x03\xe8")

    trio.run(play, clock=MockClock(autojump_threshold=0))
    assert received == [message for message, _ in messages]


@in_memory
async def test_bytes_right_behind_the_handshake_count_wherever_they_are_split(stage: Stage) -> None:
    whole = HANDSHAKE + frame(1, b"early")
    async with stage.serve(OneWebSocket(echo)) as theatre:
        for split in range(len(HANDSHAKE) - 3, len(whole) + 1):
            client = await theatre.connect()
            await client.send(whole[:split])
            await wait_all_tasks_blocked()
            await client.send(whole[split:])
            await wait_all_tasks_blocked()
            await client.send(frame(8, b"\x03\xe8"))
            assert await client.read_to_end() == ACCEPTED + b"\x81\x05early" + b"\x88\x02\x03\xe8"


@in_memory
async def test_a_receive_that_is_cancelled_loses_no_message(stage: Stage) -> None:
    async def impatient(socket: WebSocket) -> None:
        received = []
        while len(received) < 20:
            with trio.move_on_after(0.5):
                received.append(await socket.receive())
        await socket.send(",".join(received))

    async with stage.serve(OneWebSocket(impatient)) as theatre:
        client = await Frames.connect(theatre)
        for number in range(20):
            await client.send(str(number))
            await trio.sleep(0.5)
        assert await client.message() == ",".join(map(str, range(20)))


@in_memory
async def test_a_send_that_is_cancelled_is_sent_whole_or_not_at_all(stage: Stage) -> None:
    async def impatient(socket: WebSocket) -> None:
        for number in range(5):
            with trio.move_on_after(1):
                await socket.send(str(number) * 5000)

    async with stage.serve(OneWebSocket(impatient)) as theatre:
        client = await Frames.connect(theatre, send_buffer=1000, window=1000)
        await trio.sleep(10)
        assert await client.message() == "0" * 5000  # the others were cancelled before they began
        assert await client.closed() == (1000, "")


@every_stage
async def test_many_sends_at_once_and_pings_in_between_never_mix(stage: Stage) -> None:
    async def crowd(socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(socket.send, str(number) * 30_000)

    async with stage.serve(OneWebSocket(crowd)) as theatre:
        client = await theatre.connect()
        await client.send(HANDSHAKE + frame(9, b"one") + frame(9, b"two"))
        await shaken(client)
        frames = Frames(client)
        texts: list[str] = []
        pongs: list[bytes] = []
        while True:
            event = await frames.next()
            if isinstance(event, Pong):
                pongs.append(bytes(event.payload))
                continue
            if isinstance(event, CloseConnection):
                break
            texts.append(event.data)
        whole = "".join(texts)
        messages = [whole[place : place + 30_000] for place in range(0, len(whole), 30_000)]
        assert sorted(messages) == [digit * 30_000 for digit in "0123456789"]
        assert pongs == [b"two"]  # the answer to the last one is enough: RFC 6455 §5.5.3


@every_stage
async def test_a_ping_is_answered_while_the_handler_does_something_else(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        for payload in b"", b"a" * 125:
            await client.send(Ping(payload))
            assert await client.pong() == payload


# Close frames


@every_stage
@pytest.mark.parametrize("code", [1000, 1001, 4321, None])
async def test_messages_before_a_close_frame_are_delivered_and_its_code_comes_back(
    stage: Stage, code: int | None
) -> None:
    go_on, seen = trio.Event(), []

    async def late(socket: WebSocket) -> None:
        await socket.accept()
        await go_on.wait()
        seen.extend([message async for message in socket])
        seen.append((socket.close_code, socket.close_reason))
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        assert caught.value.code == socket.close_code
        with pytest.raises(WebSocketClosed):
            await socket.send("too late")

    async with stage.serve(OneWebSocket(late)) as theatre:
        client = await Frames.connect(theatre)
        await client.send("one", b"two")
        await client.close(code, "" if code is None else "bye")
        go_on.set()
        assert await client.closed() == (1005 if code is None else code, "")
        assert seen == ["one", b"two", (1005, "") if code is None else (code, "bye")]
        assert (await theatre.completed()).status == 101


@every_stage
async def test_a_close_frame_alone_cancels_nobody_and_is_answered_when_the_handler_has_ended(stage: Stage) -> None:
    go_on, sockets = trio.Event(), []

    async def busy(socket: WebSocket) -> None:
        sockets.append(socket)
        await socket.accept()
        await go_on.wait()

    async with stage.serve(OneWebSocket(busy)) as theatre:
        client = await Frames.connect(theatre)
        await client.send(Ping(b"before"))
        await client.pong()
        await client.close()
        await wait_all_tasks_blocked()
        assert sockets[0].close_code == 1000
        assert not theatre.observed.all
        go_on.set()
        assert await client.closed() == (1000, "")
        assert (await theatre.completed()).status == 101


@every_stage
async def test_a_send_after_the_clients_close_frame_ends_the_handler_and_that_is_no_failure(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def ticker(socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:  # whose group is understood too
            nursery.start_soon(tick, socket)
            nursery.start_soon(trio.sleep_forever)

    async def tick(socket: WebSocket) -> None:
        while True:
            await socket.send("tick")
            await trio.sleep(0.001)

    async with stage.serve(OneWebSocket(ticker)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.message() == "tick"
        await client.close(4000)
        while isinstance(event := await client.next(), TextMessage):
            pass
        assert isinstance(event, CloseConnection)
        assert event.code == 4000
        assert (await theatre.completed()).status == 101
        assert not caplog.records


@every_stage
async def test_the_closed_of_another_session_is_a_failure_of_this_one(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def relay(socket: WebSocket) -> None:
        await socket.accept()
        raise WebSocketClosed(1000, "the other one")

    async with stage.serve(OneWebSocket(relay)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1011, "the server failed")
        assert (await theatre.abandoned()).outcome is Outcome.FAILED


@every_stage
async def test_a_close_of_ours_ends_messages_both_ways_and_the_clients_answer_is_awaited(stage: Stage) -> None:
    async def leave(socket: WebSocket) -> None:
        await socket.close(4001, "enough")
        await socket.close(4002, "never said")
        for attempt in socket.receive, lambda: socket.send("x"), socket.ping:
            with pytest.raises(WebSocketClosed) as caught:
                await attempt()
            assert (caught.value.code, caught.value.reason) == (4001, "enough")
        assert [message async for message in socket] == []

    async with stage.serve(OneWebSocket(leave)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (4001, "enough")
        await client.client.send(frame(1, b"unheard") + frame(8, b"\x0f\xa1") + frame(1, b"more"))
        assert await client.next() is None
        assert (await theatre.completed()).status == 101


@in_memory
async def test_a_client_that_does_not_answer_our_close_is_waited_for_as_long_as_linger(stage: Stage) -> None:
    async def leave(_: WebSocket) -> None:
        pass

    async with stage.serve(OneWebSocket(leave), Config(deadlines=Deadlines(linger=3))) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1000, "")
        record = await theatre.completed()  # our side is said; what follows is courtesy
        closed_at = trio.current_time()
        assert await client.next() is None
        assert trio.current_time() == closed_at + 3
        assert record.duration == 0


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_client_that_leaves_instead_of_answering_our_close_does_no_harm(stage: Stage, how: str) -> None:
    async def leave(_: WebSocket) -> None:
        pass

    async with stage.serve(OneWebSocket(leave)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1000, "")
        client.client.leave(how)
        assert (await theatre.completed()).status == 101


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
@pytest.mark.parametrize("reason", ["", "x" * 124, "ü" * 62])
async def test_a_close_that_cannot_be_said_is_refused(code, reason, nursery):
    async def close(socket: WebSocket) -> None:
        with pytest.raises(ValueError, match="close code"):
            await socket.close(code)
        if reason:
            with pytest.raises(ValueError, match="123 bytes"):
                await socket.close(1000, reason)
        raise HTTPError(418)  # nothing of it was sent

    running = await start(nursery, OneWebSocket(close), access_log=False)
    client = await running.ask(HANDSHAKE)
    assert (await client.answer()).status == 418


# The client's mistakes


MISTAKES = {
    "unmasked": (frame(1, b"x", masked=False), 1002),
    "reserved bit": (b"\xc1" + frame(1, b"x")[1:], 1002),
    "unknown opcode": (frame(3, b"x"), 1002),
    "fragmented ping": (frame(9, b"x", final=False), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "message inside a message": (frame(1, b"x", final=False) + frame(1, b"y"), 1002),
    "close code 1005": (frame(8, struct.pack("!H", 1005)), 1002),
    "close of one byte": (frame(8, b"x"), 1002),
    "no UTF-8": (frame(1, b"\xff"), 1007),
    "UTF-8 cut at the end": (frame(1, "ü".encode()[:1]), 1007),
    "no UTF-8 in a close": (frame(8, b"\x03\xe8\xff"), 1007),
}


@every_stage
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_answered_with_its_code_and_the_handler_hears_of_it_after_what_was_right(
    stage: Stage, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, code = MISTAKES[mistake]
    seen = []

    async def handler(socket: WebSocket) -> None:
        seen.append(await socket.receive())
        try:
            async for message in socket:
                seen.append(message)  # noqa: PERF401 - an async comprehension would lose what came before the error
        except WebSocketClosed as error:
            seen.append(error.code)
            raise

    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await client.client.send(frame(1, b"right") + data + frame(1, b"unheard"))
        assert (await client.closed())[0] == code
        assert await client.next() is None
        assert (await theatre.completed()).status == 101
        assert seen == ["right", code]
        assert not caplog.records


@every_stage
async def test_a_mistake_is_answered_while_the_handler_does_something_else(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await client.client.send(frame(3, b"x"))
        assert (await client.closed())[0] == 1002
        client.client.leave("FIN")
        # The client knows that all is over, but the handler does not: it works on for nobody, as behind a Close frame.
        expect(await theatre.abandoned(), "FIN")
        assert handler.visit.cancelled


# Limits


@every_stage
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("letter", ["x", "ü"])
async def test_a_message_at_the_limit_is_taken_and_one_byte_more_is_1009(
    stage: Stage, fragments: int, letter: str
) -> None:
    async def measure(socket: WebSocket) -> None:
        await socket.send(str(len((await socket.receive()).encode())))
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        assert caught.value.code == 1009

    text = letter * (1000 // len(letter.encode()))
    cuts = [333, 666][: fragments - 1]
    config = Config(limits=Limits(websocket_message=1000))
    async with stage.serve(OneWebSocket(measure), config) as theatre:
        client = await Frames.connect(theatre)
        await client.client.send(b"".join(fragmented(text, cuts)))
        assert await client.message() == "1000"
        await client.client.send(b"".join(fragmented(text + "!", cuts)))
        assert (await client.closed())[0] == 1009
        assert (await theatre.completed()).status == 101


@every_stage
async def test_a_route_may_have_a_limit_of_its_own(stage: Stage) -> None:
    config = Config(limits=Limits(websocket_message=1))
    async with stage.serve(OneWebSocket(echo, max_message=5), config) as theatre:
        client = await Frames.connect(theatre)
        await client.send(b"12345")
        assert await client.message() == b"12345"
        await client.send(b"123456")
        assert (await client.closed())[0] == 1009


@in_memory
async def test_a_message_beyond_the_limit_is_refused_before_it_is_whole(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(echo, max_message=100)) as theatre:
        client = await Frames.connect(theatre)
        await client.client.send(frame(2, bytes(1_000_000))[:500])
        assert (await client.closed())[0] == 1009


async def held_back(stage: Stage, size: int, config: Config) -> int:
    """How many messages of this size are read before a handler asks for one."""
    handler = Idle()
    async with stage.serve(OneWebSocket(handler), config) as theatre:
        client = await Frames.connect(theatre)
        for _ in range(40):
            await client.send(bytes(size))
        await wait_all_tasks_blocked()
        assert handler.socket is not None
        return len(handler.socket._messages)


@in_memory
async def test_so_many_messages_are_read_ahead_and_no_more(stage: Stage) -> None:
    config = Config(limits=Limits(websocket_queue=7, websocket_message=1000))
    assert await held_back(stage, 1, config) == 7
    assert await held_back(stage, 100, config) == 7
    assert await held_back(stage, 300, config) == 3
    assert await held_back(stage, 1000, config) == 1


@every_stage
async def test_a_client_that_was_held_back_goes_on_when_the_handler_does(stage: Stage) -> None:
    async def slow(socket: WebSocket) -> None:
        await socket.accept()
        count = 0
        async for message in socket:
            assert message == str(count)
            count += 1
            await trio.lowlevel.checkpoint()
        assert count == 500

    config = Config(limits=Limits(websocket_queue=2))
    async with stage.serve(OneWebSocket(slow), config) as theatre:
        client = await Frames.connect(theatre)
        for number in range(500):
            await client.send(str(number))
        await client.close()
        assert await client.closed() == (1000, "")


@in_memory
async def test_empty_and_tiny_fragments_without_end_take_no_memory_of_their_own(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await client.client.send(frame(1, b"", final=False))
        for _ in range(50):
            await client.client.send((frame(0, b"", final=False) + frame(0, b"x", final=False)) * 200)
        await wait_all_tasks_blocked()
        assert handler.socket is not None
        assert handler.socket._fragments is not None
        assert handler.socket._fragments.getvalue() == "x" * 10_000


# Departures


def expect(record, cause: str, outcome: Outcome = Outcome.CANCELLED) -> None:
    assert (record.phase, record.cause, record.status) == (Phase.RESPONSE_BODY, Cause(cause), 499)
    assert (record.sent_status, record.logged_status, record.outcome) == (101, 101, outcome)


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_departure_cancels_a_handler_that_sleeps(stage: Stage, how: str) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        client.client.leave(how)
        expect(await theatre.abandoned(), how)
        assert handler.visit.cancelled


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_departure_cancels_a_handler_that_receives(stage: Stage, how: str) -> None:
    visit = Visit()

    async def receive(socket: WebSocket) -> None:
        async with visit:
            await socket.receive()

    async with stage.serve(OneWebSocket(receive)) as theatre:
        client = await Frames.connect(theatre)
        await visit.started.wait()
        client.client.leave(how)
        expect(await theatre.abandoned(), how)
        assert visit.cancelled


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_departure_cancels_a_handler_that_sends_to_a_client_that_does_not_read(stage: Stage, how: str) -> None:
    visit = Visit()

    async def flood(socket: WebSocket) -> None:
        await socket.accept()
        async with visit:
            while True:
                await socket.send(bytes(1_000_000))

    async with stage.serve(OneWebSocket(flood)) as theatre:
        client = await Frames.connect(theatre)
        await client.client.receive(1)
        client.client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        assert record.phase is Phase.RESPONSE_BODY
        # Whoever closes with bytes unread resets. Over TLS it says goodbye just before, and either may be met first.
        says_goodbye = stage.has_tls and how == "FIN"
        assert record.cause in ({Cause.FIN, Cause.RESET} if says_goodbye else {Cause.RESET})


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_departure_behind_a_full_queue_is_noticed(stage: Stage, how: str) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler), Config(limits=Limits(websocket_queue=2))) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        for _ in range(100):
            await client.send("unread")
        client.client.leave(how)
        expect(await theatre.abandoned(), how)
        assert handler.visit.cancelled


@every_stage
@pytest.mark.parametrize("how", WAYS)
async def test_a_departure_behind_more_than_the_connection_takes_is_noticed(stage: Stage, how: str) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler), Config(limits=Limits(websocket_queue=2))) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        await client.send("one", "two", "three")
        await wait_all_tasks_blocked()
        client.client.send_until_blocked()
        client.client.leave(how)
        expect(await theatre.abandoned(), how)
        assert handler.visit.cancelled


@in_memory
async def test_a_client_that_vanishes_is_given_up_by_the_system(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        client.client.vanish()
        expect(await theatre.abandoned(), "VANISHED")


@every_stage
@pytest.mark.parametrize("policy", [FINISH, Grace(60)])
@pytest.mark.parametrize("how", WAYS)
async def test_a_handler_that_runs_on_gets_what_had_come_and_then_1006(stage: Stage, policy, how: str) -> None:
    go_on, seen = trio.Event(), []

    async def run_on(socket: WebSocket) -> None:
        await socket.accept()
        await go_on.wait()
        await socket.send("unheard")
        try:
            async for message in socket:
                seen.append(message)  # noqa: PERF401 - an async comprehension would lose what came before the error
        except WebSocketClosed as error:
            seen.append(error.code)
        await socket.send("unheard")
        await socket.ping()
        assert socket.close_code == 1006
        with pytest.raises(WebSocketClosed):
            await socket.receive()

    async with stage.serve(OneWebSocket(run_on, disconnect=policy)) as theatre:
        client = await Frames.connect(theatre)
        client.send_nowait("one", "two")
        client.client.leave(how)
        await wait_all_tasks_blocked()
        go_on.set()
        expect(await theatre.abandoned(), how, Outcome.FINISHED)
        assert seen[-1] == 1006
        if how == "FIN" or stage.in_memory:
            assert seen == ["one", "two", 1006]


@every_stage
async def test_closed_for_departure_may_leave_a_handler_that_runs_on(stage: Stage) -> None:
    async def receive(socket: WebSocket) -> None:
        await socket.receive()

    async with stage.serve(OneWebSocket(receive, disconnect=FINISH)) as theatre:
        client = await Frames.connect(theatre)
        client.client.leave("FIN")
        expect(await theatre.abandoned(), "FIN", Outcome.FINISHED)


@in_memory
async def test_grace_ends(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler, disconnect=Grace(5))) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        client.client.leave("FIN")
        record = await theatre.abandoned()
        assert record.unwind_time == 5
        assert handler.visit.cancelled


@every_stage
async def test_inside_a_shield_a_departure_is_1006(stage: Stage) -> None:
    seen = []

    async def shielded(socket: WebSocket) -> None:
        await socket.accept()
        with trio.CancelScope(shield=True):
            for attempt in socket.receive, lambda: socket.send("x"):
                try:
                    await attempt()
                except WebSocketClosed as error:
                    seen.append(error.code)

    async with stage.serve(OneWebSocket(shielded)) as theatre:
        client = await Frames.connect(theatre)
        client.client.leave("FIN")
        await theatre.abandoned()
        assert seen == [1006, 1006]


# A Close frame and then, at once, a FIN


@every_stage
async def test_a_client_that_closes_and_goes_has_ended_well_for_a_handler_that_receives(stage: Stage) -> None:
    visit = Visit()

    async def receive(socket: WebSocket) -> None:
        async with visit:
            async for _ in socket:
                pass
        await trio.sleep(0.01)  # clean-up is not cut either

    async with stage.serve(OneWebSocket(receive)) as theatre:
        client = await Frames.connect(theatre)
        await visit.started.wait()
        client.send_nowait(Ping(b"x"), CloseConnection(1001))
        client.client.leave("FIN")
        assert (await theatre.completed()).status == 101
        assert not visit.cancelled


@every_stage
async def test_a_client_that_closes_and_goes_is_a_departure_for_a_handler_that_is_busy(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler)) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        client.send_nowait(CloseConnection(1001))
        client.client.leave("FIN")
        expect(await theatre.abandoned(), "FIN")
        assert handler.visit.cancelled


@in_memory
async def test_a_handler_that_works_on_for_a_client_that_closed_and_went_is_stopped_after_a_while(stage: Stage) -> None:
    visit = Visit()

    async def leak(socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit.until_cancelled)
            async for _ in socket:
                pass

    async with stage.serve(OneWebSocket(leak), Config(deadlines=Deadlines(unwind=7))) as theatre:
        client = await Frames.connect(theatre)
        await visit.started.wait()
        await client.send(CloseConnection(1001))
        client.client.leave("FIN")
        record = await theatre.abandoned()
        expect(record, "FIN")
        assert record.duration == pytest.approx(7)
        assert visit.cancelled


@in_memory
async def test_a_handler_that_works_on_for_a_client_that_closed_and_waits_is_not_stopped(stage: Stage) -> None:
    async def clean_up(socket: WebSocket) -> None:
        async for _ in socket:
            pass
        await trio.sleep(100)

    async with stage.serve(OneWebSocket(clean_up)) as theatre:
        client = await Frames.connect(theatre)
        await client.close(1001)
        assert await client.closed() == (1001, "")
        assert (await theatre.completed()).duration == pytest.approx(100)


@every_stage
@pytest.mark.parametrize("shield", [True, False])
async def test_a_client_that_leaves_before_it_was_accepted_is_1006_for_a_handler_that_runs_on(
    stage: Stage, *, shield: bool
) -> None:
    visit, go_on, seen = Visit(), trio.Event(), []

    async def late(socket: WebSocket) -> None:
        with trio.CancelScope(shield=shield):
            async with visit:
                await go_on.wait()
            for attempt in socket.receive, socket.receive:
                with pytest.raises(WebSocketClosed) as caught:
                    await attempt()
                seen.append(caught.value.code)

    async with stage.serve(OneWebSocket(late, disconnect=CANCEL if shield else FINISH)) as theatre:
        client = await theatre.connect()
        await client.send(HANDSHAKE)
        await visit.started.wait()
        client.leave("FIN")
        await wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert seen == [1006, 1006]
        assert (record.phase, record.status, record.sent_status) == (Phase.HANDLER, 499, None)
        assert record.outcome is Outcome.FINISHED


@in_memory
async def test_a_handler_that_has_returned_has_finished_if_the_client_leaves_before_our_close(
    stage: Stage,
) -> None:
    async def send(socket: WebSocket) -> None:
        with trio.move_on_after(1):
            await socket.send(bytes(10_000))

    async with stage.serve(OneWebSocket(send)) as theatre:
        client = await Frames.connect(theatre, send_buffer=100, window=100)
        await trio.sleep(2)
        client.client.leave("RESET")
        expect(await theatre.abandoned(), "RESET", Outcome.FINISHED)


@in_memory
async def test_an_accept_that_is_cancelled_half_way_is_completed_by_what_comes_next(stage: Stage) -> None:
    async def impatient(socket: WebSocket) -> None:
        with trio.move_on_after(1):
            await socket.accept()
        await socket.send("hello")

    async with stage.serve(OneWebSocket(impatient)) as theatre:
        client = await theatre.connect(send_buffer=20, window=20)
        await client.send(HANDSHAKE)
        await trio.sleep(2)
        assert await shaken(client) == ACCEPTED
        frames = Frames(client)
        assert await frames.message() == "hello"
        assert await frames.closed() == (1000, "")


# We give up


@every_stage
async def test_a_client_hears_1001_when_the_server_stops(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler), Config(deadlines=Deadlines(drain=0.01))) as theatre:
        client = await Frames.connect(theatre)
        await handler.visit.started.wait()
        await theatre.drain()
        assert await client.closed() == (1001, "the server is stopping")
        record = await theatre.abandoned()
        assert (record.phase, record.cause, record.status) == (Phase.RESPONSE_BODY, Cause.DRAIN, 503)


@every_stage
async def test_a_client_hears_1011_at_the_deadline(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(Idle(), deadline=0.01)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.closed() == (1011, "the server failed")
        assert (await theatre.abandoned()).cause is Cause.DEADLINE


@every_stage
@pytest.mark.parametrize("error", [ValueError("oh"), HTTPError(404)], ids=["failure", "http error"])
async def test_a_client_hears_1011_when_the_handler_fails_and_it_is_logged(
    stage: Stage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(socket: WebSocket) -> None:
        await socket.receive()
        raise error

    async with stage.serve(OneWebSocket(fail)) as theatre:
        client = await Frames.connect(theatre)
        await client.send("x")
        assert await client.closed() == (1011, "the server failed")
        record = await theatre.abandoned()
        assert (record.cause, record.status, record.exception) == (Cause.HANDLER_FAILED, 500, error)
        assert record.outcome is Outcome.FAILED
        assert len(caplog.records) == 1


@every_stage
async def test_one_who_asks_for_silence_gets_it(stage: Stage) -> None:
    async def drop(socket: WebSocket) -> None:
        await socket.accept()
        raise DropConnection

    async with stage.serve(OneWebSocket(drop)) as theatre:
        client = await Frames.connect(theatre)
        assert await client.next() is None
        assert (await theatre.abandoned()).status == 444


# Keep-alive pings


@in_memory
async def test_a_silent_client_is_pinged_and_lives_as_long_as_it_answers(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler, ping=20)) as theatre:
        client = await Frames.connect(theatre)
        for number in range(1, 6):
            ping = await client.pinged()
            assert trio.current_time() == pytest.approx(number * 20)
            await client.send(ping.response())
        assert not theatre.observed.all


@in_memory
async def test_a_client_that_answers_no_ping_has_vanished(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler, ping=20)) as theatre:
        await Frames.connect(theatre)
        record = await theatre.abandoned()
        expect(record, "VANISHED")
        assert record.duration == pytest.approx(40)
        assert handler.visit.cancelled


@in_memory
async def test_whatever_a_client_sends_is_a_sign_of_life(stage: Stage) -> None:
    async with stage.serve(OneWebSocket(echo, ping=20)) as theatre:
        client = await Frames.connect(theatre)
        for _ in range(10):
            await trio.sleep(15)
            await client.send("x")
        assert not theatre.observed.all


@in_memory
async def test_a_client_that_we_hold_back_is_not_blamed_for_its_silence(stage: Stage) -> None:
    handler = Idle()
    async with stage.serve(OneWebSocket(handler, ping=20), Config(limits=Limits(websocket_queue=1))) as theatre:
        client = await Frames.connect(theatre)
        await client.send("one", "two", "three")
        await trio.sleep(200)
        assert not theatre.observed.all


@in_memory
async def test_a_client_that_takes_nothing_is_too_slow_and_not_vanished(stage: Stage) -> None:
    async def flood(socket: WebSocket) -> None:
        while True:
            await socket.send(bytes(50_000))

    async with stage.serve(OneWebSocket(flood, ping=5)) as theatre:
        await Frames.connect(theatre)
        record = await theatre.abandoned()
        assert record.cause is Cause.WRITE_TIMEOUT


@every_stage
async def test_a_handler_can_ping_too(stage: Stage) -> None:
    async def ping(socket: WebSocket) -> None:
        await socket.ping()
        await socket.receive()

    async with stage.serve(OneWebSocket(ping)) as theatre:
        client = await Frames.connect(theatre)
        pong = (await client.pinged()).response()
        await client.send(pong, "thanks")
        assert await client.closed() == (1000, "")


# A client by other hands


async def test_a_client_of_the_websockets_library_talks_to_us(nursery):
    async def handler(socket: WebSocket) -> None:
        await socket.accept("chat", {"set-cookie": "seen=1"})
        await echo(socket)

    running = await start(nursery, OneWebSocket(handler), access_log=False)

    def talk() -> None:
        with websockets.sync.client.connect(
            f"ws://127.0.0.1:{running.port}/", subprotocols=["chat", "other"], max_size=None
        ) as client:
            assert client.subprotocol == "chat"
            assert client.response.headers["set-cookie"] == "seen=1"
            # It offers compression, which we do not take up.
            assert "sec-websocket-extensions" in client.request.headers
            assert "sec-websocket-extensions" not in client.response.headers
            for message in MESSAGES:
                client.send(message)
                assert client.recv() == message
            client.send(["frag", "men", "ted"])
            assert client.recv() == "fragmented"
            assert client.ping().wait(5)
        assert client.close_code == 1000

    await trio.to_thread.run_sync(talk)
    assert (await running.records.next(Completed)).status == 101


async def test_a_client_of_the_websockets_library_hears_our_codes(nursery):
    async def handler(socket: WebSocket) -> None:
        await socket.close(int(socket.request.path[1:]), "because")

    running = await start(nursery, OneWebSocket(handler), access_log=False)

    def talk(code: int) -> None:
        with websockets.sync.client.connect(f"ws://127.0.0.1:{running.port}/{code}") as client:
            with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
                client.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "because")

    for code in 1000, 1013, 3000, 4999:
        await trio.to_thread.run_sync(talk, code)
        await running.records.next(Completed)


async def test_a_client_of_the_websockets_library_sees_a_refusal(nursery):
    async def refuse(_: WebSocket) -> None:
        raise HTTPError(403, "no")

    running = await start(nursery, OneWebSocket(refuse), access_log=False)

    def talk() -> None:
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            websockets.sync.client.connect(f"ws://127.0.0.1:{running.port}/")

    await trio.to_thread.run_sync(talk)
