"""Routing: from method and path to the route that serves them.

A pattern is a path with parameters: `/reports/{year:int}`. A parameter takes a segment or a part of one; with the
converter `path` it takes the rest of the path, slashes included.

What fits best wins, whatever the order of registration. From the left, segment by segment: a literal segment, then one
with parameters, then a parameter that takes the rest. Of two with parameters: the one with more literal characters (a
UUID's hyphens count as such), then the one whose parameters are narrower, from the left (`uuid`, `int`, `float`, own
converters in the order in which they were given, `str`), then the one with longer literals, from the left; what is
alike in all that, such as `{a}-{b}` and `{a}_{b}`, goes by the alphabet. A second route for the same pattern and method
is refused; the parameters' names make no difference. A route that fits but does not serve the method leaves it to the
next that fits.

So no segment is in the shadow of another at its place, with two exceptions: nothing is known of what an own converter
takes, and a number takes the digits and the dot that stand behind it (`{a:float}.{b}` needs two dots, as does
`{a}.{b}.{c}`). And the order is that of segments, not of paths: `/{rest:path}/raw` gets nothing beside
`/{x}/{rest:path}`.

How a segment is divided among its parameters does not depend on what comes later, so nothing is tried twice: a
parameter before another one takes as much as it can and gives nothing back, but a `str` ends where the literal behind
it first occurs; the last takes all that is left before the last literal. No `str` is empty. `{a}-{b}.html` finds in
"1-2-3.html" the texts "1" and "2-3". Two parameters with nothing between them are refused, and so is one behind a
parameter that takes the rest.

Patterns are kept as a trie of their segments. So a lookup costs what the path's segments cost, and not what the number
of routes would; going back after a dead end visits each node of the trie once at the most, and a visit costs no more
than the length of what is left, whatever the path is. An unknown path is looked for twice: once with the other trailing
slash. Only different segments with parameters at one place of the trie, such as `{x}.json` and `{x}.html`, are tried
one after another.

Paths are compared in their normal form (RFC 3986 §6.2.2): percent-encodings of characters that need none are decoded,
all others are upper case; `%2F` stays what it is, so a segment may contain an encoded slash. A trailing slash counts:
`/reports` and `/reports/` are two paths.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

from trioserve.core.errors import ConfigError

# What a segment may contain as it is: unreserved, sub-delims, ":" and "@" (RFC 3986 §3.3).
_SEGMENT_SAFE = "!$&'()*+,;=:@-._~"

# Clients resolve them before they ask (RFC 3986 §5.2.4).
_DOT_SEGMENTS = frozenset({".", ".."})

_SEGMENT_CHARACTER = "[^/]"
_ANY = f"{_SEGMENT_CHARACTER}+"

_HEXADECIMAL = frozenset("0123456789ABCDEF")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")


@dataclass(frozen=True, slots=True)
class Converter:
    """What a path parameter looks like in a path, and what it becomes.

    Of several own converters that fit at one place the one that was given first wins: give narrower ones first.

    Args:
        regex: what the percent-encoded text looks like, such as "[0-9]{4}". It never sees a slash. Every client can
            make it look at a segment as long as `Limits.target`, in the event loop: nothing repeated may contain or
            follow what repeats the same characters, such as "(?:a+)+" or "a*[a-z]*". Before another parameter of
            the same segment it takes as much as it can and gives nothing back to the literal between them.
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
    "str": Converter(_ANY),
    # int() itself would take "1_0" and Arabic digits; 18 digits fit a signed 64-bit number.
    "int": Converter("-?[0-9]{1,18}", int),
    "float": Converter(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "uuid": Converter("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", uuid.UUID),
    "path": Converter(".+"),
}

_RANKS: Mapping[str, float] = {"uuid": -3, "int": -2, "float": -1, "str": math.inf, "path": math.inf}
"""The narrower comes first; own converters stand between, by their place in the mapping."""

_LITERAL_IN = {"uuid": 4}
"""Literal characters within a converter: without them `{a}-{b}` would beat any UUID."""


