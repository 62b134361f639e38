"""Routing: which paths a pattern fits, what its parameters become, and which route is found for a request."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.app.routing import CONVERTERS, Converter, Match, NoMatch, Pattern, RouteTable, normal_path
from trioserve.core.errors import ConfigError


def table(*routes: str) -> RouteTable[str]:
    """A table of routes like "GET /x", each of which leads to its own text."""
    made: RouteTable[str] = RouteTable()
    for route in routes:
        methods, _, path = route.partition(" ")
        made.add(methods.split(","), Pattern(path), route)
    return made


# What a pattern fits


@pytest.mark.parametrize(
    ("pattern", "path", "parameters"),
    [
        ("/", "/", {}),
        ("/reports", "/reports", {}),
        ("/reports/{name}", "/reports/x", {"name": "x"}),
        ("/reports/{name:str}", "/reports/x.y-z", {"name": "x.y-z"}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/{a}-{b}", "/1-2-3", {"a": "1", "b": "2-3"}),
        ("/{a}-{b}", "/---", {"a": "-", "b": "-"}),
        ("/{a}--{b}", "/1-2--3--4", {"a": "1-2", "b": "3--4"}),
        ("/{y}-{m}-{slug}.html", "/2025-02-a-b.html.html", {"y": "2025", "m": "02", "slug": "a-b.html"}),
        ("/{a:int}-{b:int}", "/-1--2", {"a": -1, "b": -2}),
        ("/{a:float}.{b}", "/1.5.json", {"a": 1.5, "b": "json"}),
        ("/{a:float}.{b}", "/1.json", {"a": 1.0, "b": "json"}),
        (
            "/{a:uuid}-{b}",
            "/12345678-1234-5678-1234-567812345678-x",
            {"a": uuid.UUID("12345678-1234-5678-1234-567812345678"), "b": "x"},
        ),
        ("/{a}2{b}", "/x%2Fy2z", {"a": "x/y", "b": "z"}),  # no literal is found within a percent-encoding
        ("/{a}-{rest:path}.gz", "/1-2/3-4.gz", {"a": "1", "rest": "2/3-4"}),
        ("/v{major:int}.{minor:int}", "/v1.20", {"major": 1, "minor": 20}),
        ("/reports/{year:int}", "/reports/2025", {"year": 2025}),
        ("/reports/{year:int}", "/reports/-5", {"year": -5}),
        ("/reports/{year:int}", "/reports/007", {"year": 7}),
        ("/reports/{year:int}", "/reports/999999999999999999", {"year": 999_999_999_999_999_999}),
        ("/files/{rest:path}", "/files/a", {"rest": "a"}),
        ("/files/{rest:path}", "/files/a/b/c.txt", {"rest": "a/b/c.txt"}),
        ("/files/{rest:path}/raw", "/files/a/b/raw", {"rest": "a/b"}),
        ("/a.b", "/a.b", {}),
        ("/{_x1}", "/y", {"_x1": "y"}),
    ],
)
def test_a_pattern_fits(pattern, path, parameters):
    assert table(f"GET {pattern}").find("GET", path) == Match(f"GET {pattern}", parameters)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/reports", "/reports/"),
        ("/reports/", "/reports"),
        ("/reports", "/Reports"),
        ("/reports", "/reports2"),
        ("/reports", "/x/reports"),
        ("/reports/{name}", "/reports/"),
        ("/reports/{name}", "/reports/a/b"),
        ("/reports/{year:int}", "/reports/x"),
        ("/reports/{year:int}", "/reports/1.5"),
        ("/reports/{year:int}", "/reports/+5"),
        ("/reports/{year:int}", "/reports/1_0"),
        ("/reports/{year:int}", "/reports/%D9%A3"),  # an Arabic digit
        ("/reports/{year:int}", "/reports/1000000000000000000"),
        ("/files/{rest:path}", "/files/"),
        ("/{a}-{b}", "/--"),
        ("/{a:float}.{b}", "/1.5"),  # a parameter before another gives nothing back
        ("/{a}F", "/x%2F"),
        ("/a.b", "/axb"),
        ("/", ""),
        ("/", "*"),
    ],
)
def test_a_pattern_does_not_fit(pattern, path):
    assert isinstance(table(f"GET {pattern}").find("GET", path), NoMatch)


@pytest.mark.parametrize(
    ("pattern", "path", "parameters"),
    [
        ("/{name}", "/caf%C3%A9", {"name": "café"}),
        ("/{name}", "/a%2Fb", {"name": "a/b"}),  # an encoded slash is no separator
        ("/{name}", "/a+b", {"name": "a+b"}),  # a plus is a plus: it means a space in forms only
        ("/{name}", "/%25", {"name": "%"}),
        ("/{name}", "/a%0Ab", {"name": "a\nb"}),
        ("/{name:path}", "/a%2Fb/c", {"name": "a/b/c"}),
    ],
)
def test_rfc3986_2_1_parameters_are_percent_decoded(pattern, path, parameters):
    assert table(f"GET {pattern}").find("GET", path) == Match(f"GET {pattern}", parameters)


def test_a_parameter_that_is_no_utf_8_is_no_such_resource():
    assert isinstance(table("GET /{name}").find("GET", "/%FF"), NoMatch)


@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("/a", "/%61"),
        ("/~user", "/%7euser"),
        ("/café", "/caf%c3%A9"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/a%2fb", "/a%2Fb"),
        ("/100%", "/100%25"),
        ("/x@y:z", "/x%40y%3az"),
        ("/café/{name}", "/caf%C3%A9/1"),
        ("/a%2fb/{name}", "/a%2fb/1"),
    ],
)
def test_rfc3986_6_2_2_paths_are_compared_in_their_normal_form(registered, asked):
    assert isinstance(table(f"GET {registered}").find("GET", asked), Match)


def test_an_encoded_slash_is_not_a_slash():
    assert table("GET /a/b").find("GET", "/a%2Fb") == NoMatch(frozenset())
    assert table("GET /a%2Fb").find("GET", "/a/b") == NoMatch(frozenset())


@given(path=st.text("ab/%234567FfC3A9~!$&'()*+,;=:@-._", max_size=20))
def test_a_normal_path_is_its_own_normal_form(path):
    assert normal_path(normal_path(path)) == normal_path(path)


@given(name=st.text(min_size=1))
def test_whatever_a_client_encodes_is_what_the_parameter_becomes(name):
    encoded = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "replace"))
    match = table("GET /{name}").find("GET", f"/{encoded}")
    assert match == Match("GET /{name}", {"name": name.encode("utf-8", "replace").decode()})


def divided(text: str, literals: list[str]) -> list[str] | None:
    """What `str` parameters between `literals` take of `text`: by hand, from the left."""
    first, *between, last = literals
    if not (text.startswith(first) and text.endswith(last) and len(text) > len(first) + len(last)):
        return None
    position, end, taken = len(first), len(text) - len(last), []
    for literal in between:
        found = text.find(literal, position + 1)
        if not 0 <= found <= end - len(literal) - 1:
            return None
        taken.append(text[position:found])
        position = found + len(literal)
    return [*taken, text[position:end]]


@given(
    first=st.text("ab-", max_size=2),
    between=st.lists(st.text("ab-", min_size=1, max_size=2), max_size=3),
    last=st.text("ab-", max_size=2),
    text=st.text("ab-~", min_size=1, max_size=12),
)
def test_a_segment_is_divided_in_one_pass_from_the_left(first, between, last, text):
    literals = [first, *between, last]
    names = [f"x{number}" for number in range(len(literals) - 1)]
    pattern = first + "".join(f"{{{name}}}{literal}" for name, literal in zip(names, literals[1:], strict=True))
    taken = divided(text, literals)
    expected = None if taken is None else Match(f"GET /{pattern}", dict(zip(names, taken, strict=True)))
    found = table(f"GET /{pattern}").find("GET", f"/{text}")
    assert (found if isinstance(found, Match) else None) == expected


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/{a}-{b}-{c}-{d}-{e}-{f}.html", "/" + "-" * 8000),
        ("/{a}-{b:int}-{c}-{d:int}-{e}.html", "/" + "1-" * 4000),
        ("/{a}--{b}--{c}--{d}--{e}--{f}x", "/" + "-" * 8000),
        ("/{a}-{b}-{c}-{d}-{rest:path}/raw", "/" + "-" * 4000 + "/-" * 2000),
    ],
)
def test_no_path_makes_a_pattern_try_all_divisions(pattern, path):  # which would take years
    assert table(f"GET {pattern}").find("GET", path) == NoMatch(frozenset())


# What is no pattern


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("reports", "does not begin with a slash"),
        ("", "does not begin with a slash"),
        ("{path:path}", "does not begin with a slash"),
        ("/{x}/{x}", "the parameter 'x' twice"),
        ("/{x:number}", "unknown converter 'number'; there are str, int, float, uuid, path"),
        ("/{x", "stray brace"),
        ("/x}", "stray brace"),
        ("/{}", "stray brace"),
        ("/{1x}", "stray brace"),
        ("/{x:}", "stray brace"),
        ("/{{x}}", "stray brace"),
        ("/a?b", "a query or a fragment"),
        ("/{x}/#b", "a query or a fragment"),
        ("/a/../b", "the segment '..'"),
        ("/./b", "the segment '.'"),
        ("/{x:path}/../b", "the segment '..'"),
        ("/{x}{y}", "nothing between them"),
        ("/{x:int}{y:path}", "nothing between them"),
        ("/{x:path}/{y:path}.x", "a parameter behind 'x'"),
        ("/{x:path}-{y}", "a parameter behind 'x'"),
    ],
)
def test_what_is_no_pattern_is_a_config_error_that_quotes_it(pattern, why):
    with pytest.raises(ConfigError, match=why) as caught:
        Pattern(pattern)
    assert repr(pattern) in str(caught.value)


# Which route is found


def test_a_request_goes_to_the_route_of_its_method_and_path():
    routes = table("GET /a", "POST /a", "GET /b", "PUT /{x}")
    assert routes.find("GET", "/a") == Match("GET /a", {})
    assert routes.find("POST", "/a") == Match("POST /a", {})
    assert routes.find("GET", "/b") == Match("GET /b", {})
    assert routes.find("PUT", "/c") == Match("PUT /{x}", {"x": "c"})


def test_a_route_may_have_several_methods():
    routes = table("GET,POST /a")
    assert routes.find("GET", "/a") == routes.find("POST", "/a") == Match("GET,POST /a", {})


def test_rfc9110_9_1_methods_are_case_sensitive():
    assert table("GET /a").find("get", "/a") == NoMatch(frozenset({"GET", "HEAD"}))


def test_a_path_without_parameters_beats_one_with():
    for routes in (table("GET /{x}", "GET /new"), table("GET /new", "GET /{x}")):
        assert routes.find("GET", "/new") == Match("GET /new", {})
        assert routes.find("GET", "/old") == Match("GET /{x}", {"x": "old"})


@given(order=st.permutations(["GET /{number:int}", "GET /x{word}", "GET /{word}", "GET /new", "GET /{rest:path}"]))
def test_of_several_patterns_the_one_that_fits_best_prevails_in_whatever_order(order):
    routes = table(*order)
    assert routes.find("GET", "/1") == Match("GET /{number:int}", {"number": 1})
    assert routes.find("GET", "/xy") == Match("GET /x{word}", {"word": "y"})
    assert routes.find("GET", "/new") == Match("GET /new", {})
    assert routes.find("GET", "/one") == Match("GET /{word}", {"word": "one"})
    assert routes.find("GET", "/one/two") == Match("GET /{rest:path}", {"rest": "one/two"})


FILLERS = {"int": "7", "float": "7", "uuid": "12345678-1234-5678-1234-56781234567a", "str": "~", "path": "~/~"}
OWN = {
    "small": Converter("[a-z~]+"),
    "letters": Converter("[a-zA-Z~]+"),
    "same": Converter("[a-z~]+"),
    "any": CONVERTERS["str"],
}


@st.composite
def segments(draw: st.DrawFn, kinds: Sequence[str]) -> str:
    """A segment's pattern: literals of "a", "b" and "-", with parameters between."""
    text = draw(st.text("ab-", max_size=2))
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(kinds))
        text += f"{{x{number}:{kind}}}" + draw(st.text("ab-", min_size=1, max_size=2))
    if draw(st.booleans()):
        text += f"{{last:{draw(st.sampled_from(kinds))}}}"
    return text


