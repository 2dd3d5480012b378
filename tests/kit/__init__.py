"""The tests' kit: real MCP servers and clients, the proxy under test, a network's edges; all as actors with verbs.

    with kit.backend("mcp2-sse", replicas=2) as replicas, kit.proxies(2, backends=replicas, store=redis.url) as proxies:
        with kit.client("ts1", [proxy.url("/mcp") for proxy in proxies], seed=7) as client:
            assert client.call("counter").text == "1"

`provision` installs the programs, `actors` runs processes, `backends` are real servers, `clients` real clients,
`actors_proxy` is fastproxy itself, `actors_wire` speaks bytes. No test imports an SDK: both lines of each run in
environments of their own.
"""

from tests.kit.actors import KitError, Process
from tests.kit.actors_proxy import Metrics, Proxy, proxies
from tests.kit.actors_wire import Connection, RawClient, ScriptedBackend, answering
from tests.kit.backends import KINDS, Backend, backend, logged_calls
from tests.kit.clients import CLIENTS, Answer, Client, Died, Pending, Refused, client, inspect

__all__ = [
    "CLIENTS",
    "KINDS",
    "Answer",
    "Backend",
    "Client",
    "Connection",
    "Died",
    "KitError",
    "Metrics",
    "Pending",
    "Process",
    "Proxy",
    "RawClient",
    "Refused",
    "ScriptedBackend",
    "answering",
    "backend",
    "client",
    "inspect",
    "logged_calls",
    "proxies",
]
