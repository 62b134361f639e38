"""Where the client of a request can leave: one point for each kind of place."""

import pytest

from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, ResponseBytes, Way
from trioserve.testing.plan import PlannedLeave, plan, request_points, response_points
from trioserve.testing.wire import Wire, wire_of

GET = wire_of(b"GET /orders HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n")
POST = wire_of(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789")
CHUNKED = wire_of(
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n3\r\nyou\r\n0\r\nExpires: never\r\n\r\n"
)


def places(wire: Wire) -> dict[str, tuple[bytes, bytes]]:
    """What was sent and what was not, in the part of the request in which the point is."""
    sides = {}
    for point, place in request_points(wire).items():
        part = wire.head if isinstance(point, HeadBytes) else wire.body
        assert isinstance(point, HeadBytes | BodyBytes)
        sides[place] = part[: point.count], part[point.count :]
    return sides


@pytest.mark.parametrize(
    ("place", "sent_end", "rest_begin"),
    [
        ("before the first byte", b"", b"GET"),
        ("inside the method", b"GE", b"T "),
        ("inside the target", b"/ord", b"ers "),
        ("inside the version", b" HTTP", b"/1.1"),
        ("between the CR and the LF of the request line", b"1.1\r", b"\nHost"),
        ("between two lines", b"1.1\r\n", b"Host"),
        ("inside a field's name", b"\nHo", b"st:"),
        ("inside a field's value", b": exa", b"mple"),
        ("before the empty line", b"*/*\r\n", b"\r\n"),
        ("before the head's last LF", b"*/*\r\n\r", b"\n"),
        ("behind the head", b"*/*\r\n\r\n", b""),
    ],
)
def test_a_client_can_leave_in_each_kind_of_place_of_a_head(place: str, sent_end: bytes, rest_begin: bytes) -> None:
    sent, rest = places(GET)[place]
    assert sent.endswith(sent_end)
    assert rest.startswith(rest_begin)
    assert (sent == b"") == (sent_end == b"")
    assert (rest == b"") == (rest_begin == b"")


@pytest.mark.parametrize(
    ("place", "sent"),
    [
        ("behind the content's first byte", b"0"),
        ("in the middle of the content", b"01234"),
        ("before the request's last byte", b"012345678"),
        ("behind the request's last byte", b"0123456789"),
    ],
)
def test_a_client_can_leave_in_each_kind_of_place_of_content(place: str, sent: bytes) -> None:
    assert places(POST)[place][0] == sent


@pytest.mark.parametrize(
    ("place", "sent_end", "rest_begin"),
    [
        ("inside a chunk's size", b"5", b";a=b"),
        ("between the CR and the LF of a chunk's size", b"=b\r", b"\nhello"),
        ("inside a chunk's data", b"hel", b"lo"),
        ("between a chunk's data and its CR LF", b"hello", b"\r\n3"),
        ("between the CR and the LF behind a chunk's data", b"hello\r", b"\n3"),
        ("between two chunks", b"hello\r\n", b"3\r\n"),
        ("inside the last chunk", b"\r\n0", b"\r\nExp"),
        ("before the trailer section", b"\r\n0\r\n", b"Exp"),
        ("inside the trailer section", b"Expires: ", b"never"),
        ("before the request's last byte", b"never\r\n\r", b"\n"),
        ("behind the request's last byte", b"never\r\n\r\n", b""),
    ],
)
def test_a_client_can_leave_in_each_kind_of_place_of_chunks(place: str, sent_end: bytes, rest_begin: bytes) -> None:
    sides = [
        (CHUNKED.body[: point.count], CHUNKED.body[point.count :])
        for point, words in request_points(CHUNKED).items()
        if isinstance(point, BodyBytes) and words == place
    ]
    assert any(sent.endswith(sent_end) and rest.startswith(rest_begin) for sent, rest in sides), sides


def test_no_two_points_are_the_same_and_all_are_in_the_request() -> None:
    for wire in (GET, POST, CHUNKED, wire_of("/"), wire_of(b"X / HTTP/1.0\r\n\r\n")):
        points = list(request_points(wire))
        assert len(set(points)) == len(points)
        for point in points:
            assert isinstance(point, HeadBytes | BodyBytes)
            assert point.count <= len(wire.head if isinstance(point, HeadBytes) else wire.body)


def test_malformed_chunks_end_what_is_known_of_them() -> None:
    wire = wire_of(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno chunk")
    assert list(places(wire))[:2] == ["before the request's last byte", "behind the request's last byte"]


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        ([], []),
        ([1], []),
        ([2], [1]),
        ([100], [1, 50, 99]),
        ([100, 20, 5], [1, 50, 100, 110, 120, 123, 124]),
    ],
)
def test_a_client_can_leave_inside_and_behind_each_part_of_a_response(parts: list[int], counts: list[int]) -> None:
    assert response_points(parts) == [ResponseBytes(count) for count in counts]


def test_a_plan_begins_where_a_mess_is_best_understood() -> None:
    leaves = plan(POST, checkpoints=2, response_parts=[10], ways=[Way.FIN, Way.RESET])
    assert leaves[:4] == [PlannedLeave(Checkpoint(number), way) for number in (1, 2) for way in (Way.FIN, Way.RESET)]
    assert [type(leave.at) for leave in leaves[4:10]] == [ResponseBytes] * 6
    assert leaves[10].at == BodyBytes(1)
    assert leaves[-1] == PlannedLeave(HeadBytes(len(POST.head)), Way.RESET)


def test_a_plan_can_have_one_point_only() -> None:
    assert plan(GET, checkpoints=9, response_parts=[9], ways=[Way.VANISH], at=Checkpoint(3)) == [
        PlannedLeave(Checkpoint(3), Way.VANISH)
    ]
