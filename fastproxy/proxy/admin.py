"""The admin address (interface §5): is the proxy well, what does it hold, and a way to steer it.

    exchange --Guard--> a row of the routes --page--> Page --exchange.answer--> client

A page reads what the plane counts and holds; nothing is changed but by `plane.drain` and `plane.end_session`. There is
no authentication here: who may connect may do all of it, so the address belongs on loopback or a private network. That
does not keep out a web page in somebody's browser, which is why Host and Origin are judged as on the data address: a
foreign page may neither drain the proxy nor read session ids by DNS rebinding.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import schema
from fastproxy.mcp import reply
from fastproxy.proxy import guard, reload
from fastproxy.session import record, store

logger = logging.getLogger(__name__)

PAGE_SESSIONS = 100
PAGE_SESSIONS_MAX = 1000
SESSION_ID_BYTES_MAX = 1024  # longer ones are refused on the data address (interface §3.2)
REPLICAS_TOLD_MAX = 8  # in a sentence; /backends has them all
JSON = b"application/json"
Kept = store.Kept


class Endpoint(Protocol):
    """How busy a replica is."""

    @property
    def in_flight(self) -> int: ...


class Replica(Protocol):
    """Which replica, and how it is."""

    @property
    def url(self) -> str: ...
    @property
    def pod(self) -> str | None: ...
    @property
    def index(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def last_error(self) -> str | None: ...


class Replicas(Protocol):
    """All that are known, and those that may get something new."""

    def all(self) -> Sequence[Replica]: ...
    def live(self) -> Sequence[Replica]: ...


class Table(Protocol):
    """How many sessions a replica has."""

    def count(self, endpoint: int, /) -> int: ...


class Store(Protocol):
    """Where they are kept."""

    @property
    def fault(self) -> errors.StoreError | None: ...
    async def ping(self) -> None: ...
    async def page(self, cursor: str | None, limit: int, /) -> tuple[Sequence[store.Kept], str | None]: ...


class Book(Protocol):
    """The sessions."""

    @property
    def store(self) -> Store: ...
    @property
    def table(self) -> Table: ...
    async def load(self, session_id: str, /) -> Kept | None: ...


class Numbers(Protocol):
    """What /metrics shows."""

    def render(self, accept: str, /) -> tuple[bytes, str]:
        """Body and content type."""


class Plane(Protocol):
    """What the pages need of the data plane: of this process, or of all workers (crew.py)."""

    @property
    def config(self) -> schema.ServeConfig: ...
    @property
    def book(self) -> Book: ...
    @property
    def backends(self) -> Replicas: ...
    @property
    def lifecycle(self) -> str:
        """starting, serving or draining."""

    @property
    def store_answered(self) -> bool:
        """The session store has answered once."""

    @property
    def discovery_fault(self) -> str | None:
        """Why DNS can't say which replicas there are."""

    @property
    def reloads(self) -> reload.Reloads:
        """What became of the configuration when it was read again."""

    def endpoint(self, index: int, /) -> Endpoint: ...

    @property
    def drain(self) -> Callable[[], None]:
        """Begin the drain. Idempotent."""

    async def end_session(self, session_id: str, /) -> bool:
        """End it here and at its backend. False: there is none. StoreError: the store does not say."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """One request. `session_id` is what follows /sessions/, percent-decoded."""

    method: str
    path: str
    query: str
    accept: str
    session_id: str = ""


class Page(msgspec.Struct, frozen=True, gc=False):
    """One answer."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    fields: tuple[tuple[bytes, bytes], ...] = ()


class Problem(errors.FastproxyError):
    """The answer is a word and a sentence."""

    def __init__(self, status: int, reason: str, message: str, *fields: tuple[bytes, bytes]) -> None:
        super().__init__(message, reason=reason)
        self.page = Page(status, _encode({"error": message, "reason": reason}), fields=fields)


Show = Callable[[Asked], Awaitable[Page]]


