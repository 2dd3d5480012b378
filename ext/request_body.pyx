# The request's side of an exchange: client.inbox -> [kept, while it may be sent again] -> upstream. It reads only while
# the upstream takes what it gets, so that a body of any size passes through one buffer.


cdef int pump_request(Exchange exchange) except -1:
    """Move the body on as far as it goes without waiting: client -> kept and upstream."""
    cdef Buffer* out = &exchange.reactor.out
    cdef Client client = exchange.client
    cdef Py_ssize_t n
    cdef int got
    while client is not None and exchange.over is None and not exchange.request_sent:
        if exchange.upstream is not None and not exchange.request_broken:
            if exchange.upstream.backed_up():
                if client.due_list == DUE_BODY:
                    undue(client)
                return 0
            if exchange.cursor < buffer_size(&exchange.kept) or exchange.body_done:
                if send_kept(exchange, out) < 0:
                    return 0
                n = exchange.cursor
                if out.end > out.start and send_upstream(exchange, out) < 0:
                    return 0
                if exchange.body_done and n == buffer_size(&exchange.kept):
                    exchange.request_sent = True
                    if exchange.phase == P_SENT and exchange.upstream is not None:
                        due(exchange.upstream, DUE_RESPONSE)
                continue
            if buffer_size(&exchange.kept) > exchange.reactor.replay_bytes_max:
                forget_kept(exchange)
        elif exchange.wait == W_PEEK:
            if exchange.body_done or buffer_size(&exchange.kept) >= exchange.wait_bytes:
                if client.due_list == DUE_BODY:
                    undue(client)
                n = buffer_size(&exchange.kept)
                exchange.tell((exchange.kept.data[exchange.kept.start:exchange.kept.start + n] if n else b"", bool(exchange.body_done)))
                return 0
        else:
            return 0
        got = take_body(exchange)
        if got <= 0:
            return 0
    return 0


cdef int send_kept(Exchange exchange, Buffer* out) except -2:
    """The kept part of the body behind a head in `out`, so that a small request is one write. -1: see `send_upstream`."""
    cdef Py_ssize_t n = buffer_size(&exchange.kept) - exchange.cursor
    if n > PIECE_LARGE:
        n = PIECE_LARGE
    if n > 0:
        exchange.cursor += n
        if pass_body(exchange, out, exchange.kept.data + exchange.kept.start + exchange.cursor - n, n) < 0:
            return after_writing(exchange, -1)
    if exchange.body_done and exchange.cursor == buffer_size(&exchange.kept):
        end_request_frames(exchange, out)
    return 0


cdef int frame_request(Exchange exchange, Buffer* out, const char* p, Py_ssize_t n) except -1:
    return append_frame(out, p, n, exchange.body_kind == B_CHUNKED)


cdef int pass_body(Exchange exchange, Buffer* out, const char* p, Py_ssize_t n) except -2:
    """A decoded piece to the upstream: from where it lies when there is nothing to add to it, else into `out`. -1: it takes
    no more, which is for the caller to tell `after_writing`, once nobody needs the piece."""
    if exchange.body_kind == B_CHUNKED or out.end > out.start:
        return frame_request(exchange, out, p, n)
    return exchange.upstream.write(p, n)


cdef int end_request_frames(Exchange exchange, Buffer* out) except -1:
    if exchange.body_kind != B_CHUNKED:
        return 0
    if buffer_room(out, buffer_size(&exchange.trailers) + 8) < 0:
        raise MemoryError
    put(out, b"0\r\n", 3)
    put_trailers(out, exchange.trailers.data + exchange.trailers.start, buffer_size(&exchange.trailers))
    put(out, b"\r\n", 2)
    return 0


cdef int send_upstream(Exchange exchange, Buffer* out) except -2:
    """0, or -1 when the backend takes no more: then its answer, if there is one, is read."""
    cdef int rc = exchange.upstream.write(out.data + out.start, buffer_size(out))
    out.start = out.end = 0
    return after_writing(exchange, rc)


cdef int after_writing(Exchange exchange, int rc) except -2:
    """What a write to the upstream has come to."""
    cdef Upstream upstream = exchange.upstream
    if rc == 0:
        if exchange.phase == P_SENT:
            due(upstream, DUE_RESPONSE)
        return 0
    exchange.request_broken = True
    upstream.readable = True
    upstream.answer_ready()
    return -1


cdef void forget_kept(Exchange exchange) noexcept:
    buffer_free(&exchange.kept)
    exchange.cursor = 0
    exchange.kept_lost = True


cdef int keep(Exchange exchange, const char* p, Py_ssize_t n) noexcept:
    """For another try. Room for all that will be kept is taken at once: growing would copy it again and again."""
    cdef int64_t whole = exchange.body_left + n
    if exchange.kept.data == NULL and exchange.body_kind == B_COUNTED and whole > PIECE:
        if buffer_room(&exchange.kept, min(whole, <int64_t>exchange.reactor.replay_bytes_max)) < 0:
            return -1
    return buffer_put(&exchange.kept, p, n)


cdef int take_body(Exchange exchange) except -2:
    """The next piece of the body, decoded, into `kept` or straight to the upstream. 1: went on; 0: nothing there."""
    cdef Client client = exchange.client
    cdef Buffer* out = &exchange.reactor.out
    cdef Py_ssize_t size = buffer_size(&client.inbox), consumed, produced
    cdef Py_ssize_t got
    cdef char* p
    cdef int rc = 0
    if size == 0:
        if exchange.expects:
            exchange.expects = False
            if exchange.phase <= P_SENT and client.write(b"HTTP/1.1 100 Continue\r\n\r\n", 25) < 0:
                client_gone(exchange)
                return 0
        got = client.fill(PIECE_LARGE if exchange.body_seen > PIECE else PIECE)
        if got == GOT_NOTHING:
            due(client, DUE_BODY)
            return 0
        if got <= 0:
            client_gone(exchange)
            return 0
        size = buffer_size(&client.inbox)
    p = client.inbox.data + client.inbox.start
    if exchange.body_kind == B_COUNTED:
        consumed = produced = size if size < exchange.body_left else <Py_ssize_t>exchange.body_left
        exchange.body_left -= consumed
        exchange.body_done = exchange.body_left == 0
    else:
        if chunk_scan(&exchange.body_chunk, p, size, True, &consumed, &produced, &exchange.trailers) == REFUSED:
            refuse_exchange(exchange, 400, b"malformed chunk")
            return 0
        exchange.body_done = exchange.body_chunk.state == C_DONE
    exchange.body_seen += produced
    if exchange.body_seen > exchange.reactor.body_bytes_max:
        refuse_exchange(exchange, 413, b"body too large")
        return 0
    exchange.expects = False
    if exchange.upstream is None or exchange.request_broken \
            or (not exchange.kept_lost and buffer_size(&exchange.kept) + produced <= exchange.reactor.replay_bytes_max):
        if not exchange.request_broken and produced and keep(exchange, p, produced) < 0:
            raise MemoryError
    else:
        if not exchange.kept_lost:
            forget_kept(exchange)
        if produced:
            rc = pass_body(exchange, out, p, produced)
        if exchange.body_done and rc == 0:
            end_request_frames(exchange, out)
            exchange.request_sent = True
    buffer_skip(&client.inbox, consumed)
    if client.due_list == DUE_BODY:
        undue(client)
    if rc < 0 and after_writing(exchange, rc) < 0:
        return 0
    if out.end > out.start and send_upstream(exchange, out) < 0:
        return 0
    return 1
