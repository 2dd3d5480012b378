# Heads rewritten for the next hop (RFC 9110 §7.6): what ends here goes, Host and Forwarded are set anew, the rest passes
# byte for byte, in order. Runs of lines that pass are copied as one.

cdef enum SessionRule:
    S_KEEP = 0     # the session id passes as it is
    S_STRIP        # it goes
    S_SET          # it is replaced, or added

cdef inline void put(Buffer* out, const char* p, Py_ssize_t n) noexcept nogil:
    """Append to a buffer that has the room (see the reservations below)."""
    memcpy(out.data + out.end, p, n)
    out.end += <uint32_t>n


cdef void _put_earlier(Buffer* out, const char* p, Head* head, int name) noexcept nogil:
    """The values that a trusted peer sent under `name`, joined, with a comma after them."""
    cdef int i
    cdef Field* field
    if not (head.seen & (<uint32_t>1 << name)):
        return
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.name == name and field.value_length:
            put(out, p + field.value, field.value_length)
            put(out, b", ", 2)


cdef Field* _first(Head* head, int name) noexcept nogil:
    cdef int i
    for i in range(head.fields_count):
        if head.fields[i].name == name:
            return &head.fields[i]
    return NULL


cdef void _put_forwarded(Buffer* out, const char* p, Head* head, Client client) noexcept:
    """X-Forwarded-For, -Host, -Proto and Forwarded (RFC 7239): set anew, or extended when the peer is trusted."""
    cdef const char* host = b""
    cdef Py_ssize_t host_length = 0
    cdef bint six = memchr(client.peer, c':', client.peer_length) != NULL
    cdef const char* proto = b"https" if client.listener.tls_context is not None else b"http"
    cdef Py_ssize_t proto_length = strlen(proto)
    cdef Field* earlier
    if head.host >= 0:
        host = p + head.fields[head.host].value
        host_length = head.fields[head.host].value_length
    if client.peer_length:
        put(out, b"X-Forwarded-For: ", 17)
        if client.trusted:
            _put_earlier(out, p, head, F_X_FORWARDED_FOR)
        put(out, client.peer, client.peer_length)
        put(out, b"\r\n", 2)
    earlier = _first(head, F_X_FORWARDED_HOST) if client.trusted else NULL
    put(out, b"X-Forwarded-Host: ", 18)
    if earlier != NULL:
        put(out, p + earlier.value, earlier.value_length)
    else:
        put(out, host, host_length)
    earlier = _first(head, F_X_FORWARDED_PROTO) if client.trusted else NULL
    put(out, b"\r\nX-Forwarded-Proto: ", 21)
    if earlier != NULL:
        put(out, p + earlier.value, earlier.value_length)
    else:
        put(out, proto, proto_length)
    put(out, b"\r\nForwarded: ", 13)
    if client.trusted:
        _put_earlier(out, p, head, F_FORWARDED)
    if client.peer_length:
        put(out, b"for=", 4)
        if six:
            put(out, b"\"[", 2)
        put(out, client.peer, client.peer_length)
        if six:
            put(out, b"]\"", 2)
        put(out, b";", 1)
    put(out, b"host=\"", 6)
    put(out, host, host_length)
    put(out, b"\";proto=", 8)
    put(out, proto, proto_length)
    put(out, b"\r\n", 2)


cdef int build_request(Buffer* out, const char* p, Head* head, Client client, Endpoint endpoint,
                       int rule, const char* session, Py_ssize_t session_length, bytes target) except -1:
    """The head for the backend at the end of `out`. Framing: the client's Content-Length, or chunked when it was."""
    cdef Py_ssize_t authority = PyBytes_GET_SIZE(endpoint.authority), prefix = PyBytes_GET_SIZE(endpoint.prefix)
    cdef Py_ssize_t run, n
    cdef int i
    cdef Field* field
    cdef uint8_t name
    # The client's head once more for what the Forwarded lines may repeat of it, and the fixed words.
    if buffer_room(out, 2 * <Py_ssize_t>head.size + authority + prefix + session_length + 512
                   + (0 if target is None else PyBytes_GET_SIZE(target))) < 0:
        raise MemoryError
    put(out, p + head.start, head.method_length + 1)
    if prefix and p[head.target] == c'/':
        put(out, PyBytes_AS_STRING(endpoint.prefix), prefix)
    if target is None:
        put(out, p + head.target, head.target_length)
    else:
        put(out, PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target))
    put(out, b" HTTP/1.1\r\nHost: ", 17)
    put(out, PyBytes_AS_STRING(endpoint.authority), authority)
    put(out, b"\r\n", 2)
    run = -1
    for i in range(head.fields_count):
        field = &head.fields[i]
        name = field.name
        if (not field.drop) and (name == F_OTHER or name > F_SESSION or name == F_CONTENT_LENGTH
                                 or (name == F_SESSION and rule == S_KEEP)) and name != F_KEEP_ALIVE:
            if run < 0:
                run = field.start
            continue
        if run >= 0:
            put(out, p + run, field.start - run)
            run = -1
    if run >= 0:
        put(out, p + run, head.size - 2 - run)
    if rule == S_SET:
        put(out, b"Mcp-Session-Id: ", 16)
        put(out, session, session_length)
        put(out, b"\r\n", 2)
    _put_forwarded(out, p, head, client)
    if head.chunked:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)
    put(out, b"\r\n", 2)
    return 0


