# The side that faces the client: heads in, one exchange at a time, answers in order.

cdef enum ClientState:
    CLIENT_HEAD = 0     # between requests, or in the middle of a head
    CLIENT_BUSY         # an exchange has it
    CLIENT_DISCARD      # the answer is out, the rest of the request's body is read and dropped
    CLIENT_CLOSING      # the last bytes are on their way
    CLIENT_LINGER       # told to go; what it still sends is dropped, so that it can read our last answer (RFC 9112 §9.6)

cdef enum:
    DISCARD_BYTES_MAX = 262144  # of a body nobody wants: beyond, closing is cheaper
    LINGER_MS_MAX = 30000       # for who goes on sending after our last answer (as nginx: many read only when all is sent)

    LINGERING_MAX = 64          # of those that were turned away: descriptors that nobody else can have

cdef bytes TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 47\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n503 Service Unavailable: too many connections\r\n"
)
cdef bint HOST_BYTE[256]


cdef void _fill_host() noexcept:
    cdef int c
    for c in range(256):
        HOST_BYTE[c] = False
    for c in range(0x21, 0x7F):
        HOST_BYTE[c] = TOKEN[c] != 0 or c == c':' or c == c'[' or c == c']' or c == c'(' or c == c')' or c == c',' \
            or c == c';' or c == c'='


_fill_host()


