# Chunked bodies (RFC 9112 §7.1): where the data lies, and whether the framing around it is what everybody reads alike.

cdef enum ChunkState:
    C_SIZE = 0, C_EXTENSION, C_SIZE_LF, C_DATA, C_DATA_CR, C_DATA_LF, C_TRAILER, C_TRAILER_NAME, C_TRAILER_VALUE, C_TRAILER_LF
    C_END_LF
    C_DONE

cdef struct Chunk:
    uint64_t remaining     # data bytes of the current chunk still to come
    uint32_t line          # bytes of the current extension, or of all trailers
    uint32_t tail          # the last four data bytes, for the end of an event
    uint8_t state          # ChunkState
    uint8_t digits         # hex digits of the size read so far


cdef inline uint32_t tail_of(uint32_t tail, const char* p, Py_ssize_t n) noexcept nogil:
    """The last four bytes of what `tail` was the end of, and p[0:n]."""
    cdef Py_ssize_t i = n - 4 if n > 4 else 0
    while i < n:
        tail = (tail << 8) | <uint8_t>p[i]
        i += 1
    return tail


cdef inline int _size_byte(Chunk* c, uint8_t byte) noexcept nogil:
    """One byte of a chunk's first line: its size in hex, extensions that nobody reads, CRLF."""
    cdef int8_t digit = HEX[byte]
    if c.state == C_SIZE and digit >= 0:
        if c.digits == 15:
            return REFUSED
        c.remaining = (c.remaining << 4) | <uint64_t>digit
        c.digits += 1
    elif c.state == C_SIZE:
        if c.digits == 0 or (byte != 13 and byte != c';'):
            return REFUSED
        c.state = C_SIZE_LF if byte == 13 else C_EXTENSION
        c.line = 0
    elif c.state == C_EXTENSION:
        c.line += 1
        if byte == 13:
            c.state = C_SIZE_LF
        elif not VALUE[byte] or c.line > EXTENSION_BYTES_MAX:
            return REFUSED
    else:
        if byte != 10:
            return REFUSED
        c.digits = 0
        c.line = 0
        c.state = C_DATA if c.remaining else C_TRAILER
    return COMPLETE


cdef inline int _trailer_byte(Chunk* c, uint8_t byte, Buffer* trailers) noexcept nogil:
    """One byte of what follows the last chunk: field lines, then an empty one (RFC 9112 §7.1.2)."""
    if c.state == C_TRAILER and byte == 13:
        c.state = C_END_LF
        return COMPLETE
    if c.state == C_END_LF:
        if byte != 10:
            return REFUSED
        c.state = C_DONE
        return COMPLETE
    c.line += 1
    if c.line > TRAILER_BYTES_MAX:
        return REFUSED
    if c.state == C_TRAILER or c.state == C_TRAILER_NAME:
        if c.state == C_TRAILER_NAME and byte == c':':
            c.state = C_TRAILER_VALUE
        elif TOKEN[byte] == 0:
            return REFUSED
        else:
            c.state = C_TRAILER_NAME
    elif c.state == C_TRAILER_VALUE:
        if byte == 13:
            c.state = C_TRAILER_LF
        elif not VALUE[byte]:
            return REFUSED
    else:
        if byte != 10:
            return REFUSED
        c.state = C_TRAILER
    if trailers != NULL and buffer_put(trailers, <const char*>&byte, 1) < 0:
        return REFUSED
    return COMPLETE


cdef int chunk_scan(Chunk* c, char* p, Py_ssize_t n, bint compact,
                    Py_ssize_t* consumed, Py_ssize_t* produced, Buffer* trailers) noexcept nogil:
    """Walk over p[0:n]; stops after the last chunk's end (C_DONE). REFUSED: the framing is broken.

    `compact` moves the data to the front of p, `produced` bytes of it; without, p stays as it is and is valid up to
    `consumed`. Trailer lines are kept, raw, in `trailers` when there is one.
    """
    cdef Py_ssize_t i = 0, out = 0, take
    cdef uint8_t byte
    while i < n and c.state != C_DONE:
        byte = <uint8_t>p[i]
        if c.state == C_DATA:
            take = n - i
            if <uint64_t>take > c.remaining:
                take = <Py_ssize_t>c.remaining
            c.tail = tail_of(c.tail, p + i, take)
            if compact:
                if out != i:
                    memmove(p + out, p + i, take)
                out += take
            i += take
            c.remaining -= <uint64_t>take
            if c.remaining == 0:
                c.state = C_DATA_CR
            continue
        i += 1
        if c.state <= C_SIZE_LF:
            if _size_byte(c, byte) == REFUSED:
                return REFUSED
        elif c.state == C_DATA_CR:
            if byte != 13:
                return REFUSED
            c.state = C_DATA_LF
        elif c.state == C_DATA_LF:
            if byte != 10:
                return REFUSED
            c.state = C_SIZE
        elif _trailer_byte(c, byte, trailers) == REFUSED:
            return REFUSED
    consumed[0] = i
    produced[0] = out
    return COMPLETE


cdef inline bint chunk_between(const Chunk* c) noexcept nogil:
    """Between two chunks: nothing of the next one has been seen."""
    return c.state == C_SIZE and c.digits == 0
