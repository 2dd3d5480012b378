"""HAProxy, one thread: the stick table that learns the session id, and the hash of the header.

`abortonclose` is on: without it, streams stay open at the backend after their clients have gone. `haproxy-nodelay`
is the stick table with `option http-no-delay`: without that, HAProxy holds an event back for up to 200 ms in the
hope of more to send with it, which is cheap, and not what anybody wants who reads events.
"""

from bench.compare.rival import SESSIONS_MAX, Place, Rival, find_program, first_line

STICKY = f"""
    stick-table type string len 64 size {SESSIONS_MAX} expire 2h
    stick store-response res.hdr(mcp-session-id)
    stick match req.hdr(mcp-session-id)
    balance roundrobin
"""
NO_DELAY = """
    option http-no-delay
"""
HASHED = """
    balance hdr(mcp-session-id)
    hash-type consistent
"""


def _start(place: Place, choice: str) -> list[str]:
    servers = "\n".join(f"    server s{port} 127.0.0.1:{port}" for port in place.backend_ports)
    tls = f" ssl crt {place.certificate}" if place.certificate else ""
    # a connection takes a descriptor on each side; some are left for the rest
    connections = (place.open_files_max - 400) // 2
    (place.directory / "haproxy.cfg").write_text(f"""
global
    nbthread {place.workers}
    maxconn {connections}
defaults
    mode http
    option abortonclose
    http-reuse always
    timeout connect 2s
    timeout client 300s
    timeout server 300s
    timeout http-request 10s
    timeout http-keep-alive 300s
listen mcp
    bind 127.0.0.1:{place.port} backlog 4096{tls}
    maxconn {connections}
{choice}
{servers}
""")
    return [str(find_program("haproxy")), "-db", "-f", str(place.directory / "haproxy.cfg")]


def _rival(name: str, choice: str, *, learns: bool, of_events: bool = False) -> Rival:
    return Rival(
        name=name,
        start=lambda place: _start(place, choice),
        find=lambda: find_program("haproxy"),
        version=lambda: first_line(find_program("haproxy"), "-v"),
        hint="apt-get install haproxy",
        learns=learns,
        remembers=learns,
        of_events=of_events,
        abilities=frozenset({"tls", "workers"}),
    )


STICK = _rival("haproxy-stick", STICKY, learns=True)
HASH = _rival("haproxy-hash", HASHED, learns=False)
NODELAY = _rival("haproxy-nodelay", STICKY + NO_DELAY, learns=True, of_events=True)