class Admin:
    """Every page of the admin address."""

    def __init__(self, plane: Plane, metrics: Numbers) -> None:
        self._plane = plane
        self._metrics = metrics
        self._guard = guard.of_admin(plane.config)
        self._routes: dict[str, Mapping[str, Show]] = {
            "/healthz": {"GET": self._show_health},
            "/readyz": {"GET": self._show_readiness},
            "/metrics": {"GET": self._show_metrics},
            "/sessions": {"GET": self._list_sessions},
            "/sessions/{id}": {"GET": self._show_session, "DELETE": self._end_session},
            "/backends": {"GET": self._list_backends},
            "/drain": {"POST": self._drain},
            "/config": {"GET": self._show_config},
        }

    def configure(self, config: schema.ServeConfig) -> None:
        """Other hosts and origins from now on."""
        self._guard = guard.of_admin(config)

    async def serve(self, exchange: core.Exchange) -> None:
        """Answer one request, whatever it asks."""
        try:
            page = await self._answer(exchange)
            fields = [(b"Cache-Control", b"no-store"), *page.fields]
            if page.body:
                fields.append((b"Content-Type", page.content_type))
            exchange.answer(page.status, fields, page.body)
        except core.ExchangeOver:
            return  # who asked has gone
        except Exception:
            logger.exception("fault in an admin page")
            exchange.abort("fault")

    async def _answer(self, exchange: core.Exchange) -> Page:
        try:
            return await self._find(exchange)
        except Problem as problem:
            return problem.page
        except reply.Refusal as refusal:
            return Problem(refusal.status, "forbidden", str(refusal)).page
        except errors.StoreError as error:
            wait = (b"Retry-After", b"%d" % reply.RETRY_AFTER_SECONDS)
            return Problem(503, error.reason, str(error), wait).page

    async def _find(self, exchange: core.Exchange) -> Page:
        fields = exchange.fields
        host = _values(fields, b"host")
        self._guard.check(host[0] if host else None, _values(fields, b"origin"))
        path, _, query = exchange.target.decode("latin-1").partition("?")
        asked = Asked(exchange.method.decode("latin-1"), path, query, ",".join(_values(fields, b"accept")))
        if path.startswith("/sessions/"):
            asked = msgspec.structs.replace(asked, session_id=_read_session_id(path.removeprefix("/sessions/")))
            path = "/sessions/{id}"
        shows = self._routes.get(path)
        if shows is None:
            raise Problem(404, "unknown_path", f"no such page; there are {', '.join(self._routes)}")
        show = shows.get("GET" if asked.method == "HEAD" else asked.method)
        if show is None:
            allowed = ", ".join(sorted({*shows, "HEAD"} if "GET" in shows else shows))
            raise Problem(405, "method_not_allowed", f"{path} allows {allowed}", (b"Allow", allowed.encode()))
        return await show(asked)

    # ---- is it well

    async def _show_health(self, _asked: Asked) -> Page:
        return Page(200, _encode({"alive": True}))

    async def _show_readiness(self, _asked: Asked) -> Page:
        """Reasons against it, and troubles that are named but are none: of discovery, whose last replicas go on, of a
        configuration that can't take the place of this one, and of the store once it has answered."""
        plane = self._plane
        details: dict[str, str] = {}
        if plane.lifecycle != "serving":
            details[plane.lifecycle] = "it takes no new work" if plane.lifecycle == "draining" else "not yet listening"
        details |= self._tell_of_backends()
        ready = not details and plane.store_answered
        if plane.discovery_fault is not None:
            details["discovery_failing"] = plane.discovery_fault
        details |= plane.reloads.faults
        fault = await self._find_fault()
        if fault is not None:
            details[fault.reason] = str(fault)
        elif not plane.store_answered:
            details[errors.StoreUnavailable.reason] = "the session store has not answered yet"
        body = {"ready": ready, "reasons": list(details), "details": details}
        return Page(200 if ready else 503, _encode(body))

    def _tell_of_backends(self) -> dict[str, str]:
        """Why there is nobody to answer requests, by reason."""
        known = self._plane.backends
        return {} if known.live() else {"backend_unavailable": _tell_of_replicas(known.all())}

    async def _find_fault(self) -> errors.StoreError | None:
        """What the store suffers from. A store that nobody uses is asked, which takes its own deadline at the most."""
        sessions = self._plane.book.store
        if sessions.fault is not None:
            return sessions.fault
        try:
            await sessions.ping()
        except errors.StoreError as error:
            return error
        return None

    async def _show_metrics(self, asked: Asked) -> Page:
        body, content_type = self._metrics.render(asked.accept)
        return Page(200, body, content_type.encode())

    async def _show_config(self, _asked: Asked) -> Page:
        return Page(200, _encode(self._plane.config.effective()))

    # ---- what it holds

    async def _list_sessions(self, asked: Asked) -> Page:
        query = parse_qs(asked.query, keep_blank_values=True)
        cursor = _read_one(query, "cursor") or None
        limit = _read_limit(_read_one(query, "limit"))
        try:
            sessions, following = await self._plane.book.store.page(cursor, limit)
        except ValueError as error:
            raise Problem(400, "bad_cursor", "cursor: expected a next_cursor of an earlier answer") from error
        records = [msgspec.Raw(self._write(session)) for session in sessions]
        return Page(200, _encode({"sessions": records, "next_cursor": following}))

    def _write(self, session: store.Kept) -> bytes:
        assert isinstance(session, record.SessionRecord)
        return record.encode(session)

    async def _show_session(self, asked: Asked) -> Page:
        session = await self._plane.book.load(asked.session_id)
        if session is None or session.session_id != asked.session_id:
            raise _unknown_session()
        return Page(200, self._write(session))

    async def _list_backends(self, _asked: Asked) -> Page:
        plane = self._plane
        rows = [
            {
                "url": replica.url,
                "pod": replica.pod,
                "state": replica.state,
                "sessions": plane.book.table.count(replica.index),
                "in_flight": plane.endpoint(replica.index).in_flight,
                "last_error": replica.last_error,
            }
            for replica in plane.backends.all()
        ]
        return Page(200, _encode({"backends": rows}))

    # ---- a way to steer it

    async def _end_session(self, asked: Asked) -> Page:
        if not await self._plane.end_session(asked.session_id):
            raise _unknown_session()
        return Page(204)

    async def _drain(self, _asked: Asked) -> Page:
        """202: it begins now; 200: it had begun before."""
        status = 200 if self._plane.lifecycle == "draining" else 202
        self._plane.drain()
        return Page(status, _encode({"state": self._plane.lifecycle}))