class Segment(NamedTuple):
    """What one segment of a path must look like; with `takes_rest`, all that is left of the path."""

    literal: str | None  # in normal form; None if there are parameters
    regex: re.Pattern[str] | None  # a group for each parameter
    takes_rest: bool
    rank: tuple[int, tuple[float, ...], tuple[int, ...]]  # the smaller comes first

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the segments with parameters at one place; alike only if they are."""
        assert self.regex is not None, "only segments with parameters need an order"
        return self.takes_rest, self.rank, self.regex.pattern


class _Parameter(NamedTuple):
    name: str
    converter: Converter
    takes_rest: bool


class Pattern:
    """A route's path, compiled.

    Raises:
        ConfigError: the path does not begin with "/", has an unknown converter, a parameter twice, a stray brace,
            parameters that cannot be told apart, or something that no request's path contains.
    """

    __slots__ = ("_conversions", "_pieces", "parameters", "segments", "text", "types")

    def __init__(self, text: str, converters: Mapping[str, Converter] = CONVERTERS) -> None:
        if not text.startswith("/"):
            raise ConfigError(f"the path {text!r} does not begin with a slash")
        self.text = text
        # Literal text and parameters in turn, for `url`.
        self._pieces: list[str | _Parameter] = []
        self.segments = tuple(self._compile(text, converters))
        # The parameters in their order, for `values`.
        self._conversions = [
            (piece.name, piece.converter.convert) for piece in self._pieces if isinstance(piece, _Parameter)
        ]
        names = [name for name, _ in self._conversions]
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
        literals: list[str] = []
        parameters: list[_Parameter] = []
        ranks: list[tuple[float, int]] = []
        position = 0
        for match in _PARAMETER.finditer(part):
            if parameters and match.start() == position:
                raise ConfigError(
                    f"the path {self.text!r} has two parameters with nothing between them, which cannot be told apart"
                )
            literals.append(self._literal(part[position : match.start()]))
            name, kind = match[1], match[2] or "str"
            if kind not in converters:
                raise ConfigError(
                    f"the path {self.text!r} has the unknown converter {kind!r}; there are {', '.join(converters)}"
                )
            if parameters and parameters[-1].takes_rest:
                raise ConfigError(
                    f"the path {self.text!r} has a parameter behind {parameters[-1].name!r}, which takes the rest; "
                    "only literal text may follow it"
                )
            parameters.append(_Parameter(name, converters[kind], kind == "path"))
            self._pieces.append(parameters[-1])
            ranks.append((_RANKS.get(kind, list(converters).index(kind)), _LITERAL_IN.get(kind, 0)))
            position = match.end()
        literals.append(self._literal(part[position:]))
        # Behind a parameter the tail's first piece is only the end of a segment.
        for segment in _DOT_SEGMENTS.intersection(literals[-1].split("/")[1 if parameters else 0 :]):
            raise ConfigError(f"the path {self.text!r} has the segment {segment!r}, which clients take out of a path")
        if not parameters:
            return Segment(literals[0], None, takes_rest=False, rank=(0, (), ()))
        return Segment(
            None,
            re.compile(_regex([parameter.converter.regex for parameter in parameters], literals)),
            parameters[-1].takes_rest,
            rank=(
                -sum(map(len, literals)) - sum(within for _, within in ranks),
                tuple(rank for rank, _ in ranks),
                tuple(-len(literal) for literal in literals),
            ),
        )

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
        return {
            name: convert(unquote(text, errors="strict") if "%" in text else text)
            for (name, convert), text in zip(self._conversions, texts, strict=True)
        }

    def url(self, values: Mapping[str, Any]) -> str:
        """The path with `values` for the parameters, percent-encoded.

        Raises:
            ConfigError: one is missing, unknown, or does not look as the parameter must; or the path would be read
                otherwise, by this pattern or by a client, which takes "." and ".." out of it (RFC 3986 §5.2.4).
        """
        if missing := self.parameters - values.keys():
            raise ConfigError(f"{self.text!r} needs a value for {_names(missing)}")
        if unknown := values.keys() - self.parameters:
            raise ConfigError(f"{self.text!r} has no parameter {_names(unknown)}")
        texts = [
            piece if isinstance(piece, str) else self._formatted(piece, values[piece.name]) for piece in self._pieces
        ]
        path = "".join(texts)
        if dots := _DOT_SEGMENTS.intersection(path.split("/")):
            raise ConfigError(
                f"{path!r} of {self.text!r} has the segment {min(dots)!r}, which clients take out of a path"
            )
        given = [text for piece, text in zip(self._pieces, texts, strict=True) if isinstance(piece, _Parameter)]
        if (read := self._texts(path)) != given:
            raise ConfigError(f"{path!r} of {self.text!r} would be read otherwise: as {read}, not {given}")
        return path

    def _texts(self, path: str) -> list[str] | None:
        """The texts that stand for the parameters in `path`, if it fits."""
        parts = path[1:].split("/")
        texts: list[str] = []
        for position, segment in enumerate(self.segments):
            if segment.regex is not None:
                part = "/".join(parts[position:]) if segment.takes_rest else parts[position]
                if (fit := segment.regex.fullmatch(part)) is None:
                    return None
                texts += fit.groups()
        return texts

    def _formatted(self, parameter: _Parameter, value: Any) -> str:
        safe = _SEGMENT_SAFE + "/" if parameter.takes_rest else _SEGMENT_SAFE
        text = quote(parameter.converter.format(value), safe=safe)
        if not re.fullmatch(parameter.converter.regex, text):
            raise ConfigError(f"{value!r} does not fit the parameter {parameter.name!r} of {self.text!r}")
        return text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _regex(regexes: Sequence[str], literals: Sequence[str]) -> str:
    """A segment's regex, with a group for each parameter: literals and parameters in turn.

    It goes through a text once: nothing but the last parameter ever gives anything back.
    """
    whole = re.escape(literals[0])
    for regex, literal in zip(regexes[:-1], literals[1:-1], strict=True):
        end = _end(literal)
        taken = f"{_SEGMENT_CHARACTER}(?:(?!{end}){_SEGMENT_CHARACTER})*+" if regex == _ANY else f"(?>{regex})"
        whole += f"({taken}){end}"
    return f"{whole}({regexes[-1]}){_end(literals[-1])}"


def _end(literal: str) -> str:
    """The regex of a literal behind a parameter. It never begins within a percent-encoding, as "2" does in "%2F"."""
    between_characters = "(?<!%)(?<!%.)" if literal and literal[0] in _HEXADECIMAL else ""
    return between_characters + re.escape(literal)


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
        position = next(
            (
                position
                for position, (existing, _) in enumerate(self.patterns)
                if existing.regex == segment.regex and existing.takes_rest == segment.takes_rest
            ),
            None,
        )
        existing, node = (segment, _Node[R]()) if position is None else self.patterns.pop(position)
        # Two converters may have one regex: the better rank holds for both, whichever came first.
        self.patterns.append((min(existing, segment, key=lambda one: one.order), node))
        self.patterns.sort(key=lambda entry: entry[0].order)
        return node


class _End(NamedTuple, Generic[R]):
    """Where a path may end, with the texts for its parameters."""

    node: _Node[R]
    texts: tuple[str, ...]


# What no request's method is.
_NO_METHOD = ""


class RouteTable(Generic[R]):
    """Patterns and the routes that they lead to, one for each method. A route's `str` names it in errors."""

    def __init__(self) -> None:
        self._root = _Node[R]()
        # The routes to paths without parameters once more, by method and path in normal form: most requests need no
        # walk. A target that is such a path as it is, is found here without being taken apart.
        self.plain: dict[tuple[str, str], Match[R]] = {}
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
            path = "/" + "/".join(segment.literal or "" for segment in pattern.segments)
            self.plain.update({(method, path): Match(route, {}) for method in methods})

    def find(self, method: str, path: str) -> Match[R] | NoMatch:
        """The route for a request. HEAD falls back to GET (RFC 9110 §9.3.2)."""
        path = normal_path(path)
        plain = self.plain.get((method, path))
        if plain is None and method == "HEAD":
            plain = self.plain.get(("GET", path))
        if plain is not None:
            return plain
        if not path.startswith("/"):
            return NoMatch(frozenset())  # the asterisk-form, or an authority: RFC 9112 §3.2
        search: _Search[R] = _Search(path, method)
        match = search.below(self._root, 0, ())
        if match is not None:
            return match
        if allowed := _allowed(search.ends):
            return NoMatch(allowed)
        near = path[:-1] if path.endswith("/") else path + "/"
        search = _Search(near, _NO_METHOD)
        search.below(self._root, 0, ())
        return NoMatch(allowed, near if _allowed(search.ends) else None)