cdef int build_answer(Buffer* out, const char* p, Head* head, int rule, const char* session, Py_ssize_t session_length,
                      bint chunked, bint close, bint keep_alive) except -1:
    """The head for the client at the end of `out`. Always HTTP/1.1 in name (RFC 9110 §2.5)."""
    cdef Py_ssize_t run = -1
    cdef int i
    cdef Field* field
    cdef uint8_t name
    if buffer_room(out, <Py_ssize_t>head.size + session_length + 256) < 0:
        raise MemoryError
    put(out, b"HTTP/1.1 ", 9)
    put(out, p + 9, 3)
    put(out, b" ", 1)
    put(out, p + head.reason, head.reason_length)
    put(out, b"\r\n", 2)
    for i in range(head.fields_count):
        field = &head.fields[i]
        name = field.name
        if field.drop or name == F_CONNECTION or name == F_TRANSFER_ENCODING or name == F_HOP or name == F_KEEP_ALIVE \
                or (name == F_SESSION and rule != S_KEEP):
            if run >= 0:
                put(out, p + run, field.start - run)
                run = -1
        elif run < 0:
            run = field.start
    if run >= 0:
        put(out, p + run, head.size - 2 - run)
    if rule == S_SET:
        put(out, b"Mcp-Session-Id: ", 16)
        put(out, session, session_length)
        put(out, b"\r\n", 2)
    if chunked:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)
    if close:
        put(out, b"Connection: close\r\n", 19)
    elif keep_alive:
        put(out, b"Connection: keep-alive\r\n", 24)
    put(out, b"\r\n", 2)
    return 0


cdef int append_frame(Buffer* out, const char* p, Py_ssize_t n, bint chunked) except -1:
    cdef char size[24]
    cdef int length
    if n == 0:
        return 0
    if buffer_room(out, n + 32) < 0:
        raise MemoryError
    if chunked:
        length = snprintf(size, 24, "%zx\r\n", <size_t>n)
        put(out, size, length)
    put(out, p, n)
    if chunked:
        put(out, b"\r\n", 2)
    return 0


cdef int put_trailers(Buffer* out, const char* p, Py_ssize_t n) except -1:
    """Trailer lines that may pass (RFC 9110 §6.5.1): none that frame, route or authenticate. `out` has the room."""
    cdef Head* head = <Head*>calloc(1, sizeof(Head))
    cdef Buffer lines
    cdef int i
    cdef Field* field
    if n == 0:
        free(head)
        return 0
    memset(&lines, 0, sizeof(Buffer))
    if head == NULL or buffer_put(&lines, p, n) < 0 or buffer_put(&lines, b"\r\n", 2) < 0:
        free(head)
        buffer_free(&lines)
        raise MemoryError
    head.minor = 1
    if _fields(lines.data, 0, n + 2, head, False) == COMPLETE:
        for i in range(head.fields_count):
            field = &head.fields[i]
            if field.name == F_OTHER:
                put(out, lines.data + field.start, field.end - field.start)
    free(head)
    buffer_free(&lines)
    return 0


cdef int strip_authority(const char* p, Head* head) noexcept nogil:
    """http://host/path becomes /path (RFC 9112 §3.2.2). REFUSED when the authority is not the Host, or no path follows."""
    cdef Py_ssize_t at = head.target, stop = at + head.target_length, start
    cdef Field* host
    if p[at] == c'/' or (p[at] == c'*' and head.target_length == 1 and head.method == M_OPTIONS):
        return COMPLETE
    if head.target_length > 7 and strncasecmp(p + at, b"http://", 7) == 0:
        start = at + 7
    elif head.target_length > 8 and strncasecmp(p + at, b"https://", 8) == 0:
        start = at + 8
    else:
        return _refuse(head, 400, b"malformed request target")
    at = start
    while at < stop and p[at] != c'/':
        at += 1
    if at == stop or head.host < 0:
        return _refuse(head, 400, b"malformed request target")
    host = &head.fields[head.host]
    if host.value_length != at - start or strncasecmp(p + start, p + host.value, at - start) != 0:
        return _refuse(head, 400, b"request target and Host differ")
    head.target = <uint32_t>at
    head.target_length = <uint32_t>(stop - at)
    return COMPLETE


_REASONS = {
    200: b"OK", 202: b"Accepted", 204: b"No Content", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 413: b"Content Too Large", 414: b"URI Too Long",
    417: b"Expectation Failed", 421: b"Misdirected Request", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}