def accepted(paths: Sequence[str]) -> tuple[RouteTable[str], list[str]]:
    """A table of what is not refused, and the paths of that."""
    made: RouteTable[str] = RouteTable()
    taken = []
    for path in paths:
        try:
            made.add(["GET"], Pattern(path, {**CONVERTERS, **OWN}), path)
        except ConfigError as error:
            assert "is served already" in str(error)  # noqa: PT017 - all others would be faults of the test
        else:
            taken.append(path)
    return made, taken


BUILT_IN = sorted(CONVERTERS.keys() - {"path"})


def unnamed(path: str) -> str:
    """The pattern with names that say their place, for it is the place that counts."""
    numbers = itertools.count()
    return re.sub(r"\{\w+:", lambda _: f"{{p{next(numbers)}:", path)


@given(data=st.data())
def test_the_route_that_is_found_does_not_depend_on_the_order_of_registration(data):
    one = segments([*BUILT_IN, *OWN])
    whole = st.builds(
        lambda parts, rest: unnamed("/" + "/".join(parts) + rest),
        st.lists(one, min_size=1, max_size=2),
        st.sampled_from(["", "", "/{rest:path}", "/{rest:path}-", "/a{rest:path}", "/{rest:path}/b"]),
    )
    made, paths = accepted(data.draw(st.lists(whole, min_size=2, max_size=8)))
    other, also = accepted(data.draw(st.permutations(paths)))
    assert sorted(also) == sorted(paths)
    kinds = {**FILLERS, **dict.fromkeys(OWN, "~")}
    asked = [re.sub(r"\{\w+:(\w+)\}", lambda match: kinds[match[1]], path) for path in paths]
    asked += data.draw(st.lists(st.text("ab-7~/", max_size=8).map("/".__add__), max_size=20))
    for path in asked:
        assert made.find("GET", path) == other.find("GET", path)


