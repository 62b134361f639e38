"""What a handler may say in the head of its response, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trioserve.core.engine import EngineName
from trioserve.core.errors import HTTPError, ResponseError
from trioserve.core.fields import SERVERS_OWN, field_of
from trioserve.core.limits import Limits
from trioserve.core.messages import EndOfRequest, Field, ResponseHead
from trioserve.core.remembered import MAX_REMEMBERED, MAX_REMEMBERED_SIZE
from trioserve.core.response_head import _remembered, field_lines, judged

TYPE = (b"content-type", b"text/plain")
LENGTH = (b"content-length", b"5")
CLOSE = (b"connection", b"close")
UPGRADE = (b"connection", b"upgrade")
TO_WEBSOCKET = (b"upgrade", b"websocket")


def sent(status: int, fields: Sequence[Field], defaults: Sequence[Field] = ()) -> list[Field]:
    """The fields that are sent, but for how the response is framed if it has no length."""
    head = judged(ResponseHead(status, fields, defaults))
    lines = [line.split(b": ", 1) for line in head.lines.split(b"\r\n")[:-1]]
    assert [value for name, value in lines if name == b"content-length"] == ([head.length] if head.length else [])
    return [(name, value) for name, value in lines] + ([CLOSE] if head.closes else [])


@pytest.mark.parametrize("status", [200, 206, 299, 300, 404, 418, 499, 500, 599])
def test_what_a_handler_says_is_sent_as_it_is(status):
    fields = [TYPE, LENGTH, (b"x", b"1"), (b"x", b"2"), (b"date", b"today"), (b"set-cookie", b"a=b")]
    assert sent(status, fields) == fields
    assert sent(status, tuple(fields)) == fields
    assert sent(status, ()) == []


def test_what_the_server_says_of_its_own_is_sent_unless_the_handler_says_it():
    defaults = [(b"content-length", b"4"), (b"date", b"now")]
    assert sent(200, [TYPE], defaults) == [TYPE, *defaults]
    assert sent(200, [(b"Date", b"then"), LENGTH], defaults) == [(b"date", b"then"), LENGTH]


@pytest.mark.parametrize(
    "value", [b"\x01", b"a\x7f", b"\x1fa", b"a\x0bb", b"a ", b"\ta", b" ", b"a\r\nb: c", b"a\n", b"\r"]
)
def test_rfc9110_5_5_a_value_that_http_cannot_carry_is_refused(value):
    for fields in ([(b"x", value)], [TYPE, (b"x", value), LENGTH]):
        with pytest.raises(ResponseError, match=r"5\.5"):
            sent(200, fields)
        with pytest.raises(ResponseError, match=r"5\.5"):
            field_lines(fields)


@pytest.mark.parametrize("name", [b"x", b"vary", b"content-type"])
def test_rfc9110_5_5_a_value_may_be_empty(name):
    assert sent(200, [(name, b""), LENGTH]) == [(name, b""), LENGTH]
    assert field_lines([(name, b"")]) == name + b": \r\n"


@pytest.mark.parametrize("name", [b"", b"x:", b"x y", b"x\r\ny", b"x: y", b"\xe9", b"x\n", b"\n"])
def test_rfc9110_5_1_a_name_that_is_no_token_is_refused(name):
    with pytest.raises(ResponseError, match=r"5\.1"):
        sent(200, [TYPE, (name, b"x")])
    with pytest.raises(ResponseError, match=r"5\.1"):
        field_lines([(name, b"x")])


@pytest.mark.parametrize(("name", "remembered"), [(b"Server", True), (b"Set-Cookie", False), (b"Location", False)])
def test_a_line_is_remembered_only_of_a_field_that_has_no_secret_and_only_if_it_is_short(name, remembered):
    _remembered.clear()
    field, long = (name, b"a"), (name, b"a" * MAX_REMEMBERED_SIZE)
    for _ in range(2):
        assert sent(200, [field, long]) == [(name.lower(), field[1]), (name.lower(), long[1])]
    assert (field in _remembered) is remembered
    assert long not in _remembered


def test_no_more_lines_are_remembered_than_there_may_be():
    for number in range(3 * MAX_REMEMBERED):
        sent(200, [(b"server", b"%d" % number)])
        assert len(_remembered) <= MAX_REMEMBERED
    assert sent(200, [(b"server", b"0")]) == [(b"server", b"0")]


@given(
    fields=st.lists(st.tuples(st.sampled_from([b"Server", b"content-type", b"x", b"date"]), st.binary(max_size=3))),
    defaults=st.sampled_from([(), ((b"server", b"a"), (b"date", b"b"))]),
)
def test_what_is_remembered_changes_nothing(fields, defaults):
    _remembered.clear()
    results = []
    for _ in range(2):
        try:
            results.append(sent(200, fields, defaults))
        except ResponseError as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_rfc9110_5_1_names_are_sent_in_lower_case():
    assert sent(200, [(b"Content-Type", b"A/B")]) == [(b"content-type", b"A/B")]


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 600, 999, 1000])
def test_rfc9110_15_a_status_code_that_is_not_final_is_refused(status):
    with pytest.raises(ResponseError, match="200 to 599"):
        sent(status, [])


# RFC 9110 §7.6.1: what is between the server and the client's connection, and no handler's business


@pytest.mark.parametrize("name", ["Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "TE", "Trailer"])
def test_rfc9110_7_6_1_what_is_the_servers_to_say_is_refused_with_what_to_do_instead(name):
    for raw in (name.encode(), name.lower().encode(), name.upper().encode()):
        with pytest.raises(ResponseError, match="leave it out"):
            sent(200, [TYPE, (raw, b"x")])


def test_rfc9110_7_6_1_what_is_the_servers_to_say_is_refused_where_it_is_written_too():
    for name in SERVERS_OWN:
        with pytest.raises(ValueError, match="leave it out"):
            field_of(name.decode().title(), "x")
        with pytest.raises(ResponseError, match="leave it out"):
            HTTPError(400, headers={name.decode(): "x"})


@pytest.mark.parametrize("value", [b"close", b"Close", b" close", b"close, close", b"close,", b"close , CLOSE"])
def test_rfc9112_9_6_a_handler_may_close_the_connection(value):
    assert sent(200, [(b"Connection", value), TYPE]) == [TYPE, CLOSE]
    assert sent(200, [(b"connection", value), (b"connection", b"close")]) == [CLOSE]


@pytest.mark.parametrize(
    "value", [b"keep-alive", b"close, keep-alive", b"upgrade", b"x-secret", b"close x", b"closed", b"\xe9", b"close;a"]
)
def test_rfc9110_7_6_1_any_other_connection_option_is_refused(value):
    with pytest.raises(ResponseError, match="connection option"):
        sent(200, [(b"connection", value)])


@pytest.mark.parametrize("value", [b"", b",", b" , "])
def test_rfc9110_7_6_1_an_empty_connection_says_nothing(value):
    assert sent(200, [(b"connection", value), TYPE]) == [TYPE]


# RFC 9110 §7.8: to which protocol a client is to change


@pytest.mark.parametrize("more", [[], [UPGRADE], [(b"Connection", b"Upgrade")], [UPGRADE, UPGRADE]])
def test_rfc9110_15_5_22_a_426_says_to_which_protocol_and_is_completed_by_its_connection_option(more):
    assert sent(426, [TO_WEBSOCKET, *more]) == [TO_WEBSOCKET, UPGRADE]


def test_rfc9110_15_5_22_a_426_may_close_the_connection_too():
    expected = [TO_WEBSOCKET, UPGRADE, CLOSE]
    assert sent(426, [TO_WEBSOCKET, (b"connection", b"Upgrade, close")]) == expected
    assert sent(426, [TO_WEBSOCKET, CLOSE]) == expected


def test_rfc9110_7_8_no_other_response_says_to_which_protocol():
    with pytest.raises(ResponseError, match="426"):
        sent(200, [TO_WEBSOCKET])


# RFC 9110 §8.6: Content-Length where there is no content


def test_rfc9110_8_6_a_204_has_no_content_length():
    assert sent(204, [LENGTH, TYPE]) == [TYPE]
    assert sent(204, [(b"Content-Length", b"0")]) == []


def test_rfc9110_15_3_6_a_205_says_that_it_has_no_content():
    for length in ([LENGTH], [(b"content-length", b"0")], []):
        assert sent(205, [*length, TYPE]) == [TYPE, (b"content-length", b"0")]


def test_rfc9110_8_6_a_304_tells_the_length_that_a_200_would_have():
    assert sent(304, [LENGTH]) == [LENGTH]


def test_rfc9110_8_6_a_length_has_no_more_digits_than_any_machine_can_count_with():
    assert sent(200, [(b"content-length", b"9" * 18)])
    with pytest.raises(ResponseError, match="not one number of bytes"):
        sent(200, [(b"content-length", b"9" * 19)])


# Whatever a handler says


NAMES = st.sampled_from(
    [b"Content-Length", b"content-length", b"Transfer-Encoding", b"connection", b"CONNECTION", b"upgrade", b"Trailer",
     b"date", b"x", b"X-Y", b"x y", b"", b"x:", b"x\r\ny", b"\xe9", b"content-length ", b"transfer-encoding\0"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"5", b"0", b"6", b"5, 5", b"-5", b"+5", b"5 ", b" 5", b"0x5", b"9" * 5000, b"chunked", b"close", b"keep-alive",
     b"Upgrade", b"h2c", b"", b"a", b"a\r\nb: c", b"a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"\n", b"\r", b"\0", b"\xff",
     b"a\tb", b"\ta"]
)  # fmt: skip


@pytest.mark.parametrize("name", list(EngineName))
@settings(max_examples=4 * settings.default.max_examples)
@given(
    status=st.sampled_from([200, 204, 205, 206, 304, 404, 426, 500, 599]),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    body=st.sampled_from([b"", b"hello"]),
    whole=st.booleans(),
    method=st.sampled_from(["GET", "HEAD"]),
    version=st.sampled_from(["1.1", "1.0"]),
)
@example(status=205, fields=[(b"content-length", b"5")], body=b"hello", whole=True, method="GET", version="1.0")
def test_what_a_handler_says_is_one_response_or_refused_before_anything_is_sent(
    name, status, fields, body, whole, method, version
):
    engine = name.maker()(Limits())
    engine.receive_data(f"{method} / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    while not isinstance(engine.next_event(), EndOfRequest):
        pass
    try:
        head = ResponseHead(status, fields)
        wire = b"".join(engine.respond(head, body)) if whole else engine.start_response(head)
    except ResponseError:
        # Another response can be sent instead.
        head = ResponseHead(500, [(b"content-length", b"3")])
        assert b"".join(engine.respond(head, b"no\n")).startswith(b"HTTP/1.1 500 ")
        return
    if not whole:
        try:
            if body and engine.content_allowed(status):
                wire += b"".join(engine.send_part(body))
            wire += engine.end_response()
        except ResponseError:
            return  # it is cut
    received = read(wire, method)
    assert received == (status, body if engine.content_allowed(status) else b"")


def read(wire: bytes, method: str) -> tuple[int, bytes]:
    """The one response that a client reads in `wire`."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    names = [name for name, _ in response.headers]
    assert len({b"content-length", b"transfer-encoding"}.intersection(names)) <= 1
    assert not {b"trailer", b"te", b"keep-alive"}.intersection(names)
    if response.status_code == 204:
        assert b"content-length" not in names
    content = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        content += bytes(event.data)
    assert client.trailing_data[0] == b"", "something was sent behind the response"
    return response.status_code, content
