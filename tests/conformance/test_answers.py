"""The reader of answers forgives nothing, and reads what is right."""

from __future__ import annotations

import re

import pytest

from trioserve.testing.answers import Asked, RawAnswer, WrongAnswer, read_answers, read_answers_before_leaving

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + DATE
WHOLE = OK + b"Content-Length: 3\r\n\r\nabc"

GET = Asked("GET", "1.1")
HEAD = Asked("HEAD", "1.1")
OLD = Asked("GET", "1.0")

WRONG = {
    "§2.1: no end of the head": (OK, GET),
    "§4: no status line": (b"hello\r\n\r\n", GET),
    "§4: another version": (WHOLE.replace(b"1.1", b"1.0"), GET),
    "§4: a bare LF": (WHOLE.replace(b"OK\r\n", b"OK\n"), GET),
    "§5: a space before a colon": (OK + b"X : y\r\nContent-Length: 0\r\n\r\n", GET),
    "§5: a control character": (OK + b"X: \x01\r\nContent-Length: 0\r\n\r\n", GET),
    "§6.6.1: no Date": (WHOLE.replace(DATE, b""), GET),
    "§6.6.1: two Dates": (WHOLE.replace(DATE, DATE + DATE), GET),
    "§5.6.7: a Date of another form": (WHOLE.replace(b"06 Nov 1994", b"06-Nov-94"), GET),
    "§6.1: chunked to 1.0": (OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OLD),
    "§6.1: another coding": (OK + b"Transfer-Encoding: gzip\r\n\r\n", GET),
    "§6.2: a length beside chunks": (OK + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", GET),
    "§6.3: two lengths": (OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", GET),
    "§6.3: a length that is no number": (OK + b"Content-Length: +3\r\n\r\nabc", GET),
    "§7.1: no chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", GET),
    "§7.1: no end of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", GET),
    "§9.3: no length on a connection that goes on": (OK + b"\r\nabc", GET),
    "§9.3: a 1.0 client that is not told of the end": (WHOLE, OLD),
    "§9.6: something behind the last answer": (WHOLE.replace(DATE, DATE + b"Connection: close\r\n") + b"x", GET),
    "§15.2: an interim response to 1.0": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, OLD),
    "§8.6: an interim response with a length": (b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + WHOLE, GET),
    "§8.6: 204 with a length": (OK.replace(b"200", b"204") + b"Content-Length: 0\r\n\r\n", GET),
    "§15.3.6: 205 with content": (WHOLE.replace(b"200", b"205"), GET),
    "§9.3.6: a tunnel": (WHOLE, Asked("CONNECT", "1.1")),
    "§15.5.6: 405 without Allow": (WHOLE.replace(b"200", b"405"), GET),
    "§15.5.22: 426 without Upgrade": (WHOLE.replace(b"200", b"426"), GET),
    "§15.2.2: 101 without Upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", GET),
    "content of HEAD": (WHOLE, HEAD),
    "content of 304": (WHOLE.replace(b"200", b"304"), GET),
}


@pytest.mark.parametrize(("received", "asked"), WRONG.values(), ids=[name.replace("§", "") for name in WRONG])
def test_what_a_server_must_not_send_is_refused(received, asked):
    with pytest.raises(WrongAnswer):
        read_answers(received, [asked])


def test_what_says_no_method_and_version_is_refused():
    with pytest.raises(TypeError, match=r"'GET', which is no Asked; .*Asked\("):
        read_answers(WHOLE, ["GET"])


def test_answers_are_read_one_after_another():
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
    no_content = OK.replace(b"200", b"204") + b"\r\n"
    to_head = OK + b"Content-Length: 3\r\n\r\n"

    answers = read_answers(
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE + chunked + no_content + to_head, [GET, GET, GET, HEAD]
    )

    assert [(answer.status, answer.content, answer.interim, answer.cut) for answer in answers] == [
        (200, b"abc", (100,), False),
        (200, b"abc", (), False),
        (204, b"", (), False),
        (200, b"", (), False),
    ]


def test_an_answer_without_length_lasts_until_the_end_of_the_connection():
    [answer] = read_answers(OK + b"Connection: close\r\n\r\nabc", [OLD])

    assert (answer.content, answer.closes, answer.cut) == (b"abc", True, False)


