"""Asking and steering a running proxy through its admin address (the JSON of its /sessions, /backends and /drain).

One request per connection, plain http.client: these commands run for a moment, on any machine, with nothing of the
data plane loaded. All that goes wrong is an AdminError of one line that says what to do.
"""

import http.client
import time
import urllib.parse
from collections.abc import Iterator

import msgspec

from fastproxy import errors
from fastproxy.config import address, units

REQUEST_SECONDS_MAX = 10.0  # the longest that an honest answer takes is DELETE, which waits for a backend
PAGE_SESSIONS = 500
POLL_SECONDS = 0.2
POLL_FAILURES_MAX = 5  # in a row; a process that closes its sockets may reset one or two
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # serve listens there; nobody can connect to them by that name


class AdminError(errors.FastproxyError):
    """The running proxy cannot be asked, or says no."""

    reason = "admin"


class AdminAddress(msgspec.Struct, frozen=True):
    """Where to ask."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{address.bracket(self.host)}:{self.port}{self.path}"


def read_admin_address(text: str) -> AdminAddress:
    """A URL, or serve's own HOST:PORT: both come in the same variable. units.WrongValue if it is neither."""
    if text.strip().lower() == "off":
        raise units.WrongValue("expected the URL of an admin address, got off (that proxy has none)")
    scheme, separator, rest = text.strip().rstrip("/").partition("://")
    if not separator:
        scheme, rest = "http", scheme
    if scheme.lower() not in ("http", "https") or "@" in rest or "?" in rest or "#" in rest:
        raise units.WrongValue("expected a URL such as http://127.0.0.1:9901, or HOST:PORT")
    authority, _, path = rest.partition("/")
    host, port = address.split_port(authority)
    if port is None:
        port = {"http": "80", "https": "443"}[scheme.lower()] if separator else "9901"
    name = address.read_host(host)
    where = AdminAddress(scheme.lower(), _WILDCARDS.get(name, name), address.read_port(port))
    return msgspec.structs.replace(where, path=f"/{path}") if path else where


class AdminClient:
    """A conversation with one admin address."""

    def __init__(self, where: AdminAddress) -> None:
        self.where = where

    def list_backends(self) -> dict[str, object]:
        """What GET /backends answers."""
        return self._read_object("/backends", "backends")

    def page_sessions(self, cursor: str | None, limit: int | None) -> Iterator[tuple[list[object], str | None]]:
        """Pages of records, each with the cursor after it (None: that was all), until `limit` sessions have come.

        A page may hold a few more than asked for: its cursor stands behind all of them.
        """
        left = limit
        while left is None or left > 0:
            query = {"limit": str(PAGE_SESSIONS if left is None else min(left, PAGE_SESSIONS))}
            if cursor is not None:
                query["cursor"] = cursor
            answer = self._read_object(f"/sessions?{urllib.parse.urlencode(query)}", "sessions")
            sessions, following = answer["sessions"], answer.get("next_cursor")
            assert isinstance(sessions, list)
            if following is not None and (not isinstance(following, str) or following == cursor):
                raise AdminError(f"{self.where} answers the same page again and again (is it fastproxy?)")
            yield sessions, following
            if following is None:
                return
            cursor = following
            left = None if left is None else left - len(sessions)

    def find_session(self, session_id: str) -> dict[str, object] | None:
        """One record, or None."""
        status, body = self._ask("GET", _locate(session_id))
        return None if status == 404 else self._decode(status, body)

    def end_session(self, session_id: str) -> bool:
        """Ends a session, at the backend too. False: there was none."""
        status, body = self._ask("DELETE", _locate(session_id))
        if status != 404:
            self._check(status, body)
        return status != 404

    def drain(self) -> None:
        """Begins the drain; does not wait for its end."""
        self._check(*self._ask("POST", "/drain"))

    def await_end(self) -> None:
        """Returns when that process has ended. It bounds that time itself, by its drain delay and timeout."""
        failures = 0
        while failures < POLL_FAILURES_MAX:
            try:
                status, _ = self._converse("GET", "/readyz")
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException):
                failures += 1
            else:
                failures = 0
                if status == 200:  # a draining process is never ready again: a successor answers already
                    return
            time.sleep(POLL_SECONDS)

    def _read_object(self, target: str, member: str) -> dict[str, object]:
        answer = self._decode(*self._ask("GET", target))
        if not isinstance(answer.get(member), list):
            raise AdminError(f"{self.where}{target.partition('?')[0]} answers something else (is it fastproxy?)")
        return answer

    def _decode(self, status: int, body: bytes) -> dict[str, object]:
        self._check(status, body)
        try:
            return msgspec.json.decode(body, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise AdminError(f"{self.where} answers something else than JSON (is it fastproxy?)") from error

    def _check(self, status: int, body: bytes) -> None:
        if not 200 <= status < 300:
            said = body[:200].decode("utf-8", "replace").strip()
            raise AdminError(f"{self.where} answers {status}" + (f": {units.quote(said)}" if said else ""))

    def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        try:
            return self._converse(method, target)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError):
                why = (error.strerror or str(error) or type(error).__name__).lower()
            else:
                why = "it does not speak http"
            raise AdminError(
                f"admin address {self.where} cannot be reached: {why} (is fastproxy running with --admin there? "
                "another one is named with --admin URL or FASTPROXY_ADMIN)"
            ) from error

    def _converse(self, method: str, target: str) -> tuple[int, bytes]:
        where = self.where
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        connection = kind(where.host, where.port, timeout=REQUEST_SECONDS_MAX)
        try:
            connection.request(method, where.path + target, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _locate(session_id: str) -> str:
    return f"/sessions/{urllib.parse.quote(session_id, safe='')}"
