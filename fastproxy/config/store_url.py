"""The session store's URL, taken apart.

    memory:    redis://[user[:password]@]host[:port][/db]    redis+sentinel://h1[:p],h2[:p]/service[/db]
    redis+cluster://h1[:p],h2[:p]                            rediss… for TLS

No message here ever shows what stands before an @ or after a ?. User and password are percent-decoded. Sans-io.
"""

import urllib.parse

import msgspec

from fastproxy.config import address, units

REDIS_PORT = 6379
SENTINEL_PORT = 26379
DATABASE_MAX = 16383  # more than any server has; one that has fewer refuses at start, by name
_KINDS = {
    f"{scheme}{suffix}": (kind, scheme == "rediss")
    for scheme in ("redis", "rediss")
    for suffix, kind in (("", "redis"), ("+sentinel", "sentinel"), ("+cluster", "cluster"))
}
_FORMS = "memory:, redis://host:port/db, redis+sentinel://h1:p,h2:p/service/db or redis+cluster://h1:p,h2:p"


class StoreUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Which store, and how to be let in. `kind` is memory, redis, sentinel or cluster."""

    kind: str = "memory"
    tls: bool = False
    user: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int], ...] = ()
    service: str | None = None  # the name under which the sentinels know the master
    db: int = 0

    def __str__(self) -> str:
        """The URL with the password masked; there is no way to print it whole."""
        if self.kind == "memory":
            return "memory:"
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "redis" else f"+{self.kind}")
        user = urllib.parse.quote(self.user or "", safe="") + ("" if self.password is None else ":***")
        path = f"/{self.service}" if self.service else ""
        path += "" if self.kind == "cluster" else f"/{self.db}"
        hosts = ",".join(f"{address.bracket(host)}:{port}" for host, port in self.hosts)
        return f"{scheme}://{user}{'@' if user else ''}{hosts}{path}"

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("url", str(self))]


def read_store_url(value: object) -> StoreUrl:
    """A store from its URL."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise units.WrongValue(f"expected {_FORMS}")
    text = value.strip()
    if text.lower() == "memory:":
        return StoreUrl()
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in _KINDS:
        raise units.WrongValue(f"expected {_FORMS}" + _name_scheme(scheme if separator else ""))
    if "?" in rest or "#" in rest:
        raise units.WrongValue("expected a URL without ? and # (inside a password they are written %3F and %23)")
    kind, tls = _KINDS[scheme.lower()]
    userinfo, at, place = rest.rpartition("@")
    user, password = _read_userinfo(userinfo) if at else (None, None)
    hosts, *segments = place.removesuffix("/").split("/")
    service, db = _read_path(kind, segments)
    return StoreUrl(
        kind=kind, tls=tls, user=user, password=password, hosts=_read_hosts(kind, hosts), service=service, db=db
    )


def _name_scheme(scheme: str) -> str:
    return f", got {units.quote(scheme + '://…')}" if scheme.isalnum() else ""


def _read_userinfo(userinfo: str) -> tuple[str | None, str | None]:
    if "/" in userinfo or "@" in userinfo:
        raise units.WrongValue("expected user:password with / and @ written %2F and %40")
    user, colon, password = userinfo.partition(":")
    return urllib.parse.unquote(user) or None, (urllib.parse.unquote(password) or None) if colon else None


def _read_hosts(kind: str, text: str) -> tuple[tuple[str, int], ...]:
    default = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    pieces = text.split(",")
    if kind == "redis" and len(pieces) > 1:
        raise units.WrongValue("expected one host (several: redis+sentinel:// or redis+cluster://)")
    hosts = []
    for piece in pieces:
        host, port = address.split_port(piece.strip())
        try:
            hosts.append((address.read_host(host), default if port is None else address.read_port(port)))
        except units.WrongValue:
            # Not what came: with the @ forgotten, what looks like a port is a password.
            raise units.WrongValue("expected a host and a port of 1 to 65535, as in redis.example.com:6379") from None
    return tuple(hosts)


def _read_path(kind: str, segments: list[str]) -> tuple[str | None, int]:
    """Service and database, from what stands after the hosts."""
    service = None
    if kind == "sentinel":
        if not segments or not segments[0]:
            raise units.WrongValue("expected the master's service name after the sentinels, as in …/mymaster/0")
        service, segments = urllib.parse.unquote(segments[0]), segments[1:]
    if len(segments) > 1:
        raise units.WrongValue("expected nothing after the database number")
    try:
        db = units.count(minimum=0, maximum=DATABASE_MAX).read(segments[0] if segments else "0")
    except units.WrongValue:
        raise units.WrongValue(f"expected a database number of 0 to {DATABASE_MAX} after the host") from None
    assert isinstance(db, int)
    if kind == "cluster" and db != 0:
        raise units.WrongValue("expected no database number: a cluster has database 0 only")
    return service, db


STORE = units.Kind("URL", read_store_url, str)