@given(patterns=st.lists(segments(BUILT_IN), min_size=2, max_size=8))
def test_no_segment_of_built_in_converters_is_in_the_shadow_of_another(patterns):
    made, paths = accepted([f"/{pattern}" for pattern in patterns])
    for path in paths:
        typical = re.sub(r"\{\w+:(\w+)\}", lambda match: FILLERS[match[1]], path)
        found = made.find("GET", typical)
        assert isinstance(found, Match)
        assert found.route == path


@pytest.mark.parametrize(
    ("better", "worse", "path"),
    [
        ("/{a:int}-{b}", "/{a}-{b}", "/1-2"),
        ("/{a:int}-{b}", "/{a}-{b:int}", "/1-2"),
        ("/a{x}", "/{x}b", "/axb"),
        ("/{x}.tar.gz", "/{x}.gz", "/a.tar.gz"),
        ("/{a}.{b}.json", "/{a}.json", "/x.y.json"),
        ("/{a}-{b}", "/{a}_{b}", "/x-y_z"),
        ("/{a:uuid}", "/{a}-{b}", "/12345678-1234-5678-1234-567812345678"),
        ("/{a:int}", "/{a:letters}", "/1"),
        ("/{a:small}", "/{a:letters}", "/x"),  # in the order in which they were given
        ("/{a:letters}", "/{a}", "/x"),
    ],
)
def test_of_two_segments_that_fit_the_better_one_prevails(better, worse, path):
    for paths in ([better, worse], [worse, better]):
        found = accepted(paths)[0].find("GET", path)
        assert isinstance(found, Match)
        assert found.route == better


