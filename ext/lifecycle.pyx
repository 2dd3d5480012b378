# The life of an exchange: it joins and parts from upstreams, is handed from the fast lane to the story, loses its client
# or its backend, and ends. Every way out leads through `end_exchange`, once.


cdef void join_upstream(Exchange exchange, Upstream upstream) noexcept:
    exchange.upstream = upstream
    exchange.endpoint = upstream.endpoint
    upstream.exchange = exchange
    upstream.mark = upstream.sent
    upstream.verdicts = 0
    upstream.state = U_BUSY
    upstream.endpoint.busy += 1
    upstream.endpoint.in_flight += 1
    upstream.endpoint.calls += exchange.method != M_GET
    undue(upstream)
    exchange.phase = P_SENT
    exchange.cursor = 0
    exchange.request_broken = False
    exchange.request_sent = False
    exchange.status = 0


cdef void part_upstream(Exchange exchange, bint reusable) noexcept:
    """Part from the upstream: back to its pool when the conversation on it is whole, closed otherwise."""
    cdef Upstream upstream = exchange.upstream
    exchange.upstream = None
    if upstream is None:
        return
    upstream.exchange = None
    upstream.endpoint.busy -= 1
    upstream.endpoint.in_flight -= 1
    upstream.endpoint.calls -= exchange.method != M_GET
    if reusable and upstream.reusable and exchange.request_sent and not exchange.request_broken:
        exchange.reactor.give_back(upstream)
    else:
        upstream.shut()


cdef bint client_reusable(Exchange exchange) noexcept:
    """May the client send another request on its connection after this one?"""
    cdef int64_t left = exchange.body_left if exchange.body_kind == B_COUNTED else 0
    if not exchange.keep or exchange.reactor.closing or exchange.client is None or exchange.client.hung:
        return False
    return exchange.body_done or (not exchange.expects and left <= DISCARD_BYTES_MAX)


cdef int refuse_exchange(Exchange exchange, int status, const char* reason) except -1:
    """The relay's own word about a request that is broken half-way."""
    cdef Client client = exchange.client
    cdef bint speak = exchange.phase <= P_HEAD and not exchange.head_sent and client is not None
    if not speak or client is None:
        end_exchange(exchange, "refused", True)
        return 0
    if exchange.upstream is not None:
        part_upstream(exchange, False)
    exchange.status = status
    exchange.phase = P_POUR
    exchange.tell_error(ExchangeOver("refused"))
    client.say_refusal(status, reason)
    end_exchange(exchange, "refused", False)
    client.linger()
    return 0


cdef int upstream_failed(Exchange exchange, str kind, str detail="") except -1:
    """No head came: lost, timeout or protocol."""
    cdef bint ran = True
    if kind == "lost" and exchange.upstream is not None:
        ran = not exchange.upstream.surely_untouched()
    part_upstream(exchange, False)
    exchange.phase = P_STORY
    if exchange.client is None:
        exchange.tell_error(UpstreamLost(kind, ran, detail))
        end_exchange(exchange, kind if exchange.own_call else "client_gone", True)
    elif exchange.waiter is not None:
        exchange.tell_error(UpstreamLost(kind, ran, detail))
    elif exchange.fast:
        exchange.failure = kind
        exchange.failure_ran = ran
        exchange.failure_detail = detail
        hand_over(exchange)
    return 0


cdef int hand_over(Exchange exchange) except -1:
    """The fast lane gives up, at a head or at a failure: the story takes the exchange as it stands."""
    cdef Client client = exchange.client
    cdef Head* head
    exchange.fast = False
    if client is None:
        end_exchange(exchange, "client_gone", True)
        return 0
    if buffer_exact(&exchange.head, client.inbox.data + client.inbox.start, exchange.head_size) < 0:
        raise MemoryError
    buffer_skip(&client.inbox, exchange.head_size)
    if exchange.body_left and buffer_put(&exchange.kept, client.inbox.data + client.inbox.start, exchange.body_left) < 0:
        raise MemoryError
    if exchange.body_left:
        buffer_skip(&client.inbox, exchange.body_left)
    exchange.body_seen = exchange.body_left
    exchange.body_left = 0
    exchange.cursor = buffer_size(&exchange.kept)
    exchange.reactor.handler.resume(exchange, answer_door(exchange) if exchange.phase == P_HEAD else None)
    return 0


cdef object answer_door(Exchange exchange):
    """The answer's head as Python sees it. It is moved out of the upstream's inbox first."""
    cdef Head* head = &exchange.reactor.answer_head
    cdef const char* p
    if exchange.answer_head.data == NULL:
        p = exchange.upstream.inbox.data + exchange.upstream.inbox.start
        scan_response_head(p, buffer_size(&exchange.upstream.inbox), head)
        if buffer_exact(&exchange.answer_head, p, head.size) < 0:
            raise MemoryError
        buffer_skip(&exchange.upstream.inbox, head.size)
    p = exchange.answer_head.data
    scan_response_head(p, buffer_size(&exchange.answer_head), head)
    out = AnswerHead()
    out.status = head.status
    out.fields = _field_list(p, head)
    out.body = exchange.answer_kind != B_NONE
    return out


cdef int client_gone(Exchange exchange) except -1:
    """The client has closed, or can't be reached any more."""
    cdef Client client = exchange.client
    if client is None:
        return 0
    client.exchange = None
    client.shut()
    exchange.client = None
    exchange.reactor.out.start = exchange.reactor.out.end = 0
    if exchange.keeps_running and exchange.body_done and exchange.phase != P_STORY and exchange.upstream is not None:
        exchange.abandoned = True
        (<Listener>exchange.listener).abandoned += 1
        if exchange.phase == P_POUR:
            return pump_answer(exchange)
        return 0
    end_exchange(exchange, "client_gone", True)
    return 0


cdef int end_exchange(Exchange exchange, str why, bint broken) except -1:
    """It is over. `broken`: the client's connection can't go on."""
    cdef Client client = exchange.client
    if exchange.over is not None:
        return 0
    exchange.over = why
    if exchange.upstream is not None:
        part_upstream(exchange, False)
    if exchange.streaming:
        exchange.reactor.streams_open -= 1
        if not exchange.own_stream:
            exchange.endpoint.streams -= 1
    if exchange.abandoned:
        (<Listener>exchange.listener).abandoned -= 1
    exchange.phase = P_DONE
    exchange.reactor.count(exchange)
    if exchange.waiter is not None:
        exchange.tell_error(ExchangeOver(why))
    if exchange.on_end is not None:
        try:
            exchange.on_end(exchange)
        except Exception:
            logger.exception("on_end failed")
        exchange.on_end = None
    if exchange.reactor.logs_access and not exchange.own_call:
        try:
            exchange.reactor.handler.access(exchange)
        except Exception:
            logger.exception("access log failed")
    buffer_free(&exchange.kept)
    buffer_free(&exchange.held)
    buffer_free(&exchange.answer_head)
    buffer_free(&exchange.trailers)
    if broken and client is not None:
        exchange.client = None
        client.exchange = None
        client.shut()
    return 0
