# One socket: bytes in, bytes out, TLS or not. Edge-triggered: a wire is registered once with epoll, remembers itself
# whether it is readable and writable, and stops a sender by not reading. Exchanges stand above it, the kernel below.

cdef enum Got:
    GOT_NOTHING = -1   # would block
    GOT_END = 0
    GOT_ERROR = -2


cdef class Exchange
cdef class Reactor
cdef class Listener
cdef class Endpoint
cdef class Client
cdef class Upstream


cdef class Wire:
    cdef Reactor reactor
    cdef int fd
    cdef bint readable      # the kernel may hold bytes for us
    cdef bint writable      # the kernel may take bytes of ours
    cdef bint hung          # the peer has sent its last byte: read to the end, a short read is not the end
    cdef bint failed        # receiving said that the connection is dead
    cdef bint cut           # sending said so; an answer may still be there to be read
    cdef bint was_reset     # the peer has thrown the connection away, without a word of its end before
    cdef bint closed
    cdef Buffer inbox       # received, not yet used
    cdef Buffer outbox      # to be sent, the kernel did not take it yet
    cdef uint64_t sent      # bytes that the kernel took, ever
    cdef Tls tls
    # deadlines.pyx
    cdef uint64_t due_ms
    cdef int due_list
    cdef bint due_older     # under a length that has shrunk since
    cdef PyObject* due_next
    cdef PyObject* due_previous

    def __cinit__(self):
        self.fd = -1
        self.due_list = -1
        memset(&self.inbox, 0, sizeof(Buffer))
        memset(&self.outbox, 0, sizeof(Buffer))

    def __dealloc__(self):
        buffer_free(&self.inbox)
        buffer_free(&self.outbox)
        if self.fd >= 0:
            c_close(self.fd)

    cdef int on_ready(self) except -1:
        raise AssertionError("a wire is a client or an upstream")

    cdef int on_due(self, int which) except -1:
        raise AssertionError("a wire is a client or an upstream")

    cdef Py_ssize_t fill(self, Py_ssize_t room) except -3:
        """Receive once into the inbox: the number of bytes, or a Got."""
        cdef Py_ssize_t got, space
        if self.tls is not None:
            return self.tls.fill(self, room)
        if self.failed:
            return GOT_ERROR
        if not self.readable:
            return GOT_NOTHING
        if buffer_room(&self.inbox, room) < 0:
            return GOT_ERROR
        space = <Py_ssize_t>self.inbox.capacity - <Py_ssize_t>self.inbox.end
        while True:
            got = c_recv(self.fd, self.inbox.data + self.inbox.end, space, 0)
            if got > 0:
                self.inbox.end += <uint32_t>got
                if got < space and not self.hung:
                    self.readable = False
                return got
            if got < 0 and errno == EINTR:
                continue
            if self.inbox.start == self.inbox.end:
                buffer_free(&self.inbox)
            if got == 0:
                self.hung = True
                return GOT_END
            if errno == EAGAIN:
                self.readable = False
                return GOT_NOTHING
            self.failed = self.was_reset = True
            return GOT_ERROR

    cdef void broke(self) noexcept:
        """Sending failed. EPIPE: after the peer had ended its side; anything else: out of the blue."""
        self.cut = True
        if errno != EPIPE:
            self.was_reset = True

    cdef int write(self, const char* p, Py_ssize_t n) except -2:
        """Send p[0:n], or keep what the kernel does not take: 0; -1 when the connection is dead."""
        cdef Py_ssize_t sent = 0
        if self.cut or self.closed:
            return -1
        if self.tls is not None:
            return self.tls.write(self, p, n)
        return self.put(p, n)

    cdef int put(self, const char* p, Py_ssize_t n) except -2:
        """`write` below TLS."""
        cdef Py_ssize_t sent = 0
        if self.outbox.data == NULL and self.writable:
            while True:
                sent = c_send(self.fd, p, n, MSG_NOSIGNAL)
                if sent >= 0:
                    break
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.broke()
                    return -1
                sent = 0
                break
            self.sent += <uint64_t>sent
            if sent == n:
                return 0
            self.writable = False
        if buffer_put(&self.outbox, p + sent, n - sent) < 0:
            self.cut = True
            return -1
        return 0

    cdef int write_both(self, const char* p, Py_ssize_t n, const char* q, Py_ssize_t m) except -2:
        """`write` of p[0:n] and then q[0:m], in one system call and without copying what the kernel takes at once."""
        cdef Py_ssize_t sent
        if self.tls is not None or self.outbox.data != NULL or not self.writable or self.cut or self.closed:
            if self.write(p, n) < 0:
                return -1
            return self.write(q, m)
        while True:
            sent = fp_send2(self.fd, p, n, q, m)
            if sent >= 0:
                break
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                self.broke()
                return -1
            sent = 0
            break
        self.sent += <uint64_t>sent
        if sent == n + m:
            return 0
        self.writable = False
        if (sent < n and buffer_put(&self.outbox, p + sent, n - sent) < 0) \
                or buffer_put(&self.outbox, q + (sent - n if sent > n else 0), m - (sent - n if sent > n else 0)) < 0:
            self.cut = True
            return -1
        return 0

    cdef int flush(self) except -2:
        """Send what is kept. 1: nothing is left; 0: the kernel is full; -1: dead."""
        cdef Py_ssize_t sent
        while self.outbox.data != NULL:
            if self.cut:
                return -1
            if not self.writable:
                return 0
            sent = c_send(self.fd, self.outbox.data + self.outbox.start, buffer_size(&self.outbox), MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    self.writable = False
                    return 0
                self.broke()
                return -1
            self.sent += <uint64_t>sent
            buffer_skip(&self.outbox, sent)
        return 1

    cdef inline bint backed_up(self) noexcept:
        return self.outbox.data != NULL

    cdef void shut(self) noexcept:
        """Close now. The object lives on until nobody holds it; epoll forgets the descriptor by itself."""
        if self.closed:
            return
        self.closed = True
        self.readable = self.writable = False
        undue(self)
        buffer_free(&self.inbox)
        buffer_free(&self.outbox)
        self.tls = None
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1
        self.reactor.forget(self)


cdef class Tls:
    """TLS on a wire, through the standard library's memory BIOs: OpenSSL sees bytes, the wire keeps the socket."""

    cdef object session     # ssl.SSLObject
    cdef object incoming    # ssl.MemoryBIO
    cdef object outgoing
    cdef public bint shaking
    cdef bint more          # plain bytes may wait inside OpenSSL

    def __cinit__(self, context, bint server_side, hostname):
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=hostname)
        self.shaking = True

    cdef int feed(self, Wire wire) except -3:
        """Move what the socket holds into OpenSSL: GOT_NOTHING, GOT_END or GOT_ERROR says why it stopped; 1: fed."""
        cdef Py_ssize_t got
        cdef char* scratch = wire.reactor.scratch
        if wire.failed:
            return GOT_ERROR
        if not wire.readable:
            return GOT_NOTHING
        while True:
            got = c_recv(wire.fd, scratch, PIECE, 0)
            if got > 0:
                if got < PIECE and not wire.hung:
                    wire.readable = False
                self.incoming.write(PyBytes_FromStringAndSize(scratch, got))
                return 1
            if got < 0 and errno == EINTR:
                continue
            if got == 0:
                wire.hung = True
                return GOT_END
            if errno == EAGAIN:
                wire.readable = False
                return GOT_NOTHING
            wire.failed = wire.was_reset = True
            return GOT_ERROR

    cdef int shake(self, Wire wire) except -3:
        """Go on with the handshake: 1 done, 0 waits for the peer, -1 failed (the wire is marked)."""
        cdef int got
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                if self.send(wire) < 0:
                    return -1
                got = self.feed(wire)
                if got == GOT_NOTHING:
                    return 0
                if got != 1:
                    wire.failed = True
                    return -1
                continue
            except (ssl.SSLError, ssl.CertificateError, ValueError) as error:
                self.send(wire)  # the alert, if OpenSSL made one
                wire.reactor.tls_error = str(error)
                wire.failed = True
                return -1
            self.shaking = False
            self.more = True
            return -1 if self.send(wire) < 0 else 1

    cdef Py_ssize_t fill(self, Wire wire, Py_ssize_t room) except -3:
        cdef int got
        cdef bytes plain
        while True:
            if wire.failed:
                return GOT_ERROR
            try:
                plain = self.session.read(room)
            except ssl.SSLWantReadError:
                self.more = False
                got = self.feed(wire)
                if got == 1:
                    continue
                if got == GOT_END:
                    wire.failed = True  # an end without close_notify may be a cut: no answer ends with it
                    return GOT_ERROR
                return got
            except ssl.SSLZeroReturnError:
                wire.hung = True
                return GOT_END
            except ssl.SSLError as error:
                wire.reactor.tls_error = str(error)
                wire.failed = True
                return GOT_ERROR
            if not plain:
                wire.hung = True
                return GOT_END
            self.more = True
            wire.readable = True  # there may be more inside OpenSSL, which no edge of epoll would tell
            if buffer_put(&wire.inbox, plain, len(plain)) < 0:
                return GOT_ERROR
            return len(plain)

    cdef int write(self, Wire wire, const char* p, Py_ssize_t n) except -2:
        if self.session.write(PyBytes_FromStringAndSize(p, n)) != n:
            wire.cut = True
            return -1
        return self.send(wire)

    cdef int send(self, Wire wire) except -2:
        """Move what OpenSSL has made to the socket, or into the outbox."""
        cdef bytes cipher
        if not self.outgoing.pending:
            return 0
        cipher = self.outgoing.read()
        return wire.put(PyBytes_AS_STRING(cipher), PyBytes_GET_SIZE(cipher))

    cdef void say_goodbye(self, Wire wire):
        """close_notify, so that the peer knows that nothing was cut."""
        try:
            self.session.unwrap()
        except (ssl.SSLError, ValueError, OSError):
            pass
        self.send(wire)