@given(order=st.permutations(["/{x:small}/a", "/{x:letters}", "/{x:same}"]))
def test_converters_with_one_regex_have_the_better_place_of_the_two_in_whatever_order(order):
    assert accepted(order)[0].find("GET", "/x") == Match("/{x:same}", {"x": "x"})


def test_a_way_that_leads_nowhere_is_left_for_the_next():
    routes = table("GET /a/b", "GET /{x}/c", "GET /{rest:path}")
    assert routes.find("GET", "/a/c") == Match("GET /{x}/c", {"x": "a"})
    assert routes.find("GET", "/a/d") == Match("GET /{rest:path}", {"rest": "a/d"})


def test_a_method_is_looked_for_in_every_pattern_that_fits():
    routes = table("POST /new", "GET /{x}", "PUT /{rest:path}")
    assert routes.find("GET", "/new") == Match("GET /{x}", {"x": "new"})
    assert routes.find("PUT", "/new") == Match("PUT /{rest:path}", {"rest": "new"})


def test_rfc9110_9_3_2_head_falls_back_to_get():
    assert table("GET /a").find("HEAD", "/a") == Match("GET /a", {})
    assert table("GET /{x}").find("HEAD", "/a") == Match("GET /{x}", {"x": "a"})


def test_head_has_its_own_route_if_there_is_one():
    routes = table("GET /a", "HEAD /a")
    assert routes.find("HEAD", "/a") == Match("HEAD /a", {})
    assert routes.find("GET", "/a") == Match("GET /a", {})


