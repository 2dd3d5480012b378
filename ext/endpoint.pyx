# A replica as the relay sees it: where to connect, which connections wait, what it has been asked. Whether it is
# alive, and what its name resolves to, others decide and write here.

cdef enum:
    STATUSES = 600
    BUCKETS = 15

cdef double BUCKET_SECONDS[BUCKETS]
BUCKET_SECONDS[:] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]
_METHOD_NAMES = ("other", "GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")


cdef class Endpoint:
    """One replica. `index` is its name in the route table; `live` says whether the fast lane may choose it freely."""

    cdef readonly int index
    cdef readonly str url
    cdef readonly str pod
    cdef readonly bytes authority    # Host towards it
    cdef public bytes prefix         # goes before every path
    cdef public object tls_context   # of connections that are yet to be made
    cdef readonly str hostname
    cdef readonly int port
    cdef public bint live
    cdef public object note          # the router's own, not read here
    cdef list spare                  # idle connections, the last used at the end
    cdef readonly int busy           # connections that serve an exchange
    cdef readonly int connecting
    cdef readonly int in_flight      # exchanges
    cdef readonly int calls          # those among them that are no GET: a GET waits for events more than it works
    cdef public int expected         # calls whose connection is being made
    cdef public int calls_max        # the fast lane gives it no more; 0: as many as there are
    cdef readonly int streams        # event streams among them
    cdef uint32_t moves              # how often its name has come to mean another address
    cdef readonly int waits_for_us   # does it hold pieces back until we acknowledge? (nagle.pyx)
    cdef uint64_t* counts            # [method][status]

    def __cinit__(self, int index, str url, str pod, bytes authority, bytes prefix, str hostname, int port, tls_context):
        self.index = index
        self.url = url
        self.pod = pod
        self.authority = authority
        self.prefix = prefix
        self.hostname = hostname
        self.port = port
        self.tls_context = tls_context
        self.live = True
        self.spare = []
        self.counts = <uint64_t*>calloc(METHODS * STATUSES, sizeof(uint64_t))
        if self.counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.counts)

    @property
    def spare_count(self):
        """Idle connections to it."""
        return len(self.spare)

    def take_spare(self):
        """The idle connection that was used last, or None."""
        cdef Upstream upstream
        while self.spare:
            upstream = self.spare.pop()
            if not upstream.closed and not upstream.hung and not upstream.failed:
                undue(upstream)
                return upstream
            upstream.shut()
        return None

    def close_spares(self):
        """Close every idle connection."""
        cdef Upstream upstream
        while self.spare:
            upstream = self.spare.pop()
            upstream.shut()

    def moved(self):
        """Its name means another address now: connections to the old one serve what they have, and nothing new."""
        self.moves += 1
        self.close_spares()

    def answers(self):
        """[(method, status, count)] of the exchanges that ended here."""
        cdef int method, status
        out = []
        for method in range(METHODS):
            for status in range(STATUSES):
                if self.counts[method * STATUSES + status]:
                    out.append((_METHOD_NAMES[method], status, self.counts[method * STATUSES + status]))
        return out
