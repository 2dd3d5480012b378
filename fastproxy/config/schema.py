"""Every setting of `fastproxy serve`, in one table: the fields of ServeConfig.

A field's annotation says all there is to know: subject, how its value is written, what it means (that text is the
--help text), whether a file, a variable or a flag may set it, and whether changing it needs a restart. Flags,
environment, files, --help and /config are all made from `SETTINGS`; nothing else lists them. Values here are final:
seconds, bytes, structs. Sans-io.
"""

from collections.abc import Mapping
from typing import Annotated

from fastproxy.config import address, setting, stdio, store_url, units
from fastproxy.config import backend as backends  # `backend` is a field below, and would hide it
from fastproxy.config.setting import describe

_TIME = units.duration(minimum_seconds=0.001)
_TIME_OR_NONE = units.duration(minimum_seconds=0.0)
_NAME = units.text(
    "NAME",
    pattern=r"[A-Za-z0-9][A-Za-z0-9._/-]*",
    expected="a name of letters, digits and . _ - / that begins with a letter or a digit",
    characters_max=128,
)


class ServeConfig(stdio.StdioConfig, frozen=True, kw_only=True):
    """What the owner wants of `fastproxy serve`, checked. Its repr is `effective()`: no secret can slip out of it."""

    backend: Annotated[
        tuple[backends.Backend, ...],
        describe(
            "Backends",
            backends.BACKEND,
            "a replica by its URL (a path is put in front of the request's), or replicas by DNS or by ordinal: the "
            "forms are above",
            repeatable=True,
        ),
    ] = ()
    backend_ca: Annotated[
        str | None,
        describe(
            "Backends", units.path(), "PEM file with the authorities trusted for https backends", default="system"
        ),
    ] = None
    dns_server: Annotated[
        address.Address | None,
        describe(
            "Backends",
            address.SERVER,
            "DNS server to ask instead of the machine's own, the hosts file unread: for tests and odd networks",
            default="resolv.conf",
            restart=True,
            flag=False,
        ),
    ] = None
    policy: Annotated[
        str,
        describe(
            "Backends", units.choice("least-sessions", "round-robin", "random"), "which replica gets a new session"
        ),
    ] = "least-sessions"
    on_backend_loss: Annotated[
        str,
        describe(
            "Backends",
            units.choice("reinitialize", "not-found"),
            "when a session's replica is gone: open the session anew on another one, unseen by the client, or answer "
            "404 so that the client starts again",
        ),
    ] = "reinitialize"

    health_interval: Annotated[
        float, describe("Backends", _TIME_OR_NONE, "between two probes of a replica, which open no session; 0: none")
    ] = 10.0
    health_timeout: Annotated[float, describe("Backends", _TIME, "for a probe: to connect, and to answer")] = 2.0
    health_threshold: Annotated[
        int,
        describe(
            "Backends", units.count(minimum=1, maximum=1000), "probes in vain, in a row, until nothing new goes there"
        ),
    ] = 3

    config: Annotated[
        str | None,
        describe(
            "Lifecycle",
            units.path(),
            "YAML, JSON or TOML with the same names in snake_case; a flag wins over the environment, the environment "
            "over the file",
            restart=True,
        ),
    ] = None

    name: Annotated[
        str,
        describe(
            "Listening",
            _NAME,
            "name of the MCP server, part of the store's key prefix and of every metric",
            restart=True,
        ),
    ] = "default"
    listen: Annotated[
        address.Address,
        describe(
            "Listening",
            address.LISTEN,
            "where clients connect; port 0 is any free one, the bound address is the first line on standard output",
            restart=True,
        ),
    ] = address.Address("127.0.0.1", 8080)
    admin: Annotated[
        address.Address | None,
        describe(
            "Listening",
            address.LISTEN_OR_OFF,
            "health, metrics, sessions and drain; has no authentication, so keep it on loopback or a private network",
            restart=True,
        ),
    ] = address.Address("127.0.0.1", 9901)
    workers: Annotated[
        int,
        describe(
            "Listening",
            units.count(minimum=1, maximum=256),
            "processes that share the port; any of them serves any session",
            restart=True,
        ),
    ] = 1

    store: Annotated[
        store_url.StoreUrl,
        describe(
            "Sessions",
            store_url.STORE,
            "where sessions are kept: memory:, redis://[user@]host:port/db, redis+sentinel://h1:p,h2:p/service/db or "
            "redis+cluster://h1:p,h2:p; rediss… for TLS; the password comes by FASTPROXY_REDIS_PASSWORD or the file",
            restart=True,
        ),
    ] = store_url.StoreUrl()
    key_prefix: Annotated[
        str,
        describe(
            "Sessions",
            units.text("PREFIX", expected="a prefix of keys"),
            "begins every key in the store; {name} is replaced by the name, other braces stay",
            restart=True,
        ),
    ] = "fastproxy:{name}:session:"
    session_ttl: Annotated[
        float,
        describe(
            "Sessions",
            units.duration(minimum_seconds=1.0),  # the store's EX counts whole seconds
            "idle time after which a session is forgotten; an open stream keeps it",
            restart=True,
        ),
    ] = 7200.0
    cache_sessions: Annotated[
        int,
        describe(
            "Sessions",
            units.count(minimum=1, maximum=100_000_000),
            "sessions remembered in front of an external store, least recently used out first; memory: evicts nothing",
            restart=True,
        ),
    ] = 100_000
    max_sessions: Annotated[
        int,
        describe(
            "Sessions",
            units.count(minimum=1, maximum=100_000_000),
            "sessions that memory: holds; one more is refused with 503",
            restart=True,
        ),
    ] = 1_000_000
    store_required: Annotated[
        bool,
        describe(
            "Sessions",
            units.switch(),
            "refuse new sessions while the store is away, instead of keeping up to 10,000 in memory until it is back",
            restart=True,
        ),
    ] = False
    redis_password: Annotated[
        str | None,
        describe(
            "Sessions", units.secret(), "password of the store, instead of one in its URL", restart=True, flag=False
        ),
    ] = None
    redis_password_file: Annotated[
        str | None,
        describe(
            "Sessions",
            units.path(),
            "file that holds the password of the store; its last newline is dropped",
            restart=True,
            flag=False,
        ),
    ] = None
    redis_ca: Annotated[
        str | None,
        describe(
            "Sessions",
            units.path(),
            "PEM file with the authorities trusted for rediss",
            restart=True,
            default="system",
            flag=False,
        ),
    ] = None
    redis_cert: Annotated[
        str | None,
        describe("Sessions", units.path(), "PEM certificate shown to the store (mTLS)", restart=True, flag=False),
    ] = None
    redis_key: Annotated[
        str | None,
        describe("Sessions", units.path(), "PEM key of that certificate", restart=True, flag=False),
    ] = None

    connect_timeout: Annotated[
        float, describe("Timeouts and limits", _TIME, "to connect to a replica, TLS included")
    ] = 2.0
    response_timeout: Annotated[
        float,
        describe(
            "Timeouts and limits",
            _TIME,
            "from the sent request to the head of the answer; a tool may work so long",
            default="300s",
        ),
    ] = 300.0
    header_timeout: Annotated[
        float, describe("Timeouts and limits", _TIME, "for a client to send a whole request head, else 408")
    ] = 10.0
    body_timeout: Annotated[
        float, describe("Timeouts and limits", _TIME, "between two pieces of a request's body, else 408")
    ] = 30.0
    idle_timeout: Annotated[
        float, describe("Timeouts and limits", _TIME, "how long a client's idle connection is kept", default="120s")
    ] = 120.0
    replay_body: Annotated[
        int,
        describe(
            "Timeouts and limits",
            units.size(minimum_bytes=0, maximum_bytes=1 << 30),
            "how much of a request's body is kept until the answer's head, to send it again after a recovery",
        ),
    ] = 256 << 10
    max_body: Annotated[
        int,
        describe(
            "Timeouts and limits", units.size(minimum_bytes=1, maximum_bytes=1 << 40), "larger request bodies get 413"
        ),
    ] = 8 << 20
    max_header: Annotated[
        int,
        describe(
            "Timeouts and limits",
            units.size(minimum_bytes=256, maximum_bytes=1 << 20),
            "larger request heads get 431",
        ),
    ] = 32 << 10
    max_connections: Annotated[
        int | None,
        describe(
            "Timeouts and limits",
            units.count(minimum=1, maximum=10_000_000),
            "clients' connections at a time, idle ones included; one more is told 503 and closed; with --workers each "
            "has its share of this and the next two",
            default="half of what ulimit -n leaves each process, since each may need one to a replica",
        ),
    ] = None
    max_requests_per_backend: Annotated[
        int,
        describe(
            "Timeouts and limits",
            units.count(minimum=0, maximum=10_000_000),
            "requests but GET that are under way at one replica; one more goes to another replica, or is told 503 "
            "where its session is pinned; 0: no bound, as nobody but you knows what a replica bears",
        ),
    ] = 0
    max_new_sessions_per_second: Annotated[
        int,
        describe(
            "Timeouts and limits",
            units.count(minimum=0, maximum=10_000_000),
            "no more are opened, a second's worth at once at the most; the others get 429; 0: no bound",
        ),
    ] = 0

    allowed_host: Annotated[
        tuple[str, ...],
        describe(
            "Security",
            address.ALLOWED_HOST,
            "values of Host that are served, with or without a port; * for any",
            default="loopback hosts on a loopback listener, else any",
            repeatable=True,
        ),
    ] = ()
    allowed_origin: Annotated[
        tuple[str, ...],
        describe(
            "Security",
            address.ALLOWED_ORIGIN,
            "values of Origin that are served beside the request's own, such as https://app.example.com; * for any",
            default="the request's own",
            repeatable=True,
        ),
    ] = ()
    trusted_proxy: Annotated[
        tuple[address.Network, ...],
        describe(
            "Security",
            address.NETWORK,
            "peers whose X-Forwarded-* and Forwarded are believed and extended; everyone else's are replaced",
            default="none",
            repeatable=True,
        ),
    ] = ()
    tls_cert: Annotated[
        str | None,
        describe("Security", units.path(), "PEM certificate chain: serve https; read again on SIGHUP"),
    ] = None
    tls_key: Annotated[
        str | None,
        describe("Security", units.path(), "PEM key of --tls-cert, not encrypted; read again on SIGHUP"),
    ] = None

    access_log: Annotated[bool, describe("Logging", units.switch(), "one line per request on standard error")] = False
    log_format: Annotated[
        str, describe("Logging", units.choice("text", "json"), "how a line of the log is written")
    ] = "text"
    log_level: Annotated[
        str,
        describe("Logging", units.choice("debug", "info", "warning", "error"), "the least weight that is logged"),
    ] = "info"

    drain_delay: Annotated[
        float,
        describe(
            "Lifecycle",
            _TIME_OR_NONE,
            "after SIGTERM: how long all goes on with readiness at 503, until balancers have noticed",
        ),
    ] = 5.0
    drain_timeout: Annotated[
        float,
        describe(
            "Lifecycle", _TIME_OR_NONE, "after that: how long open streams may go on before they are ended cleanly"
        ),
    ] = 25.0
    grace_period: Annotated[
        float | None,
        describe(
            "Lifecycle",
            _TIME,
            "what the platform leaves between SIGTERM and SIGKILL (terminationGracePeriodSeconds); a drain that would "
            "not fit into it is warned of at start",
            flag=False,
        ),
    ] = None
    fast_lane: Annotated[
        bool,
        describe(
            "Lifecycle",
            units.switch(),
            "the compiled path for requests of known sessions; off sends every request through the Python story",
            restart=True,
        ),
    ] = True

    def effective(self) -> dict[str, object]:
        """All settings under their public names, as a file would hold them, secrets masked: what /config answers."""
        return {name: row.show(getattr(self, name)) for name, row in SETTINGS.items()}

    def __repr__(self) -> str:
        return f"ServeConfig({self.effective()!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(self.effective().items())


SETTINGS: Mapping[str, setting.Setting] = setting.tabulate(ServeConfig)
"""The table, by name, in the order in which the fields stand."""
