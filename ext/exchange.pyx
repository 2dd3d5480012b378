# One client request and all that it causes, to its last byte. The story (Python) decides at heads and speaks in verbs:
# peek, forward, inspect, relay, answer. Bodies are poured here; they never pass through Python objects of ours.
#
#   request side     client.inbox -> [kept, while it may be sent again] -> upstream
#   answer side      upstream.inbox -> [held, while the story inspects it] -> client
#
# Back-pressure: a side reads only when the other side's outbox is empty, so each holds one read at the most.

cdef enum Phase:
    P_STORY = 0    # nobody has the request yet, or nobody any more: the story decides
    P_SENT         # a backend has it, or is getting it
    P_HEAD         # the answer's head has come and waits for the story
    P_POUR         # the answer flows
    P_DONE

cdef enum BodyKind:
    B_NONE = 0
    B_COUNTED
    B_CHUNKED
    B_UNTIL_CLOSE

cdef enum Wait:
    W_NONE = 0
    W_PEEK
    W_HEAD
    W_INSPECT
    W_TAKEN


class ExchangeOver(Exception):
    """There is nobody left to answer: the client has gone, or was refused by the relay itself (`reason`)."""

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


class UpstreamLost(Exception):
    """No answer's head came. `kind`: lost, timeout, protocol. `ran`: False only when it surely did not run."""

    def __init__(self, kind, ran, detail=""):
        super().__init__(f"{kind} {detail}".strip())
        self.kind = kind
        self.ran = ran
        self.detail = detail


class AnswerHead:
    """The head of a backend's answer, as received. `fields`: (name, value); `body`: whether one follows."""

    __slots__ = ("status", "fields", "body")


