# Requests of the proxy's own: an Exchange without a client. The story makes the request's bytes and reads the answer,
# whole (`inspect`) or event by event (`next_event`); nothing is relayed. Aggregation lives on these: one client's request
# may cause none, one, or several, and a backend's event stream may outlive the request that opened it.
#
#   Reactor.call -> future of the AnswerHead -> inspect | next_event ... -> finish (the connection serves again) | abort
#
# Back-pressure as everywhere: what nobody asks for stays in the kernel.


cdef Exchange new_call(Reactor reactor, Upstream upstream, bytes request):
    cdef Exchange call = Exchange.__new__(Exchange)
    cdef const char* p = PyBytes_AS_STRING(request)
    call.reactor = reactor
    call.listener = reactor.calls
    call.own_call = True
    call.method = M_POST if p[0] == c'P' else (M_DELETE if p[0] == c'D' else (M_GET if p[0] == c'G' else M_OPTIONS))
    call.minor = 1
    call.started_ns = fp_clock_ns()
    call.body_done = True
    call.kept_lost = True  # whoever wants to send it again has its bytes
    join_upstream(call, upstream)
    if upstream.write(p, PyBytes_GET_SIZE(request)) < 0:
        call.request_broken = True
        upstream.readable = True
    call.request_sent = True
    return call


cdef bint tell_event(Exchange exchange) except -1:
    """Is a whole event held? Then whoever waits for it has it."""
    cdef char* p = exchange.held.data + exchange.held.start
    cdef Py_ssize_t n = buffer_size(&exchange.held)
    cdef Py_ssize_t i = exchange.found_size, begin = 0
    cdef uint32_t tail = exchange.held_tail if i else 0xFFFFFFFF
    cdef bytes event
    while i < n:
        tail = (tail << 8) | <uint8_t>p[i]
        i += 1
        if (p[i - 1] == 10 or p[i - 1] == 13) and event_ended(tail):
            tail = 0xFFFFFFFF
            if i - begin <= 2:  # a blank line, or the LF of a CRLF whose CR has ended the event before
                begin = i
                continue
            event = p[begin:i]
            buffer_skip(&exchange.held, i)
            exchange.found_size = 0
            exchange.tell(event)
            return True
    buffer_skip(&exchange.held, begin)
    exchange.found_size = i - begin
    exchange.held_tail = tail
    return False


cdef int end_call(Exchange call, str why) except -1:
    """Its answer broke, or never came; whoever waits has been told."""
    if call.own_call:
        end_exchange(call, why, True)
    return 0
