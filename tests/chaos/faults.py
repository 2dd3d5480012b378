"""The faults, stage by stage: what is done (deeds.py), whom it must concern, and what those may be told.

A call whose request may have run and whose answer is lost is told so, and never sent again; so an error of that kind is
no broken promise for those whom the fault concerns.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from tests.chaos import deeds, stores

# Whom a fault may concern: calls that a proxy has under way, sessions at home on a replica, sessions opened meanwhile.
CALLS, HOME, NEWCOMERS = "calls", "home", "newcomers"

GONE = ("ConnectionResetError", "the connection ended")  # who is killed says nothing more
# The proxy says that the call may have run, or breaks off an answer that had begun. After a freeze too: a server's
# keep-alive may have passed meanwhile, and it closes the connection over the request that it has not read.
LOST = ("'backend_lost', 'may_have_run': True", "the connection ended")
LATER = ("session_store_unavailable",)
UNKNOWN = ("404",)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`concerns`: nobody, unless said. `proxy`, `replica`: whose calls, whose sessions."""

    name: str
    act: deeds.Act
    concerns: frozenset[str] = frozenset()
    proxy: int = 0
    replica: int = 0
    forgets: bool = False  # what a session at home there remembers is lost
    waits: bool = False  # calls under way are answered late, when the victim goes on
    loses: bool = False  # sessions opened meanwhile may be told that they are unknown
    tells: tuple[str, ...] = ()  # what an error of those concerned may say: one of these


class Make(Protocol):
    """A store of a family of servers (tests/kit/redis_server.py)."""

    def __call__(self, *, family: str) -> stores.Store: ...


class Setting(msgspec.Struct, frozen=True):
    """A kind of store, and what happens where there is one. `reason`: why it can't be had on this machine."""

    make: Make
    title: str
    faults: Sequence[Fault]
    reason: Callable[[], str | None] = lambda: None


AWAY = f"for {deeds.AWAY_SECONDS:g} s"
SLOWER = f"slower by {deeds.SLOW_SECONDS * 1000:g} ms each way {AWAY}"
IN_NEWCOMERS = frozenset({NEWCOMERS})
AT_HOME = frozenset({HOME})

PROXY_KILLED = Fault(
    name="a proxy killed (-9), started again", act=deeds.kill_proxy(0), concerns=frozenset({CALLS}), tells=GONE
)
REPLICA_KILLED = Fault(
    name="a replica killed (-9), started again", act=deeds.kill_replica(0), concerns=AT_HOME, forgets=True, tells=LOST
)
PROXIES_RESTARTED = Fault(name="every proxy restarted, one by one", act=deeds.restart_every_proxy)

DEATHS = (
    PROXY_KILLED,
    REPLICA_KILLED,
    Fault(name=f"Redis killed (-9) {AWAY}", act=deeds.kill_store, concerns=IN_NEWCOMERS, tells=LATER),
    Fault(
        name=f"a proxy frozen {AWAY}",
        act=deeds.freeze_proxy(1),
        concerns=frozenset({CALLS}),
        proxy=1,
        waits=True,
        tells=LOST,
    ),
    Fault(name=f"a replica frozen {AWAY}", act=deeds.freeze_replica(1), concerns=AT_HOME, replica=1, tells=LOST),
    Fault(name=f"Redis frozen {AWAY}", act=deeds.freeze_store, concerns=IN_NEWCOMERS, tells=LATER),
    PROXIES_RESTARTED,
)