cdef class Exchange:
    cdef Reactor reactor
    cdef Client client               # None once it has gone
    cdef Upstream upstream
    cdef Endpoint endpoint
    cdef readonly object listener
    cdef readonly int status         # of the answer; 0 before it
    cdef uint8_t phase
    cdef uint8_t method
    cdef uint8_t minor
    cdef readonly bint fast          # the fast lane has it
    cdef public bint keeps_running   # the client's leaving does not stop the backend's work (legacy POST)
    cdef bint abandoned             # its client has left, and it runs on
    cdef public bint event_stream    # the answer is one
    cdef public object note          # the story's own
    cdef public object on_end        # called with the exchange when it is over
    cdef readonly str over           # why it ended; None while it goes on
    cdef uint64_t started_ns
    # the request
    cdef Buffer head
    cdef uint32_t head_size          # in the client's inbox (fast lane), the body behind it
    cdef uint8_t body_kind
    cdef bint body_done              # the last byte has come
    cdef bint request_sent           # and has been sent
    cdef bint request_broken         # the backend takes no more of it; its answer may come all the same
    cdef bint expects                # waits for 100 Continue
    cdef readonly bint modern        # a revision without sessions, by its version header
    cdef bint keep                   # the client's connection may live on
    cdef bint kept_lost              # too much to send again
    cdef int64_t body_left
    cdef int64_t body_seen
    cdef Chunk body_chunk
    cdef Buffer kept
    cdef Buffer trailers
    cdef Py_ssize_t kept_max
    cdef Py_ssize_t cursor           # how much of `kept` the present upstream got
    # the answer
    cdef Buffer answer_head
    cdef Buffer held
    cdef uint8_t answer_kind
    cdef bint answer_done
    cdef bint head_sent              # before its body, on the story's word
    cdef bint reframe                # chunks are decoded and made anew
    cdef bint bare                   # reframe for a client of HTTP/1.0: no chunks at all
    cdef bint own_stream             # the body is ours, piece by piece
    cdef bint streaming              # counted as an open stream
    cdef bint cutting                # end the stream after the next whole event
    cdef int64_t answer_left
    cdef tuple words                 # looked for in the answer as it passes (sieve.pyx); None: it is not searched
    cdef object on_word
    cdef Py_ssize_t held_max
    cdef Py_ssize_t found_size       # of what is held: searched, and let go at the next `relay`
    cdef uint32_t held_tail
    cdef Chunk answer_chunk
    cdef uint64_t gap_ms             # since when the answer has paused; 0: it has not (nagle.pyx)
    cdef bint hurried
    # the story's wait
    cdef uint8_t wait
    cdef Py_ssize_t wait_bytes
    cdef object waiter
    cdef str failure                 # what stopped the fast lane: an UpstreamLost kind
    cdef bint failure_ran
    cdef str failure_detail
    # the fast lane
    cdef bint confirms               # a 2xx answer is the session's first
    cdef readonly uint8_t entry_flags  # of the table's entry that it went by; that may change while the backend thinks
    cdef uint32_t session_at         # the session id in the head
    cdef uint32_t session_size

    def __dealloc__(self):
        buffer_free(&self.head)
        buffer_free(&self.kept)
        buffer_free(&self.trailers)
        buffer_free(&self.answer_head)
        buffer_free(&self.held)

    # ---- what is asked

    cdef const char* head_bytes(self, Py_ssize_t* size) except NULL:
        if self.head.data != NULL:
            size[0] = buffer_size(&self.head)
            return self.head.data + self.head.start
        if self.client is None or self.client.inbox.data == NULL:
            raise ExchangeOver(self.over or "client_gone")
        size[0] = self.head_size
        return self.client.inbox.data + self.client.inbox.start

    cdef Head* scan(self) except NULL:
        """The request's head, scanned into the reactor's scratch; offsets are into head_bytes."""
        cdef Py_ssize_t size
        cdef const char* p = self.head_bytes(&size)
        cdef Head* head = &self.reactor.request_head
        if scan_request_head(p, size, head) != COMPLETE:
            raise AssertionError("a head that was whole is not")
        strip_authority(p, head)
        return head

    @property
    def method(self):
        """The HTTP method, as received."""
        cdef Head* head = self.scan()
        cdef Py_ssize_t size
        cdef const char* p = self.head_bytes(&size)
        return p[head.start:head.start + head.method_length]

    @property
    def method_name(self):
        """The HTTP method as metrics name it: one of a fixed set, or `other`."""
        return _METHOD_NAMES[self.method]

    @property
    def target(self):
        """The request's target in origin form."""
        cdef Head* head = self.scan()
        cdef Py_ssize_t size
        cdef const char* p = self.head_bytes(&size)
        return p[head.target:head.target + head.target_length]

    @property
    def fields(self):
        """[(name, value)] of the request, as received."""
        cdef Head* head = self.scan()
        cdef Py_ssize_t size
        return _field_list(self.head_bytes(&size), head)

    @property
    def minor(self):
        return self.minor

    @property
    def peer(self):
        """The client's address, without port."""
        return "" if self.client is None else self.client.peer[:self.client.peer_length].decode("ascii")

    @property
    def has_body(self):
        return self.body_kind != B_NONE

    @property
    def body(self):
        """(bytes, whole): what is kept of the request's body."""
        cdef char* p
        cdef Py_ssize_t n = buffer_size(&self.kept)
        if self.fast and self.client is not None and self.client.inbox.data != NULL:
            p = <char*>(self.client.inbox.data + self.client.inbox.start + self.head_size)
            return p[:self.body_left], True
        return (self.kept.data[self.kept.start:self.kept.start + n] if n else b""), bool(self.body_done and not self.kept_lost)

    @property
    def endpoint_index(self):
        """The same replica by its index; -1 before there is one."""
        return self.endpoint.index if self.endpoint is not None else -1

    @property
    def session(self):
        """The session id of a request in the fast lane; None otherwise."""
        cdef char* p
        if not self.fast or self.client is None or self.client.inbox.data == NULL:
            return None
        p = <char*>(self.client.inbox.data + self.client.inbox.start + self.session_at)
        return p[:self.session_size].decode("ascii")

    @property
    def awaits_continue(self):
        """The client waits for 100 Continue before it sends its body."""
        return bool(self.expects)

    @property
    def body_length(self):
        """Bytes of the body that the head promised; None when it is chunked."""
        if self.body_kind == B_CHUNKED:
            return None
        return self.body_seen + self.body_left

    @property
    def client_here(self):
        return self.client is not None

    @property
    def may_repeat(self):
        """Can the request be sent again: is all that was received of its body still here?"""
        return not self.kept_lost

    @property
    def seconds(self):
        """How long it has taken so far."""
        return (fp_clock_ns() - self.started_ns) / 1e9

    @property
    def endpoint_url(self):
        """The replica that has it, or had it last; empty for an answer of our own."""
        return self.endpoint.url if self.endpoint is not None else ""

    # ---- the story's verbs

    cdef object wait_for(self, int what, Py_ssize_t size):
        if self.waiter is not None and not self.waiter.done():
            raise RuntimeError("one wait at a time")
        self.waiter = self.reactor.loop.create_future()
        self.wait = <uint8_t>what
        self.wait_bytes = size
        return self.waiter

    cdef void tell(self, value) noexcept:
        cdef object waiter = self.waiter
        self.waiter = None
        self.wait = W_NONE
        if waiter is not None and not waiter.done():
            waiter.set_result(value)

    cdef void tell_error(self, error) noexcept:
        cdef object waiter = self.waiter
        self.waiter = None
        self.wait = W_NONE
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    cdef int must_live(self) except -1:
        if self.over is not None:
            raise ExchangeOver(self.over)
        return 0

    def peek(self, Py_ssize_t limit):
        """Future of (bytes, whole): the body's beginning, up to about `limit`, without giving it to anybody."""
        self.must_live()
        future = self.wait_for(W_PEEK, limit)
        self.pump_request()
        return future

    def forward(self, Upstream upstream not None, int rule=S_KEEP, bytes session=b"", bytes target=None):
        """Give the request to a backend: future of its AnswerHead, UpstreamLost, or ExchangeOver.

        `rule` says what becomes of Mcp-Session-Id; `target` takes the place of the request's own.

        After an UpstreamLost, or an answer that was dropped, it can be forwarded again while `may_repeat`.
        """
        cdef Head* head
        cdef Py_ssize_t size
        cdef const char* p
        cdef Buffer* out = &self.reactor.out
        if self.over is not None:
            self.reactor.give_back(upstream)
            raise ExchangeOver(self.over)
        if self.kept_lost:
            self.reactor.give_back(upstream)
            raise RuntimeError("the body is gone")
        head = self.scan()
        p = self.head_bytes(&size)
        build_request(out, p, head, self.client, upstream.endpoint, rule, session, PyBytes_GET_SIZE(session), target)
        future = self.wait_for(W_HEAD, 0)
        self.attach(upstream)
        self.send_kept(out)
        if upstream.write(out.data + out.start, buffer_size(out)) < 0:
            self.request_broken = True
            upstream.readable = True
        out.start = out.end = 0
        if self.body_done and self.cursor == buffer_size(&self.kept):
            self.request_sent = True
        else:
            self.pump_request()  # what is kept may be more than one piece
        if self.upstream is not None and self.phase == P_SENT:
            due(self.upstream, DUE_RESPONSE)
            if self.upstream.readable:
                self.upstream.answer_ready()
        return future

    def inspect(self, Py_ssize_t limit):
        """Future of (bytes, whole): the answer's body, decoded and held back, until `limit` or its end."""
        self.must_live()
        if self.phase != P_HEAD:
            raise RuntimeError("no answer to inspect")
        self.reframe = True
        future = self.wait_for(W_INSPECT, limit)
        self.pump_answer()
        return future

    def replace_held(self, bytes body):
        """Put other bytes in the place of those that `inspect` gave (a chunked answer, or one until the end)."""
        buffer_free(&self.held)
        if buffer_put(&self.held, body, len(body)) < 0:
            raise MemoryError

    def drop_answer(self):
        """The answer that has come is not wanted; the request is the story's again."""
        if self.upstream is not None:
            self.detach(self.answer_done)
        buffer_free(&self.answer_head)
        buffer_free(&self.held)
        self.answer_done = False
        self.phase = P_STORY
        self.status = 0
        if self.client is None:
            self.finish("client_gone", True)  # it left while a backend had the request; nobody waits for another try

    def send_head(self, int rule=S_KEEP, bytes session=b""):
        """Let the answer's head go, and keep its body back until `relay`; `inspect` may look at it in between."""
        cdef Head* head = &self.reactor.answer_head
        cdef Buffer* out = &self.reactor.out
        self.must_live()
        if self.phase != P_HEAD or self.head_sent:
            raise RuntimeError("no head to send")
        scan_response_head(self.answer_head.data, buffer_size(&self.answer_head), head)
        self.reframe = True
        self.begin_answer(out, self.answer_head.data, head, rule, session, PyBytes_GET_SIZE(session))
        self.head_sent = True
        self.phase = P_HEAD
        self.flush_answer(out)

    def seek(self, tuple words not None, on_word not None, Py_ssize_t limit):
        """Look for words in the answer while it is relayed: `on_word(exchange, bytes)` is called with the whole events,
        or the body, that hold one; the answer waits there until `relay` is called again. What is longer than `limit`
        is not searched."""
        self.must_live()
        if self.phase != P_HEAD or self.head_sent:
            raise RuntimeError("no answer to search")
        if self.answer_kind == B_NONE or (self.answer_kind == B_COUNTED and self.answer_left > limit
                                          and not self.event_stream):
            return
        self.reframe = True
        self.words = words
        self.on_word = on_word
        self.held_max = limit

    def request_for(self, Endpoint endpoint not None):
        """The whole request as `forward` would send it to this replica, without its session id; the body is known."""
        cdef Py_ssize_t size, n = buffer_size(&self.kept)
        cdef Buffer* out = &self.reactor.out
        cdef Head* head
        cdef const char* p
        self.must_live()
        if not self.body_done or self.kept_lost:
            raise RuntimeError("the body is not here")
        head = self.scan()
        p = self.head_bytes(&size)
        build_request(out, p, head, self.client, endpoint, S_STRIP, b"", 0, None)
        if n:
            self.frame_request(out, self.kept.data + self.kept.start, n)
        self.end_request_frames(out)
        request = out.data[out.start:out.end]
        out.start = out.end = 0
        return request

    def relay(self, int rule=S_KEEP, bytes session=b""):
        """Let the answer flow to the client, from its head on. It ends without the story."""
        cdef Head* head = &self.reactor.answer_head
        cdef Buffer* out = &self.reactor.out
        cdef Py_ssize_t ready
        self.must_live()
        if self.phase != P_HEAD:
            raise RuntimeError("no answer to relay")
        self.wait = W_NONE  # an inspection that was given up
        self.waiter = None
        if not self.head_sent:
            scan_response_head(self.answer_head.data, buffer_size(&self.answer_head), head)
            self.begin_answer(out, self.answer_head.data, head, rule, session, PyBytes_GET_SIZE(session))
        self.phase = P_POUR
        buffer_free(&self.answer_head)
        if self.on_end is None and not self.reactor.logs_access:
            buffer_free(&self.head)  # an event stream may live for hours
        buffer_free(&self.kept)
        self.kept_lost = True
        self.cursor = 0
        if self.held.data != NULL:
            ready = buffer_size(&self.held) if self.words is None else self.found_size
            if self.client is not None:
                self.frame(out, self.held.data + self.held.start, ready)
            buffer_skip(&self.held, ready)
            self.found_size = 0
        if self.answer_done and self.held.data == NULL:
            self.finish_frames(out)
            if self.flush_answer(out) == 0:
                self.end_answer()
            return
        if self.pump_answer() == 0 and self.phase == P_POUR and not self.request_sent:
            self.pump_request()

    def answer(self, int status, list fields, bytes body, bint close=False):
        """An answer of our own, whole. `fields` without framing and Connection."""
        cdef Buffer* out = &self.reactor.out
        cdef bytes head
        self.must_live()
        if self.head_sent:  # of an answer that broke: nothing else can be said, and the client must see the cut
            self.finish("backend_cut", True)
            return
        if self.upstream is not None:
            self.detach(False)
        self.status = status
        self.phase = P_POUR
        self.answer_done = True
        if close or not self.reusable():
            self.keep = False
        head = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b""))
        for name, value in fields:
            head += b"%s: %s\r\n" % (name, value)
        if status >= 200 and status not in (204, 304):
            head += b"Content-Length: %d\r\n" % len(body)
        if not self.keep:
            head += b"Connection: close\r\n"
        elif self.minor == 0:
            head += b"Connection: keep-alive\r\n"
        head += b"\r\n"
        if self.method != M_HEAD and status not in (204, 304):
            head += body
        if self.client is not None and self.client.write(head, len(head)) < 0:
            self.client_gone()
            return
        self.end_answer()

    # A body of our own, piece by piece: what is not relayed from one backend (merged streams, bridges) is told so.

    def open_stream(self, int status, list fields):
        """Begin an answer of our own whose body is sent piece by piece. `fields` without framing and Connection."""
        cdef bytes head
        self.must_live()
        if self.upstream is not None:
            self.detach(False)
        self.status = status
        self.phase = P_POUR
        self.answer_kind = B_CHUNKED
        self.reframe = self.own_stream = True
        self.bare = self.minor == 0
        if self.bare or not self.reusable():
            self.keep = False
        head = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b""))
        for name, value in fields:
            head += b"%s: %s\r\n" % (name, value)
            self.event_stream |= name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
        if not self.bare:
            head += b"Transfer-Encoding: chunked\r\n"
        head += b"\r\n" if self.keep else b"Connection: close\r\n\r\n"
        if self.event_stream:
            self.streaming = True
            self.reactor.streams_open += 1
        if self.client is not None and self.client.write(head, len(head)) < 0:
            self.client_gone()
            raise ExchangeOver(self.over)

    def send(self, bytes data):
        """A piece of that body, whole events if it is an event stream. False: the client lags, await `taken` first."""
        cdef Buffer* out = &self.reactor.out
        self.must_live()
        if not self.own_stream:
            raise RuntimeError("no stream of our own is open")
        self.answer_chunk.tail = tail_of(self.answer_chunk.tail, data, len(data))
        self.frame(out, data, len(data))
        if self.flush_answer(out) < 0:
            raise ExchangeOver(self.over)
        return self.client is None or not self.client.backed_up()

    def taken(self):
        """Future of None: the client has taken all that was sent."""
        self.must_live()
        future = self.wait_for(W_TAKEN, 0)
        if self.client is None or not self.client.backed_up():
            self.tell(None)
        else:
            due(self.client, DUE_STALL)
        return future

    def close_stream(self):
        """The body is complete."""
        cdef Buffer* out = &self.reactor.out
        self.must_live()
        self.answer_done = True
        self.finish_frames(out)
        if self.flush_answer(out) == 0:
            self.end_answer()

    def abort(self, str reason="aborted"):
        """End it without another byte; the client's connection is closed."""
        if self.over is None:
            self.finish(reason, True)

    # ---- between client and upstream

    cdef void attach(self, Upstream upstream) noexcept:
        self.upstream = upstream
        self.endpoint = upstream.endpoint
        upstream.exchange = self
        upstream.mark = upstream.sent
        upstream.verdicts = 0
        upstream.state = U_BUSY
        upstream.endpoint.busy += 1
        upstream.endpoint.in_flight += 1
        upstream.endpoint.calls += self.method != M_GET
        undue(upstream)
        self.phase = P_SENT
        self.cursor = 0
        self.request_broken = False
        self.request_sent = False
        self.status = 0

    cdef void detach(self, bint reusable) noexcept:
        """Part from the upstream: back to its pool when the conversation on it is whole, closed otherwise."""
        cdef Upstream upstream = self.upstream
        self.upstream = None
        if upstream is None:
            return
        upstream.exchange = None
        upstream.endpoint.busy -= 1
        upstream.endpoint.in_flight -= 1
        upstream.endpoint.calls -= self.method != M_GET
        if reusable and upstream.reusable and self.request_sent and not self.request_broken:
            self.reactor.give_back(upstream)
        else:
            upstream.shut()

    cdef bint reusable(self) noexcept:
        """May the client send another request on its connection after this one?"""
        cdef int64_t left = self.body_left if self.body_kind == B_COUNTED else 0
        if not self.keep or self.reactor.closing or self.client is None or self.client.hung:
            return False
        return self.body_done or (not self.expects and left <= DISCARD_BYTES_MAX)

    # ---- the request's body

    cdef int send_kept(self, Buffer* out) except -1:
        """The kept part of the body behind a head in `out`, so that a small request is one write."""
        cdef Py_ssize_t n = buffer_size(&self.kept) - self.cursor
        if n > PIECE_LARGE:
            n = PIECE_LARGE
        if n > 0:
            self.frame_request(out, self.kept.data + self.kept.start + self.cursor, n)
            self.cursor += n
        if self.body_done and self.cursor == buffer_size(&self.kept):
            self.end_request_frames(out)
        return 0

    cdef int frame_request(self, Buffer* out, const char* p, Py_ssize_t n) except -1:
        return append_frame(out, p, n, self.body_kind == B_CHUNKED)

    cdef int end_request_frames(self, Buffer* out) except -1:
        if self.body_kind != B_CHUNKED:
            return 0
        if buffer_room(out, buffer_size(&self.trailers) + 8) < 0:
            raise MemoryError
        put(out, b"0\r\n", 3)
        put_trailers(out, self.trailers.data + self.trailers.start, buffer_size(&self.trailers))
        put(out, b"\r\n", 2)
        return 0

    cdef int pump_request(self) except -1:
        """Move the body on as far as it goes without waiting: client -> kept and upstream."""
        cdef Buffer* out = &self.reactor.out
        cdef Client client = self.client
        cdef Py_ssize_t n
        cdef int got
        while client is not None and self.over is None and not self.request_sent:
            if self.upstream is not None and not self.request_broken:
                if self.upstream.backed_up():
                    if client.due_list == DUE_BODY:
                        undue(client)
                    return 0
                if self.cursor < buffer_size(&self.kept) or self.body_done:
                    self.send_kept(out)
                    n = self.cursor
                    if out.end > out.start and self.send_upstream(out) < 0:
                        return 0
                    if self.body_done and n == buffer_size(&self.kept):
                        self.request_sent = True
                        if self.phase == P_SENT and self.upstream is not None:
                            due(self.upstream, DUE_RESPONSE)
                    continue
                if buffer_size(&self.kept) > self.reactor.replay_bytes_max:
                    self.forget_kept()
            elif self.wait == W_PEEK:
                if self.body_done or buffer_size(&self.kept) >= self.wait_bytes:
                    if client.due_list == DUE_BODY:
                        undue(client)
                    n = buffer_size(&self.kept)
                    self.tell((self.kept.data[self.kept.start:self.kept.start + n] if n else b"", bool(self.body_done)))
                    return 0
            else:
                return 0
            got = self.take_body()
            if got <= 0:
                return 0
        return 0

    cdef int send_upstream(self, Buffer* out) except -2:
        """0, or -1 when the backend takes no more: then its answer, if there is one, is read."""
        cdef Upstream upstream = self.upstream
        cdef int rc = upstream.write(out.data + out.start, buffer_size(out))
        out.start = out.end = 0
        if rc == 0:
            if self.phase == P_SENT:
                due(upstream, DUE_RESPONSE)
            return 0
        self.request_broken = True
        upstream.readable = True
        upstream.answer_ready()
        return -1

    cdef void forget_kept(self) noexcept:
        buffer_free(&self.kept)
        self.cursor = 0
        self.kept_lost = True

    cdef int take_body(self) except -2:
        """The next piece of the body, decoded, into `kept` or straight to the upstream. 1: went on; 0: nothing there."""
        cdef Client client = self.client
        cdef Buffer* out = &self.reactor.out
        cdef Py_ssize_t size = buffer_size(&client.inbox), consumed, produced
        cdef Py_ssize_t got
        cdef char* p
        if size == 0:
            if self.expects:
                self.expects = False
                if self.phase <= P_SENT and client.write(b"HTTP/1.1 100 Continue\r\n\r\n", 25) < 0:
                    self.client_gone()
                    return 0
            got = client.fill(PIECE_LARGE if self.body_seen > PIECE else PIECE)
            if got == GOT_NOTHING:
                due(client, DUE_BODY)
                return 0
            if got <= 0:
                self.client_gone()
                return 0
            size = buffer_size(&client.inbox)
        p = client.inbox.data + client.inbox.start
        if self.body_kind == B_COUNTED:
            consumed = produced = size if size < self.body_left else <Py_ssize_t>self.body_left
            self.body_left -= consumed
            self.body_done = self.body_left == 0
        else:
            if chunk_scan(&self.body_chunk, p, size, True, &consumed, &produced, &self.trailers) == REFUSED:
                self.refuse(400, b"malformed chunk")
                return 0
            self.body_done = self.body_chunk.state == C_DONE
        self.body_seen += produced
        if self.body_seen > self.reactor.body_bytes_max:
            self.refuse(413, b"body too large")
            return 0
        self.expects = False
        if self.upstream is None or self.request_broken \
                or (not self.kept_lost and buffer_size(&self.kept) + produced <= self.reactor.replay_bytes_max):
            if not self.request_broken and produced and buffer_put(&self.kept, p, produced) < 0:
                raise MemoryError
        else:
            if not self.kept_lost:
                self.forget_kept()
            if produced:
                self.frame_request(out, p, produced)
            if self.body_done:
                self.end_request_frames(out)
                self.request_sent = True
        buffer_skip(&client.inbox, consumed)
        if client.due_list == DUE_BODY:
            undue(client)
        if out.end > out.start and self.send_upstream(out) < 0:
            return 0
        return 1

    cdef int refuse(self, int status, const char* reason) except -1:
        """The relay's own word about a request that is broken half-way."""
        cdef Client client = self.client
        cdef bint speak = self.phase <= P_HEAD and not self.head_sent and client is not None
        if not speak or client is None:
            self.finish("refused", True)
            return 0
        if self.upstream is not None:
            self.detach(False)
        self.status = status
        self.phase = P_POUR
        self.tell_error(ExchangeOver("refused"))
        client.say_refusal(status, reason)
        self.finish("refused", False)
        client.linger()
        return 0

    # ---- the answer

    cdef int begin_answer(self, Buffer* out, const char* p, Head* head, int rule,
                          const char* session, Py_ssize_t session_length) except -1:
        """The answer's head into `out`, and the way its body will be framed."""
        cdef bint chunked = False
        self.phase = P_POUR
        self.bare = self.minor == 0
        if self.answer_kind == B_UNTIL_CLOSE:
            self.reframe = True
        if self.answer_kind == B_CHUNKED and self.bare:
            self.reframe = True
        if self.reactor.closing and self.event_stream:
            self.cutting = True
        if self.answer_kind == B_CHUNKED or self.answer_kind == B_UNTIL_CLOSE:
            if self.bare:
                self.keep = False
            else:
                chunked = True
        if not self.reusable():
            self.keep = False
        if self.client is None:
            return 0
        if self.event_stream:
            self.streaming = True
            self.reactor.streams_open += 1
            self.endpoint.streams += 1
        return build_answer(out, p, head, rule, session, session_length, chunked, not self.keep, self.minor == 0)

    cdef int frame(self, Buffer* out, const char* p, Py_ssize_t n) except -1:
        """p[0:n] of the decoded answer as the client shall see it."""
        return append_frame(out, p, n, self.reframe and not self.bare and self.answer_kind != B_COUNTED)

    cdef int finish_frames(self, Buffer* out) except -1:
        if self.reframe and not self.bare and (self.answer_kind == B_CHUNKED or self.answer_kind == B_UNTIL_CLOSE):
            if buffer_room(out, 8) < 0:
                raise MemoryError
            put(out, b"0\r\n\r\n", 5)
        return 0

    cdef int flush_answer(self, Buffer* out) except -2:
        """Send what is in `out`: 0, or -1 when the client has gone (and has been dealt with)."""
        cdef int rc = 0
        if out.end > out.start:
            if self.client is not None:
                rc = self.client.write(out.data + out.start, buffer_size(out))
            out.start = out.end = 0
            if rc < 0:
                self.client_gone()
                return -1
        return 0

    cdef int pump_answer(self) except -1:
        """Move the answer on as far as it goes without waiting. What is in `out` (a head) leaves with the first piece."""
        cdef Buffer* out = &self.reactor.out
        cdef Upstream upstream
        cdef Py_ssize_t got, size
        if self.wait == W_TAKEN and not self.client.backed_up():
            self.tell(None)
        while self.over is None and self.upstream is not None:
            upstream = self.upstream
            if self.wait == W_INSPECT:
                if self.answer_done or buffer_size(&self.held) >= self.wait_bytes:
                    size = buffer_size(&self.held)
                    self.tell((self.held.data[self.held.start:self.held.start + size] if size else b"",
                               bool(self.answer_done)))
                    return 0
            elif self.phase != P_POUR:
                return 0
            elif self.client is not None and self.client.backed_up():
                if self.flush_answer(out) == 0:
                    due(self.client, DUE_STALL)
                return 0
            elif self.answer_done or (self.cutting and self.cut_here(out)):
                if self.held.data != NULL and release(self, out, buffer_size(&self.held)) < 0:
                    return 0
                if not self.cutting:
                    self.finish_frames(out)
                if self.flush_answer(out) == 0:
                    self.end_answer()
                return 0
            if self.answer_kind == B_NONE:
                self.answer_done = True
                continue
            size = buffer_size(&upstream.inbox)
            if size == 0:
                if self.answer_kind == B_COUNTED and self.answer_left == 0:
                    self.answer_done = True
                    continue
                if out.end > out.start and self.flush_answer(out) < 0:
                    continue
                got = upstream.fill(PIECE_LARGE if self.answer_left > PIECE else PIECE)
                if got == GOT_NOTHING:
                    if self.gap_ms == 0:
                        gap_begins(self, upstream)
                    return 0
                if self.gap_ms:
                    gap_ends(self, upstream)
                if got <= 0:
                    if got == GOT_END and self.answer_kind == B_UNTIL_CLOSE:
                        self.answer_done = True
                        upstream.reusable = False
                        continue
                    self.answer_broke()
                    return 0
            if self.step_answer(out) < 0:
                return 0
        return 0

    cdef int step_answer(self, Buffer* out) except -2:
        """One piece from the upstream's inbox on its way. -1: the exchange has ended, or the client is gone."""
        cdef Upstream upstream = self.upstream
        cdef char* p = upstream.inbox.data + upstream.inbox.start
        cdef Py_ssize_t size = buffer_size(&upstream.inbox), consumed = size, produced = size
        cdef Py_ssize_t whole = -1
        cdef bint sifts = self.words is not None
        cdef uint32_t tail = self.answer_chunk.tail
        cdef bint raw = not self.reframe
        cdef int rc = 0
        if self.answer_kind == B_COUNTED:
            if size > self.answer_left:
                consumed = produced = <Py_ssize_t>self.answer_left
            self.answer_left -= consumed
            self.answer_done = self.answer_left == 0
            raw = True
        elif self.answer_kind == B_CHUNKED:
            if raw and self.cutting and chunk_between(&self.answer_chunk):
                self.reframe = True
                raw = False
            if chunk_scan(&self.answer_chunk, p, size, not raw, &consumed, &produced, NULL) == REFUSED:
                self.answer_broke()
                return -1
            if raw:
                produced = consumed
            self.answer_done = self.answer_chunk.state == C_DONE
        elif self.answer_kind == B_UNTIL_CLOSE:
            self.answer_chunk.tail = tail_of(self.answer_chunk.tail, p, size)
        if self.cutting and not raw and not self.answer_done:
            whole = last_event_end(tail, p, produced)
            if whole >= 0:
                produced = whole
                self.answer_chunk.tail = 0
        if self.wait == W_INSPECT:
            if buffer_put(&self.held, p, produced) < 0:
                raise MemoryError
        elif sifts:
            whole = hold(self, p, produced)
        elif self.client is not None and produced:
            if raw and out.end == out.start:
                rc = self.client.write(p, produced)
            elif raw:
                if buffer_put(out, p, produced) < 0:
                    raise MemoryError
            else:
                self.frame(out, p, produced)
        buffer_skip(&upstream.inbox, consumed)  # before anything that may read on: a client that is gone, for one
        if rc < 0:
            self.client_gone()
            return -1
        if sifts and self.wait != W_INSPECT and sift(self, out, whole) < 0:
            return -1
        if out.end > out.start and (produced > PIECE or not self.answer_done) and self.flush_answer(out) < 0:
            return -1
        return 0

    cdef bint cut_here(self, Buffer* out) noexcept:
        """Drain: is the stream at the end of an event, where it can be ended cleanly? Then it is."""
        if not event_ended(self.answer_chunk.tail) or self.answer_kind < B_CHUNKED:
            return False
        if not self.reframe and not chunk_between(&self.answer_chunk):
            return False
        if not self.bare and buffer_put(out, b"0\r\n\r\n", 5) < 0:
            return False
        self.keep = False
        if self.upstream is not None:
            self.upstream.reusable = False
        return True

    def cut(self):
        """End an event stream cleanly, after the event that is under way."""
        if self.over is None and self.phase == P_POUR and self.event_stream:
            self.cutting = True
            if self.own_stream and event_ended(self.answer_chunk.tail):
                self.close_stream()
            else:
                self.pump_answer()

    cdef int answer_broke(self) except -1:
        """The backend stopped in the middle of an answer: the client must see that it is cut."""
        if self.wait == W_INSPECT:
            self.detach(False)
            self.phase = P_STORY
            self.tell_error(UpstreamLost("lost", True, "in the middle of the answer"))
            return 0
        self.reactor.out.start = self.reactor.out.end = 0
        self.finish("backend_cut", True)
        return 0

    cdef int end_answer(self) except -1:
        """The last byte of the answer is on its way."""
        cdef Client client = self.client
        if self.upstream is not None:
            self.detach(True)
        self.finish("drained" if self.cutting else "done", False)
        if client is not None and not client.closed:
            client.exchange_ended(self)
        return 0

    cdef int upstream_failed(self, str kind, str detail="") except -1:
        """No head came: lost, timeout or protocol."""
        cdef bint ran = True
        if kind == "lost" and self.upstream is not None:
            ran = not self.upstream.surely_untouched()
        self.detach(False)
        self.phase = P_STORY
        if self.client is None:
            self.tell_error(UpstreamLost(kind, ran, detail))
            self.finish("client_gone", True)
        elif self.waiter is not None:
            self.tell_error(UpstreamLost(kind, ran, detail))
        elif self.fast:
            self.failure = kind
            self.failure_ran = ran
            self.failure_detail = detail
            self.hand_over()
        return 0

    cdef int hand_over(self) except -1:
        """The fast lane gives up, at a head or at a failure: the story takes the exchange as it stands."""
        cdef Client client = self.client
        cdef Head* head
        self.fast = False
        if client is None:
            self.finish("client_gone", True)
            return 0
        if buffer_exact(&self.head, client.inbox.data + client.inbox.start, self.head_size) < 0:
            raise MemoryError
        buffer_skip(&client.inbox, self.head_size)
        if self.body_left and buffer_put(&self.kept, client.inbox.data + client.inbox.start, self.body_left) < 0:
            raise MemoryError
        if self.body_left:
            buffer_skip(&client.inbox, self.body_left)
        self.body_seen = self.body_left
        self.body_left = 0
        self.cursor = buffer_size(&self.kept)
        self.reactor.handler.resume(self, self.door_answer() if self.phase == P_HEAD else None)
        return 0

    @property
    def lost(self):
        """What stopped the fast lane, as the UpstreamLost that `forward` would have raised; None otherwise."""
        if self.failure is None:
            return None
        return UpstreamLost(self.failure, bool(self.failure_ran), self.failure_detail)

    cdef object door_answer(self):
        """The answer's head as Python sees it. It is moved out of the upstream's inbox first."""
        cdef Head* head = &self.reactor.answer_head
        cdef const char* p
        if self.answer_head.data == NULL:
            p = self.upstream.inbox.data + self.upstream.inbox.start
            scan_response_head(p, buffer_size(&self.upstream.inbox), head)
            if buffer_exact(&self.answer_head, p, head.size) < 0:
                raise MemoryError
            buffer_skip(&self.upstream.inbox, head.size)
        p = self.answer_head.data
        scan_response_head(p, buffer_size(&self.answer_head), head)
        out = AnswerHead()
        out.status = head.status
        out.fields = _field_list(p, head)
        out.body = self.answer_kind != B_NONE
        return out

    # ---- the end

    cdef int client_gone(self) except -1:
        """The client has closed, or can't be reached any more."""
        cdef Client client = self.client
        if client is None:
            return 0
        client.exchange = None
        client.shut()
        self.client = None
        self.reactor.out.start = self.reactor.out.end = 0
        if self.keeps_running and self.body_done and self.phase != P_STORY and self.upstream is not None:
            self.abandoned = True
            (<Listener>self.listener).abandoned += 1
            if self.phase == P_POUR:
                return self.pump_answer()
            return 0
        self.finish("client_gone", True)
        return 0

    cdef int finish(self, str why, bint broken) except -1:
        """It is over. `broken`: the client's connection can't go on."""
        cdef Client client = self.client
        if self.over is not None:
            return 0
        self.over = why
        if self.upstream is not None:
            self.detach(False)
        if self.streaming:
            self.reactor.streams_open -= 1
            if not self.own_stream:
                self.endpoint.streams -= 1
        if self.abandoned:
            (<Listener>self.listener).abandoned -= 1
        self.phase = P_DONE
        self.reactor.count(self)
        if self.waiter is not None:
            self.tell_error(ExchangeOver(why))
        if self.on_end is not None:
            try:
                self.on_end(self)
            except Exception:
                logger.exception("on_end failed")
            self.on_end = None
        if self.reactor.logs_access:
            try:
                self.reactor.handler.access(self)
            except Exception:
                logger.exception("access log failed")
        buffer_free(&self.kept)
        buffer_free(&self.held)
        buffer_free(&self.answer_head)
        buffer_free(&self.trailers)
        if broken and client is not None:
            self.client = None
            client.exchange = None
            client.shut()
        return 0


