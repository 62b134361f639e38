"""A case is read as it is written, sent whole in each way, and everything that differs from it is told."""

from __future__ import annotations

import itertools

import pytest

from tests.conformance import corpus as form
from tests.conformance.corpus import BadCase, Case, Expected, corpus, message
from tests.conformance.playing import Seen, all_differences, differences, every_split, ways

DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
HELLO = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 5\r\n\r\nhello"
NEXT = b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\nContent-Length: 4\r\n\r\nnext"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\n" + DATE + b"Connection: close\r\nContent-Length: 0\r\n\r\n"


WELL = (Expected(frozenset({200}), content=b"hello"),)
REFUSED = (Expected(frozenset({400, 501}), closes=True),)


def case(*pieces: bytes, answers=WELL, leaves=False) -> Case:
    return Case("name", "9112 §1", "own", "rule", pieces, answers, leaves=leaves)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("a\nb\n\n", b"a\r\nb\r\n\r\n"),
        (r"\r\n\t\0\\\x00\xFF\xe9", b"\r\n\t\0\\\x00\xff\xe9"),
        ("{{3*ab}}c", b"abababc"),
        (r"{{2*\n}}", b"\n\n"),
        ("{{2*a{{3*b}}}}", b"abbbabbb"),
        ("{a}", b"{a}"),
    ],
)
def test_a_text_stands_for_bytes(text, data):
    assert message(text) == data


@pytest.mark.parametrize("text", [r"\q", "é☃"])
def test_a_text_that_stands_for_nothing_is_refused(text):
    with pytest.raises((BadCase, UnicodeEncodeError)):
        message(text)


REQUIREMENT = {
    "section": "9112 §1",
    "level": "MUST",
    "rule": "r",
    "send": "{{it}}",
    "answer": "200",
    "cases": {"c": "x"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"level": "COULD"},
        {"answer": "yes"},
        {"answer": "200 closed"},
        {"answer": {"is": "200", "content": "a"}},
        {"cases": {}},
        {"cases": {"c": {"sends": "x"}}},
        {"sent": "x"},
        {"send": r"\q"},
    ],
    ids=str,
)
def test_a_requirement_of_another_form_is_refused(change):
    [good] = form._cases(REQUIREMENT)
    assert good.pieces == (b"x",)

    with pytest.raises(BadCase):
        list(form._cases({**REQUIREMENT, **change}))


def test_octets_are_cases():
    cases = list(form._cases({**REQUIREMENT, "octets": "00-02 7F"}))

    assert [each.pieces for each in cases] == [(b"x",), (b"\x00",), (b"\x01",), (b"\x02",), (b"\x7f",)]


def test_the_corpus_is_in_the_order_of_the_rfcs():
    """So is the table that is printed of it."""
    places = [place for place, _ in itertools.groupby(map(_place, corpus().cases))]

    assert places == sorted(places)


def _place(case: Case) -> list[int]:
    rfc, _, section = case.section.partition(" §")
    return [int(rfc), *map(int, section.split("."))]


def test_each_section_with_a_title_has_cases():
    assert set(corpus().titles) == {case.section for case in corpus().cases}


@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"ab", b"cdef"), (b"a",), (b"",), (bytes(5000), b"b")], ids=repr)
def test_a_case_is_sent_whole_in_each_way(pieces):
    those = case(*pieces)

    for segments in (ways(those) | every_split(those)).values():
        assert tuple(b"".join(each) for each in segments) == pieces


def test_a_short_case_is_split_at_each_byte():
    assert list(every_split(case(b"abc")).values()) == [((b"a", b"bc"),), ((b"ab", b"c"),)]


MET = {
    "a good answer": (case(b"x"), Seen(HELLO + NEXT, "FIN", 2)),
    "a refusal": (case(b"x", answers=REFUSED), Seen(REFUSAL, "FIN", 0)),
    "silence": (case(b"x", answers=(), leaves=True), Seen(b"", "FIN", 0)),
    "an end where there may be one": (
        case(b"x", answers=(Expected(frozenset({400}), closes=None),)),
        Seen(REFUSAL, "FIN", 0),
    ),
    "a cut": (
        case(b"x", answers=(Expected(frozenset({200}), closes=None, cut=True),)),
        Seen(HELLO[:-1], "RST", 1),
    ),
}