cdef class Client(Wire):
    cdef Listener listener
    cdef Exchange exchange
    cdef uint8_t state
    cdef bint served           # at least one request
    cdef bint trusted
    cdef bint broken           # the kernel says that the connection is dead
    cdef bint turned_away      # there were too many: it is counted apart
    cdef Py_ssize_t resume     # where to look on for the end of a head
    cdef int peer_length
    cdef char peer[46]
    cdef uint8_t discard_kind
    cdef int64_t discard_left
    cdef Chunk discard_chunk
    cdef uint64_t linger_until

    cdef void enter(self) noexcept:
        """Counted from now on, and perhaps one too many."""
        cdef Listener listener = self.listener
        if listener.connections_max and listener.connections + listener.abandoned >= listener.connections_max:
            self.turned_away = True
            listener.turned_away += 1
            listener.lingering += 1
        else:
            listener.connections += 1

    cdef void leave(self) noexcept:
        if self.turned_away:
            self.listener.lingering -= 1
        else:
            self.listener.connections -= 1

    cdef int on_ready(self) except -1:
        cdef int rc
        cdef Exchange exchange = self.exchange  # held here: it may end, and nobody else would hold it then
        if self.tls is not None and self.tls.shaking:
            rc = self.tls.shake(self)
            if rc < 0:
                self.reactor.tls_failures += 1
                self.shut()
            if rc <= 0:
                return 0
        if self.outbox.data != NULL:
            rc = self.flush()
            if rc < 0:
                return self.gone()
            if rc == 1:
                if self.state == CLIENT_BUSY and exchange is not None:
                    undue(self)
                    pump_answer(exchange)
                elif self.state == CLIENT_CLOSING:
                    return self.close_politely()
        if self.closed:
            return 0
        if self.state == CLIENT_HEAD:
            return self.read_heads()
        if self.state == CLIENT_BUSY:
            return self.watch()
        if self.state == CLIENT_DISCARD:
            return self.discard()
        if self.state == CLIENT_LINGER or self.broken:
            return self.drop_input()
        return 0

    cdef int watch(self) except -1:
        """Something happened while an exchange has it: more of the body, or its end."""
        cdef Exchange exchange = self.exchange
        if exchange is None:
            return 0
        if self.broken:
            return self.gone()
        if not exchange.body_done and (exchange.upstream is not None or exchange.wait == W_PEEK):
            if self.readable:
                pump_request(exchange)
        elif self.hung and (not exchange.keeps_running or not exchange.body_done):
            return self.gone()
        return 0

    cdef int gone(self) except -1:
        cdef Exchange exchange = self.exchange  # held here, as in on_ready
        if exchange is not None:
            return client_gone(exchange)
        self.shut()
        return 0

    # ---- heads

    cdef int read_heads(self) except -1:
        cdef Head* head = &self.reactor.request_head
        cdef const char* p
        cdef Py_ssize_t size, got
        cdef int found
        cdef bint waits = False, first_line
        while self.state == CLIENT_HEAD and not self.closed:
            size = buffer_size(&self.inbox)
            if size:
                p = self.inbox.data + self.inbox.start
                first_line = self.resume == 0
                found = find_end(p, size, &self.resume, head)
                if found == COMPLETE:
                    found = scan_request_head(p, size, head)
                    if found == COMPLETE and head.size > self.reactor.head_bytes_max:
                        found = _refuse(head, 431, b"head too large")
                    if found == COMPLETE:
                        found = admit(p, head, self.reactor.body_bytes_max)
                elif found == INCOMPLETE:
                    found = early_refusal(p, size, head)
                    if found == INCOMPLETE and first_line and self.resume:
                        found = _request_head(p, size, head)  # once: is the first line one of a request?
                if found == INCOMPLETE and size >= self.reactor.head_bytes_max:
                    found = _refuse(head, 414 if memchr(p, 10, size) == NULL else 431, b"head too large")
                if found == REFUSED:
                    return self.refuse(head.error_status, head.error_reason)
                if found == COMPLETE:
                    waits = self.begin(p, size, head) == LANE_WAIT
                    if not waits:
                        continue
            got = self.fill(<Py_ssize_t>head.size + head.length - size if waits else 2048)
            if got == GOT_NOTHING:
                if waits:
                    due(self, DUE_BODY)  # counted from the last piece, as in the story
                elif self.due_list != DUE_HEAD and (buffer_size(&self.inbox) or not self.served):
                    due(self, DUE_HEAD)
                return 0
            if got <= 0:
                self.shut()
                return 0
        return 0

    cdef Exchange new_exchange(self, Head* head):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.reactor = self.reactor
        exchange.client = self
        exchange.listener = self.listener
        exchange.method = head.method
        exchange.minor = head.minor
        exchange.keep = not head.close and (head.minor == 1 or head.keep_alive)
        exchange.started_ns = fp_clock_ns()
        self.exchange = exchange
        self.state = CLIENT_BUSY
        self.served = True
        self.resume = 0
        if self.listener.counted:
            self.reactor.in_flight += 1
        return exchange

    cdef int begin(self, const char* p, Py_ssize_t size, Head* head) except -1:
        """A whole head is there: the fast lane, or the story."""
        cdef Exchange exchange
        cdef int lane = try_fast_lane(self, p, size, head)
        if lane != LANE_STORY:
            return lane
        exchange = self.new_exchange(head)
        if head.version >= 0:
            exchange.modern = not is_legacy_version(p + head.fields[head.version].value,
                                                    head.fields[head.version].value_length)
        exchange.keeps_running = head.method == M_POST and not exchange.modern
        if head.chunked:
            exchange.body_kind = B_CHUNKED
        elif head.length > 0:
            exchange.body_kind = B_COUNTED
            exchange.body_left = head.length
        else:
            exchange.body_done = True
        exchange.expects = head.expect >= 0 and exchange.body_kind != B_NONE and head.minor == 1
        if buffer_exact(&exchange.head, p, head.size) < 0:
            raise MemoryError
        buffer_skip(&self.inbox, head.size)
        undue(self)
        self.reactor.handler.begin(exchange)
        return LANE_STORY

    cdef int exchange_ended(self, Exchange exchange) except -1:
        """The answer is out, all of it: the next request, or the end."""
        self.exchange = None
        if exchange.fast:
            buffer_skip(&self.inbox, <Py_ssize_t>exchange.head_size + exchange.body_left)
        if not exchange.keep or self.hung or self.reactor.closing:
            if not exchange.body_done:
                self.discard_left = 1  # what is unread would turn our close into a reset
            return self.close_politely()
        if not exchange.body_done:
            self.state = CLIENT_DISCARD
            self.discard_kind = exchange.body_kind
            self.discard_left = exchange.body_left
            self.discard_chunk = exchange.body_chunk
            due(self, DUE_BODY)
            self.reactor.call_later(self)
            return 0
        self.next_request()
        return 0

    cdef void next_request(self) noexcept:
        self.state = CLIENT_HEAD
        self.resume = 0
        due(self, DUE_IDLE)
        if self.inbox.data != NULL or self.readable:
            self.reactor.call_later(self)

    # ---- refusals and ends

    cdef int say_refusal(self, int status, const char* reason) except -1:
        """An answer of the relay's own, in plain text; the connection ends after it."""
        cdef bytes phrase = _REASONS.get(status, b"Error")
        cdef bytes body = b"%d %s: %s\n" % (status, phrase, reason)
        cdef bytes answer = (b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
                             b"Connection: close\r\n\r\n%s" % (status, phrase, len(body), body))
        self.write(answer, len(answer))
        return 0

    cdef int refuse(self, int status, const char* reason) except -1:
        if self.listener.counted:
            self.reactor.count_refusal(status, reason)
        self.say_refusal(status, reason)
        return self.linger()

    cdef int turn_away(self) except -1:
        """One connection too many: it is told so at once, before it has said a word. TLS would have to be spoken first."""
        if self.tls is not None:
            self.shut()
            return 0
        self.write(TOO_MANY, len(TOO_MANY))
        if self.listener.lingering <= LINGERING_MAX:
            return self.linger()
        c_recv(self.fd, self.reactor.scratch, PIECE_LARGE, 0)  # what is unread would turn our close into a reset
        self.shut()
        return 0

    cdef int close_politely(self) except -1:
        """Close once everything is sent; linger when the peer may still be sending."""
        self.exchange = None
        if self.outbox.data != NULL and not self.cut:
            self.state = CLIENT_CLOSING
            due(self, DUE_STALL)
            return 0
        if self.readable or self.inbox.data != NULL or self.discard_left:
            return self.linger()
        if self.tls is not None:
            self.tls.say_goodbye(self)
        self.shut()
        return 0

    cdef int linger(self) except -1:
        self.exchange = None
        if self.closed:
            return 0
        if self.outbox.data != NULL and not self.cut:
            self.discard_left = 1
            self.state = CLIENT_CLOSING
            due(self, DUE_STALL)
            return 0
        if self.tls is not None:
            self.tls.say_goodbye(self)
        self.state = CLIENT_LINGER
        self.linger_until = self.reactor.now_ms + LINGER_MS_MAX
        due(self, DUE_LINGER)
        c_shutdown(self.fd, SHUT_WR)
        return self.drop_input()

    cdef int drop_input(self) except -1:
        """Read and forget, until nothing comes for a while."""
        cdef Py_ssize_t got
        cdef int rounds = 0
        buffer_free(&self.inbox)
        while rounds < 16:
            rounds += 1
            got = c_recv(self.fd, self.reactor.scratch, PIECE_LARGE, 0)
            if got < 0 and errno == EAGAIN:
                self.readable = False
                return 0
            if got <= 0:
                self.shut()
                return 0
            if self.state == CLIENT_LINGER and self.reactor.now_ms < self.linger_until:
                due(self, DUE_LINGER)
        self.reactor.call_later(self)
        return 0

    cdef int discard(self) except -1:
        """Walk over the rest of a body that nobody wants, then go on with the next request."""
        cdef Py_ssize_t size, got, consumed, produced
        cdef char* p
        while True:
            size = buffer_size(&self.inbox)
            if size == 0:
                got = self.fill(PIECE)
                if got == GOT_NOTHING:
                    return 0
                if got <= 0:
                    self.shut()
                    return 0
                continue
            p = self.inbox.data + self.inbox.start
            if self.discard_kind == B_COUNTED:
                consumed = size if size < self.discard_left else <Py_ssize_t>self.discard_left
                self.discard_left -= consumed
            else:
                if chunk_scan(&self.discard_chunk, p, size, False, &consumed, &produced, NULL) == REFUSED:
                    self.discard_left = 1
                    return self.close_politely()
                self.discard_left += consumed
                if self.discard_left > DISCARD_BYTES_MAX:
                    return self.close_politely()
                if self.discard_chunk.state == C_DONE:
                    self.discard_left = 0
            buffer_skip(&self.inbox, consumed)
            if (self.discard_kind == B_COUNTED and self.discard_left == 0) \
                    or (self.discard_kind == B_CHUNKED and self.discard_chunk.state == C_DONE):
                self.discard_left = 0
                self.next_request()
                return 0

    cdef int on_due(self, int which) except -1:
        cdef Exchange exchange = self.exchange  # held here, as in on_ready
        if which == DUE_HEAD and (buffer_size(&self.inbox) or not self.served):
            if buffer_size(&self.inbox):
                return self.refuse(408, b"the head took too long")
        elif which == DUE_BODY and self.state == CLIENT_BUSY and exchange is not None:
            return refuse_exchange(exchange, 408, b"the body took too long")
        elif which == DUE_BODY and self.state == CLIENT_HEAD:
            return self.refuse(408, b"the body took too long")
        elif which == DUE_STALL and exchange is not None:
            self.reactor.stalls += 1
            return client_gone(exchange)
        self.shut()
        return 0


cdef int admit(const char* p, Head* head, int64_t body_bytes_max) noexcept nogil:
    """What a proxy demands of a well-formed head before anything else looks at it."""
    cdef Field* field
    cdef uint32_t i
    if strip_authority(p, head) != COMPLETE:
        return REFUSED
    if head.host >= 0:
        field = &head.fields[head.host]
        for i in range(field.value_length):
            if not HOST_BYTE[<uint8_t>p[field.value + i]]:
                return _refuse(head, 400, b"malformed Host")
    if head.expect >= 0:
        field = &head.fields[head.expect]
        if not same_text(p + field.value, field.value_length, b"100-continue", 12):
            return _refuse(head, 417, b"expectation other than 100-continue")
    if head.length > body_bytes_max:
        return _refuse(head, 413, b"body too large")
    return COMPLETE
