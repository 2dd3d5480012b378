"""The official conformance suite sees no difference between a server over HTTP and the same server as a stdio program.

Real: the suite, the server of the kit (both eras) on a port and on a pipe, the proxy. On the wires with sessions each
scenario starts a process of its own, which takes minutes: they are run with KIT_MATRIX=1. What differs there is what a
pipe can't carry: event ids, and with them resumption.
"""

import pytest

from tests import kit
from tests.e2e import stand
from tests.kit import conformance, provision
from tests.kit.backends import PROGRAMS

RESUMPTION = "server-sse-polling"
WIRES = conformance.WIRES if stand.WHOLE_MATRIX else ("2026-07-28",)


@pytest.mark.parametrize("wire", WIRES)
def test_no_check_differs_between_a_port_and_a_pipe(wire: str) -> None:
    for what in ("node", "conformance"):
        provision.require(what)
    command = [str(provision.python("mcp2")), "-m", "everything", "--stdio"]
    flags = ["--stdio-spares", "2", "--", *command]
    with (
        conformance.replicas(1) as (replica,),
        kit.proxies(1, flags=flags, environment={"PYTHONPATH": str(PROGRAMS)}) as (proxy,),
    ):
        differences = conformance.compare(conformance.run(replica.url, wire), conformance.run(proxy.url(), wire))
    differences = [each for each in differences if RESUMPTION not in each.key.scenario]
    assert not differences, conformance.report(differences)
