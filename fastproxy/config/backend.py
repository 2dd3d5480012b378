"""What may stand behind --backend: a replica by URL, replicas by DNS, replicas of a StatefulSet by ordinal.

    http://10.0.0.7:8000/base                                    StaticBackend
    dns://mcp-headless.default.svc.cluster.local:8000?srv=http   DnsBackend
    statefulset://mcp.mcp-headless.default:8000?replicas=3       StatefulSetBackend, which expands to StaticBackends

`url` names a replica everywhere (session records, /backends, metrics), so it is canonical: lower case, port always
there, no path. `str(backend)` is what the owner may write. Sans-io: discovery itself belongs to routing.
"""

import re
from collections.abc import Callable

import msgspec

from fastproxy.config import address, units

REPLICAS_MAX = 1000  # a StatefulSet beyond that does not come up either; a typing error does
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SCHEMES = "http://, https://, dns:// or statefulset://"
# RFC 3986 pchar (but @) and the slash: what may stand in a request line unchanged.
_PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*)*", re.ASCII)
_KUBERNETES_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SRV_PORT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)


class StaticBackend(msgspec.Struct, frozen=True):
    """One replica. `path` is put in front of the request's path: empty, or begins with a slash and ends without one."""

    scheme: str
    host: str
    port: int
    path: str
    url: str  # scheme://host:port
    pod: str | None = None

    def __str__(self) -> str:
        return self.url + self.path


class DnsBackend(msgspec.Struct, frozen=True):
    """Replicas that DNS names: SRV records of `_{srv}._tcp.{name}` where they exist, else the addresses of `name`."""

    name: str
    port: int
    srv: str = "http"

    def __str__(self) -> str:
        return f"dns://{self.name}:{self.port}" + ("" if self.srv == "http" else f"?srv={self.srv}")


class StatefulSetBackend(msgspec.Struct, frozen=True):
    """Replicas by ordinal, each under the stable name that its headless Service gives it."""

    name: str
    service: str
    namespace: str
    port: int
    replicas: int
    domain: str = "cluster.local"

    def __str__(self) -> str:
        domain = "" if self.domain == "cluster.local" else f"&domain={self.domain}"
        name = f"{self.name}.{self.service}.{self.namespace}"
        return f"statefulset://{name}:{self.port}?replicas={self.replicas}{domain}"

    def expand(self) -> tuple[StaticBackend, ...]:
        """The replicas, in the order of their ordinals."""
        suffix = f"{self.service}.{self.namespace}.svc.{self.domain}"
        return tuple(
            _make_static("http", f"{pod}.{suffix}", self.port, pod=pod)
            for pod in (f"{self.name}-{ordinal}" for ordinal in range(self.replicas))
        )


Backend = StaticBackend | DnsBackend | StatefulSetBackend


def _make_static(scheme: str, host: str, port: int, *, path: str = "", pod: str | None = None) -> StaticBackend:
    return StaticBackend(scheme, host, port, path, f"{scheme}://{address.bracket(host)}:{port}", pod)


def read_backend(value: object) -> Backend:
    """A backend from its URL."""
    text = units.read_text(value, expected="a URL").strip()
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    reader = _READERS.get(scheme)
    if not separator or reader is None:
        shown = units.quote(address.mask_userinfo(text.partition("?")[0]))
        raise units.WrongValue(f"expected a URL that begins with {_SCHEMES}, got {shown}")
    if "#" in rest:
        raise units.WrongValue("expected a URL without a fragment (#…)")
    rest, mark, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in rest:  # anywhere: a password may hold a slash, and must not be taken for a path and shown
        raise units.WrongValue("expected a URL without user and password (…@; in a path it is written %40)")
    if not authority:
        raise units.WrongValue(f"expected a host after {scheme}://")
    return reader(scheme, authority, slash + path, query if mark else None)


def _read_static(scheme: str, authority: str, path: str, query: str | None) -> StaticBackend:
    if query is not None:
        raise units.WrongValue("expected a URL without a query (?…); the request's own is sent")
    if not _PATH.fullmatch(path):
        raise units.WrongValue("expected a path of URL characters only (others are written %XX)")
    host, port = address.split_port(authority)
    number = address.read_port(_DEFAULT_PORTS[scheme] if port is None else port)
    return _make_static(scheme, address.read_host(host), number, path=path.rstrip("/"))


def _read_dns(scheme: str, authority: str, path: str, query: str | None) -> DnsBackend:
    name, port = _read_discovered(scheme, authority, path)
    options = _read_query(query, known=("srv",))
    srv = options.get("srv", "http")
    if not _SRV_PORT_NAME.fullmatch(srv):
        raise units.WrongValue(f"expected the name of a port after srv=, got {units.quote(srv)}")
    host = address.read_host(name)
    if ":" in host or not host.strip("0123456789."):
        raise units.WrongValue(f"expected a name after dns://, got an address (use http://{authority})")
    return DnsBackend(host, port, srv)


def _read_statefulset(scheme: str, authority: str, path: str, query: str | None) -> StatefulSetBackend:
    name, port = _read_discovered(scheme, authority, path)
    labels = name.lower().split(".")
    if len(labels) != 3 or not all(_KUBERNETES_LABEL.fullmatch(label) for label in labels):
        raise units.WrongValue(f"expected statefulset://NAME.SERVICE.NAMESPACE:PORT, got {units.quote(name)} as name")
    options = _read_query(query, known=("replicas", "domain"))
    if "replicas" not in options:
        raise units.WrongValue("expected ?replicas=N after the port")
    try:
        replicas = units.count(minimum=1, maximum=REPLICAS_MAX).read(options["replicas"])
    except units.WrongValue as wrong:
        raise units.WrongValue(f"replicas: {wrong}") from None
    assert isinstance(replicas, int)
    domain = address.read_host(options.get("domain", "cluster.local")).removesuffix(".")
    pod, service, namespace = labels
    return StatefulSetBackend(pod, service, namespace, port, replicas, domain)


def _read_discovered(scheme: str, authority: str, path: str) -> tuple[str, int]:
    if path.strip("/"):
        raise units.WrongValue(f"expected no path in a {scheme}:// URL")
    name, port = address.split_port(authority)
    if port is None:
        raise units.WrongValue(f"expected a port, as in {scheme}://NAME:8000")
    return name, address.read_port(port)


def _read_query(query: str | None, *, known: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for piece in (query or "").split("&") if query else ():
        name, _, option = piece.partition("=")
        if name not in known:
            raise units.WrongValue(f"expected only {' and '.join(known)} after the ?, got {units.quote(name)}")
        if name in options:
            raise units.WrongValue(f"expected {name}= once")
        options[name] = option
    return options


_READERS: dict[str, Callable[[str, str, str, str | None], Backend]] = {
    "http": _read_static,
    "https": _read_static,
    "dns": _read_dns,
    "statefulset": _read_statefulset,
}
BACKEND = units.Kind("URL", read_backend, str)
