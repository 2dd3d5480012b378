# The one question that the fast lane asks of a body: may this be an `initialize`? Anything but a sure no goes to the
# story, which decodes the body properly. No tree, no copy, no recursion.


cdef inline Py_ssize_t _string_end(const char* p, Py_ssize_t i, Py_ssize_t n, bint* escaped) noexcept nogil:
    """i is after the opening quote; the offset of the closing one, or -1."""
    while i < n:
        if p[i] == c'"':
            return i
        if p[i] == c'\\':
            escaped[0] = True
            i += 1
        i += 1
    return -1


cdef inline Py_ssize_t _blank_end(const char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and (p[i] == 32 or p[i] == 10 or p[i] == 13 or p[i] == 9):
        i += 1
    return i


cdef bint _holds_a_hint(const char* p, Py_ssize_t n) noexcept nogil:
    """Is there the word, or an escape that could spell it? Sought by its rare bytes, since memchr is quick and memmem not."""
    cdef const char* at = p
    cdef const char* end = p + n
    while True:
        at = <const char*>memchr(at, c'z', end - at)
        if at == NULL:
            break
        if at - p >= 8 and end - at >= 2 and memcmp(at - 8, b"initialize", 10) == 0:
            return True
        at += 1
    at = p
    while True:
        at = <const char*>memchr(at, c'\\', end - at)
        if at == NULL or end - at < 2:
            return False
        if at[1] == c'u':
            return True
        at += 2


cdef bint surely_not_initialize(const char* p, Py_ssize_t n) noexcept nogil:
    """True only when no top-level `method` of p[0:n] can read "initialize"; escapes in names or in the method: not sure."""
    cdef Py_ssize_t i, stop, start
    cdef int depth
    cdef bint escaped, skip
    if not _holds_a_hint(p, n):
        return True
    i = _blank_end(p, 0, n)
    if i >= n or p[i] != c'{':
        return i < n and p[i] == c'['  # a batch is no initialize
    i += 1
    while True:
        i = _blank_end(p, i, n)
        if i < n and p[i] == c'}':
            return _blank_end(p, i + 1, n) == n
        if i >= n or p[i] != c'"':
            return False
        escaped = False
        start = i + 1
        stop = _string_end(p, start, n, &escaped)
        if stop < 0 or escaped:
            return False
        i = _blank_end(p, stop + 1, n)
        if i >= n or p[i] != c':':
            return False
        i = _blank_end(p, i + 1, n)
        if i >= n:
            return False
        if stop - start == 6 and memcmp(p + start, b"method", 6) == 0:
            if p[i] != c'"':
                return False
            start = i + 1
            stop = _string_end(p, start, n, &escaped)
            if stop < 0 or escaped or (stop - start == 10 and memcmp(p + start, b"initialize", 10) == 0):
                return False
            i = stop + 1
        else:
            depth = 0
            while i < n:
                if p[i] == c'"':
                    i = _string_end(p, i + 1, n, &escaped)
                    if i < 0:
                        return False
                elif p[i] == c'{' or p[i] == c'[':
                    depth += 1
                elif p[i] == c'}' or p[i] == c']':
                    if depth == 0:
                        break
                    depth -= 1
                elif p[i] == c',' and depth == 0:
                    break
                i += 1
        i = _blank_end(p, i, n)
        if i < n and p[i] == c',':
            i += 1
        elif i >= n or p[i] != c'}':
            return False


def may_be_initialize(body):
    """Door for the tests: False only when `body` surely is not an `initialize` request."""
    cdef bytes held = bytes(body)
    return not surely_not_initialize(held, len(held))
