# The scanners' doors for Python: for the tests, the fuzzers, the micro-benchmarks, and the proxy's own small client.

class HttpError(Exception):
    """A head or a chunk that is refused: `status` (400, 414, 431, 501, 505; 502 for an answer) and `reason`."""

    def __init__(self, status, reason):
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class RequestHead:
    """A request's head as received. `fields`: (name, value) without the white space around values."""

    __slots__ = ("method", "target", "minor", "fields", "length", "chunked", "keep_alive", "size")


class ResponseHead:
    """An answer's head as received."""

    __slots__ = ("status", "reason", "minor", "fields", "length", "chunked", "keep_alive", "size")


cdef list _field_list(const char* p, Head* head):
    cdef int i
    cdef Field* f
    cdef list out = []
    for i in range(head.fields_count):
        f = &head.fields[i]
        out.append((p[f.start:f.start + f.name_length], p[f.value:f.value + f.value_length]))
    return out


cdef object _door_head(object head_class, const char* p, Head* head):
    out = head_class()
    out.minor = head.minor
    out.fields = _field_list(p, head)
    out.length = None if head.length < 0 else head.length
    out.chunked = bool(head.chunked)
    out.keep_alive = not head.close and (head.minor == 1 or bool(head.keep_alive))
    out.size = head.size
    return out


cdef Head door_scratch


def scan_request(const unsigned char[::1] data not None, Py_ssize_t head_bytes_max=32768):
    """RequestHead of the head at the start of `data`; None while it is incomplete; HttpError when it is refused."""
    cdef bytes held = bytes(data)
    cdef const char* p = held
    cdef Py_ssize_t n = len(held), resume = 0
    cdef int found = find_end(p, n, &resume, &door_scratch)
    if found == COMPLETE:
        found = scan_request_head(p, n, &door_scratch)
    elif found == INCOMPLETE and n:
        found = early_refusal(p, n, &door_scratch)
    if found == REFUSED:
        raise HttpError(door_scratch.error_status, door_scratch.error_reason.decode())
    if found == INCOMPLETE:
        if n >= head_bytes_max:
            raise HttpError(414 if memchr(p, 10, n) == NULL else 431, "head too large")
        return None
    if door_scratch.size > head_bytes_max:
        raise HttpError(431, "head too large")
    out = _door_head(RequestHead, p, &door_scratch)
    out.method = p[door_scratch.start:door_scratch.start + door_scratch.method_length]
    out.target = p[door_scratch.target:door_scratch.target + door_scratch.target_length]
    return out


def scan_response(const unsigned char[::1] data not None, Py_ssize_t head_bytes_max=65536, request_method=b"GET"):
    """ResponseHead of the head at the start of `data`; None while it is incomplete; HttpError(502) when it is refused."""
    cdef bytes held = bytes(data)
    cdef const char* p = held
    cdef Py_ssize_t n = len(held)
    cdef int found = scan_response_head(p, n, &door_scratch)
    if found == REFUSED:
        raise HttpError(502, door_scratch.error_reason.decode())
    if found == INCOMPLETE:
        if n >= head_bytes_max:
            raise HttpError(502, "head too large")
        return None
    out = _door_head(ResponseHead, p, &door_scratch)
    out.status = door_scratch.status
    out.reason = p[door_scratch.reason:door_scratch.reason + door_scratch.reason_length]
    return out


cdef class ChunkScanner:
    """A chunked body, piece by piece: `feed(data) -> (payload, consumed, done)`; HttpError(400) when it is broken."""

    cdef Chunk chunk
    cdef Buffer kept

    def __cinit__(self):
        memset(&self.chunk, 0, sizeof(Chunk))
        memset(&self.kept, 0, sizeof(Buffer))

    def __dealloc__(self):
        buffer_free(&self.kept)

    @property
    def trailers(self):
        """The trailer lines so far, raw."""
        return self.kept.data[self.kept.start:self.kept.end] if self.kept.data != NULL else b""

    def feed(self, data):
        cdef bytearray held = bytearray(data)
        cdef Py_ssize_t consumed = 0, produced = 0
        if chunk_scan(&self.chunk, held, len(held), True, &consumed, &produced, &self.kept) == REFUSED:
            raise HttpError(400, "malformed chunk")
        return bytes(held[:produced]), consumed, self.chunk.state == C_DONE
