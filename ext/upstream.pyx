# The side that faces a backend: one connection, which serves one exchange at a time and waits in its endpoint's pool.

cdef enum UpstreamState:
    U_CONNECTING = 0
    U_HELD          # the story has it in hand
    U_BUSY
    U_IDLE

cdef enum:
    ANSWER_HEAD_BYTES_MAX = 65536  # interface §3.2
    VERDICTS_MAX = 10              # looks at a connection that the peer has half closed, 0.1 s apart


cdef class Upstream(Wire):
    cdef readonly Endpoint endpoint
    cdef Exchange exchange
    cdef object ready             # future of the connect
    cdef uint64_t mark            # bytes sent before the present exchange
    cdef uint32_t move            # of its endpoint, when it was opened
    cdef uint8_t state
    cdef bint established         # TCP is up
    cdef bint reusable
    cdef readonly bint reused     # has served an exchange before
    cdef uint8_t verdicts         # looks taken so far at what became of the request

    cdef int on_ready(self) except -1:
        cdef int rc
        cdef Exchange exchange = self.exchange  # held here: it may end, and nobody else would hold it then
        if self.state == U_CONNECTING:
            return self.connecting()
        if self.state == U_IDLE:
            if not self.quiet():
                self.drop()
            return 0
        if self.state != U_BUSY or exchange is None:
            return 0
        if self.outbox.data != NULL:
            rc = self.flush()
            if rc == 1:
                pump_request(exchange)
            elif rc < 0:
                exchange.request_broken = True
                self.readable = True
        if self.state == U_BUSY and self.exchange is not None and not self.closed and self.readable:
            return self.answer_ready()
        return 0

    cdef int connecting(self) except -1:
        cdef int error
        if self.ready is None:
            return 0
        if not self.established:
            if not self.writable:
                return 0
            error = fp_socket_error(self.fd)
            if error:
                return self.connect_failed(os.strerror(error))
            self.established = True
        if self.tls is not None:
            self.reactor.tls_error = None
            error = self.tls.shake(self)
            if error < 0:
                return self.connect_failed("TLS: " + (self.reactor.tls_error or "closed by the peer"))
            if error == 0:
                return 0
        undue(self)
        self.state = U_HELD
        self.reusable = True
        self.endpoint.connecting -= 1
        ready = self.ready
        self.ready = None
        if ready.done():
            self.reactor.give_back(self)
        else:
            ready.set_result(self)
        return 0

    cdef int connect_failed(self, str why) except -1:
        ready = self.ready
        self.ready = None
        self.endpoint.connecting -= 1
        self.shut()
        if ready is not None and not ready.done():
            ready.set_exception(ConnectFailed(why))
        return 0

    cdef bint quiet(self) except -1:
        """Is there nothing to be read, not even the end? What nobody asked for would be taken for the next answer.

        What TLS says to itself (session tickets) is nothing.
        """
        if self.hung or self.failed or self.cut or self.inbox.data != NULL:
            return False
        return not self.readable or self.fill(PIECE) == GOT_NOTHING

    cdef void drop(self) noexcept:
        """An idle connection that is no longer any use."""
        if self in self.endpoint.spare:
            self.endpoint.spare.remove(self)
        self.shut()

    cdef bint acknowledged(self) noexcept:
        """Has the peer's kernel taken any byte of the present request? TCP_INFO counts them, the SYN included."""
        cdef int64_t count = fp_bytes_acked(self.fd)
        return count < 0 or <uint64_t>count > self.mark + 1

    cdef bint surely_untouched(self) noexcept:
        """True when nobody can have run the present request: not a byte was taken, and none will be.

        The server of a kept connection may close it just as we send (mcp.md §6.1): its end comes first, then the reset
        with which a closed socket answers our bytes, and no acknowledgement. The end alone proves nothing: the server
        may have closed its own side only, and our bytes may be on their way. A reset alone proves nothing either: the
        server may have read the request, and a reset does not count what it acknowledges.
        """
        return self.sent == self.mark or (self.hung and not self.was_reset and buffer_size(&self.inbox) == 0
                                          and fp_closed(self.fd) and not self.acknowledged())

    cdef bint may_settle(self) noexcept:
        """The peer has closed its side, our bytes are on their way: its reset or acknowledgement is to be waited for."""
        return self.sent > self.mark and not self.was_reset and not fp_closed(self.fd) \
            and not self.acknowledged() and self.verdicts < VERDICTS_MAX

    cdef int answer_ready(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef Head* head = &self.reactor.answer_head
        cdef const char* p
        cdef Py_ssize_t size, got
        cdef int found
        if exchange is None:
            return 0
        if exchange.phase == P_POUR or exchange.wait == W_INSPECT or exchange.wait == W_EVENT:
            return pump_answer(exchange)
        while exchange.phase == P_SENT and self.exchange is exchange:
            size = buffer_size(&self.inbox)
            if size:
                p = self.inbox.data + self.inbox.start
                found = scan_response_head(p, size, head)
                if found == REFUSED:
                    return upstream_failed(exchange, "protocol", head.error_reason.decode())
                if (found == INCOMPLETE and size >= ANSWER_HEAD_BYTES_MAX) \
                        or (found == COMPLETE and head.size > ANSWER_HEAD_BYTES_MAX):
                    return upstream_failed(exchange, "protocol", "head too large")
                if found == COMPLETE:
                    if head.status >= 200:
                        return self.answered(exchange, p, head)
                    if head.status == 101:
                        return upstream_failed(exchange, "protocol", "switched protocols unasked")
                    if head.status > 101 and exchange.minor and exchange.client is not None:
                        build_answer(&self.reactor.out, p, head, S_STRIP, NULL, 0, False, False, False)
                        flush_answer(exchange, &self.reactor.out)
                    if self.exchange is not exchange:
                        return 0
                    buffer_skip(&self.inbox, head.size)
                    continue
            got = self.fill(PIECE if size < PIECE else ANSWER_HEAD_BYTES_MAX)
            if got == GOT_NOTHING:
                return 0
            if got <= 0 and size == 0 and self.may_settle():
                due(self, DUE_VERDICT)
                return 0
            if got <= 0:
                return upstream_failed(exchange, "protocol" if size else "lost", "cut in the head" if size else "")
        return 0

    cdef int answered(self, Exchange exchange, const char* p, Head* head) except -1:
        """A final answer's head: how its body is framed (RFC 9112 §6.3), and who goes on."""
        cdef Field* field
        undue(self)
        exchange.status = head.status
        exchange.phase = P_HEAD
        exchange.answer_done = exchange.reframe = exchange.streaming = exchange.event_stream = False
        memset(&exchange.answer_chunk, 0, sizeof(Chunk))
        exchange.answer_left = 0
        self.reusable = not head.close if head.minor else head.keep_alive and head.length >= 0
        if exchange.method == M_HEAD or head.status == 204 or head.status == 304:
            exchange.answer_kind = B_NONE
        elif head.chunked:
            exchange.answer_kind = B_CHUNKED
        elif head.length >= 0:
            exchange.answer_kind = B_COUNTED
            exchange.answer_left = head.length
        else:
            exchange.answer_kind = B_UNTIL_CLOSE
            self.reusable = False
        if head.status == 204 and (head.chunked or head.length > 0):
            self.reusable = False  # a body that must not be may come all the same
        if head.seen & (<uint32_t>1 << F_KEEP_ALIVE) and self.reusable:
            self.reusable = keeps_alive_long(p, head, self.reactor.dues[<int>DUE_SPARE].length_ms)
        if head.content_type >= 0 and exchange.answer_kind != B_NONE:
            field = &head.fields[head.content_type]
            exchange.event_stream = field.value_length >= 17 \
                and strncasecmp(p + field.value, b"text/event-stream", 17) == 0
        if exchange.fast:
            return fast_answer(exchange, p, head)
        exchange.tell(answer_door(exchange))
        return 0

    cdef int on_due(self, int which) except -1:
        cdef Exchange exchange = self.exchange  # held here, as in on_ready
        if which == DUE_CONNECT:
            return self.connect_failed("no answer within the connect timeout")
        if which == DUE_RESPONSE and exchange is not None:
            return upstream_failed(exchange, "timeout")
        if which == DUE_LINGER and exchange is not None:
            return end_exchange(exchange, "finished", True)  # the rest of an answer that nobody wants
        if which == DUE_VERDICT:
            self.verdicts += 1
            return self.answer_ready()
        self.drop()
        return 0


class ConnectFailed(Exception):
    """No connection to this address: refused, unreachable, too slow, or TLS said no.

    `ours`: nobody was asked, since this process has no descriptor, port or memory left; it says nothing of the replica.
    """

    def __init__(self, why, error=0):
        super().__init__(why)
        self.ours = error in (EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL)


cdef bint keeps_alive_long(const char* p, Head* head, uint64_t spare_ms) noexcept nogil:
    """Does `Keep-Alive: timeout=N` promise longer than we would keep the connection? Else it is not worth keeping."""
    cdef Field* field = _first(head, F_KEEP_ALIVE)
    cdef const char* at
    cdef Py_ssize_t i, n
    cdef uint64_t seconds = 0
    if field == NULL:
        return True
    at = <const char*>memmem(p + field.value, field.value_length, b"timeout=", 8)
    if at == NULL:
        return True
    n = (p + field.value + field.value_length) - (at + 8)
    for i in range(n if n < 6 else 6):
        if at[8 + i] < c'0' or at[8 + i] > c'9':
            break
        seconds = seconds * 10 + <uint64_t>(at[8 + i] - c'0')
    return seconds * 1000 > spare_ms
