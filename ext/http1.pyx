# HTTP/1.1 heads and chunks: bytes in, offsets out (RFC 9112, RFC 9110 §5 and §6). Strict: what two parsers could read
# differently is refused, never repaired. Nothing here allocates; a head is scanned whole, once, into a struct that
# the caller owns, and a head cut in pieces costs a search for its end per piece and one scan at the end.
#
# Twin in Python: none. The oracle is h11 (tests/fuzz): what is accepted here, h11 accepts with the same meaning.

cdef enum:
    FIELDS_MAX = 200             # nginx has no bound, HAProxy 101, Apache 100; MCP clients send about 12
    EXTENSION_BYTES_MAX = 4096   # of one chunk; nobody sends any, smugglers hide in them
    TRAILER_BYTES_MAX = 8192

cdef enum FieldName:
    F_OTHER = 0
    F_HOST, F_CONNECTION, F_CONTENT_LENGTH, F_TRANSFER_ENCODING
    F_HOP                # ends here whatever it says: Keep-Alive, Proxy-*, TE, Trailer, Upgrade
    F_EXPECT
    F_FORWARDED, F_X_FORWARDED_FOR, F_X_FORWARDED_HOST, F_X_FORWARDED_PROTO, F_X_FORWARDED_OTHER
    F_SESSION, F_VERSION, F_METHOD, F_NAME, F_AUTHORIZATION, F_ORIGIN
    F_CONTENT_TYPE, F_ACCEPT, F_KEEP_ALIVE

cdef enum Method:
    M_OTHER = 0
    M_GET, M_POST, M_DELETE, M_HEAD, M_OPTIONS, M_PUT, M_PATCH
    METHODS

cdef enum Found:
    INCOMPLETE = 0
    COMPLETE = 1
    REFUSED = -1

cdef struct Field:
    uint32_t start        # of the line
    uint32_t end          # after its CRLF
    uint32_t value        # offset of the value without white space around it
    uint32_t value_length
    uint16_t name_length
    uint8_t name          # FieldName
    uint8_t drop          # named by a Connection header

cdef struct Head:
    uint32_t size             # bytes of the head, its empty line included
    uint32_t target
    uint32_t target_length
    uint32_t method_length    # the method starts at `start`
    uint32_t start            # after the empty lines that may come before a request (RFC 9112 §2.2)
    uint32_t reason
    uint32_t reason_length
    uint32_t seen             # bit per FieldName
    int64_t length            # Content-Length; -1 without one
    int32_t fields_count
    int16_t status            # of a response
    uint8_t method            # Method
    uint8_t minor             # HTTP/1.minor
    uint8_t chunked
    uint8_t close             # the sender wants the connection closed
    uint8_t keep_alive        # HTTP/1.0 that asked to keep it
    uint8_t names             # a Connection header names fields
    int16_t session, version, host, origin, content_type, expect  # index of the field, -1 without it
    int16_t error_status      # when REFUSED
    const char* error_reason
    Field fields[FIELDS_MAX]

# Lower-cased byte for each byte that may stand in a token (RFC 9110 §5.6.2), 0 for the rest.
cdef uint8_t TOKEN[256]
# 1 for each byte that may stand in a field value (RFC 9110 §5.5): no controls but the tab.
cdef uint8_t VALUE[256]
cdef int8_t HEX[256]


cdef void _fill_tables() noexcept:
    cdef int c
    cdef const char* marks = b"!#$%&'*+-.^_`|~"
    memset(TOKEN, 0, 256)
    for c in range(256):
        VALUE[c] = 1 if (c >= 0x20 and c != 0x7F) or c == 9 else 0
        HEX[c] = -1
    for c in range(c'0', c'9' + 1):
        TOKEN[c] = c
        HEX[c] = c - c'0'
    for c in range(c'a', c'z' + 1):
        TOKEN[c] = c
        TOKEN[c - 32] = c
    for c in range(6):
        HEX[c'a' + c] = 10 + c
        HEX[c'A' + c] = 10 + c
    while marks[0]:
        TOKEN[<uint8_t>marks[0]] = <uint8_t>marks[0]
        marks += 1


