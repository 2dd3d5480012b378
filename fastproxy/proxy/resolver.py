"""Questions to DNS, over the loop: SRV rows and addresses with their TTLs, asked as the machine's resolv.conf wants.

    resolv.conf, hosts file --Resolver--> query by query --> discovery.Found, or LookupFailed when nobody can tell

Why not getaddrinfo, which the loop has: it knows neither SRV nor TTLs, cannot tell every failure from "no such name",
and holds a thread for as long as a dead server takes. Why a module of its own that nothing imports at the top:
dnspython is 4 MiB and 40 ms, which a proxy with replicas by URL need not pay for.
"""

import os

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdtypes.IN.SRV
import dns.resolver

from fastproxy.config import address, backend
from fastproxy.proxy import names
from fastproxy.routing import discovery

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
LOOPBACK = "127.0.0.1"  # resolv.conf(5): whom to ask when nobody is named
ANSWER_SECONDS_MAX = 2.0  # per question, all tries together
TRY_SECONDS_MAX = 0.7  # then the same question goes out again, to the next server if there is one
SETTLED_MAX = 4096


class Resolver:
    """`server` is asked instead of the machine's own, and the hosts file not read: for tests and odd networks."""

    def __init__(self, server: address.Address | None = None) -> None:
        self._server = server
        self._backend = dns.asyncbackend.get_backend("asyncio")
        self._configured: dns.asyncresolver.Resolver | None = None
        self._stamp: tuple[int, int] | None = None
        self._settled: dict[str, str] = {}
        self._has_services: set[backend.DnsBackend] = set()

    async def find_replicas(self, wanted: backend.DnsBackend) -> discovery.Found[backend.StaticBackend]:
        """The replicas of a name now. LookupFailed: it can't be told."""
        if not (hosts := self._in_hosts_file(wanted.name)):
            try:
                services = await self._find_services(wanted)
            except names.LookupFailed as failure:
                # Some resolvers (container networks') know no SRV and say so by failing: then there are addresses only.
                found = discovery.Found[str](())
                if wanted not in self._has_services:
                    found = await self.find_addresses(wanted.name)
                if not found.items:
                    raise failure from None
                return _at_port(found, wanted.port)
            if services.items:
                self._has_services.add(wanted)
                return services
            self._has_services.discard(wanted)
        return _at_port(hosts or await self.find_addresses(wanted.name), wanted.port)

    async def _find_services(self, wanted: backend.DnsBackend) -> discovery.Found[backend.StaticBackend]:
        answer = await self._search(wanted.name, "SRV", prefix=f"_{wanted.srv}._tcp.")
        if answer is None:
            return discovery.Found(())
        rows = [
            discovery.Service(row.target.to_text(), row.port)
            for row in answer
            if isinstance(row, dns.rdtypes.IN.SRV.SRV)
        ]
        return discovery.Found(discovery.from_services(rows), _seconds(answer), discovery.SERVICES)

    async def find_addresses(self, name: str) -> discovery.Found[str]:
        """The addresses of a name: IPv4, else IPv6. Not both: they lead to the same pods, which would count twice."""
        if hosts := self._in_hosts_file(name):
            return hosts
        answer = await self._search(name, "A") or await self._search(name, "AAAA")
        if answer is None:
            return discovery.Found(())
        return discovery.Found(tuple(row.to_text() for row in answer), _seconds(answer))

    def _in_hosts_file(self, name: str) -> discovery.Found[str] | None:
        if self._server is not None:
            return None
        try:
            with open(HOSTS, encoding="utf-8", errors="replace") as file:
                found = discovery.in_hosts_file(file.read(), name)
        except OSError:
            return None
        return discovery.Found(found, discovery.KEPT_SECONDS_MAX) if found else None

    # ---- one question

    async def _search(self, name: str, record_type: str, *, prefix: str = "") -> dns.resolver.Answer | None:
        """The answer of the first candidate that has one. Where that is settled, it is asked first from then on: the
        others are known to be nothing, and asking them each time would be most of our load on the server."""
        resolver = self._configure()
        search = [domain.to_text() for domain in resolver.search or [resolver.domain]]
        ndots = discovery.NDOTS if resolver.ndots is None else resolver.ndots
        order = discovery.candidates(name, search, ndots)
        key = f"{record_type} {prefix}{name}"
        settled = self._settled.get(key)
        if settled in order:
            order = (settled, *(candidate for candidate in order if candidate != settled))
        for candidate in order:
            answer = await self._ask(resolver, prefix + candidate, record_type)
            if answer is not None:
                if len(self._settled) >= SETTLED_MAX:
                    self._settled.clear()
                self._settled[key] = candidate
                return answer
        self._settled.pop(key, None)
        return None

    async def _ask(
        self, resolver: dns.asyncresolver.Resolver, name: str, record_type: str
    ) -> dns.resolver.Answer | None:
        try:
            answer = await resolver.resolve(
                name,
                record_type,
                raise_on_no_answer=False,
                search=False,
                lifetime=ANSWER_SECONDS_MAX,
                backend=self._backend,
            )
        except (dns.resolver.NXDOMAIN, dns.name.NameTooLong):
            return None  # a search domain may make a name too long to exist
        except dns.exception.DNSException as error:
            raise names.LookupFailed(f"{record_type} of {name.removesuffix('.')}: {_explain(error)}") from error
        return answer if answer.rrset is not None else None

    def _configure(self) -> dns.asyncresolver.Resolver:
        """The machine's settings; read again when the file has changed, as a network that comes up late does."""
        try:
            status = os.stat(RESOLV_CONF)
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = (0, 0)
        if self._configured is None or stamp != self._stamp:
            self._configured, self._stamp = self._make(), stamp
        return self._configured

    def _make(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.domain = dns.name.root  # by default the machine's own, of which resolv.conf knows nothing
        if self._server is not None:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(self._server.host, self._server.port)]
        else:
            try:
                resolver.read_resolv_conf(RESOLV_CONF)
            except (dns.resolver.NoResolverConfiguration, ValueError, UnicodeError):
                resolver.nameservers = [LOOPBACK]
        resolver.timeout = min(resolver.timeout, TRY_SECONDS_MAX)
        return resolver


def _at_port(found: discovery.Found[str], port: int) -> discovery.Found[backend.StaticBackend]:
    return discovery.Found(discovery.from_addresses(found.items, port), found.seconds)


def _seconds(answer: dns.resolver.Answer) -> float:
    """The TTL: the least along the way, aliases included."""
    return float(answer.chaining_result.minimum_ttl)


def _explain(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return f"no answer within {ANSWER_SECONDS_MAX:g} s"
    return " ".join(str(error).split())[:256]