class _Search(Generic[R]):
    """One walk through the trie, for `method` and `path`."""

    __slots__ = ("_method", "_parts", "ends")

    def __init__(self, path: str, method: str) -> None:
        self._parts = path[1:].split("/")
        self._method = method
        # Where the path may end, but not for this method: all such places, if there is no match.
        self.ends: list[_End[R]] = []

    def below(self, node: _Node[R], position: int, texts: tuple[str, ...]) -> Match[R] | None:
        """The best match for the path's segments from `position` on. `texts` stand for the parameters so far."""
        if position == len(self._parts):
            return self._at(node, texts)
        part = self._parts[position]
        child = node.literals.get(part)
        if child is not None:
            match = self.below(child, position + 1, texts)
            if match is not None:
                return match
        for segment, child in node.patterns:
            assert segment.regex is not None, "a segment without a literal has a regex"
            if segment.takes_rest:
                fit = segment.regex.fullmatch("/".join(self._parts[position:]))
                match = self._at(child, texts + fit.groups()) if fit else None
            else:
                fit = segment.regex.fullmatch(part)
                match = self.below(child, position + 1, texts + fit.groups()) if fit else None
            if match is not None:
                return match
        return None

    def _at(self, node: _Node[R], texts: tuple[str, ...]) -> Match[R] | None:
        leaf = _serving(node.leaves, self._method)
        if leaf is not None:
            try:
                return Match(leaf.route, leaf.pattern.values(texts))
            except ValueError:
                pass  # no such resource
        self.ends.append(_End(node, texts))
        return None


def _fits(leaf: _Leaf[R], texts: tuple[str, ...]) -> bool:
    try:
        leaf.pattern.values(texts)
    except ValueError:
        return False
    return True


def _allowed(ends: Iterable[_End[R]]) -> frozenset[str]:
    """The methods for which there is a route at one of `ends`."""
    allowed = {method for node, texts in ends for method, leaf in node.leaves.items() if _fits(leaf, texts)}
    return frozenset(allowed | {"HEAD"} if "GET" in allowed else allowed)


def _serving(leaves: dict[str, _Leaf[R]], method: str) -> _Leaf[R] | None:
    leaf = leaves.get(method)
    if leaf is None and method == "HEAD":
        return leaves.get("GET")
    return leaf