_fill_tables()

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif
    /* Length of the prefix of p[0:n] that holds only bytes a field value may have: 16 at a time where the machine can. */
    static inline size_t fp_value_span(const unsigned char *p, size_t n, const unsigned char *table) {
        size_t i = 0;
    #if defined(__SSE2__)
        const __m128i low = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f), tab = _mm_set1_epi8(9);
        for (; i + 16 <= n; i += 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
            __m128i bad = _mm_cmpeq_epi8(_mm_min_epu8(v, low), v);          /* v <= 0x1f */
            bad = _mm_andnot_si128(_mm_cmpeq_epi8(v, tab), bad);
            bad = _mm_or_si128(bad, _mm_cmpeq_epi8(v, del));
            int mask = _mm_movemask_epi8(bad);
            if (mask) return i + (size_t)__builtin_ctz((unsigned)mask);
        }
    #endif
        while (i < n && table[p[i]]) i++;
        return i;
    }
    """
    size_t fp_value_span(const unsigned char* p, size_t n, const unsigned char* table) noexcept nogil


cdef inline int _refuse(Head* head, int status, const char* reason) noexcept nogil:
    head.error_status = <int16_t>status
    head.error_reason = reason
    return REFUSED


cdef int find_end(const char* p, Py_ssize_t n, Py_ssize_t* resume, Head* head) noexcept nogil:
    """Is there a whole head in p[0:n]? `resume` keeps where to look on; a line that ends without CR is refused at once."""
    cdef Py_ssize_t i = resume[0], blank = 0
    cdef const char* lf
    while blank + 1 < n and p[blank] == 13 and p[blank + 1] == 10:
        blank += 2  # before a request; the scan says how many it suffers
    if blank > i:
        i = blank
    while True:
        lf = <const char*>memchr(p + i, 10, n - i)
        if lf == NULL:
            resume[0] = i
            return INCOMPLETE
        if lf == p or (lf - 1)[0] != 13:
            return _refuse(head, 400, b"bare line feed in the head")
        if lf - p == i + 1:
            resume[0] = i
            return COMPLETE
        i = lf - p + 1


cdef inline bint same_text(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t size) noexcept nogil:
    """Equal without regard to ASCII case; `lower` is lower-case, token characters only."""
    cdef Py_ssize_t i
    if n != size:
        return False
    for i in range(n):
        if TOKEN[<uint8_t>p[i]] != <uint8_t>lower[i]:
            return False
    return True


cdef inline int _name_of(const char* p, Py_ssize_t n) noexcept nogil:
    """Which of the names that mean something to a proxy: by length, then first letter, then all of it."""
    cdef char first = p[0] | 0x20
    if n == 2:
        if first == c't' and same_text(p, n, b"te", 2): return F_HOP
    elif n == 4:
        if first == c'h' and same_text(p, n, b"host", 4): return F_HOST
    elif n == 6:
        if first == c'a' and same_text(p, n, b"accept", 6): return F_ACCEPT
        if first == c'o' and same_text(p, n, b"origin", 6): return F_ORIGIN
        if first == c'e' and same_text(p, n, b"expect", 6): return F_EXPECT
    elif n == 7:
        if first == c't' and same_text(p, n, b"trailer", 7): return F_HOP
        if first == c'u' and same_text(p, n, b"upgrade", 7): return F_HOP
    elif n == 8:
        if first == c'm' and same_text(p, n, b"mcp-name", 8): return F_NAME
    elif n == 9:
        if first == c'f' and same_text(p, n, b"forwarded", 9): return F_FORWARDED
    elif n == 10:
        if first == c'c' and same_text(p, n, b"connection", 10): return F_CONNECTION
        if first == c'm' and same_text(p, n, b"mcp-method", 10): return F_METHOD
        if first == c'k' and same_text(p, n, b"keep-alive", 10): return F_KEEP_ALIVE
    elif n == 12:
        if first == c'c' and same_text(p, n, b"content-type", 12): return F_CONTENT_TYPE
    elif n == 13:
        if first == c'a' and same_text(p, n, b"authorization", 13): return F_AUTHORIZATION
    elif n == 14:
        if first == c'm' and same_text(p, n, b"mcp-session-id", 14): return F_SESSION
        if first == c'c' and same_text(p, n, b"content-length", 14): return F_CONTENT_LENGTH
    elif n == 15:
        if first == c'x' and same_text(p, n, b"x-forwarded-for", 15): return F_X_FORWARDED_FOR
    elif n == 16:
        if first == c'x' and same_text(p, n, b"x-forwarded-host", 16): return F_X_FORWARDED_HOST
    elif n == 17:
        if first == c't' and same_text(p, n, b"transfer-encoding", 17): return F_TRANSFER_ENCODING
        if first == c'x' and same_text(p, n, b"x-forwarded-proto", 17): return F_X_FORWARDED_PROTO
    elif n == 20:
        if first == c'm' and same_text(p, n, b"mcp-protocol-version", 20): return F_VERSION
    if first == c'p' and n > 6 and same_text(p, 6, b"proxy-", 6):
        return F_HOP
    if first == c'x' and n > 12 and same_text(p, 12, b"x-forwarded-", 12):
        return F_X_FORWARDED_OTHER
    return F_OTHER


cdef int _connection_tokens(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    """`close`, `keep-alive`, or names of fields that end here (RFC 9110 §7.6.1)."""
    cdef Py_ssize_t i = 0, start, stop
    while i < n:
        while i < n and (p[i] == c' ' or p[i] == c'\t' or p[i] == c','):
            i += 1
        start = i
        while i < n and p[i] != c',':
            i += 1
        stop = i
        while stop > start and (p[stop - 1] == c' ' or p[stop - 1] == c'\t'):
            stop -= 1
        if stop == start:
            continue
        if same_text(p + start, stop - start, b"close", 5):
            head.close = 1
        elif same_text(p + start, stop - start, b"keep-alive", 10):
            head.keep_alive = 1
        else:
            head.names = 1
    return COMPLETE


cdef void _drop_named(const char* p, Head* head) noexcept nogil:
    """Mark every field that a Connection header names; framing and routing fields can't be named away."""
    cdef int i, j
    cdef Field* field
    cdef Field* other
    cdef Py_ssize_t at, stop, start, end
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.name != F_CONNECTION:
            continue
        at = field.value
        stop = at + field.value_length
        while at < stop:
            while at < stop and (p[at] == c' ' or p[at] == c'\t' or p[at] == c','):
                at += 1
            start = at
            while at < stop and p[at] != c',' and p[at] != c' ' and p[at] != c'\t':
                at += 1
            end = at
            if end == start:
                continue
            for j in range(head.fields_count):
                other = &head.fields[j]
                if other.name_length == end - start and other.name in (F_OTHER, F_ACCEPT) \
                        and strncasecmp(p + other.start, p + start, end - start) == 0:
                    other.drop = 1