def test_head_falls_back_to_nothing_but_get():
    assert table("POST /a").find("HEAD", "/a") == NoMatch(frozenset({"POST"}))


def test_rfc9110_15_5_6_a_method_that_is_not_allowed_is_told_what_is():
    routes = table("GET /new", "POST /{x}", "DELETE /{rest:path}", "PUT /other")
    assert routes.find("PATCH", "/new") == NoMatch(frozenset({"GET", "HEAD", "POST", "DELETE"}))


def test_an_unknown_path_allows_nothing():
    assert table("GET /a").find("GET", "/b") == NoMatch(frozenset())
    assert table().find("GET", "/") == NoMatch(frozenset())


def test_a_table_knows_the_methods_of_its_routes():
    assert table("GET,BREW /a", "POST /{x}").methods == {"GET", "BREW", "POST"}


def test_an_unknown_path_says_whether_it_lacks_a_slash_or_has_one_too_many():
    assert table("GET /a/").find("GET", "/a") == NoMatch(frozenset(), "/a/")
    assert table("GET /{x}").find("PUT", "/a/") == NoMatch(frozenset(), "/a")
    assert table("GET /a").find("GET", "/b/") == NoMatch(frozenset())


# Converters


@pytest.mark.parametrize(
    ("converter", "text", "value"),
    [
        ("float", "1.5", 1.5),
        ("float", "-2", -2.0),
        ("uuid", "12345678-1234-5678-1234-56781234567A", uuid.UUID("12345678-1234-5678-1234-56781234567a")),
        ("year", "2025", 2025),
    ],
)
def test_a_converter_makes_a_value_of_what_looks_like_it(converter, text, value):
    pattern = Pattern(f"/{{x:{converter}}}", {**CONVERTERS, "year": Converter("[0-9]{4}", int)})
    routes: RouteTable[str] = RouteTable()
    routes.add(["GET"], pattern, "route")
    assert routes.find("GET", f"/{text}") == Match("route", {"x": value})
    assert isinstance(routes.find("GET", f"/{text}x"), NoMatch)


