# The fast lane of the era without sessions (2026-07-28): a whole, small POST that belongs to no replica in particular, to
# the least loaded one. What ties a request to a replica (fastproxy/proxy/stateless.py) goes to the story: a method that
# `Search.bound` names, a word in the body. Answers that may hand out such a tie are searched as the story has them
# searched (sieve.pyx), and wait for it only when a word is found. With a single replica nothing is looked at.
#
# Who may be chosen, the story has said (`Reactor.offer`): all that are live, in its order, and nobody while one of them is
# in doubt. Equals take turns, by the count that the story's own choices go by.

cdef class Search:
    """What the story looks for in this era. `bound`: beginnings of methods that lead to a replica; `barren`: methods whose
    answers hand out nothing; `words`: one of them is in each message that ties or unties; `on_word`: hears of an answer."""

    cdef tuple bound
    cdef tuple barren
    cdef tuple words
    cdef object on_word
    cdef Py_ssize_t bytes_max

    def __cinit__(self, *, tuple bound not None, tuple barren not None, tuple words not None, on_word, Py_ssize_t bytes_max):
        self.bound = bound
        self.barren = barren
        self.words = words
        self.on_word = on_word
        self.bytes_max = bytes_max


cdef bint _begins_with_one(const char* p, Py_ssize_t n, tuple texts, bint whole) noexcept:
    """Is p[0:n] one of these (`whole`), or does it begin with one?"""
    cdef bytes text
    cdef Py_ssize_t size
    for text in texts:
        size = PyBytes_GET_SIZE(text)
        if (n == size or (n > size and not whole)) and memcmp(p, PyBytes_AS_STRING(text), size) == 0:
            return True
    return False


cdef Endpoint _least_loaded(Reactor reactor):
    """As `least_in_flight` (routing/policy.py) has it, at the next turn; None: the story must see."""
    cdef Endpoint endpoint
    cdef int least = -1
    cdef uint64_t equals = 0, place
    for endpoint in reactor.offered:
        if endpoint.calls_max and endpoint.calls + endpoint.expected >= endpoint.calls_max:
            return None
        if least < 0 or endpoint.in_flight < least:
            least = endpoint.in_flight
            equals = 0
        equals += endpoint.in_flight == least
    if equals == 0:
        return None
    place = (reactor.turn + 1) % equals
    for endpoint in reactor.offered:
        if endpoint.in_flight == least:
            if place == 0:
                return endpoint
            place -= 1
    return None


cdef int try_sessionless(Client client, const char* p, Py_ssize_t size, Head* head) except -1:
    """A plain request of this era: can it be passed on at once? LANE_FAST: it has been."""
    cdef Reactor reactor = client.reactor
    cdef Search search = reactor.search
    cdef Field* method = _first(head, F_METHOD)
    cdef bint barren = False
    cdef Endpoint endpoint
    cdef Upstream upstream
    cdef Exchange exchange
    cdef bytes word
    if not reactor.offered or search is None:
        return LANE_STORY
    if reactor.several and method != NULL:
        if _begins_with_one(p + method.value, method.value_length, search.bound, False):
            return LANE_STORY
        barren = _begins_with_one(p + method.value, method.value_length, search.barren, True)
    if size < <Py_ssize_t>head.size + head.length:
        return LANE_WAIT
    if reactor.several and not barren:
        for word in search.words:
            if memmem(p + head.size, head.length, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word)) != NULL:
                return LANE_STORY
    endpoint = _least_loaded(reactor)
    upstream = endpoint.take_spare() if endpoint is not None else None
    if upstream is None:
        return LANE_STORY
    reactor.turn += 1
    exchange = _open_fast(client, head)
    exchange.modern = True
    exchange.sought = reactor.several and not barren
    build_request(&reactor.out, p, head, client, endpoint, S_STRIP, NULL, 0, None)
    _pass_on(exchange, upstream, p, head)
    return LANE_FAST


cdef int sessionless_answer(Exchange exchange, const char* p, Head* head) except -1:
    """The answer's head has come. One that is to be searched and is encoded goes to the story, which can decode it."""
    cdef Search search = exchange.reactor.search
    cdef Field* field
    cdef int i
    if exchange.sought and head.status == 200:
        for i in range(head.fields_count):
            field = &head.fields[i]
            if same_text(p + field.start, field.name_length, b"content-encoding", 16):
                return hand_over(exchange)
        search_answer(exchange, search.words, search.on_word, search.bytes_max)
    # Servers put ids that are dead at birth on their error answers (mcp.md §0.6).
    begin_answer(exchange, &exchange.reactor.out, p, head, S_STRIP if head.status >= 400 else S_KEEP, NULL, 0)
    buffer_skip(&exchange.upstream.inbox, head.size)
    return pump_answer(exchange)