UNMET = {
    "another status code": (case(b"x"), Seen(HELLO.replace(b"200", b"202") + NEXT, "FIN", 2)),
    "another content": (case(b"x"), Seen(HELLO.replace(b"hello", b"jello") + NEXT, "FIN", 2)),
    "no answer": (case(b"x"), Seen(b"", "FIN", 0)),
    "an answer too many": (case(b"x"), Seen(HELLO + HELLO + NEXT, "FIN", 3)),
    "an answer where silence is due": (case(b"x", answers=(), leaves=True), Seen(REFUSAL, "FIN", 0)),
    "no further request served": (case(b"x"), Seen(HELLO, "FIN", 1)),
    "no end": (case(b"x"), Seen(HELLO + NEXT, "", 2)),
    "a reset": (case(b"x"), Seen(HELLO + NEXT, "RST", 2)),
    "an end too early": (case(b"x"), Seen(HELLO.replace(DATE, DATE + b"Connection: close\r\n"), "FIN", 1)),
    "a connection that goes on behind a refusal": (
        case(b"x", answers=REFUSED),
        Seen(REFUSAL.replace(b"Connection: close\r\n", b""), "FIN", 0),
    ),
    "a request served behind a refusal": (case(b"x", answers=REFUSED), Seen(REFUSAL + HELLO, "FIN", 1)),
    "a handler that got what was refused": (case(b"x", answers=REFUSED), Seen(REFUSAL, "FIN", 1)),
    "a cut": (case(b"x"), Seen(HELLO[:-1], "FIN", 1)),
    "none where one is due": (
        case(b"x", answers=(Expected(frozenset({200}), closes=None, cut=True),)),
        Seen(HELLO, "FIN", 1),
    ),
    "an interim response": (case(b"x"), Seen(b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO + NEXT, "FIN", 2)),
    "no interim response": (
        case(b"x", answers=(Expected(frozenset({200}), interim=(100,)),)),
        Seen(HELLO + NEXT, "FIN", 2),
    ),
    "another field": (
        case(b"x", answers=(Expected(frozenset({200}), fields={"Content-Length": "6"}),)),
        Seen(HELLO + NEXT, "FIN", 2),
    ),
    "a field that there should not be": (
        case(b"x", answers=(Expected(frozenset({200}), without=("Content-Length",)),)),
        Seen(HELLO + NEXT, "FIN", 2),
    ),
    "no HTTP": (case(b"x"), Seen(b"hello", "FIN", 0)),
    "an end that is long in coming": (case(b"x"), Seen(HELLO + NEXT, "FIN", 2, waited=75.0)),
    "an answer of which nothing was reported": (case(b"x"), Seen(HELLO + NEXT, "FIN", 2, completed=1)),
    "a report too many": (case(b"x", answers=REFUSED), Seen(REFUSAL, "FIN", 0, completed=2)),
}


@pytest.mark.parametrize(("those", "seen"), MET.values(), ids=MET)
def test_what_is_as_it_must_be_differs_in_nothing(those, seen):
    assert differences(those, seen) == []


@pytest.mark.parametrize(("those", "seen"), UNMET.values(), ids=UNMET)
def test_what_is_otherwise_is_told(those, seen):
    assert differences(those, seen) != []


def test_ways_that_get_different_answers_are_told():
    """Also where each of these answers is allowed."""
    refusal, other = Seen(REFUSAL, "FIN", 0), Seen(REFUSAL.replace(b"400", b"501"), "FIN", 0)
    those = case(b"x", answers=REFUSED)

    assert all_differences(those, {"whole": refusal, "byte by byte": refusal}) == []
    assert all_differences(those, {"whole": other, "byte by byte": other}) == []
    assert all_differences(those, {"whole": refusal, "byte by byte": other}) != []
