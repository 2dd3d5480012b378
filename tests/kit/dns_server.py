"""A DNS server of the tests' own, on loopback, over UDP and TCP: it answers what the test has put in, and falls ill.

    with dns_server.DnsServer() as dns:
        dns.addresses("mcp.test", "127.0.0.2", "127.0.0.3", ttl=1)
        dns.services("_http._tcp.mcp.test", ("mcp-0.mcp.test", 8000), ttl=1)
        dns.fall_ill("SERVFAIL"); dns.recover()
        dns.origin                              # 127.0.0.1:PORT, for FASTPROXY_DNS_SERVER

Illnesses, for all names or those that end as told: SERVFAIL, NXDOMAIN, empty (the name is there, the record is not),
silent (no answer at all), garbage (bytes that are no message), truncated (over UDP; TCP has the whole answer). `flap`
is ill and well in turn. `questions` is what was asked, in order.

Messages are made by dnspython, as the proxy reads them; that the two agree with the rest of the world is dnspython's
own tests' affair.
"""

import asyncio
import contextlib
import struct
import threading
import time
import typing

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import msgspec

from tests.kit import actors

HOST = "127.0.0.1"
WAIT_SECONDS_MAX = 10.0
ILLNESSES = {"SERVFAIL", "NXDOMAIN", "REFUSED", "empty", "silent", "garbage", "truncated"}


class Question(msgspec.Struct, frozen=True):
    """What was asked, and when."""

    name: str
    record_type: str
    transport: str  # udp, tcp
    at: float


class _Illness(msgspec.Struct, frozen=True):
    kind: str
    ending: str  # of the names that it takes
    record_type: str | None  # None: all
    every: int  # 1: each question, 2: every second one
    seconds: float  # for so long ill, then for twice as long well; nought: always ill
    since: float


class DnsServer:
    """See the module. A name that nothing was said of does not exist."""

    def __init__(self, *, host: str = HOST, port: int = 0) -> None:
        self.host = host
        self.port = port
        self.questions: list[Question] = []
        self._records: dict[tuple[str, str], dns.rrset.RRset] = {}
        self._illness: _Illness | None = None
        self._turns = 0
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="kit-dns", daemon=True)

    def __enter__(self) -> typing.Self:
        self._thread.start()
        assert self._running.wait(WAIT_SECONDS_MAX)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *exception: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_SECONDS_MAX)

    @property
    def origin(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a proxy is given, so that it asks here."""
        return {"FASTPROXY_DNS_SERVER": self.origin}

    # ---- what it says

    def addresses(self, name: str, *addresses: str, ttl: int = 1) -> None:
        """From now on these are the name's addresses; none: the name has none of that kind."""
        v4 = [each for each in addresses if ":" not in each]
        v6 = [each for each in addresses if ":" in each]
        self._put(name, "A", v4, ttl)
        self._put(name, "AAAA", v6, ttl)

    def services(self, name: str, *targets: tuple[str, int], ttl: int = 1) -> None:
        """From now on these are the SRV rows of the name."""
        self._put(name, "SRV", [f"0 0 {port} {target.rstrip('.')}." for target, port in targets], ttl)

    def alias(self, name: str, target: str, *, ttl: int = 1) -> None:
        """The name is another's."""
        self._put(name, "CNAME", [target.rstrip(".") + "."], ttl)

    def remove(self, name: str) -> None:
        """The name does not exist."""
        with self._lock:
            for key in [key for key in self._records if key[0] == _key(name)]:
                del self._records[key]

    def fall_ill(
        self, kind: str, *, ending: str = "", record_type: str | None = None, every: int = 1, seconds: float = 0
    ) -> None:
        """From now on it answers so: all questions, or those of names that end so, of one type, every n-th, or for so
        many seconds and then for twice as many not."""
        assert kind in ILLNESSES
        with self._lock:
            self._turns = 0
            self._illness = _Illness(kind, _key(ending), record_type, every, seconds, time.monotonic())

    def flap(self, kind: str = "NXDOMAIN", *, ending: str = "", seconds: float = 1.5) -> None:
        """Ill for so long, well for twice as long, and so on: whoever asks each second hears the truth in between."""
        self.fall_ill(kind, ending=ending, seconds=seconds)

    def recover(self) -> None:
        with self._lock:
            self._illness = None

    def asked(self, name: str, record_type: str | None = None) -> list[Question]:
        """The questions for a name so far."""
        return [
            each for each in list(self.questions) if each.name == _key(name) and record_type in (None, each.record_type)
        ]

    def await_questions(self, name: str, count: int, *, record_type: str | None = None) -> list[Question]:
        """Wait until so many more questions for the name have come; those."""
        before = len(self.asked(name, record_type))
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while len(self.asked(name, record_type)) < before + count:
            if time.monotonic() > deadline:
                raise actors.KitError(f"not within {WAIT_SECONDS_MAX} s: {count} more questions for {name}")
            time.sleep(0.01)
        return self.asked(name, record_type)[before:]

    def _put(self, name: str, record_type: str, values: list[str], ttl: int) -> None:
        with self._lock:
            key = (_key(name), record_type)
            if values:
                self._records[key] = dns.rrset.from_text(_key(name) + ".", ttl, "IN", record_type, *values)
            else:
                self._records.pop(key, None)

    # ---- how it answers

    def answer(self, asked: bytes, transport: str) -> bytes | None:
        """The answer to a message; None: none."""
        query = dns.message.from_wire(asked)
        question = query.question[0]
        name, record_type = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.questions.append(Question(name, record_type, transport, time.monotonic()))
        with self._lock:
            kind = self._sickness(name, record_type)
            if kind == "silent":
                return None
            if kind == "garbage":
                return asked[:2] + b"\xff" * 7
            response = dns.message.make_response(query)
            response.flags |= dns.flags.RA
            if kind in ("SERVFAIL", "NXDOMAIN", "REFUSED"):
                response.set_rcode(dns.rcode.from_text(kind))
            elif kind == "truncated" and transport == "udp":
                response.flags |= dns.flags.TC
            elif kind != "empty":
                self._fill(response, name, record_type)
        return response.to_wire()

    def _sickness(self, name: str, record_type: str) -> str | None:
        ill = self._illness
        if ill is None or not name.endswith(ill.ending) or ill.record_type not in (None, record_type):
            return None
        if ill.seconds and int((time.monotonic() - ill.since) / ill.seconds) % 3:
            return None
        self._turns += 1
        return ill.kind if self._turns % ill.every == 0 else None

    def _fill(self, response: dns.message.Message, name: str, record_type: str) -> None:
        while (alias := self._records.get((name, "CNAME"))) is not None:
            response.answer.append(alias)
            name = _key(alias[0].to_text())
        found = self._records.get((name, record_type))
        if found is not None:
            response.answer.append(found)
        elif not any(key[0] == name for key in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)

    # ---- sockets

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._serve_tcp, self.host, self.port)
            self.port = server.sockets[0].getsockname()[1]
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self.host, self.port)
            )
        except OSError as error:
            self._failure = error
            self._running.set()
            return
        self._running.set()
        await self._stop.wait()
        transport.close()
        server.close()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.answer(await reader.readexactly(length), "tcp")
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = typing.cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: typing.Any) -> None:
        answer = self._server.answer(data, "udp")
        if answer is not None:
            self._transport.sendto(answer, source)


def _key(name: str) -> str:
    return name.lower().rstrip(".")
