"""IP addresses and networks as text: how proxies write them, and how they are compared.

An IPv4 address that is written as an IPv6 one ("::ffff:192.0.2.1", as a socket for both has it) is the IPv4 address:
so a client has one name, and a network of IPv4 covers it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

_MAPPED_BITS = 96
"""How many bits of a mapped address come before those of the IPv4 address."""


def parse_ip(text: str) -> IpAddress:
    """The address that `text` is.

    Raises:
        ValueError: it is none. A zone ("fe80::1%eth0") has a meaning on one machine only, and is refused.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return unmapped(ip_address(text))


def unmapped(address: IpAddress) -> IpAddress:
    """The address, as IPv4 if that is what it maps (RFC 4291 §2.5.5.2)."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def host_of_peer(text: str) -> str:
    """The host of a peer as the system writes it, but for IPv4 addresses, which are written as such."""
    return str(parse_ip(text)) if text.startswith("::ffff:") else text


def parse_network(text: str) -> IpNetwork:
    """The network that `text` is; an address is a network of one.

    Raises:
        ValueError: it is none, or has bits behind its prefix; says what would be right.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network such as 10.0.0.0/8") from None
    if str(network) != text and network.network_address != ip_address(text.partition("/")[0]):
        raise ValueError(f"{text!r} has bits behind its prefix; for that network write {network}")
    mapped = unmapped(network.network_address)
    if isinstance(network, IPv6Network) and isinstance(mapped, IPv4Address) and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network
