# Where a Server-Sent Event ends (WHATWG HTML §9.2.5): after a blank line, whose line ends may be LF, CRLF or CR.


cdef inline bint event_ended(uint32_t tail) noexcept nogil:
    """Do the last four bytes of a stream end an event? Nothing sent yet (0) counts: there is no event to cut."""
    return (tail == 0 or (tail & 0xFFFF) == 0x0A0A or (tail & 0xFFFF) == 0x0D0D or tail == 0x0D0A0D0A
            or (tail & 0xFFFFFF) == 0x0A0D0A)


cdef Py_ssize_t last_event_end(uint32_t tail, const char* p, Py_ssize_t n) noexcept nogil:
    """How much of p[0:n] belongs to whole events, `tail` being what was sent before it; -1: no event ends in it."""
    cdef Py_ssize_t i, best = -1
    for i in range(n):
        tail = (tail << 8) | <uint8_t>p[i]
        if (p[i] == 10 or p[i] == 13) and event_ended(tail):
            best = i + 1
    return best


def event_end(data, Py_ssize_t start=0):
    """Offset after the first whole event of `data` from `start` on, or -1: for the story's look at an endpoint event."""
    cdef bytes held = bytes(data)
    cdef const char* p = held
    cdef uint32_t tail = 0xFFFFFFFF
    cdef Py_ssize_t i
    for i in range(start, len(held)):
        tail = (tail << 8) | <uint8_t>p[i]
        if (p[i] == 10 or p[i] == 13) and event_ended(tail):
            # "\r\n\r" may be the start of "\r\n\r\n": only a blank line that is whole ends an event here
            return i + 1
    return -1