def _read_session_id(text: str) -> str:
    session_id = unquote_to_bytes(text).decode("latin-1")
    visible = all("\x21" <= character <= "\x7e" for character in session_id)
    if not visible or not 1 <= len(session_id) <= SESSION_ID_BYTES_MAX:
        raise _unknown_session()  # no session can have such an id
    return session_id


def _read_limit(text: str | None) -> int:
    if text is None:
        return PAGE_SESSIONS
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= PAGE_SESSIONS_MAX:
        return int(text)
    raise Problem(400, "bad_limit", f"limit: expected a number from 1 to {PAGE_SESSIONS_MAX}")


def _read_one(query: dict[str, list[str]], name: str) -> str | None:
    values = query.get(name, [])
    if len(values) > 1:
        raise Problem(400, f"bad_{name}", f"{name}: expected once")
    return values[0] if values else None


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for given, value in fields if given.lower() == name]


def _tell_of_replicas(replicas: Sequence[Replica]) -> str:
    if not replicas:
        return "no replica is known"
    told = [replica.last_error or f"{replica.url}: {replica.state}" for replica in replicas[:REPLICAS_TOLD_MAX]]
    more = len(replicas) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _unknown_session() -> Problem:
    return Problem(404, "unknown_session", "unknown, expired or ended session")


def _encode(document: object) -> bytes:
    return msgspec.json.encode(document)
