"""Addresses and networks as text: what is one, and which are the same."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from trioserve.core.addresses import host_of_peer, parse_ip, parse_network


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::192.0.2.1", "::c000:201"),  # not a mapped one
    ],
)
def test_an_address_has_one_name(text, same):
    assert parse_ip(text) == ip_address(same)
    assert str(parse_ip(text)) == same


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::ffff:0:c000:201", "::ffff:0:c000:201"),  # not a mapped one
    ],
)
def test_a_peer_has_the_address_that_it_has_itself(text, host):
    assert host_of_peer(text) == host


@pytest.mark.parametrize(
    "text", ["", "localhost", "192.0.2", "192.0.2.1 ", "192.0.2.01", "1", "fe80::1%eth0", "[::1]", "1.2.3.4/32"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_ip(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("::1", "::1/128"),
        ("2001:db8:0::/48", "2001:db8::/48"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_network_is_one_of_the_addresses_as_they_are_compared(text, same):
    assert parse_network(text) == ip_network(same)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("localhost", "neither an address nor a network"),
        ("", "neither an address nor a network"),
        ("10.0.0.0/33", "neither an address nor a network"),
        ("*", "neither an address nor a network"),
        ("10.1.0.0/8", r"bits behind its prefix; for that network write 10\.0\.0\.0/8"),
        ("2001:db8::1/32", r"bits behind its prefix; for that network write 2001:db8::/32"),
    ],
)
def test_what_is_no_network_is_refused_with_advice(text, advice):
    with pytest.raises(ValueError, match=advice):
        parse_network(text)
