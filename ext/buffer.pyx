# Byte buffers with a start and an end. A piece (16 KiB) comes from and goes back to a small pool, so that a connection
# that waits holds none; other sizes are malloc's. Nothing here raises: a buffer that can't grow answers -1.

cdef enum:
    PIECE = 16384        # holds every head and small body in one read; two of them per busy exchange
    PIECE_LARGE = 65536  # for bodies that keep filling a piece: fewer system calls per byte
    POOL_PIECES = 256    # 4 MiB kept at the most

cdef struct Buffer:
    char* data
    uint32_t capacity
    uint32_t start
    uint32_t end

cdef char* pool[POOL_PIECES]
cdef int pool_count = 0


cdef inline char* piece_take() noexcept nogil:
    global pool_count
    if pool_count:
        pool_count -= 1
        return pool[pool_count]
    return <char*>malloc(PIECE)


cdef inline void buffer_free(Buffer* b) noexcept nogil:
    global pool_count
    if b.data != NULL:
        if b.capacity == PIECE and pool_count < POOL_PIECES:
            pool[pool_count] = b.data
            pool_count += 1
        else:
            free(b.data)
        b.data = NULL
    b.capacity = b.start = b.end = 0


cdef inline Py_ssize_t buffer_size(const Buffer* b) noexcept nogil:
    return <Py_ssize_t>b.end - <Py_ssize_t>b.start


cdef int buffer_room(Buffer* b, Py_ssize_t n) noexcept nogil:
    """Make room for n bytes at the end: 0, or -1 without memory."""
    cdef Py_ssize_t size, capacity
    cdef char* data
    if b.data == NULL:
        if n <= PIECE:
            b.data = piece_take()
            capacity = PIECE
        else:
            capacity = n
            b.data = <char*>malloc(capacity)
        if b.data == NULL:
            return -1
        b.capacity = <uint32_t>capacity
        b.start = b.end = 0
        return 0
    if <Py_ssize_t>b.capacity - <Py_ssize_t>b.end >= n:
        return 0
    size = buffer_size(b)
    if <Py_ssize_t>b.capacity - size >= n:
        memmove(b.data, b.data + b.start, size)
        b.start = 0
        b.end = <uint32_t>size
        return 0
    capacity = <Py_ssize_t>b.capacity * 2
    if capacity < size + n:
        capacity = size + n
    if capacity > 0x7FFFFFFF:
        return -1
    data = <char*>malloc(capacity)
    if data == NULL:
        return -1
    memcpy(data, b.data + b.start, size)
    buffer_free(b)
    b.data = data
    b.capacity = <uint32_t>capacity
    b.end = <uint32_t>size
    return 0


cdef inline int buffer_put(Buffer* b, const char* p, Py_ssize_t n) noexcept nogil:
    if buffer_room(b, n) < 0:
        return -1
    memcpy(b.data + b.end, p, n)
    b.end += <uint32_t>n
    return 0


cdef int buffer_exact(Buffer* b, const char* p, Py_ssize_t n) noexcept nogil:
    """A copy of p[0:n] and not a byte more, for what may be kept long."""
    buffer_free(b)
    b.data = <char*>malloc(n if n > 0 else 1)
    if b.data == NULL:
        return -1
    memcpy(b.data, p, n)
    b.capacity = b.end = <uint32_t>n
    return 0


cdef inline void buffer_skip(Buffer* b, Py_ssize_t n) noexcept nogil:
    """n bytes at the front are done with; an empty buffer gives its memory back."""
    b.start += <uint32_t>n
    if b.start >= b.end:
        buffer_free(b)
