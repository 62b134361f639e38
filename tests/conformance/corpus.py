"""The corpus: what is sent, and what must come back. Read from `cases/*.toml`; the form is described in README.md."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from trioserve.testing.answers import GET, Asked

CASES = Path(__file__).parent / "cases"
LEVELS = ("MUST", "SHOULD", "own")
"""What the RFC says: MUST, SHOULD or better; and what we hold ourselves to beyond it."""


class BadCase(Exception):
    """A file of cases does not have the form that README.md describes."""


@dataclass(frozen=True)
class Expected:
    """One answer that must come."""

    statuses: frozenset[int]
    closes: bool | None = False  # it ends the connection; None: it may
    cut: bool = False  # it breaks off
    content: bytes | None = None  # None: whatever it is
    fields: Mapping[str, str] = field(default_factory=dict)  # what fields there are, among others
    without: tuple[str, ...] = ()  # fields that there are not
    interim: tuple[int, ...] | None = ()  # status codes of the 1xx before it; None: it may be that there are some


@dataclass(frozen=True)
class Case:
    """Bytes that a client sends, and the answers that it must get.

    `pieces` are sent one after another, each when the server has done what it can with those before. After the last
    answer, unless it closes, the connection must serve a further request.
    """

    name: str
    section: str  # "9112 §3.2"
    level: str
    rule: str
    pieces: tuple[bytes, ...]
    answers: tuple[Expected, ...]
    asked: tuple[Asked, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    leaves: bool = False  # the client ends its side behind the last piece

    @property
    def id(self) -> str:
        return f"{self.section}: {self.rule}: {self.name}"

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class Corpus:
    """All cases, in the order of the RFCs, and the titles of their sections."""

    cases: tuple[Case, ...]
    titles: Mapping[str, str]


@cache
def corpus() -> Corpus:
    """The corpus.

    Raises:
        BadCase: a file is wrong.
    """
    cases: list[Case] = []
    titles: dict[str, str] = {}
    for path in sorted(CASES.glob("*.toml")):
        try:
            read = tomllib.loads(path.read_text(encoding="utf-8"))
            titles |= read["sections"]
            for requirement in read["requirement"]:
                if requirement["section"] not in read["sections"]:
                    raise BadCase(f"section {requirement['section']} has no title")
                cases += _cases(requirement)
        except (KeyError, TypeError, ValueError, BadCase) as error:
            raise BadCase(f"{path.name}: {type(error).__name__}: {error}") from error
    if twice := [each for each, count in Counter(case.id for case in cases).items() if count > 1]:
        raise BadCase(f"there are several cases of one name: {twice}")
    return Corpus(tuple(cases), titles)


_OF_REQUIREMENT = {"section", "level", "rule", "send", "answer", "asked", "limits", "leaves", "cases", "octets"}
_OF_CASE = {"it", "send", "answer", "asked", "limits", "leaves"}


def _cases(requirement: Mapping[str, Any]) -> Iterator[Case]:
    _check_keys(requirement, _OF_REQUIREMENT)
    if requirement["level"] not in LEVELS:
        raise BadCase(f"level {requirement['level']!r} is none of {LEVELS}")
    variants: dict[str, Any] = dict(requirement.get("cases", {}))
    for octet in _octets(requirement.get("octets", "")):
        variants[f"octet 0x{octet:02X}"] = f"\\x{octet:02X}"
    if not variants:
        raise BadCase(f"there are no cases of {requirement['rule']!r}")
    for name, variant in variants.items():
        own = {"it": variant} if isinstance(variant, str) else variant
        _check_keys(own, _OF_CASE)
        said = {**requirement, **own}
        try:
            yield _case(name, said)
        except (KeyError, TypeError, ValueError, BadCase) as error:
            raise BadCase(f"{requirement['rule']!r}, {name!r}: {type(error).__name__}: {error}") from error


def _check_keys(table: Mapping[str, Any], known: set[str]) -> None:
    if unknown := table.keys() - known:
        raise BadCase(f"unknown keys: {sorted(unknown)}")


def _case(name: str, said: Mapping[str, Any]) -> Case:
    send = said["send"] if isinstance(said["send"], list) else [said["send"]]
    pieces = tuple(message(text.replace("{{it}}", said.get("it", ""))) for text in send)
    answers = said["answer"] if isinstance(said["answer"], list) else [said["answer"]]
    return Case(
        name=name,
        section=said["section"],
        level=said["level"],
        rule=said["rule"],
        pieces=pieces,
        answers=tuple(_expected(answer) for answer in answers),
        asked=tuple(_asked(each) for each in said["asked"]) if "asked" in said else (_guess(b"".join(pieces)),),
        limits=said.get("limits", {}),
        leaves=said.get("leaves", False),
    )


_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_REPETITION = re.compile(r"\{\{(\d+)\*((?:(?!\{\{|\}\}).)+)\}\}", re.DOTALL)


def message(text: str) -> bytes:
    r"""The bytes that a text stands for: its line ends are CRLF, `{{3*ab}}` is ababab, and \r \n \t \0 \xFF \\ are one
    byte each.
    """
    text = text.replace("\n", "\r\n")
    while (repeated := _REPETITION.sub(lambda found: int(found[1]) * found[2], text)) != text:
        text = repeated  # the innermost first
    return _ESCAPE.sub(_octet, text).encode("latin-1")


def _octet(found: re.Match[str]) -> str:
    if found[1] is not None:
        return chr(int(found[1], 16))
    if found[2] not in _ESCAPES:
        raise BadCase(f"\\{found[2]} stands for nothing")
    return _ESCAPES[found[2]]


def _octets(text: str) -> Iterator[int]:
    """The numbers in "00-08 7F"."""
    for part in text.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


_ANSWER = re.compile(r"(\d{3}(?:\|\d{3})*)( close\??)?( cut)?(?: '(.*)')?", re.DOTALL)
_CLOSES = {None: False, " close": True, " close?": None}


def _expected(answer: str | Mapping[str, Any]) -> Expected:
    said: Mapping[str, Any] = {"is": answer} if isinstance(answer, str) else answer
    _check_keys(said, {"is", "fields", "without", "interim"})
    match = _ANSWER.fullmatch(said["is"])
    if match is None:
        raise BadCase(f"{said['is']!r} is no answer")
    return Expected(
        statuses=frozenset(map(int, match[1].split("|"))),
        closes=_CLOSES[match[2]],
        cut=match[3] is not None,
        content=message(match[4]) if match[4] is not None else None,
        fields=said.get("fields", {}),
        without=tuple(said.get("without", ())),
        interim=None if said.get("interim") == "any" else tuple(said.get("interim", ())),
    )


def _asked(said: str) -> Asked:
    method, _, version = said.partition(" ")
    return Asked(method, version or "1.1")


_REQUEST_LINE = re.compile(rb"(?:\r\n)*([A-Z]+) .* HTTP/(1\.[01])\r\n")


def _guess(sent: bytes) -> Asked:
    """The first request's method and version, as far as they can be seen."""
    match = _REQUEST_LINE.match(sent)
    return Asked(match[1].decode(), match[2].decode()) if match else GET


def by_section(cases: Sequence[Case]) -> Iterator[tuple[tuple[str, str], list[Case]]]:
    """The cases by (section, level), in the order of the corpus, and of `LEVELS` within a section."""
    grouped: dict[str, dict[str, list[Case]]] = {}
    for case in cases:
        grouped.setdefault(case.section, {level: [] for level in LEVELS})[case.level].append(case)
    for section, levels in grouped.items():
        for level, those in levels.items():
            if those:
                yield (section, level), those
