"""The rivals, one file each: is it installed, how is it configured and started.

`RIVALS` is the table; a new rival is one file and one line in it.
"""

from bench.compare import envoy, fastmcp, fastproxy, fastproxy_vmcp, floor, haproxy, nginx, plain_aiohttp
from bench.compare.rival import Rival

RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        fastproxy.RIVAL,
        haproxy.STICK,
        haproxy.NODELAY,
        haproxy.HASH,
        nginx.HASH,
        envoy.HASH,
        envoy.STATEFUL,
        plain_aiohttp.RIVAL,
        floor.RIVAL,
        fastproxy_vmcp.RIVAL,
        fastmcp.RIVAL,
    )
}