@pytest.mark.parametrize(
    ("received", "content"),
    [
        (OK + b"Content-Length: 3\r\n\r\nab", b"ab"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", b"ab"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"abc"),
    ],
    ids=["by length", "in a chunk", "before the last chunk", "in the last chunk"],
)
def test_an_answer_that_breaks_off_is_cut(received, content):
    [answer] = read_answers(received, [GET])

    assert (answer.content, answer.cut) == (content, True)


def test_nothing_is_read_behind_a_switch_of_protocols():
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    assert read_answers(switch + b"\x88\x00", [GET]) == [
        RawAnswer(101, (("connection", "Upgrade"), ("upgrade", "websocket")), b""),
    ]


def test_no_bytes_are_no_answer():
    assert read_answers(b"", [GET]) == []


BEGINNINGS = [WHOLE[:size] for size in range(1, WHOLE.index(b"abc"))]


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=range(1, len(BEGINNINGS) + 1))
def test_of_a_connection_that_was_cut_the_last_head_may_be_cut_anywhere(beginning):
    answers, rest = read_answers_before_leaving(WHOLE + beginning, [GET])

    assert ([answer.content for answer in answers], rest) == ([b"abc"], beginning)


def test_of_a_connection_that_was_cut_interim_responses_may_be_all_that_came():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"

    assert read_answers_before_leaving(interim, [GET]) == ([], interim)
    assert read_answers_before_leaving(interim + b"HTTP/1.1 2", [GET]) == ([], interim + b"HTTP/1.1 2")


def test_of_a_connection_that_was_cut_the_last_content_may_be_cut():
    [first, second], rest = read_answers_before_leaving(WHOLE + WHOLE[:-1], [GET])

    assert (first.cut, second.cut, second.content, rest) == (False, True, b"ab", b"")


@pytest.mark.parametrize(
    "wrong",
    [b"hello", b"HTTP/1.0 2", b"HTTP/1.1\n", OK + b"X : y\r\n", b"HTTP/1.1 20\r\nX"],
)
def test_what_is_no_beginning_of_a_head_is_refused(wrong):
    with pytest.raises(WrongAnswer):
        read_answers_before_leaving(WHOLE + wrong, [GET])


@pytest.mark.parametrize(("received", "asked"), WRONG.values(), ids=[name.replace("§", "") for name in WRONG])
def test_what_a_server_must_not_send_is_refused_of_a_connection_that_was_cut_too(received, asked):
    if received == OK:
        return  # that is a beginning

    with pytest.raises(WrongAnswer):
        read_answers_before_leaving(received, [asked])


CONTINUE = b"HTTP/1.1 100 Continue\r\n"
CLOSES = WHOLE.replace(DATE, DATE + b"Connection: close\r\n")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"

MORE_WRONG = {
    "§6.1: an interim response in chunks": (CONTINUE + b"Transfer-Encoding: chunked\r\n\r\n" + WHOLE, GET),
    "§15.2: an interim response to 1.0 where all else is right": (CONTINUE + b"\r\n" + CLOSES, OLD),
    "§8.6: 101 with a length": (SWITCH + b"Content-Length: 0\r\n\r\n", GET),
    "§6.1: 204 in chunks": (OK.replace(b"200", b"204") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", GET),
    "§9.6: an answer behind the last answer": (CLOSES + WHOLE, GET),
    "§9.6: an interim response behind the last answer": (CLOSES + CONTINUE + b"\r\n", GET),
    "§15.2.2: 101 to nothing": (SWITCH.replace(b"Connection: Upgrade\r\n", b"") + b"\r\n", GET),
}

# Content where there must be none is taken for the beginning of the next answer, which it is not.
SECTIONS = {name: name.partition(":")[0] if name.startswith("§") else "§4" for name in [*WRONG, *MORE_WRONG]}


@pytest.mark.parametrize("name", SECTIONS, ids=[name.replace("§", "") for name in SECTIONS])
@pytest.mark.parametrize("read", [read_answers, read_answers_before_leaving], ids=lambda read: read.__name__)
def test_a_refusal_says_by_which_section(read, name):
    received, asked = (WRONG | MORE_WRONG)[name]
    if received == OK and read is read_answers_before_leaving:
        return  # that is a beginning

    with pytest.raises(WrongAnswer, match=rf"{re.escape(SECTIONS[name])}(?!\.?[0-9])"):
        read(received, [asked])