cdef int append_frame(Buffer* out, const char* p, Py_ssize_t n, bint chunked) except -1:
    cdef char size[24]
    cdef int length
    if n == 0:
        return 0
    if buffer_room(out, n + 32) < 0:
        raise MemoryError
    if chunked:
        length = snprintf(size, 24, "%zx\r\n", <size_t>n)
        put(out, size, length)
    put(out, p, n)
    if chunked:
        put(out, b"\r\n", 2)
    return 0


cdef int put_trailers(Buffer* out, const char* p, Py_ssize_t n) except -1:
    """Trailer lines that may pass (RFC 9110 §6.5.1): none that frame, route or authenticate. `out` has the room."""
    cdef Head* head = <Head*>calloc(1, sizeof(Head))
    cdef Buffer lines
    cdef int i
    cdef Field* field
    if n == 0:
        free(head)
        return 0
    memset(&lines, 0, sizeof(Buffer))
    if head == NULL or buffer_put(&lines, p, n) < 0 or buffer_put(&lines, b"\r\n", 2) < 0:
        free(head)
        buffer_free(&lines)
        raise MemoryError
    head.minor = 1
    if _fields(lines.data, 0, n + 2, head, False) == COMPLETE:
        for i in range(head.fields_count):
            field = &head.fields[i]
            if field.name == F_OTHER:
                put(out, lines.data + field.start, field.end - field.start)
    free(head)
    buffer_free(&lines)
    return 0


