# A bound socket: who may come in by it, how many are in, and what is known of the names that they use.

cdef class Listener:
    """A bound socket. `tag` tells the handler what it is; `fast_lane`: may requests here be answered without Python?"""

    cdef readonly int fd
    cdef readonly object tag
    cdef public object tls_context
    cdef public bint fast_lane
    cdef public bint any_host
    cdef bint counted               # its requests are what the metrics tell of (the admin's own are not)
    cdef public object trusts       # called with a peer's address: is it a trusted proxy? None: nobody is
    cdef bint paused                # no descriptor is left, not even to turn somebody away with
    cdef list hosts                 # Host values that the story has approved; a few
    cdef Reactor reactor
    cdef public int connections_max # one more is turned away; 0: as many as there are descriptors
    cdef readonly int connections   # open now
    cdef readonly int abandoned     # calls whose clients have left: each keeps its place until its replica is done
    cdef readonly int lingering     # turned away, and not gone yet
    cdef readonly uint64_t turned_away
    cdef public int accepts_max     # taken per wake-up; few where other processes accept here too, so that all get some

    cdef bint knows_host(self, const char* p, Py_ssize_t n) noexcept:
        cdef bytes host
        if self.any_host:
            return True
        for host in self.hosts:
            if PyBytes_GET_SIZE(host) == n and memcmp(PyBytes_AS_STRING(host), p, n) == 0:
                return True
        return False

    def approve_host(self, bytes host):
        """The story has found this Host acceptable; the fast lane may take it as such."""
        if host not in self.hosts:
            if len(self.hosts) >= 8:
                del self.hosts[0]
            self.hosts.append(host)

    def forget_hosts(self):
        self.hosts.clear()

    def close(self):
        """Accept no more."""
        self.reactor.drop_listener(self)
