# The fast lane: a whole, small POST of a session that the route table knows, to a replica that lives and has an idle
# connection; in the era without sessions, one that belongs to nobody in particular (sessionless.pyx). It may do only what
# the story would have done; every other case, and every doubt, goes to the story.

cdef enum:
    FLAG_CONFIRMED = 1  # the session has had a 2xx answer since its `initialize`
    FLAG_MAPPED = 2     # the backend knows it by another id
    FLAG_SSE = 4        # legacy HTTP+SSE
    FLAG_HASHED = 8     # the key is a digest of the id, not the id

cdef enum:
    FAST_BODY_BYTES_MAX = 65536  # a body beyond is no `initialize` (interface §3.1) and streams through the story
    COPIED_BYTES_MAX = 8192      # a body up to this joins its head in one buffer; a larger one is sent from where it lies

cdef enum Lane:
    LANE_STORY = 0
    LANE_FAST = 1
    LANE_WAIT = 2   # the rest of a small body is still on its way


cdef bint is_legacy_version(const char* p, Py_ssize_t n) noexcept nogil:
    """The revisions with sessions; any other value of MCP-Protocol-Version means the era without (interface §3.1)."""
    return n == 10 and (memcmp(p, b"2025-11-25", 10) == 0 or memcmp(p, b"2025-06-18", 10) == 0
                        or memcmp(p, b"2025-03-26", 10) == 0 or memcmp(p, b"2024-11-05", 10) == 0)


cdef int try_fast_lane(Client client, const char* p, Py_ssize_t size, Head* head) except -1:
    """Whose request is it, and can it be passed on at once? LANE_FAST: it has been."""
    cdef Reactor reactor = client.reactor
    cdef RouteTable table = reactor.table
    cdef Field* field
    cdef Entry* entry
    cdef Endpoint endpoint
    cdef Upstream upstream
    cdef Exchange exchange
    cdef str alias = None
    cdef const char* known_as
    cdef Py_ssize_t known_size
    if not _is_plain(client, p, head):
        return LANE_STORY
    if head.version >= 0:
        field = &head.fields[head.version]
        if not is_legacy_version(p + field.value, field.value_length):
            return try_sessionless(client, p, size, head)
    if head.session < 0:
        return LANE_STORY
    field = &head.fields[head.session]
    if field.value_length == 0 or field.value_length > 128:
        return LANE_STORY
    entry = table.find(p + field.value, field.value_length, reactor.now_s)
    if entry == NULL or entry.epoch != table.epoch or entry.flags & (FLAG_SSE | FLAG_HASHED):
        return LANE_STORY
    endpoint = reactor.endpoints[entry.endpoint]
    if not endpoint.live or not endpoint.spare:
        return LANE_STORY
    if endpoint.calls_max and endpoint.calls + endpoint.expected >= endpoint.calls_max:
        return LANE_STORY
    if size < <Py_ssize_t>head.size + head.length:
        return LANE_WAIT
    if not surely_not_initialize(p + head.size, head.length):
        return LANE_STORY
    if entry.flags & FLAG_MAPPED:
        alias = reactor.aliases.get(p[field.value:field.value + field.value_length])
        if alias is None or not alias.isascii():
            return LANE_STORY
    if reactor.now_s >= entry.touch_at:
        entry.touch_at = reactor.now_s + reactor.touch_seconds
        entry.expires = reactor.now_s + reactor.ttl_seconds
        reactor.handler.touch(p[field.value:field.value + field.value_length])
    upstream = endpoint.take_spare()
    if upstream is None:
        return LANE_STORY
    exchange = _open_fast(client, head)
    exchange.confirms = not entry.flags & FLAG_CONFIRMED
    exchange.entry_flags = entry.flags
    exchange.keeps_running = True
    exchange.session_at = field.value
    exchange.session_size = field.value_length
    if alias is None:
        build_request(&reactor.out, p, head, client, endpoint, S_KEEP, NULL, 0, None)
    else:
        known_as = PyUnicode_AsUTF8AndSize(alias, &known_size)
        build_request(&reactor.out, p, head, client, endpoint, S_SET, known_as, known_size, None)
    _pass_on(exchange, upstream, p, head)
    return LANE_FAST


cdef bint _is_plain(Client client, const char* p, Head* head) noexcept:
    """A small POST from whom nobody need be asked about."""
    cdef Field* field
    if not client.reactor.fast_lane or not client.listener.fast_lane or head.method != M_POST or head.length <= 0 \
            or head.length > FAST_BODY_BYTES_MAX or head.expect >= 0 or head.origin >= 0 or head.minor == 0 or client.hung:
        return False
    field = &head.fields[head.host]
    return client.listener.knows_host(p + field.value, field.value_length)


cdef Exchange _open_fast(Client client, Head* head):
    """A request that takes the fast lane: head and body stay in the client's inbox until the answer is out."""
    cdef Exchange exchange = client.new_exchange(head)
    exchange.fast = True
    exchange.head_size = head.size
    exchange.body_left = head.length
    exchange.body_done = True
    client.reactor.fast_requests += 1
    return exchange


cdef int _pass_on(Exchange exchange, Upstream upstream, const char* p, Head* head) except -1:
    """The head that is in `out`, and the body, to the backend."""
    cdef Buffer* out = &exchange.reactor.out
    cdef int rc
    join_upstream(exchange, upstream)
    exchange.request_sent = True
    undue(exchange.client)
    if head.length <= COPIED_BYTES_MAX:
        if buffer_put(out, p + head.size, head.length) < 0:
            raise MemoryError
        rc = upstream.write(out.data, out.end)
    else:
        rc = upstream.write_both(out.data, out.end, p + head.size, head.length)
    out.start = out.end = 0
    if rc == 0:
        due(upstream, DUE_RESPONSE)
        return 0
    upstream.readable = True
    return upstream.answer_ready()


cdef int fast_answer(Exchange exchange, const char* p, Head* head) except -1:
    """The answer's head has come in the fast lane. The story gets what may mean that the backend forgot the session."""
    cdef Reactor reactor = exchange.reactor
    cdef Client client = exchange.client
    cdef Entry* entry
    cdef Field* field
    cdef const char* session = NULL
    cdef int rule = S_KEEP
    if exchange.modern:
        return sessionless_answer(exchange, p, head)
    if head.status == 404 or head.status == 400:
        return hand_over(exchange)
    if client is not None:
        session = client.inbox.data + client.inbox.start + exchange.session_at
        if exchange.confirms and head.status < 300:
            entry = reactor.table.find(session, exchange.session_size, reactor.now_s)
            if entry != NULL and entry.flags | FLAG_CONFIRMED == exchange.entry_flags | FLAG_CONFIRMED:
                entry.flags |= FLAG_CONFIRMED  # still the place that has answered
        if head.session >= 0:
            field = &head.fields[head.session]
            if field.value_length != exchange.session_size or memcmp(p + field.value, session, exchange.session_size) != 0:
                rule = S_SET  # the client's id is its own for ever
    begin_answer(exchange, &reactor.out, p, head, rule, session, exchange.session_size)
    buffer_skip(&exchange.upstream.inbox, head.size)
    return pump_answer(exchange)


SESSION_KEEP = <int>S_KEEP
SESSION_STRIP = <int>S_STRIP
SESSION_SET = <int>S_SET
CONFIRMED = <int>FLAG_CONFIRMED
MAPPED = <int>FLAG_MAPPED
SSE = <int>FLAG_SSE
HASHED = <int>FLAG_HASHED
