"""Routing: from method and path to the route that serves them.

A pattern is a path with parameters: `/reports/{year:int}`. A parameter takes a segment or a part of one; with the
converter `path` it takes the rest of the path, slashes included.

What fits best wins, whatever the order of registration. From the left, segment by segment: a literal segment, then one
with parameters (the more literal characters the better; `str` comes after all other converters), then a parameter
that takes the rest. Two patterns that fit the same paths in the same way are refused at registration, so no route can
stand in the shadow of another. A route that fits but does not serve the method leaves it to the next that fits.

Patterns are kept as a trie of their segments. So a lookup costs what the path's segments cost, and not what the number
of routes would; going back after a dead end visits each node of the trie once at the most.

Paths are compared in their normal form (RFC 3986 §6.2.2): percent-encodings of characters that need none are decoded,
all others are upper case; `%2F` stays what it is, so a segment may contain an encoded slash. A trailing slash counts:
`/reports` and `/reports/` are two paths.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

from trioserve.core.errors import ConfigError

# What a segment may contain as it is: unreserved, sub-delims, ":" and "@" (RFC 3986 §3.3).
_SEGMENT_SAFE = "!$&'()*+,;=:@-._~"

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")


@dataclass(frozen=True, slots=True)
class Converter:
    """What a path parameter looks like in a path, and what it becomes.

    Args:
        regex: what the percent-encoded text looks like, such as "[0-9]{4}". It never sees a slash.
        convert: from the decoded text to the handler's value; a ValueError means that the path does not fit.
        format: from a value to text, for `App.url_for`.

    Raises:
        ConfigError: `regex` is none, or has groups that capture.
    """

    regex: str
    convert: Callable[[str], Any] = str
    format: Callable[[Any], str] = str

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            raise ConfigError(f"the converter's regex {self.regex!r} is none: {error}") from None
        if groups:
            raise ConfigError(f"the converter's regex {self.regex!r} captures; write its groups as (?:...)")


CONVERTERS: Mapping[str, Converter] = {
    "str": Converter("[^/]+"),
    # int() itself would take "1_0" and Arabic digits; 18 digits fit a signed 64-bit number.
    "int": Converter("-?[0-9]{1,18}", int),
    "float": Converter(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "uuid": Converter("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", uuid.UUID),
    "path": Converter(".+"),
}

_LAST = {"float": 1, "str": 2}
"""Converters that take what others would take too; those come first."""


class Segment(NamedTuple):
    """What one segment of a path must look like; with `takes_rest`, all that is left of the path."""

    literal: str | None  # in normal form; None if there are parameters
    regex: re.Pattern[str] | None  # a group for each parameter
    takes_rest: bool
    rank: tuple[int, int]  # the smaller comes first


class _Parameter(NamedTuple):
    name: str
    converter: Converter
    takes_rest: bool


class Pattern:
    """A route's path, compiled.

    Raises:
        ConfigError: the path does not begin with "/", has an unknown converter, a parameter twice, a stray brace, or
            something that no request's path contains.
    """

    __slots__ = ("_pieces", "parameters", "segments", "text", "types")

    def __init__(self, text: str, converters: Mapping[str, Converter] = CONVERTERS) -> None:
        if not text.startswith("/"):
            raise ConfigError(f"the path {text!r} does not begin with a slash")
        self.text = text
        # Literal text and parameters in turn, for `url`.
        self._pieces: list[str | _Parameter] = []
        self.segments = tuple(self._compile(text, converters))
        names = [piece.name for piece in self._pieces if isinstance(piece, _Parameter)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"the path {text!r} has the parameter {name!r} twice")
        self.parameters = frozenset(names)
        # What a parameter becomes, where a converter of our own makes it.
        self.types: Mapping[str, type] = {
            piece.name: piece.converter.convert
            for piece in self._pieces
            if isinstance(piece, _Parameter)
            and piece.converter in CONVERTERS.values()
            and isinstance(piece.converter.convert, type)
        }

    def _compile(self, text: str, converters: Mapping[str, Converter]) -> Iterator[Segment]:
        parts = text[1:].split("/")
        while parts:
            part = parts.pop(0)
            if any((match[2] or "str") == "path" for match in _PARAMETER.finditer(part)):
                part, parts = "/".join([part, *parts]), []
            self._pieces.append("/")
            yield self._segment(part, converters)

    def _segment(self, part: str, converters: Mapping[str, Converter]) -> Segment:
        regex, literals, position, last, takes_rest = "", "", 0, 0, False
        for match in _PARAMETER.finditer(part):
            literal = self._literal(part[position : match.start()])
            name, kind = match[1], match[2] or "str"
            if kind not in converters:
                raise ConfigError(
                    f"the path {self.text!r} has the unknown converter {kind!r}; there are {', '.join(converters)}"
                )
            self._pieces.append(_Parameter(name, converters[kind], kind == "path"))
            regex += f"{re.escape(literal)}({converters[kind].regex})"
            literals += literal
            position, last, takes_rest = match.end(), max(last, _LAST.get(kind, 0)), takes_rest or kind == "path"
        literal = self._literal(part[position:])
        if not regex and literal in {".", ".."}:
            raise ConfigError(f"the path {self.text!r} has the segment {part!r}, which clients take out of a path")
        if not regex:
            return Segment(literal, None, takes_rest=False, rank=(0, 0))
        rank = (-len(literals + literal), last)
        return Segment(None, re.compile(regex + re.escape(literal)), takes_rest, rank)

    def _literal(self, text: str) -> str:
        if "{" in text or "}" in text:
            raise ConfigError(
                f"the path {self.text!r} has a stray brace; a parameter is {{name}} or {{name:converter}}"
            )
        if "?" in text or "#" in text:
            raise ConfigError(f"the path {self.text!r} has a query or a fragment, which are no part of a path")
        literal = normal_path(quote(text, safe="/%" + _SEGMENT_SAFE))
        self._pieces.append(literal)
        return literal

    def values(self, texts: Sequence[str]) -> dict[str, Any]:
        """The parameters' values, from the texts that stand for them in a path.

        Raises:
            ValueError: one is not UTF-8, or its converter refuses it.
        """
        parameters = (piece for piece in self._pieces if isinstance(piece, _Parameter))
        return {
            name: converter.convert(unquote(text, errors="strict") if "%" in text else text)
            for (name, converter, _), text in zip(parameters, texts, strict=True)
        }

    def url(self, values: Mapping[str, Any]) -> str:
        """The path with `values` for the parameters, percent-encoded.

        Raises:
            ConfigError: one is missing, unknown, or does not look as the parameter must.
        """
        if missing := self.parameters - values.keys():
            raise ConfigError(f"{self.text!r} needs a value for {_names(missing)}")
        if unknown := values.keys() - self.parameters:
            raise ConfigError(f"{self.text!r} has no parameter {_names(unknown)}")
        return "".join(
            piece if isinstance(piece, str) else self._formatted(piece, values[piece.name]) for piece in self._pieces
        )

    def _formatted(self, parameter: _Parameter, value: Any) -> str:
        safe = _SEGMENT_SAFE + "/" if parameter.takes_rest else _SEGMENT_SAFE
        text = quote(parameter.converter.format(value), safe=safe)
        if not re.fullmatch(parameter.converter.regex, text):
            raise ConfigError(f"{value!r} does not fit the parameter {parameter.name!r} of {self.text!r}")
        return text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _names(names: frozenset[str] | set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def normal_path(path: str) -> str:
    """A path in normal form (see above). Costs nothing without a percent sign."""
    if "%" not in path:
        return path
    return "/".join(quote(unquote_to_bytes(segment), safe=_SEGMENT_SAFE) for segment in path.split("/"))


R = TypeVar("R")


class Match(NamedTuple, Generic[R]):
    """A route that serves the request, with the values of its path parameters."""

    route: R
    parameters: dict[str, Any]


class NoMatch(NamedTuple):
    """No route serves the request."""

    allowed: frozenset[str]  # the methods that the path does know; empty if it is unknown
    near: str | None = None  # a known path that differs by a trailing slash, if the path itself is unknown


class _Leaf(NamedTuple, Generic[R]):
    pattern: Pattern
    route: R


class _Node(Generic[R]):
    """A place in the trie: what may come next, and the routes that end here, one for each method."""

    __slots__ = ("leaves", "literals", "patterns")

    def __init__(self) -> None:
        self.leaves: dict[str, _Leaf[R]] = {}
        self.literals: dict[str, _Node[R]] = {}
        # Sorted: the first that fits and leads to a route wins.
        self.patterns: list[tuple[Segment, _Node[R]]] = []

    def child(self, segment: Segment) -> _Node[R]:
        """The node behind `segment`, made if there is none."""
        if segment.literal is not None:
            return self.literals.setdefault(segment.literal, _Node())
        for existing, node in self.patterns:
            if existing.regex == segment.regex and existing.takes_rest == segment.takes_rest:
                return node
        node = _Node[R]()
        self.patterns.append((segment, node))
        self.patterns.sort(key=lambda entry: (entry[0].takes_rest, entry[0].rank))
        return node


class RouteTable(Generic[R]):
    """Patterns and the routes that they lead to, one for each method. A route's `str` names it in errors."""

    def __init__(self) -> None:
        self._root = _Node[R]()
        # Paths without parameters once more, by their normal form: most requests need no walk.
        self._exact: dict[str, dict[str, _Leaf[R]]] = {}
        # All methods for which there is any route.
        self.methods: frozenset[str] = frozenset()

    def add(self, methods: Sequence[str], pattern: Pattern, route: R) -> None:
        """Register a route.

        Raises:
            ConfigError: the same requests are served by another route already; then nothing is registered.
        """
        node = self._root
        for segment in pattern.segments:
            node = node.child(segment)
        for method in methods:
            if (other := node.leaves.get(method)) is not None:
                raise ConfigError(
                    f"{method} {pattern.text} of {route} is served already, by {other.pattern.text} of {other.route}"
                )
        node.leaves.update(dict.fromkeys(methods, _Leaf(pattern, route)))
        self.methods |= frozenset(methods)
        if not pattern.parameters:
            self._exact["/" + "/".join(segment.literal or "" for segment in pattern.segments)] = node.leaves

    def find(self, method: str, path: str) -> Match[R] | NoMatch:
        """The route for a request. HEAD falls back to GET (RFC 9110 §9.3.2)."""
        path = normal_path(path)
        leaves = self._exact.get(path)
        leaf = None if leaves is None else _serving(leaves, method)
        if leaf is not None:
            return Match(leaf.route, {})
        if not path.startswith("/"):
            return NoMatch(frozenset())  # the asterisk-form, or an authority: RFC 9112 §3.2
        match = self._walk(self._root, path[1:].split("/"), 0, (), method)
        return match if match is not None else self._no_match(path)

    def _walk(
        self, node: _Node[R], parts: list[str], position: int, texts: tuple[str, ...], method: str
    ) -> Match[R] | None:
        """The best match for `parts` from `position` on, below `node`. `texts` stand for the parameters so far."""
        if position == len(parts):
            return self._match(node, texts, method)
        part = parts[position]
        child = node.literals.get(part)
        if child is not None:
            match = self._walk(child, parts, position + 1, texts, method)
            if match is not None:
                return match
        for segment, child in node.patterns:
            assert segment.regex is not None, "a segment without a literal has a regex"
            if segment.takes_rest:
                fit = segment.regex.fullmatch("/".join(parts[position:]))
                match = self._match(child, texts + fit.groups(), method) if fit else None
            else:
                fit = segment.regex.fullmatch(part)
                match = self._walk(child, parts, position + 1, texts + fit.groups(), method) if fit else None
            if match is not None:
                return match
        return None

    def _match(self, node: _Node[R], texts: tuple[str, ...], method: str) -> Match[R] | None:
        leaf = _serving(node.leaves, method)
        if leaf is None:
            return None
        try:
            return Match(leaf.route, leaf.pattern.values(texts))
        except ValueError:
            return None  # no such resource

    def _no_match(self, path: str) -> NoMatch:
        allowed = self._allowed(path)
        if allowed:
            return NoMatch(allowed)
        near = path[:-1] if path.endswith("/") else path + "/"
        return NoMatch(allowed, near if self._allowed(near) else None)

    def _allowed(self, path: str) -> frozenset[str]:
        """The methods for which there is a route at `path`."""
        parts = path[1:].split("/")
        allowed = {method for method in self.methods if self._walk(self._root, parts, 0, (), method)}
        return frozenset(allowed | {"HEAD"} if "GET" in allowed else allowed)


def _serving(leaves: dict[str, _Leaf[R]], method: str) -> _Leaf[R] | None:
    leaf = leaves.get(method)
    if leaf is None and method == "HEAD":
        return leaves.get("GET")
    return leaf
