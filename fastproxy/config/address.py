"""Hosts, ports, origins and networks, as text and as values.

One host syntax for the whole house: a DNS name (underscores allowed, container networks use them) or an IP address,
IPv6 in brackets wherever a port may follow. Hosts are kept in lower case without brackets. Nothing is
resolved here.
"""

import ipaddress
import re

import msgspec

from fastproxy.config import units

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
NAME_CHARACTERS_MAX = 253  # RFC 1035 §2.3.4

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(msgspec.Struct, frozen=True):
    """Where to listen or connect. `host` carries no brackets; `str()` adds them."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracket(self.host)}:{self.port}"


def bracket(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def read_host(text: str) -> str:
    """A DNS name or an IP address, in lower case; an IPv6 address must come in brackets and loses them."""
    word = text.lower()
    if word.startswith("[") and word.endswith("]"):
        return _read_ip(word[1:-1], version=6, shown=text)
    if word.strip(".") and not word.strip(
        "0123456789."
    ):  # only digits and dots: no top-level domain looks so, it is meant as IPv4
        return _read_ip(word, version=4, shown=text)
    labels = word.removesuffix(".").split(".")
    if len(word) > NAME_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        hint = " (an IPv6 address stands in brackets)" if text.count(":") > 1 else ""
        raise units.WrongValue(f"expected a host name or an IP address, got {units.quote(text)}{hint}")
    return word


def _read_ip(word: str, *, version: int, shown: str) -> str:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in word:
        raise units.WrongValue(f"expected an IPv{version} address, got {units.quote(shown)}")
    return address.compressed


def read_port(text: str, *, minimum: int = 1) -> int:
    """A TCP port."""
    if not _PORT.fullmatch(text) or not minimum <= int(text) <= 65535:
        raise units.WrongValue(f"expected a port of {minimum} to 65535, got {units.quote(text)}")
    return int(text)


def split_port(authority: str) -> tuple[str, str | None]:
    """Host and port of `host:port`, undecided whether they are well-formed; a bare IPv6 address is not cut in two."""
    if authority.startswith("["):
        host, bracketed, rest = authority.partition("]")
        if bracketed and (not rest or rest.startswith(":")):
            return host + "]", rest[1:] if rest else None
        return authority, None
    host, colon, port = authority.rpartition(":")
    if not colon or ":" in host:
        return authority, None
    return host, port


def read_address(value: object) -> Address:
    """HOST:PORT to listen on; port 0 lets the system choose."""
    text = units.read_text(value, expected="HOST:PORT")
    host, port = split_port(text.strip())
    if port is None or not host:
        raise units.WrongValue(f"expected HOST:PORT such as 127.0.0.1:8080, got {units.quote(value)}")
    return Address(read_host(host), read_port(port, minimum=0))


def _read_address_or_off(value: object) -> Address | None:
    # A YAML 1.1 writer turns `off` into false on its way through other tools; both mean the same here.
    return None if value is False or value == "off" else read_address(value)


def _read_server(value: object) -> Address:
    server = read_address(value)
    try:
        ipaddress.ip_address(server.host)
    except ValueError:
        raise units.WrongValue(f"expected an IP address before the port, got {units.quote(value)}") from None
    if not server.port:
        raise units.WrongValue(f"expected a port of 1 to 65535, got {units.quote(value)}")
    return server


def _read_allowed_host(value: object) -> str:
    text = units.read_text(value, expected="a host, HOST:PORT or *").strip()
    if text == "*":
        return text
    host, port = split_port(text)
    name = bracket(read_host(host))
    return name if port is None else f"{name}:{read_port(port)}"


def _read_allowed_origin(value: object) -> str:
    text = units.read_text(value, expected="an origin or *").strip()
    if text == "*":
        return text
    scheme, separator, authority = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme.lower()):
        raise units.WrongValue(f"expected an origin such as https://app.example.com or *, got {_quote_bare(text)}")
    if not authority or set(authority) & set("/?#@"):
        raise units.WrongValue(f"expected an origin without user, path or query, got {_quote_bare(text)}")
    return f"{scheme.lower()}://{_read_allowed_host(authority)}"


def _quote_bare(text: str) -> str:
    """A URL for a message without what may be a password in it."""
    return units.quote(mask_userinfo(text))


def mask_userinfo(url: str) -> str:
    """The URL with all that stands before its last @ hidden: a password may hold any character, even @ and /."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, separator, rest = "", "", url
    _, at, tail = rest.rpartition("@")
    return f"{scheme}{separator}***@{tail}" if at else url


def _read_network(value: object) -> Network:
    text = units.read_text(value, expected="a network such as 10.0.0.0/8").strip()
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise units.WrongValue(f"expected a network such as 10.0.0.0/8 or fd00::/8, got {units.quote(text)}") from None
    raise units.WrongValue(f"expected a network, got {units.quote(text)} (did you mean {meant}?)")


LISTEN = units.Kind("HOST:PORT", read_address, str)
LISTEN_OR_OFF = units.Kind("HOST:PORT|off", _read_address_or_off, lambda value: "off" if value is None else str(value))
SERVER = units.Kind("IP:PORT", _read_server, str)
ALLOWED_HOST = units.Kind("HOST[:PORT]", _read_allowed_host, str)
ALLOWED_ORIGIN = units.Kind("ORIGIN", _read_allowed_origin, str)
NETWORK = units.Kind("CIDR", _read_network, str)
