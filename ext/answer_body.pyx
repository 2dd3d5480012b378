# The answer's side of an exchange: upstream.inbox -> [held, while the story inspects it] -> client. Chunks pass as they
# came, unless they must be made anew: for a client of HTTP/1.0, after an inspection, or to end a stream in a drain.


cdef int begin_answer(Exchange exchange, Buffer* out, const char* p, Head* head, int rule,
                      const char* session, Py_ssize_t session_length) except -1:
    """The answer's head into `out`, and the way its body will be framed."""
    cdef bint chunked = False
    exchange.phase = P_POUR
    exchange.bare = exchange.minor == 0
    if exchange.answer_kind == B_UNTIL_CLOSE:
        exchange.reframe = True
    if exchange.answer_kind == B_CHUNKED and exchange.bare:
        exchange.reframe = True
    if exchange.reactor.closing and exchange.event_stream and exchange.method == M_GET:
        exchange.cutting = True  # (the stream of a call has its answer yet to bring)
    if exchange.answer_kind == B_CHUNKED or exchange.answer_kind == B_UNTIL_CLOSE:
        if exchange.bare:
            exchange.keep = False
        else:
            chunked = True
    if not client_reusable(exchange):
        exchange.keep = False
    if exchange.client is None:
        return 0
    if exchange.event_stream:
        exchange.streaming = True
        exchange.reactor.streams_open += 1
        exchange.endpoint.streams += 1
    return build_answer(out, p, head, rule, session, session_length, chunked, not exchange.keep, exchange.minor == 0)


cdef int frame_answer(Exchange exchange, Buffer* out, const char* p, Py_ssize_t n) except -1:
    """p[0:n] of the decoded answer as the client shall see it."""
    return append_frame(out, p, n, exchange.reframe and not exchange.bare and exchange.answer_kind != B_COUNTED)


cdef int finish_frames(Exchange exchange, Buffer* out) except -1:
    if exchange.reframe and not exchange.bare and (exchange.answer_kind == B_CHUNKED or exchange.answer_kind == B_UNTIL_CLOSE):
        if buffer_room(out, 8) < 0:
            raise MemoryError
        put(out, b"0\r\n\r\n", 5)
    return 0


cdef int flush_answer(Exchange exchange, Buffer* out) except -2:
    """Send what is in `out`: 0, or -1 when the client has gone (and has been dealt with)."""
    cdef int rc = 0
    if out.end > out.start:
        if exchange.client is not None:
            rc = exchange.client.write(out.data + out.start, buffer_size(out))
        out.start = out.end = 0
        if rc < 0:
            client_gone(exchange)
            return -1
    return 0


cdef int pump_answer(Exchange exchange) except -1:
    """Move the answer on as far as it goes without waiting. What is in `out` (a head) leaves with the first piece."""
    cdef Buffer* out = &exchange.reactor.out
    cdef Upstream upstream
    cdef Py_ssize_t got, size
    if exchange.wait == W_TAKEN and not exchange.client.backed_up():
        exchange.tell(None)
    while exchange.over is None and exchange.upstream is not None:
        upstream = exchange.upstream
        if exchange.wait == W_INSPECT:
            if exchange.answer_done or buffer_size(&exchange.held) >= exchange.wait_bytes:
                size = buffer_size(&exchange.held)
                exchange.tell((exchange.held.data[exchange.held.start:exchange.held.start + size] if size else b"",
                           bool(exchange.answer_done)))
                return 0
        elif exchange.wait == W_EVENT:
            if tell_event(exchange):
                return 0
            if exchange.answer_done:
                exchange.tell(b"")
                return 0
            if buffer_size(&exchange.held) > exchange.wait_bytes:
                exchange.tell_error(UpstreamLost("protocol", True, "an event is too large"))
                end_call(exchange, "protocol")
                return 0
        elif exchange.phase != P_POUR:
            return 0
        elif exchange.client is not None and exchange.client.backed_up():
            if flush_answer(exchange, out) == 0:
                due(exchange.client, DUE_STALL)
            return 0
        elif exchange.answer_done or (exchange.cutting and cut_here(exchange, out)):
            if exchange.held.data != NULL and release(exchange, out, buffer_size(&exchange.held)) < 0:
                return 0
            if not exchange.cutting:
                finish_frames(exchange, out)
            if flush_answer(exchange, out) == 0:
                end_answer(exchange)
            return 0
        if exchange.answer_kind == B_NONE:
            exchange.answer_done = True
            continue
        size = buffer_size(&upstream.inbox)
        if size == 0:
            if exchange.answer_kind == B_COUNTED and exchange.answer_left == 0:
                exchange.answer_done = True
                continue
            if out.end > out.start and flush_answer(exchange, out) < 0:
                continue
            got = upstream.fill(PIECE_LARGE if exchange.answer_left > PIECE else PIECE)
            if got == GOT_NOTHING:
                if exchange.gap_ms == 0:
                    gap_begins(exchange, upstream)
                return 0
            if exchange.gap_ms:
                gap_ends(exchange, upstream)
            if got <= 0:
                if got == GOT_END and exchange.answer_kind == B_UNTIL_CLOSE:
                    exchange.answer_done = True
                    upstream.reusable = False
                    continue
                answer_broke(exchange)
                return 0
        if step_answer(exchange, out) < 0:
            return 0
    return 0


