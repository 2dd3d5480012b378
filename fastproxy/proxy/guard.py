"""Which Host and Origin are welcome (interface §3.2). The proxy must judge them itself: it rewrites Host, and so hides
DNS rebinding from a backend that looks at Host alone (mcp.md §0.8). Pure.
"""

import functools
import ipaddress

from fastproxy.config import schema
from fastproxy.mcp import reply

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def split_host(host: str) -> tuple[str, str | None]:
    """Name (lower case, brackets kept) and port of a Host value."""
    text = host.lower()
    if text.startswith("["):
        name, _, rest = text.partition("]")
        return name + "]", rest.removeprefix(":") or None
    name, colon, port = text.rpartition(":")
    return (name, port or None) if colon else (text, None)


@functools.lru_cache(maxsize=256)
def is_loopback(name: str) -> bool:
    """localhost, 127.0.0.0/8 or [::1]."""
    if name in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """The checks of one listener. `loopback`: it is bound to a loopback address."""

    def __init__(self, *, hosts: tuple[str, ...], origins: tuple[str, ...], loopback: bool, scheme: str) -> None:
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self._loopback = loopback
        self._scheme = scheme

    @property
    def any_host(self) -> bool:
        """No Host can be refused."""
        return "*" in self._hosts or (not self._hosts and not self._loopback)

    def check(self, host: str | None, origins: list[str]) -> None:
        """Refusal (403) when Host or Origin is not welcome."""
        if not self._accepts_host(host):
            raise reply.forbidden("Host not allowed (see --allowed-host)")
        if len(origins) > 1:
            raise reply.forbidden("more than one Origin")
        if origins and not self._accepts_origin(origins[0], host):
            raise reply.forbidden("Origin not allowed (see --allowed-origin)")

    def _accepts_host(self, host: str | None) -> bool:
        if self.any_host or host is None:  # HTTP/1.0 may come without; it can't be a browser
            return True
        name, port = split_host(host)
        if self._hosts:
            return name in self._hosts or (port is not None and f"{name}:{port}" in self._hosts)
        return is_loopback(name)

    def _accepts_origin(self, origin: str, host: str | None) -> bool:
        if "*" in self._origins:
            return True
        scheme, separator, authority = origin.lower().partition("://")
        if not separator or not authority:
            return False
        default = _DEFAULT_PORTS.get(scheme)
        name, port = split_host(authority)
        forms = {f"{scheme}://{authority}"}
        if port is None and default:
            forms.add(f"{scheme}://{name}:{default}")
        elif port == default:
            forms.add(f"{scheme}://{name}")
        if forms & self._origins:
            return True
        if host is None:
            return False
        own_name, own_port = split_host(host)
        return (name, port or default) == (own_name, own_port or _DEFAULT_PORTS[self._scheme])


def of_data(config: schema.ServeConfig) -> Guard:
    """That of the data address."""
    return Guard(
        hosts=config.allowed_host,
        origins=config.allowed_origin,
        loopback=is_loopback(config.listen.host),
        scheme="https" if config.tls_cert else "http",
    )


def of_admin(config: schema.ServeConfig) -> Guard:
    """That of the admin address: the names of the data address are not its own."""
    return Guard(
        hosts=("*",) if "*" in config.allowed_host else (),
        origins=config.allowed_origin,
        loopback=config.admin is not None and is_loopback(config.admin.host),
        scheme="http",
    )


class Trusts:
    """Which peers may tell us about the clients behind them (`--trusted-proxy`)."""

    def __init__(self, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> None:
        self._networks = networks

    def __call__(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)
