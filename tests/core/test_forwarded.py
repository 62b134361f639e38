"""What proxies say of a request: who is believed, how far, and what becomes of garbage and of what contradicts itself.

In all of it the peer is 10.0.0.1, and trusted is 10.0.0.0/8; a client is one of the documentation networks.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core.errors import ConfigError, RequestError
from trioserve.core.forwarded import Forwarded, ForwardedFields, TrustedProxies

PEER = ("10.0.0.1", 40_000)
CLIENT, OTHER = "203.0.113.9", "198.51.100.7"
TRUSTED = ("10.0.0.0/8", "fd00::/8")
NOTHING_SAID = Forwarded(PEER)


def told(
    *fields: tuple[str, str],
    peer: tuple[str, int] | None = PEER,
    trusted: tuple[str, ...] = TRUSTED,
    believed: ForwardedFields = ForwardedFields.EITHER,
) -> Forwarded:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    return TrustedProxies(trusted, believed).forwarded(peer, raw)


def x_for(*lines: str) -> Forwarded:
    return told(*(("x-forwarded-for", line) for line in lines))


def rfc7239(*lines: str) -> Forwarded:
    return told(*(("forwarded", line) for line in lines))


# Whose word is believed


@pytest.mark.parametrize("peer", [("10.0.0.1", 1), ("10.255.0.1", 1), ("::ffff:10.0.0.1", 1), ("fd00::1", 1)])
def test_who_is_listed_is_believed(peer):
    assert told(("x-forwarded-for", CLIENT), peer=peer).client == (CLIENT, 0)


@pytest.mark.parametrize("peer", [("11.0.0.1", 1), ("203.0.113.1", 1), ("2001:db8::1", 1), ("fe80::1%eth0", 1), None])
@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded"])
def test_who_is_not_listed_is_not_believed(peer, name):
    fields = [
        (name, f"for={CLIENT};proto=https;host=evil"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
    ]

    assert told(*fields, peer=peer) == Forwarded(peer, None, None)


def test_a_single_address_can_be_listed():
    assert told(("x-forwarded-for", CLIENT), trusted=("10.0.0.1",)).client == (CLIENT, 0)
    assert told(("x-forwarded-for", CLIENT), trusted=("10.0.0.2",)).client == PEER


def test_a_zone_of_the_peer_makes_no_difference():
    assert told(("x-forwarded-for", CLIENT), peer=("fe80::1%eth0", 1), trusted=("fe80::/10",)).client == (CLIENT, 0)


def test_who_connects_to_a_unix_socket_can_be_listed():
    assert told(("x-forwarded-for", CLIENT), peer=None, trusted=("unix",)).client == (CLIENT, 0)
    assert told(("x-forwarded-for", CLIENT), trusted=("unix",)).client == PEER


def test_a_trusted_peer_that_says_nothing_is_the_client():
    assert told() == told(("host", "a"), ("x-forwarded-by", CLIENT), ("via", "1.1 a")) == NOTHING_SAID


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "*", "", "Unix"])
def test_what_is_no_network_is_a_config_error_that_says_so(text):
    with pytest.raises(ConfigError, match=r"Config\.trusted_proxies: .*unix"):
        TrustedProxies(["10.0.0.1", text])


# The rightmost who is not trusted

CHAINS = {
    "one": ([CLIENT], CLIENT),
    "the client has written some itself": ([f"{OTHER}, {CLIENT}"], CLIENT),
    "the client pretends to be a proxy": ([f"{OTHER}, 10.0.0.9, {CLIENT}"], CLIENT),
    "through a second proxy": ([f"{CLIENT}, 10.0.0.2"], CLIENT),
    "through three, and something from the client": ([f"{OTHER}, {CLIENT}, 10.0.0.3, 10.0.0.2"], CLIENT),
    "all are trusted": (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    "in several lines": ([OTHER, CLIENT, "10.0.0.2"], CLIENT),
    "in several lines of several": ([f"{OTHER}, {OTHER}", f"{CLIENT}, 10.0.0.2"], CLIENT),
    "IPv6": (["2001:db8::7, fd00::1"], "2001:db8::7"),
    "IPv4 as IPv6": ([f"::ffff:{CLIENT}, ::ffff:10.0.0.2"], CLIENT),
}
EACH_CHAIN = pytest.mark.parametrize(("lines", "client"), CHAINS.values(), ids=CHAINS)


@EACH_CHAIN
def test_the_client_is_the_rightmost_who_is_not_trusted(lines, client):
    assert x_for(*lines) == Forwarded((client, 0), None, None)


@EACH_CHAIN
def test_so_it_is_in_forwarded(lines, client):
    """RFC 7239 §4, §5.2."""

    def element(address: str) -> str:
        return f'for="[{address}]"' if ":" in address else f"for={address}"

    as_forwarded = [", ".join(element(address) for address in line.split(", ")) for line in lines]

    assert rfc7239(*as_forwarded) == Forwarded((client, 0), None, None)


@pytest.mark.parametrize("text", [f" {CLIENT} ", f"\t{CLIENT}", f",{CLIENT},", f", ,{CLIENT} , ,\t,"])
def test_white_space_and_empty_members_of_a_list_are_nothing(text):
    """RFC 9110 §5.6.1.2."""
    assert x_for(text).client == (CLIENT, 0)
    assert x_for("", text, "").client == (CLIENT, 0)
    assert rfc7239(text.replace(CLIENT, f"for={CLIENT}")).client == (CLIENT, 0)


# How an address is written

NODES = {
    "203.0.113.9": ("203.0.113.9", 0),
    "203.0.113.9:4711": ("203.0.113.9", 4711),
    "203.0.113.9:0": ("203.0.113.9", 0),
    "203.0.113.9:65535": ("203.0.113.9", 65_535),
    "203.0.113.9:_hidden": ("203.0.113.9", 0),
    "[2001:db8::7]": ("2001:db8::7", 0),
    "[2001:DB8::7]:4711": ("2001:db8::7", 4711),
    "[2001:db8::7]:_a.b-c": ("2001:db8::7", 0),
    "2001:db8::7": ("2001:db8::7", 0),
    "1:2:3:4:5:6:7:8": ("1:2:3:4:5:6:7:8", 0),
    "::": ("::", 0),
    "[::ffff:203.0.113.9]:80": ("203.0.113.9", 80),
}
NO_NODES = [
    "unknown",
    "unknown:4711",
    "_hidden",
    "_SEVKISEK",
    "localhost",
    "203.0.113",
    "203.0.113.256",
    "203.0.113.09",
    "203.0.113.9:",
    "203.0.113.9:65536",
    "203.0.113.9:123456",
    "203.0.113.9:-1",
    "203.0.113.9:http",
    "203.0.113.9/32",
    "[203.0.113.9]",
    "[2001:db8::7",
    "2001:db8::7]",
    "[2001:db8::7]4711",
    "[2001:db8::7]:",
    "[]",
    "fe80::1%eth0",
    "[fe80::1%25eth0]",
    "::1::",
    "1",
    ":",
    "٢٠٣.0.113.9".encode().decode("latin-1"),
    "203.0.113.9 198.51.100.7",
]


@pytest.mark.parametrize(("text", "node"), NODES.items())
def test_an_address_may_be_written_like_this(text, node):
    """RFC 7239 §6; in X-Forwarded-For, as proxies do."""
    assert x_for(text).client == node
    assert rfc7239(f'for="{text}"').client == node
    assert rfc7239(f"for={text}").client == node  # it should be quoted, and often is not


@pytest.mark.parametrize("text", NO_NODES)
def test_where_a_trusted_proxy_names_no_address_it_is_itself_the_last_that_is_known(text):
    assert x_for(text) == rfc7239(f'for="{text}"') == NOTHING_SAID
    # Also if something stands left of it: nobody knows who has written that.
    assert x_for(f"{OTHER}, {text}") == rfc7239(f'for={OTHER}, for="{text}"') == NOTHING_SAID
    assert x_for(f"{OTHER}, {text}, 10.0.0.2").client == ("10.0.0.2", 0)
    # And left of the client, nobody looks.
    assert x_for(f"{text}, {CLIENT}").client == (CLIENT, 0)
    assert rfc7239(f'for="{text}", for={CLIENT}').client == (CLIENT, 0)


# Scheme and host

SCHEMES = {"http": "http", "https": "https", "HTTPS": "https", "ws": "http", "wss": "https", "Wss": "https"}


@pytest.mark.parametrize(("text", "scheme"), SCHEMES.items())
def test_a_scheme_is_http_or_https(text, scheme):
    assert told(("x-forwarded-proto", text)) == Forwarded(PEER, scheme, None)
    assert rfc7239(f"proto={text}") == Forwarded(PEER, scheme, None)


@pytest.mark.parametrize("text", ["ftp", "javascript", "on", "443", "https:", "https://", "http s", ""])
def test_another_scheme_counts_as_not_said(text):
    assert told(("x-forwarded-proto", text)) == NOTHING_SAID
    assert rfc7239(f'proto="{text}"') == NOTHING_SAID
    assert rfc7239(f'for={CLIENT};proto="{text}"') == Forwarded((CLIENT, 0))


@pytest.mark.parametrize("text", ["example.com", "example.com:8443", "[2001:db8::7]:8443", "203.0.113.9"])
def test_a_host_is_what_could_be_a_host_field(text):
    assert told(("x-forwarded-host", text)) == Forwarded(PEER, None, text)
    assert rfc7239(f'host="{text}"') == Forwarded(PEER, None, text)


@pytest.mark.parametrize(
    "text", ["", "a b", "user@example.com", "example.com/path", "example.com:port", "[::1", "example.com:65536", "a%zz"]
)
def test_another_host_counts_as_not_said(text):
    assert told(("x-forwarded-host", text)) == NOTHING_SAID
    assert rfc7239(f'host="{text}"') == NOTHING_SAID


def test_of_x_forwarded_proto_and_host_the_peer_itself_has_written_the_rightmost():
    fields = [
        ("x-forwarded-for", f"{CLIENT}, 10.0.0.2"),
        ("x-forwarded-proto", "https, http"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-host", "evil.example, shop.example"),
    ]

    assert told(*fields) == Forwarded((CLIENT, 0), "http", "shop.example")


def test_in_forwarded_the_outermost_trusted_proxy_has_the_last_word_on_scheme_and_host():
    evil = f"for={OTHER};proto=http;host=evil.example"
    outer = f"for={CLIENT};proto=https;host=shop.example"
    inner = "for=10.0.0.2;proto=http;host=inner.example"

    assert rfc7239(f"{evil}, {outer}, {inner}") == Forwarded((CLIENT, 0), "https", "shop.example")
    assert rfc7239(evil, outer, inner) == Forwarded((CLIENT, 0), "https", "shop.example")


def test_what_the_outermost_proxy_does_not_say_the_next_may_have_said():
    assert rfc7239(f"for={CLIENT};host=shop.example, for=10.0.0.2;proto=https;host=inner.example") == Forwarded(
        (CLIENT, 0), "https", "shop.example"
    )


def test_scheme_and_host_are_believed_beside_an_address_that_is_hidden():
    assert rfc7239("for=_hidden;proto=https;host=shop.example") == Forwarded(PEER, "https", "shop.example")


# The grammar of Forwarded: RFC 7239 §4

ELEMENTS = {
    "as in the RFC": "for=203.0.113.9;proto=https;by=10.0.0.1",
    "names in any case": "For=203.0.113.9;PROTO=https",
    "values quoted": 'for="203.0.113.9";proto="https"',
    "quoted pairs": r'for="203\.0.113.\9";proto="\h\t\t\p\s"',
    "white space around semicolons": "for=203.0.113.9 ; proto=https",
    "empty pairs": ";for=203.0.113.9;;proto=https;",
    "parameters that nobody knows": 'secret="a\\"b;c,d";for=203.0.113.9;x=1;proto=https',
    "order": "proto=https;by=_x;for=203.0.113.9",
    "a comma and a semicolon in quotes": 'by="a,b;c";for=203.0.113.9;proto=https',
}


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS)
def test_an_element_may_be_written_like_this(element):
    expected = Forwarded((CLIENT, 0), "https", None)
    assert rfc7239(element) == expected
    assert rfc7239(f"for={OTHER}, {element}") == expected
    assert rfc7239(f"{element},for=10.0.0.2") == expected


MALFORMED = {
    "no value": "for",
    "empty value": "for=",
    "no name": f"={CLIENT}",
    "white space around =": f"for = {CLIENT}",
    "two values": f"for={CLIENT} proto=https",
    "a name twice": f"for={CLIENT};for={OTHER}",
    "a name twice, in another case": f"for={CLIENT};FOR={OTHER}",
    "open quotes": f'for="{CLIENT}',
    "quotes that end too early": f'for="{CLIENT}"x',
    "quotes in a token": f'for=a"{CLIENT}"',
    "an escape at the end": f'for="{CLIENT}\\"',
    "an address alone": CLIENT,
    "a slash": f"for={CLIENT}/32",
    "longer than anybody needs": f'for={CLIENT};x="{"a" * 1024}"',
}


@pytest.mark.parametrize("element", MALFORMED.values(), ids=MALFORMED)
def test_at_a_malformed_element_the_walk_ends(element):
    assert rfc7239(element) == NOTHING_SAID
    assert rfc7239(f"for={OTHER}, {element}") == rfc7239(f"for={OTHER}", element) == NOTHING_SAID
    assert rfc7239(f"for={OTHER}, {element}, for=10.0.0.2").client == ("10.0.0.2", 0)


@pytest.mark.parametrize("element", MALFORMED.values(), ids=MALFORMED)
def test_what_a_client_writes_does_not_spoil_what_its_proxy_adds(element):
    expected = Forwarded((CLIENT, 0), "https", None)
    assert rfc7239(element, f"for={CLIENT};proto=https") == expected
    assert rfc7239(f"{element}, for={CLIENT};proto=https") == expected
    assert rfc7239(f'{element}, for="{CLIENT}";proto="https"') == expected


@given(from_client=st.text(st.sampled_from('",;=\\ \taf') | st.characters(max_codepoint=255), max_size=40))
def test_whatever_a_client_writes_it_is_known_by_what_its_proxy_adds(from_client):
    added = f'for="{CLIENT}:4711";host="a.example";by="[fd00::1]"'

    assert rfc7239(f"{from_client}, {added}") == Forwarded((CLIENT, 4711), None, "a.example")
    assert x_for(f"{from_client}, {CLIENT}").client == (CLIENT, 0)


@given(inside=st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60))
def test_nothing_in_a_quoted_string_is_taken_for_an_element(inside):
    quoted = inside.replace("\\", "\\\\").replace('"', '\\"')

    assert rfc7239(f'for={CLIENT};x="{quoted}"').client == (CLIENT, 0)
    assert rfc7239(f'x="{quoted}";for={CLIENT}').client == (CLIENT, 0)


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]),
            st.text(st.sampled_from('",;=\\ []:.10afor') | st.characters(max_codepoint=255), max_size=60),
        ),
        max_size=5,
    ),
    believed=st.sampled_from([ForwardedFields.X_FORWARDED, ForwardedFields.FORWARDED]),
)
def test_whatever_is_said_something_is_known_afterwards(lines, believed):
    client, scheme, authority = told(*lines, believed=believed)

    assert client is not None
    assert scheme in {None, "http", "https"}
    assert authority is None or " " not in authority


@pytest.mark.parametrize("piece", [",", ";", '"', ',x="\\"', ",for=", 'for=",', ",;", "\\", " ;\t", 'x="a,"'])
def test_no_garbage_takes_long(piece):
    """It would run into the time after which a run is ended. As long as a head may be, and more."""
    garbage = piece * (60_000 // len(piece))

    assert rfc7239(garbage).client == PEER
    assert x_for(garbage).client == PEER
    assert rfc7239(f"{garbage}, for={CLIENT}").client == (CLIENT, 0)


# Both kinds

BOTH = [("forwarded", f"for={CLIENT}"), ("x-forwarded-for", OTHER)]


@pytest.mark.parametrize(
    "other",
    [("x-forwarded-for", CLIENT), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a"), ("x-forwarded-for", "")],
)
def test_a_request_with_both_kinds_is_refused_with_advice(other):
    for fields in ([("forwarded", f"for={CLIENT}"), other], [other, ("forwarded", "")]):
        with pytest.raises(RequestError, match="both Forwarded and X-Forwarded") as caught:
            told(*fields)
        assert caught.value.status == 400


def test_from_a_peer_that_is_not_trusted_both_kinds_are_nothing():
    assert told(*BOTH, peer=(OTHER, 1)) == Forwarded((OTHER, 1))


@pytest.mark.parametrize("fields", [BOTH, BOTH[::-1]])
def test_where_it_is_said_which_is_written_the_other_is_not_looked_at(fields):
    assert told(*fields, believed=ForwardedFields.FORWARDED).client == (CLIENT, 0)
    assert told(*fields, believed=ForwardedFields.X_FORWARDED).client == (OTHER, 0)
    assert told(BOTH[1], believed=ForwardedFields.FORWARDED) == NOTHING_SAID
    assert told(BOTH[0], believed=ForwardedFields.X_FORWARDED) == NOTHING_SAID