def test_a_converter_may_refuse_what_looks_like_it():
    routes: RouteTable[str] = RouteTable()
    routes.add(["GET"], Pattern("/{day:day}", {"day": Converter(r"[0-9-]+", date.fromisoformat)}), "day")
    routes.add(["GET"], Pattern("/{rest:path}"), "rest")
    assert routes.find("GET", "/2025-02-28") == Match("day", {"day": date(2025, 2, 28)})
    assert routes.find("GET", "/2025-02-30") == Match("rest", {"rest": "2025-02-30"})


@pytest.mark.parametrize("regex", ["(", "(a)", "[0-9"])
def test_a_regex_that_is_none_or_captures_is_a_config_error(regex):
    with pytest.raises(ConfigError, match="converter's regex"):
        Converter(regex)


# From a route to a path


@pytest.mark.parametrize(
    ("pattern", "values", "path"),
    [
        ("/", {}, "/"),
        ("/a/b", {}, "/a/b"),
        ("/café", {}, "/caf%C3%A9"),
        ("/{x}", {"x": "a/b c"}, "/a%2Fb%20c"),
        ("/{x:path}/raw", {"x": "a/b c"}, "/a/b%20c/raw"),
        ("/v{major:int}.{minor:int}/x", {"major": 1, "minor": 20}, "/v1.20/x"),
        ("/{x:float}", {"x": 1.5}, "/1.5"),
    ],
)
def test_a_url_is_found_by_its_own_pattern(pattern, values, path):
    assert Pattern(pattern).url(values) == path
    assert table(f"GET {pattern}").find("GET", path) == Match(f"GET {pattern}", values)


@pytest.mark.parametrize(
    ("pattern", "values", "why"),
    [
        ("/{x}", {}, "needs a value for 'x'"),
        ("/{x}", {"x": "1", "y": "2"}, "has no parameter 'y'"),
        ("/{x}", {"x": ""}, "'' does not fit the parameter 'x'"),
        ("/{x:int}", {"x": "one"}, "'one' does not fit the parameter 'x'"),
        ("/{x:float}", {"x": 1e300}, "does not fit"),
        ("/i/{x}", {"x": ".."}, "the segment '..', which clients take out"),
        ("/i/{x}", {"x": "."}, "the segment '.', which clients take out"),
        ("/i/{x:path}", {"x": "a/../b"}, "the segment '..', which clients take out"),
        ("/{a}-{b}", {"a": "1-2", "b": "3"}, "would be read otherwise: as ['1', '2-3'], not ['1-2', '3']"),
    ],
)
def test_a_url_that_its_pattern_would_not_find_is_a_config_error(pattern, values, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        Pattern(pattern).url(values)


@given(
    x=st.text(min_size=1).filter(lambda text: text.isprintable() and text not in {".", ".."}),
    y=st.integers(-(10**17), 10**17),
)
def test_whatever_values_a_url_is_made_of_come_out_again(x, y):
    pattern = "/{x}/{y:int}"
    assert table(f"GET {pattern}").find("GET", Pattern(pattern).url({"x": x, "y": y})) == Match(
        f"GET {pattern}", {"x": x, "y": y}
    )


# What is refused


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /a", "GET /a"),
        ("GET /{x}", "POST,GET /{x}"),
        ("GET /a b", "GET /a%20b"),
        ("GET /a/{x}/b", "GET /a/{y}/b"),
        ("GET /{x:int}.{y}", "GET /{a:int}.{b}"),
        ("GET /{x:path}", "GET /{y:path}"),
    ],
)
def test_a_route_in_the_shadow_of_another_is_a_config_error_that_names_both(first, second):
    with pytest.raises(ConfigError, match=r"GET .* is served already, by") as caught:
        table(first, second)
    assert f"of {second} is served" in str(caught.value)
    assert str(caught.value).endswith(f"of {first}")