# A proxy that can't reach a replica brings its sessions elsewhere, whoever else may still reach it.
LINKS = (
    Fault(
        name=f"proxy–replica cut {AWAY}",
        act=deeds.cut(deeds.to_replica(0, 2)),
        concerns=frozenset({HOME, NEWCOMERS}),
        replica=2,
        forgets=True,
        tells=LOST,
    ),
    Fault(
        name=f"proxy–replica loses every packet {AWAY}",
        act=deeds.lose(deeds.to_replica(1, 1)),
        concerns=frozenset({HOME, NEWCOMERS}),
        replica=1,
        forgets=True,
        tells=LOST,
    ),
    Fault(name=f"proxy–replica {SLOWER}", act=deeds.slow(deeds.to_replica(0, 0))),
    # Of what a proxy accepts while it alone can't reach the store, the others know nothing, nor that there is anything
    # to be known. Whoever does not want that runs with --store-required.
    Fault(
        name=f"proxy–Redis cut {AWAY}",
        act=deeds.cut(deeds.to_store(0)),
        concerns=IN_NEWCOMERS,
        loses=True,
        tells=(*LATER, *UNKNOWN),
    ),
    Fault(
        name=f"proxy–Redis loses every packet {AWAY}",
        act=deeds.lose(deeds.to_store(1)),
        concerns=IN_NEWCOMERS,
        loses=True,
        tells=(*LATER, *UNKNOWN),
    ),
    Fault(name=f"proxy–Redis {SLOWER}", act=deeds.slow(deeds.to_store(0))),
    Fault(name=f"client–proxy cut {AWAY}", act=deeds.cut(deeds.to_proxy(0)), concerns=frozenset({CALLS}), tells=GONE),
    Fault(
        name=f"client–proxy loses every packet {AWAY}",
        act=deeds.lose(deeds.to_proxy(1)),
        concerns=frozenset({CALLS}),
        proxy=1,
        waits=True,
    ),
    Fault(name=f"client–proxy {SLOWER}", act=deeds.slow(deeds.to_proxy(0))),
)

NAMES = (
    Fault(name=f"DNS silent {AWAY}", act=deeds.spoil_names("silent")),
    Fault(name=f"DNS says SERVFAIL {AWAY}", act=deeds.spoil_names("SERVFAIL")),
    # Said again and for two seconds it is believed: there is no such service, so that nobody new can be served.
    Fault(
        name=f"DNS says NXDOMAIN {AWAY}",
        act=deeds.spoil_names("NXDOMAIN"),
        concerns=IN_NEWCOMERS,
        tells=("backend_unavailable",),
    ),
    Fault(
        name="DNS silent, and a replica killed",
        act=deeds.while_names_are_spoilt("silent", deeds.kill_replica(1)),
        concerns=AT_HOME,
        replica=1,
        forgets=True,
        tells=LOST,
    ),
)

FULL = (
    Fault(
        name=f"Redis's disk full {AWAY}",
        act=deeds.fill(stores.Cramped.fill_disk, stores.Cramped.clear_disk),
        concerns=IN_NEWCOMERS,
        tells=LATER,
    ),
    Fault(
        name=f"Redis's memory full {AWAY}",
        act=deeds.fill(stores.Cramped.fill_memory, stores.Cramped.free_memory),
        concerns=IN_NEWCOMERS,
        tells=LATER,
    ),
)

FAIL_OVERS = (
    Fault(
        name="Redis's master killed (-9), back as a replica",
        act=deeds.kill_master,
        concerns=IN_NEWCOMERS,
        tells=LATER,
    ),
    Fault(name="Redis's master frozen until another is", act=deeds.freeze_master, concerns=IN_NEWCOMERS, tells=LATER),
    Fault(name=f"a replica of Redis killed {AWAY}", act=deeds.kill_store_replica),
)
A_SENTINEL = Fault(name=f"a Sentinel killed {AWAY}", act=deeds.kill_sentinel)

SETTINGS: Sequence[Setting] = (
    Setting(stores.OneRedis, stores.OneRedis.title, (*DEATHS, *LINKS, *NAMES)),
    Setting(stores.Cramped, stores.Cramped.title, FULL, stores.Cramped.reason),
    Setting(
        stores.WithSentinel,
        stores.WithSentinel.title,
        (*FAIL_OVERS, A_SENTINEL, PROXY_KILLED, REPLICA_KILLED, PROXIES_RESTARTED),
    ),
    Setting(stores.Cluster, stores.Cluster.title, (*FAIL_OVERS, PROXY_KILLED, REPLICA_KILLED, PROXIES_RESTARTED)),
)