cdef int _length_of(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if n < 1 or n > 18:  # 10**18 bytes is no body; more digits would overflow
        return _refuse(head, 400, b"malformed Content-Length")
    for i in range(n):
        if p[i] < c'0' or p[i] > c'9':
            return _refuse(head, 400, b"malformed Content-Length")
        value = value * 10 + (p[i] - c'0')
    head.length = value
    return COMPLETE


cdef inline int _note(const char* p, Field* field, int16_t place, Head* head, bint request) noexcept nogil:
    """What a field whose name we know means for the message; a second one of what must be single is refused."""
    cdef int name = field.name
    cdef uint32_t bit = <uint32_t>1 << name
    if head.seen & bit:
        if name == F_CONTENT_LENGTH or name == F_TRANSFER_ENCODING:
            return _refuse(head, 400, b"repeated Content-Length or Transfer-Encoding")
        if request and (name == F_HOST or name == F_SESSION or name == F_VERSION or name == F_METHOD
                        or name == F_NAME or name == F_AUTHORIZATION or name == F_EXPECT):
            return _refuse(head, 400, b"repeated header that must be single")
    head.seen |= bit
    if name == F_CONTENT_LENGTH:
        return _length_of(p + field.value, field.value_length, head)
    if name == F_TRANSFER_ENCODING:
        if field.value_length == 0:
            return _refuse(head, 400, b"empty Transfer-Encoding")
        if not same_text(p + field.value, field.value_length, b"chunked", 7):
            return _refuse(head, 501, b"transfer coding other than chunked")
        head.chunked = 1
    elif name == F_CONNECTION:
        _connection_tokens(p + field.value, field.value_length, head)
    elif name == F_SESSION:
        head.session = place
    elif name == F_VERSION:
        head.version = place
    elif name == F_HOST:
        head.host = place
    elif name == F_ORIGIN:
        head.origin = place
    elif name == F_CONTENT_TYPE:
        head.content_type = place
    elif name == F_EXPECT:
        head.expect = place
    return COMPLETE


cdef int _fields(const char* p, Py_ssize_t at, Py_ssize_t n, Head* head, bint request) noexcept nogil:
    """The field lines from `at` to the empty line. Each: name ":" OWS value OWS CRLF, nothing else (RFC 9112 §5)."""
    cdef Py_ssize_t start, stop, i, length
    cdef int name, count = 0
    cdef Field* field
    head.fields_count = 0
    head.seen = 0
    head.length = -1
    head.session = head.version = head.host = head.origin = head.content_type = head.expect = -1
    head.chunked = head.close = head.keep_alive = head.names = 0
    while True:
        if at + 1 >= n:
            if at < n and p[at] == 10:
                return _refuse(head, 400, b"bare line feed in the head")
            return INCOMPLETE
        if p[at] == 13:
            if p[at + 1] != 10:
                return _refuse(head, 400, b"bare carriage return in the head")
            head.size = <uint32_t>(at + 2)
            break
        if count == FIELDS_MAX:
            return _refuse(head, 431, b"too many header fields")
        start = i = at
        while i < n and TOKEN[<uint8_t>p[i]]:
            i += 1
        if i >= n:
            return INCOMPLETE
        length = i - start
        if p[i] != c':' or length == 0:
            if i == start and (p[i] == c' ' or p[i] == c'\t'):
                return _refuse(head, 400, b"folded header line")
            if p[i] == c' ' or p[i] == c'\t':
                return _refuse(head, 400, b"white space before the colon of a header")
            return _refuse(head, 400, b"malformed header name")
        if length > 1024:
            return _refuse(head, 431, b"header name too long")
        i += 1
        while i < n and (p[i] == c' ' or p[i] == c'\t'):
            i += 1
        field = &head.fields[count]
        field.start = <uint32_t>start
        field.value = <uint32_t>i
        i += fp_value_span(<const unsigned char*>p + i, n - i, VALUE)
        if i + 1 >= n:
            return INCOMPLETE
        if p[i] != 13:
            return _refuse(head, 400, b"bare line feed in the head" if p[i] == 10 else b"control byte in a header value")
        if p[i + 1] != 10:
            return _refuse(head, 400, b"bare carriage return in the head")
        at = i + 2
        stop = i
        while stop > field.value and (p[stop - 1] == c' ' or p[stop - 1] == c'\t'):
            stop -= 1
        field.value_length = <uint32_t>(stop - field.value)
        field.end = <uint32_t>at
        field.name_length = <uint16_t>length
        field.drop = 0
        name = _name_of(p + start, length)
        field.name = <uint8_t>name
        if name != F_OTHER and _note(p, field, <int16_t>count, head, request) == REFUSED:
            return REFUSED
        count += 1
        head.fields_count = count
    if head.chunked and head.length >= 0:
        return _refuse(head, 400, b"Transfer-Encoding together with Content-Length")
    if head.chunked and head.minor == 0:
        return _refuse(head, 400, b"Transfer-Encoding in HTTP/1.0")
    if head.names:
        _drop_named(p, head)
    return COMPLETE


cdef inline int _method_of(const char* p, Py_ssize_t n) noexcept nogil:
    if n == 3:
        if memcmp(p, b"GET", 3) == 0: return M_GET
        if memcmp(p, b"PUT", 3) == 0: return M_PUT
    elif n == 4:
        if memcmp(p, b"POST", 4) == 0: return M_POST
        if memcmp(p, b"HEAD", 4) == 0: return M_HEAD
    elif n == 5:
        if memcmp(p, b"PATCH", 5) == 0: return M_PATCH
    elif n == 6:
        if memcmp(p, b"DELETE", 6) == 0: return M_DELETE
    elif n == 7:
        if memcmp(p, b"OPTIONS", 7) == 0: return M_OPTIONS
    return M_OTHER


cdef int scan_request_head(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    """request-line and fields (RFC 9112 §3) of a head whose end has been found: COMPLETE or REFUSED."""
    if _request_head(p, n, head) == COMPLETE:
        return COMPLETE
    if head.error_status == 0:
        return _refuse(head, 400, b"malformed request line")
    return REFUSED


cdef int _request_head(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    cdef Py_ssize_t i = 0, start
    cdef int found
    head.error_status = 0
    while i + 1 < n and p[i] == 13 and p[i + 1] == 10:
        i += 2
        if i > 4:
            return _refuse(head, 400, b"empty lines before the request")
    start = i
    head.start = <uint32_t>start
    while i < n and TOKEN[<uint8_t>p[i]]:
        i += 1
    if i >= n:
        return INCOMPLETE if n - start <= 32 else _refuse(head, 400, b"malformed request line")
    if p[i] != c' ' or i == start or i - start > 32:
        return _refuse(head, 400, b"malformed request line")
    head.method_length = <uint32_t>(i - start)
    head.method = <uint8_t>_method_of(p + start, i - start)
    i += 1
    start = i
    while i < n and <uint8_t>p[i] > 0x20 and <uint8_t>p[i] < 0x7F:
        i += 1
    if i >= n:
        return INCOMPLETE
    if p[i] != c' ' or i == start:
        return _refuse(head, 400, b"malformed request target")
    head.target = <uint32_t>start
    head.target_length = <uint32_t>(i - start)
    i += 1
    if n - i < 10:
        return INCOMPLETE
    if memcmp(p + i, b"HTTP/", 5) != 0 or p[i + 6] != c'.' or p[i + 8] != 13 or p[i + 9] != 10:
        return _refuse(head, 400, b"malformed request line")
    if p[i + 5] != c'1' or (p[i + 7] != c'1' and p[i + 7] != c'0'):
        if p[i + 5] < c'0' or p[i + 5] > c'9' or p[i + 7] < c'0' or p[i + 7] > c'9':
            return _refuse(head, 400, b"malformed request line")
        return _refuse(head, 505, b"HTTP version other than 1.0 and 1.1")
    head.minor = <uint8_t>(p[i + 7] - c'0')
    found = _fields(p, i + 10, n, head, True)
    if found != COMPLETE:
        return found
    if head.minor == 1 and head.host < 0:
        return _refuse(head, 400, b"no Host")
    return COMPLETE


cdef int early_refusal(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    """What can be refused before the head is whole: whoever does not speak HTTP need not be waited for."""
    if p[0] != 13 and not TOKEN[<uint8_t>p[0]]:
        return _refuse(head, 400, b"malformed request line")
    if n >= 6 and p[0] == 13 and p[1] == 10 and p[2] == 13 and p[3] == 10 and p[4] == 13:
        return _refuse(head, 400, b"empty lines before the request")
    return INCOMPLETE


cdef int scan_response_head(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    """status-line and fields (RFC 9112 §4). The reason phrase may be empty, and its space may be missing."""
    cdef Py_ssize_t i
    if n < 15:
        if n > 0 and memcmp(p, b"HTTP/1.", 7 if n > 7 else n) != 0:
            return _refuse(head, 502, b"not an HTTP/1 answer")
        return INCOMPLETE
    if memcmp(p, b"HTTP/1.", 7) != 0 or (p[7] != c'1' and p[7] != c'0') or p[8] != c' ':
        return _refuse(head, 502, b"not an HTTP/1 answer")
    if p[9] < c'1' or p[9] > c'5' or p[10] < c'0' or p[10] > c'9' or p[11] < c'0' or p[11] > c'9':
        return _refuse(head, 502, b"malformed status line")
    head.minor = <uint8_t>(p[7] - c'0')
    head.status = <int16_t>((p[9] - c'0') * 100 + (p[10] - c'0') * 10 + (p[11] - c'0'))
    head.start = 0
    i = 12
    if p[i] == c' ':
        i += 1
    elif p[i] != 13:
        return _refuse(head, 502, b"malformed status line")
    head.reason = <uint32_t>i
    i += fp_value_span(<const unsigned char*>p + i, n - i, VALUE)
    if i + 1 >= n:
        return INCOMPLETE
    if p[i] != 13 or p[i + 1] != 10:
        return _refuse(head, 502, b"malformed status line")
    head.reason_length = <uint32_t>(i - head.reason)
    return _fields(p, i + 2, n, head, False)
