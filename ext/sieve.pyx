# Answers that are looked at as they pass: does a message in them hold one of a few words? The story then has to remember
# something before the client can read that message (fastproxy/proxy/stateless.py); everything else must not wait for it.
#
# What is held back is no more than a client could not use anyway: the part of an event whose end has not come, or of a
# JSON body. A whole event without a word leaves at once, without a call of Python. A part over the bound goes its way
# unsearched. Words are looked for in the decoded body, across pieces and chunks; a compressed body shows none.


cdef void search_answer(Exchange exchange, tuple words, on_word, Py_ssize_t limit) noexcept:
    """Before its head is built: look for words in it as it passes. A body that is known to be longer is not searched."""
    if exchange.answer_kind == B_NONE or (exchange.answer_kind == B_COUNTED and exchange.answer_left > limit
                                          and not exchange.event_stream):
        return
    exchange.reframe = True
    exchange.words = words
    exchange.on_word = on_word
    exchange.held_max = limit


cdef bint holds_word(Exchange exchange, Py_ssize_t n) except -1:
    """Is one of the words in the first n bytes that are held?"""
    cdef const char* p = exchange.held.data + exchange.held.start
    cdef bytes word
    for word in exchange.words:
        if memmem(p, n, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word)) != NULL:
            return True
    return False


cdef Py_ssize_t hold(Exchange exchange, const char* p, Py_ssize_t n) except -2:
    """Keep the next piece of the decoded answer. How much of what is held now are whole events; -1: nothing of it."""
    cdef Py_ssize_t whole = -1, before = buffer_size(&exchange.held)
    if n == 0:
        return -1
    if buffer_put(&exchange.held, p, n) < 0:
        raise MemoryError
    if exchange.event_stream:
        whole = last_event_end(exchange.held_tail, p, n)
        exchange.held_tail = tail_of(exchange.held_tail, p, n)
    return before + whole if whole >= 0 else -1


cdef int sift(Exchange exchange, Buffer* out, Py_ssize_t whole) except -2:
    """Let go of the first `whole` bytes that are held, and of all when they are too many. -1: it is the story's turn, or
    the client has gone. Either may read on, so the piece that was held last must be off the inbox."""
    if whole >= 0 and release(exchange, out, whole) < 0:
        return -1
    if buffer_size(&exchange.held) > exchange.held_max:
        frame_answer(exchange, out, exchange.held.data + exchange.held.start, buffer_size(&exchange.held))
        buffer_free(&exchange.held)
        if not exchange.event_stream:
            exchange.words = None  # the rest of it would show words without their message
    return 0


cdef int release(Exchange exchange, Buffer* out, Py_ssize_t n) except -2:
    """Let go of the first n bytes that are held, unless there is a word in them: -1."""
    if not holds_word(exchange, n):
        frame_answer(exchange, out, exchange.held.data + exchange.held.start, n)
        buffer_skip(&exchange.held, n)
        return 0
    if flush_answer(exchange, out) < 0:
        return -1
    exchange.phase = P_HEAD
    exchange.head_sent = True
    exchange.found_size = n
    exchange.on_word(exchange, exchange.held.data[exchange.held.start:exchange.held.start + n])
    return -1
