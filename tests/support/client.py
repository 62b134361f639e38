"""A client that sends bytes exactly as told, and reads responses with h11."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

import h11
import trio

from tests.support.sockets import PATIENCE, reset
from trioserve import TcpAddress, UnixAddress


@dataclass
class Answer:
    """A response, as far as it came."""

    interim: list[int] = field(default_factory=list)  # status codes of the 1xx before it
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str | None:
        """The field's value; None if there is none. A second field of this name is a failure."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """True if the response announces the connection's end."""
        return any(value.lower() == "close" for value in self.all("connection"))


class Cut(Exception):
    """The response ended before its end. `answer` is what came of it; `by_reset` tells a RST from a FIN."""

    def __init__(self, answer: Answer, *, by_reset: bool) -> None:
        self.answer = answer
        self.by_reset = by_reset
        super().__init__(f"{answer}, by {'RST' if by_reset else 'FIN'}")


class Client:
    """One connection to a server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        # Bytes that came behind the last response.
        self._rest = b""

    @property
    def socket(self) -> trio.socket.SocketType:
        return self.stream.socket

    async def send(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def receive(self) -> bytes:
        """Some bytes; b"" at the server's FIN."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        with trio.fail_after(PATIENCE):
            return await self.stream.receive_some(65536)

    async def get(self, target: str = "/", *fields: str, method: str = "GET") -> Answer:
        """Send a request without content, and read its response."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *fields]
        await self.send("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        return await self.answer(method)

    async def post(self, content: bytes, target: str = "/", *fields: str) -> Answer:
        """Send a request with content, and read its response."""
        lines = [f"POST {target} HTTP/1.1", "Host: test", f"Content-Length: {len(content)}", *fields]
        await self.send("".join(f"{line}\r\n" for line in (*lines, "")).encode() + content)
        return await self.answer("POST")

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, to a request of this method.

        Raises:
            Cut: it ended before its end.
        """
        parser, answer = h11.Connection(h11.CLIENT), Answer()
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        parser.send(h11.EndOfMessage())
        while True:
            try:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(await self.receive())
                    continue
            except h11.RemoteProtocolError:
                if not parser.trailing_data[1]:
                    raise
                raise Cut(answer, by_reset=False) from None
            except trio.BrokenResourceError:
                raise Cut(answer, by_reset=True) from None
            match event:
                case h11.InformationalResponse():
                    answer.interim.append(event.status_code)
                case h11.Response():
                    answer.status = event.status_code
                    answer.headers = [(name.decode(), value.decode()) for name, value in event.headers]
                case h11.Data():
                    answer.body += bytes(event.data)
                case h11.EndOfMessage():
                    self._rest = parser.trailing_data[0]
                    return answer
                case _:
                    raise Cut(answer, by_reset=False)

    async def read_to_end(self) -> bytes:
        """Everything up to the server's FIN.

        Raises:
            trio.BrokenResourceError: the connection was reset instead.
        """
        received = b""
        while data := await self.receive():
            received += data
        return received

    async def is_closed(self) -> bool:
        """True if the next that comes is the server's FIN."""
        return await self.receive() == b""

    async def is_reset(self) -> bool:
        """True if the next that comes is a RST."""
        try:
            await self.receive()
        except trio.BrokenResourceError:
            return True
        return False

    def reset(self) -> None:
        """Go, with a RST."""
        reset(self.stream.socket)

    def close(self) -> None:
        """Go. A FIN, or a RST if bytes lie unread here."""
        self.stream.socket.close()


async def connect(address: TcpAddress | UnixAddress, *, receive_buffer: int | None = None) -> Client:
    """A client of the address; a small `receive_buffer` makes a client that takes little before it reads."""
    family = socket.AF_UNIX if isinstance(address, UnixAddress) else socket.AF_INET
    if isinstance(address, TcpAddress) and ":" in address.host:
        family = socket.AF_INET6
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        with trio.fail_after(PATIENCE):
            await sock.connect(address.path if isinstance(address, UnixAddress) else (address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return Client(trio.SocketStream(sock))
