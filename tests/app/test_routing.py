"""Routing: which paths a pattern fits, what its parameters become, and which route is found for a request."""

from __future__ import annotations

import uuid
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
        ("/{a}-{b}", "/1-2-3", {"a": "1-2", "b": "3"}),
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
    ],
)
def test_a_url_that_its_pattern_would_not_find_is_a_config_error(pattern, values, why):
    with pytest.raises(ConfigError, match=why):
        Pattern(pattern).url(values)


@given(x=st.text(min_size=1).filter(lambda text: text.isprintable()), y=st.integers(-(10**17), 10**17))
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
