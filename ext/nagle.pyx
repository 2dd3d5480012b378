# Backends that wait for our acknowledgement. A server that writes an answer in two small pieces and has not set
# TCP_NODELAY (uvicorn under plain asyncio, for one: asyncio sets it only on sockets of an explicit protocol number, which
# uvicorn's have not) holds the second piece back until the first is acknowledged (RFC 896), and our kernel delays that by
# 40 ms (RFC 1122 §4.2.3.2). So every call takes 44 ms where it could take 3, through a proxy and without one.
#
# TCP_QUICKACK acknowledges at once. It costs a system call and a packet per piece, so it is used only towards replicas
# that have shown the symptom: a gap of about 40 ms in the middle of an answer. A replica whose gaps stay long although
# we acknowledge at once is just slow, and is left alone again.

cdef enum:
    GAP_MS_MIN = 32          # Linux delays an acknowledgement by 40 ms; our clock is coarse by 4
    GAP_MS_MAX = 64
    WAITS_MAX = 8            # how sure we can be that a replica waits for us


cdef inline void gap_begins(Exchange exchange, Upstream upstream) noexcept:
    """An answer has paused: its next piece may hang on our acknowledgement of the last."""
    exchange.gap_ms = upstream.reactor.now_ms
    exchange.hurried = upstream.endpoint.waits_for_us > 0
    if exchange.hurried:
        fp_quickack(upstream.fd)


cdef inline void gap_ends(Exchange exchange, Upstream upstream) noexcept:
    """The next piece is there. What does the length of the gap say of the replica?"""
    cdef uint64_t gap = upstream.reactor.now_ms - exchange.gap_ms
    cdef Endpoint endpoint = upstream.endpoint
    exchange.gap_ms = 0
    if exchange.hurried:
        if gap < GAP_MS_MIN:
            endpoint.waits_for_us = WAITS_MAX
        else:
            endpoint.waits_for_us -= 1
    elif GAP_MS_MIN <= gap <= GAP_MS_MAX:
        endpoint.waits_for_us = 2
