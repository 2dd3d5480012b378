"""vMCP as the admin pages and the metrics see it: what `serve` calls a replica is a backend here, by its name."""

from collections.abc import Callable
from typing import Protocol

from fastproxy._ext import core
from fastproxy.session import store
from fastproxy.vmcp import backends, record, sessions


class Row(Protocol):
    """A backend among the replicas."""

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


class BackendRow:
    """One backend. `url` is what metrics and pages call it: its name."""

    def __init__(self, backend: backends.Backend, index: int) -> None:
        self._backend = backend
        self.url = backend.id
        self.pod: str | None = None
        self.index = index

    @property
    def state(self) -> str:
        """live: its offers are known and it is asked."""
        backend = self._backend
        return "live" if backend.shown is not None and backend.usable else "failed"

    @property
    def last_error(self) -> str | None:
        """Why it is not."""
        return self._backend.last_error


class Rows:
    """All of them."""

    def __init__(self, group: backends.Backends) -> None:
        self._rows = [BackendRow(backend, index) for index, backend in enumerate(group)]

    def all(self) -> list[BackendRow]:
        """By id."""
        return self._rows

    def live(self) -> list[BackendRow]:
        """Those that answer."""
        return [row for row in self._rows if row.state == "live"]


class Table:
    """Sessions in memory, in the words of a route table."""

    def __init__(self, known: sessions.Sessions, group: backends.Backends) -> None:
        self._sessions = known
        self._ids = [backend.id for backend in group]

    def __len__(self) -> int:
        return len(self._sessions)

    def count(self, index: int) -> int:
        """Those of them that have a leg at a backend."""
        backend_id = self._ids[index]
        return sum(session.record.leg(backend_id) is not None for session in self._sessions.held())

    @property
    def capacity(self) -> int:
        """How many may be in memory."""
        return self._sessions.sessions_max

    @property
    def evictions(self) -> int:
        """How many had to make room."""
        return self._sessions.evicted_total

    expirations = 0
    memory_bytes = 0


class Book:
    """The sessions."""

    def __init__(self, known: sessions.Sessions, group: backends.Backends) -> None:
        self._sessions = known
        self.table = Table(known, group)

    @property
    def store(self) -> store.RecordStore[record.VmcpRecord]:
        """Where they are kept."""
        return self._sessions.store

    @property
    def lookups(self) -> dict[str, int]:
        """By result."""
        return self._sessions.lookups

    @property
    def created_total(self) -> int:
        """Opened through this process."""
        return self._sessions.created_total

    async def load(self, session_id: str) -> record.VmcpRecord | None:
        """The record as the store has it."""
        return await self._sessions.store.load(session_id)


class Names:
    """Who asks for names of hosts."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    @property
    def errors_total(self) -> int:
        """Questions that nobody answered."""
        return self._read()


class NoEndpoint:
    """That of a backend which has no port."""

    busy = calls = connecting = in_flight = spare_count = waits_for_us = 0

    def answers(self) -> list[tuple[str, int, int]]:
        """None."""
        return []


Endpoint = core.Endpoint | NoEndpoint