cdef int strip_authority(const char* p, Head* head) noexcept nogil:
    """http://host/path becomes /path (RFC 9112 §3.2.2). REFUSED when the authority is not the Host, or no path follows."""
    cdef Py_ssize_t at = head.target, stop = at + head.target_length, start
    cdef Field* host
    if p[at] == c'/' or (p[at] == c'*' and head.target_length == 1 and head.method == M_OPTIONS):
        return COMPLETE
    if head.target_length > 7 and strncasecmp(p + at, b"http://", 7) == 0:
        start = at + 7
    elif head.target_length > 8 and strncasecmp(p + at, b"https://", 8) == 0:
        start = at + 8
    else:
        return _refuse(head, 400, b"malformed request target")
    at = start
    while at < stop and p[at] != c'/':
        at += 1
    if at == stop or head.host < 0:
        return _refuse(head, 400, b"malformed request target")
    host = &head.fields[head.host]
    if host.value_length != at - start or strncasecmp(p + start, p + host.value, at - start) != 0:
        return _refuse(head, 400, b"request target and Host differ")
    head.target = <uint32_t>at
    head.target_length = <uint32_t>(stop - at)
    return COMPLETE


_REASONS = {
    200: b"OK", 202: b"Accepted", 204: b"No Content", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 413: b"Content Too Large", 414: b"URI Too Long",
    417: b"Expectation Failed", 421: b"Misdirected Request", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}
