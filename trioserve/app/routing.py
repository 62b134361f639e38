"""Routing: from method and path to the route that serves them.

A pattern is a path with parameters: `/reports/{year:int}`. A parameter takes one segment, or with the converter
`path` the rest of the path. A path without parameters beats one with; among patterns the first registered wins.

Paths are compared in their normal form (RFC 3986 §6.2.2): percent-encodings of characters that need none are decoded,
all others are upper case; `%2F` stays what it is, so a segment may contain an encoded slash. A trailing slash counts:
`/reports` and `/reports/` are two paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

from trioserve.core.errors import ConfigError

# What a segment may contain as it is: unreserved, sub-delims, ":" and "@" (RFC 3986 §3.3).
_SEGMENT_SAFE = "!$&'()*+,;=:@-._~"

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_]+))?\}")


@dataclass(frozen=True, slots=True)
class Converter:
    """What a path parameter looks like, and what it becomes."""

    regex: str
    convert: Callable[[str], Any]


CONVERTERS: Mapping[str, Converter] = {
    "str": Converter("[^/]+", str),
    # int() itself would take "1_0" and Arabic digits; 18 digits fit a signed 64-bit number.
    "int": Converter("-?[0-9]{1,18}", int),
    "path": Converter(".+", str),
}


class Pattern:
    """A route's path, compiled.

    Raises:
        ConfigError: the path does not begin with "/", has an unknown converter, a parameter twice, or a stray brace.
    """

    __slots__ = ("_converters", "_regex", "parameters", "text")

    def __init__(self, text: str) -> None:
        if not text.startswith("/"):
            raise ConfigError(f"the path {text!r} does not begin with a slash")
        self.text = text
        self._converters: dict[str, Callable[[str], Any]] = {}
        self._regex = re.compile(self._compile(text))
        self.parameters = frozenset(self._converters)

    def _compile(self, text: str) -> str:
        regex, position = "", 0
        for match in _PARAMETER.finditer(text):
            regex += self._literal(text[position : match.start()])
            name, kind = match[1], match[2] or "str"
            if name in self._converters:
                raise ConfigError(f"the path {text!r} has the parameter {name!r} twice")
            if kind not in CONVERTERS:
                raise ConfigError(f"the path {text!r} has the unknown converter {kind!r}; there are {_known()}")
            self._converters[name] = CONVERTERS[kind].convert
            regex += f"(?P<{name}>{CONVERTERS[kind].regex})"
            position = match.end()
        return regex + self._literal(text[position:])

    def _literal(self, text: str) -> str:
        if "{" in text or "}" in text:
            raise ConfigError(
                f"the path {self.text!r} has a stray brace; a parameter is {{name}} or {{name:converter}}"
            )
        return re.escape(normal_path(quote(text, safe="/%" + _SEGMENT_SAFE)))

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters' values if the pattern fits `path` (in normal form), else None."""
        match = self._regex.fullmatch(path)
        if match is None:
            return None
        try:
            return {
                name: self._converters[name](unquote(value, errors="strict"))
                for name, value in match.groupdict().items()
            }
        except UnicodeDecodeError:
            return None  # not UTF-8: no such resource


def _known() -> str:
    return ", ".join(CONVERTERS)


def normal_path(path: str) -> str:
    """A path in normal form (see above). Costs nothing without a percent sign."""
    if "%" not in path:
        return path
    return "/".join(quote(unquote_to_bytes(segment), safe=_SEGMENT_SAFE) for segment in path.split("/"))


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Match(Generic[R]):
    """A route that serves the request, with the values of its path parameters."""

    route: R
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """No route serves the request. `allowed`: the methods that the path does know, empty if it is unknown."""

    allowed: frozenset[str]


class Router(Generic[R]):
    """Patterns and the routes that they lead to, one for each method."""

    def __init__(self) -> None:
        # Paths without parameters, by their normal form, and patterns in the order of registration.
        self._exact: dict[str, dict[str, R]] = {}
        self._patterns: dict[str, tuple[Pattern, dict[str, R]]] = {}
        self._methods: set[str] = set()

    def add(self, methods: Sequence[str], pattern: Pattern, route: R) -> None:
        """Register a route.

        Raises:
            ConfigError: one of the methods is taken for this pattern; then nothing is registered.
        """
        if pattern.parameters:
            by_method = self._patterns.setdefault(pattern.text, (pattern, {}))[1]
        else:
            by_method = self._exact.setdefault(normal_path(quote(pattern.text, safe="/%" + _SEGMENT_SAFE)), {})
        for method in methods:
            if method in by_method:
                raise ConfigError(f"{method} {pattern.text} is registered twice")
        by_method.update(dict.fromkeys(methods, route))
        self._methods.update(methods)

    def find(self, method: str, path: str) -> Match[R] | NoMatch:
        """The route for a request. HEAD falls back to GET (RFC 9110 §9.3.2)."""
        path = normal_path(path)
        allowed: set[str] = set()
        for by_method, parameters in self._candidates(path):
            route = by_method.get(method) or (by_method.get("GET") if method == "HEAD" else None)
            if route is not None:
                return Match(route, parameters)
            allowed.update(by_method)
        if "GET" in allowed:
            allowed.add("HEAD")
        return NoMatch(frozenset(allowed))

    def _candidates(self, path: str) -> Iterable[tuple[dict[str, R], dict[str, Any]]]:
        exact = self._exact.get(path)
        if exact is not None:
            yield exact, {}
        for pattern, by_method in self._patterns.values():
            parameters = pattern.match(path)
            if parameters is not None:
                yield by_method, parameters

    def knows_method(self, method: str) -> bool:
        """True if any route is registered for the method."""
        return method in self._methods