cdef int step_answer(Exchange exchange, Buffer* out) except -2:
    """One piece from the upstream's inbox on its way. -1: the exchange has ended, or the client is gone."""
    cdef Upstream upstream = exchange.upstream
    cdef char* p = upstream.inbox.data + upstream.inbox.start
    cdef Py_ssize_t size = buffer_size(&upstream.inbox), consumed = size, produced = size
    cdef Py_ssize_t whole = -1
    cdef bint sifts = exchange.words is not None
    cdef uint32_t tail = exchange.answer_chunk.tail
    cdef bint raw = not exchange.reframe
    cdef int rc = 0
    if exchange.answer_kind == B_COUNTED:
        if size > exchange.answer_left:
            consumed = produced = <Py_ssize_t>exchange.answer_left
        exchange.answer_left -= consumed
        exchange.answer_done = exchange.answer_left == 0
        raw = True
    elif exchange.answer_kind == B_CHUNKED:
        if raw and exchange.cutting and chunk_between(&exchange.answer_chunk):
            exchange.reframe = True
            raw = False
        if chunk_scan(&exchange.answer_chunk, p, size, not raw, &consumed, &produced, NULL) == REFUSED:
            answer_broke(exchange)
            return -1
        if raw:
            produced = consumed
        exchange.answer_done = exchange.answer_chunk.state == C_DONE
    elif exchange.answer_kind == B_UNTIL_CLOSE:
        exchange.answer_chunk.tail = tail_of(exchange.answer_chunk.tail, p, size)
    if exchange.cutting and not raw and not exchange.answer_done:
        whole = last_event_end(tail, p, produced)
        if whole >= 0:
            produced = whole
            exchange.answer_chunk.tail = 0
    if exchange.wait == W_INSPECT or exchange.wait == W_EVENT:
        if buffer_put(&exchange.held, p, produced) < 0:
            raise MemoryError
    elif sifts:
        whole = hold(exchange, p, produced)
    elif exchange.client is not None and produced:
        if raw and out.end == out.start:
            rc = exchange.client.write(p, produced)
        elif raw:
            if buffer_put(out, p, produced) < 0:
                raise MemoryError
        else:
            frame_answer(exchange, out, p, produced)
    buffer_skip(&upstream.inbox, consumed)  # before anything that may read on: a client that is gone, for one
    if rc < 0:
        client_gone(exchange)
        return -1
    if sifts and exchange.wait != W_INSPECT and sift(exchange, out, whole) < 0:
        return -1
    if out.end > out.start and (produced > PIECE or not exchange.answer_done) and flush_answer(exchange, out) < 0:
        return -1
    return 0


cdef bint cut_here(Exchange exchange, Buffer* out) noexcept:
    """Drain: is the stream at the end of an event, where it can be ended cleanly? Then it is."""
    if not event_ended(exchange.answer_chunk.tail) or exchange.answer_kind < B_CHUNKED:
        return False
    if not exchange.reframe and not chunk_between(&exchange.answer_chunk):
        return False
    if not exchange.bare and buffer_put(out, b"0\r\n\r\n", 5) < 0:
        return False
    exchange.keep = False
    if exchange.upstream is not None:
        exchange.upstream.reusable = False
    return True


cdef int answer_broke(Exchange exchange) except -1:
    """The backend stopped in the middle of an answer: the client must see that it is cut."""
    if exchange.wait == W_INSPECT or exchange.wait == W_EVENT:
        part_upstream(exchange, False)
        exchange.phase = P_STORY
        exchange.tell_error(UpstreamLost("lost", True, "in the middle of the answer"))
        end_call(exchange, "lost")
        return 0
    exchange.reactor.out.start = exchange.reactor.out.end = 0
    end_exchange(exchange, "backend_cut", True)
    return 0


cdef int end_answer(Exchange exchange) except -1:
    """The last byte of the answer is on its way."""
    cdef Client client = exchange.client
    if exchange.upstream is not None:
        part_upstream(exchange, True)
    end_exchange(exchange, "drained" if exchange.cutting else "done", False)
    if client is not None and not client.closed:
        client.exchange_ended(exchange)
    return 0
