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
    W_EVENT


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
    cdef bint own_call               # a request of the proxy's own: there is no client, and never was (call.pyx)
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
    cdef bint sought                 # a 200 answer is to be searched (sessionless.pyx)
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
        if not self.fast or self.session_size == 0 or self.client is None or self.client.inbox.data == NULL:
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
        pump_request(self)
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
        join_upstream(self, upstream)
        send_kept(self, out)
        if upstream.write(out.data + out.start, buffer_size(out)) < 0:
            self.request_broken = True
            upstream.readable = True
        out.start = out.end = 0
        if self.body_done and self.cursor == buffer_size(&self.kept):
            self.request_sent = True
        else:
            pump_request(self)  # what is kept may be more than one piece
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
        pump_answer(self)
        return future

    def next_event(self, Py_ssize_t limit):
        """Future of the answer's next whole event, with the blank line that ends it; empty at the end of the answer."""
        self.must_live()
        if self.phase != P_HEAD:
            raise RuntimeError("no answer to read")
        self.reframe = True
        future = self.wait_for(W_EVENT, limit)
        pump_answer(self)
        return future

    def finish(self):
        """Nobody wants the rest of the answer: a call's connection serves again if it comes to its end soon."""
        if self.over is not None:
            return
        if not self.own_call or self.phase != P_HEAD or self.upstream is None:
            end_exchange(self, "finished", True)
            return
        self.wait = W_NONE
        self.waiter = None
        self.phase = P_POUR
        buffer_free(&self.held)
        self.reframe = True
        due(self.upstream, DUE_LINGER)
        pump_answer(self)

    def replace_held(self, bytes body):
        """Put other bytes in the place of those that `inspect` gave (a chunked answer, or one until the end)."""
        buffer_free(&self.held)
        if buffer_put(&self.held, body, len(body)) < 0:
            raise MemoryError

    def drop_answer(self):
        """The answer that has come is not wanted; the request is the story's again."""
        if self.upstream is not None:
            part_upstream(self, self.answer_done)
        buffer_free(&self.answer_head)
        buffer_free(&self.held)
        self.answer_done = False
        self.phase = P_STORY
        self.status = 0
        if self.client is None:
            end_exchange(self, "client_gone", True)  # it left while a backend had the request; nobody waits for another try

    def send_head(self, int rule=S_KEEP, bytes session=b""):
        """Let the answer's head go, and keep its body back until `relay`; `inspect` may look at it in between."""
        cdef Head* head = &self.reactor.answer_head
        cdef Buffer* out = &self.reactor.out
        self.must_live()
        if self.phase != P_HEAD or self.head_sent:
            raise RuntimeError("no head to send")
        scan_response_head(self.answer_head.data, buffer_size(&self.answer_head), head)
        self.reframe = True
        begin_answer(self, out, self.answer_head.data, head, rule, session, PyBytes_GET_SIZE(session))
        self.head_sent = True
        self.phase = P_HEAD
        flush_answer(self, out)

    def seek(self, tuple words not None, on_word not None, Py_ssize_t limit):
        """Look for words in the answer while it is relayed: `on_word(exchange, bytes)` is called with the whole events,
        or the body, that hold one; the answer waits there until `relay` is called again. What is longer than `limit`
        is not searched."""
        self.must_live()
        if self.phase != P_HEAD or self.head_sent:
            raise RuntimeError("no answer to search")
        search_answer(self, words, on_word, limit)

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
            frame_request(self, out, self.kept.data + self.kept.start, n)
        end_request_frames(self, out)
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
            begin_answer(self, out, self.answer_head.data, head, rule, session, PyBytes_GET_SIZE(session))
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
                frame_answer(self, out, self.held.data + self.held.start, ready)
            buffer_skip(&self.held, ready)
            self.found_size = 0
        if self.answer_done and self.held.data == NULL:
            finish_frames(self, out)
            if flush_answer(self, out) == 0:
                end_answer(self)
            return
        if pump_answer(self) == 0 and self.phase == P_POUR and not self.request_sent:
            pump_request(self)

    def answer(self, int status, list fields, bytes body, bint close=False):
        """An answer of our own, whole. `fields` without framing and Connection."""
        cdef Buffer* out = &self.reactor.out
        cdef bytes head
        self.must_live()
        if self.head_sent:  # of an answer that broke: nothing else can be said, and the client must see the cut
            end_exchange(self, "backend_cut", True)
            return
        if self.upstream is not None:
            part_upstream(self, False)
        self.status = status
        self.phase = P_POUR
        self.answer_done = True
        if close or not client_reusable(self):
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
            client_gone(self)
            return
        end_answer(self)

    # A body of our own, piece by piece: what is not relayed from one backend (merged streams, bridges) is told so.

    def open_stream(self, int status, list fields):
        """Begin an answer of our own whose body is sent piece by piece. `fields` without framing and Connection."""
        cdef bytes head
        self.must_live()
        if self.upstream is not None:
            part_upstream(self, False)
        self.status = status
        self.phase = P_POUR
        self.answer_kind = B_CHUNKED
        self.reframe = self.own_stream = True
        self.bare = self.minor == 0
        if self.bare or not client_reusable(self):
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
            client_gone(self)
            raise ExchangeOver(self.over)

    def send(self, bytes data):
        """A piece of that body, whole events if it is an event stream. False: the client lags, await `taken` first."""
        cdef Buffer* out = &self.reactor.out
        self.must_live()
        if not self.own_stream:
            raise RuntimeError("no stream of our own is open")
        self.answer_chunk.tail = tail_of(self.answer_chunk.tail, data, len(data))
        frame_answer(self, out, data, len(data))
        if flush_answer(self, out) < 0:
            raise ExchangeOver(self.over)
        return self.client is None or not self.client.backed_up()

    def charge(self, Endpoint endpoint not None):
        """Metrics and access lines name this replica as the one that has it."""
        self.endpoint = endpoint

    @property
    def lags(self):
        """The client has yet to take what was sent before."""
        return self.client is not None and self.client.backed_up()

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
        finish_frames(self, out)
        if flush_answer(self, out) == 0:
            end_answer(self)

    def abort(self, str reason="aborted"):
        """End it without another byte; the client's connection is closed."""
        if self.over is None:
            end_exchange(self, reason, True)

    def cut(self):
        """End an event stream cleanly, after the event that is under way."""
        if self.over is None and self.phase == P_POUR and self.event_stream:
            self.cutting = True
            if self.own_stream and event_ended(self.answer_chunk.tail):
                self.close_stream()
            else:
                pump_answer(self)

    @property
    def lost(self):
        """What stopped the fast lane, as the UpstreamLost that `forward` would have raised; None otherwise."""
        if self.failure is None:
            return None
        return UpstreamLost(self.failure, bool(self.failure_ran), self.failure_detail)
