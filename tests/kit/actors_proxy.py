"""fastproxy under test, as an actor: the real program, started as a user starts it, asked through its admin address.

`proxies(2, backends=…, store=…)` is a context manager that yields so many running `Proxy`s on one store. The
addresses come from the two lines that the program writes to standard output; ready means that `/readyz` says so.
"""

import contextlib
import http.client
import itertools
import json
import sys
import typing
import urllib.parse
from collections.abc import Iterator, Sequence

from prometheus_client import parser

from tests.kit import actors

SERVING = "fastproxy: serving on "
ADMIN = "fastproxy: admin on "
ASK_SECONDS_MAX = 5.0


class HasOrigin(typing.Protocol):
    """A backend of any kind: real or scripted."""

    @property
    def origin(self) -> str: ...


class Metrics:
    """The numbers of `/metrics` at one moment."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name which carry these labels; 0 when there is none."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def as_dict(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in self.samples}


class Proxy(actors.Process):
    """One running `fastproxy serve` (or `vmcp`)."""

    def __init__(
        self, flags: Sequence[str], *, environment: dict[str, str], subcommand: str = "serve", await_readyz: bool = True
    ) -> None:
        self.flags = list(flags)
        self.await_readyz = await_readyz
        self.origin = ""
        self.admin_origin = ""
        self._given = {flag for flag in self.flags if flag in ("--listen", "--admin")}
        self._has_admin = ("--admin", "off") not in itertools.pairwise(self.flags)
        self._program = [sys.executable, "-m", "fastproxy", subcommand]
        super().__init__("fastproxy", self._command("127.0.0.1:0", "127.0.0.1:0"), environment)

    def _command(self, listen: str, admin: str) -> list[str]:
        own = {"--listen": listen, "--admin": admin}
        places = [word for flag, value in own.items() if flag not in self._given for word in (flag, value)]
        return [*self._program, *places, *self.flags]

    def restart_command(self) -> list[str]:
        return self._command(_authority(self.origin), _authority(self.admin_origin) or "127.0.0.1:0")

    def ready(self, words: str) -> bool:
        for line in words.splitlines(keepends=True):
            if line.startswith(SERVING) and line.endswith("\n"):
                self.origin = line.removeprefix(SERVING).strip()
            elif line.startswith(ADMIN) and line.endswith("\n"):
                self.admin_origin = line.removeprefix(ADMIN).strip()
        if not self.origin or not self._has_admin:
            return bool(self.origin)
        return bool(self.admin_origin) and (not self.await_readyz or self._is_ready())

    def _is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def url(self, path: str = "/mcp") -> str:
        """What a client is told."""
        return self.origin + path

    # Its admin address.

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        """One request to the admin address: status and body."""
        connection = http.client.HTTPConnection(_authority(self.admin_origin), timeout=ASK_SECONDS_MAX)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()

    def metrics(self) -> Metrics:
        return Metrics(self._fetch("/metrics").decode())

    def readiness(self) -> tuple[int, dict[str, typing.Any]]:
        status, body = self.ask("GET", "/readyz")
        return status, json.loads(body)

    def sessions(self) -> list[dict[str, typing.Any]]:
        """Every record, over all pages."""
        found: list[dict[str, typing.Any]] = []
        cursor: str | None = None
        while True:
            query = f"?cursor={urllib.parse.quote(cursor)}" if cursor else ""
            page = json.loads(self._fetch(f"/sessions{query}"))
            found += page["sessions"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def session(self, session_id: str) -> dict[str, typing.Any] | None:
        status, body = self.ask("GET", f"/sessions/{urllib.parse.quote(session_id, safe='')}")
        return typing.cast("dict[str, typing.Any]", json.loads(body)) if status == 200 else None

    def end_session(self, session_id: str) -> int:
        return self.ask("DELETE", f"/sessions/{urllib.parse.quote(session_id, safe='')}")[0]

    def backends(self) -> list[dict[str, typing.Any]]:
        return typing.cast("list[dict[str, typing.Any]]", json.loads(self._fetch("/backends"))["backends"])

    def config(self) -> dict[str, typing.Any]:
        return typing.cast("dict[str, typing.Any]", json.loads(self._fetch("/config")))

    def drain(self) -> int:
        return self.ask("POST", "/drain")[0]

    def _fetch(self, path: str) -> bytes:
        status, body = self.ask("GET", path)
        if status != 200:
            raise actors.KitError(f"{path} answered {status}: {body[:500]!r}\n{self.log_tail()}")
        return body


def _authority(origin: str) -> str:
    return urllib.parse.urlsplit(origin).netloc


@contextlib.contextmanager
def proxies(
    count: int = 1,
    *,
    backends: Sequence[HasOrigin | str] = (),
    store: str = "memory:",
    flags: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    subcommand: str = "serve",
    await_readyz: bool = True,
) -> Iterator[list[Proxy]]:
    """So many proxies in front of the same replicas, on one store (memory is each one's own); killed afterwards.

    The store's URL goes by the environment, since a password in a flag is refused. `flags` come last and may name
    anything.
    """
    places = [each if isinstance(each, str) else each.origin for each in backends]
    own = [word for place in places for word in ("--backend", place)]
    # Scripted replicas count what they get: nobody probes them unless a test wants it.
    given = {"FASTPROXY_STORE": store, "FASTPROXY_HEALTH_INTERVAL": "0", **(environment or {})}
    members = [
        Proxy([*own, *flags], environment=given, subcommand=subcommand, await_readyz=await_readyz) for _ in range(count)
    ]
    with actors.started(members) as running:
        yield running
