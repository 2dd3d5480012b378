# Everything under one roof: one epoll descriptor for all sockets of the data plane, itself watched by the event loop.
# The loop stays in charge (timers, signals, the story's coroutines); a wake-up of ours costs one callback however many
# sockets are ready, and a read or a write costs a system call and no Python object.

cdef enum:
    EVENTS_MAX = 256
    ACCEPTS_MAX = 64        # connections taken per listener and wake-up, so that a flood does not starve the others
    ROUNDS_MAX = 4          # looks into epoll per wake-up
    AGAIN_MIN = 4           # so many at once, and the next are there by now: the loop's own round costs more than a look

logger = logging.getLogger("fastproxy.relay")


cdef class Reactor:
    """The data plane. `handler`: begin(exchange), resume(exchange, answer), touch(key), access(exchange)."""

    cdef readonly object loop
    cdef public object handler
    cdef readonly RouteTable table
    cdef int epoll
    cdef int reserve                # a descriptor kept for the moment when there is no other
    cdef set wires                  # holds every open wire
    cdef list dead                  # closed in this wake-up; epoll may still name them
    cdef list later                 # clients with something left to do in this wake-up
    cdef list listeners
    cdef list endpoints
    cdef Listener calls             # of requests of the proxy's own, which nobody has sent us
    cdef Endpoint gone              # stands where an endpoint was dropped
    cdef list offered               # who may be chosen for what belongs to nobody; empty: the story chooses
    cdef bint several               # there is, or may be, more than one replica
    cdef uint64_t turn              # of such choices, the story's and the fast lane's
    cdef public Search search       # None: the era without sessions has no fast lane
    cdef object sweeper
    cdef DueList dues[2 * DUES]     # by kind; from DUES on, of those whose kind had a greater length when they came
    cdef uint64_t now_ms
    cdef uint32_t now_s             # on the route table's clock
    cdef uint64_t born_ms
    cdef Head request_head
    cdef Head answer_head
    cdef Buffer out
    cdef char* scratch
    cdef object tls_error
    cdef public dict aliases        # store key: the backend's own id, of sessions whose flags say MAPPED
    cdef public Py_ssize_t head_bytes_max
    cdef public int64_t body_bytes_max
    cdef public Py_ssize_t replay_bytes_max
    cdef public uint32_t ttl_seconds
    cdef public uint32_t touch_seconds
    cdef public bint fast_lane
    cdef public bint logs_access
    cdef readonly bint closing      # drain: connections end with their answer
    # counters
    cdef readonly uint64_t fast_requests
    cdef readonly uint64_t accepted
    cdef readonly uint64_t refused_accepts
    cdef readonly uint64_t stalls
    cdef readonly uint64_t tls_failures
    cdef readonly uint64_t faults
    cdef readonly int in_flight
    cdef readonly int streams_open
    cdef uint64_t own_counts[METHODS * STATUSES]
    cdef uint64_t buckets[BUCKETS + 1]
    cdef double seconds_sum

    def __cinit__(self, loop, handler, RouteTable table not None, *, double header_seconds=10, double body_seconds=30,
                  double idle_seconds=120, double connect_seconds=2, double response_seconds=300,
                  double spare_seconds=4, double linger_seconds=2):
        cdef int i
        self.loop = loop
        self.handler = handler
        self.table = table
        self.wires = set()
        self.dead = []
        self.later = []
        self.listeners = []
        self.endpoints = []
        self.offered = []
        self.calls = Listener()
        self.gone = Endpoint(0, "", None, b"", b"", "", 0, None)
        self.gone.live = False
        self.aliases = {}
        self.fast_lane = True
        self.head_bytes_max = 32768
        self.body_bytes_max = 8 << 20
        self.replay_bytes_max = 256 << 10
        self.ttl_seconds = 7200
        self.touch_seconds = 720
        for i, seconds in ((DUE_HEAD, header_seconds), (DUE_BODY, body_seconds), (DUE_IDLE, idle_seconds),
                           (DUE_STALL, idle_seconds), (DUE_LINGER, linger_seconds), (DUE_CONNECT, connect_seconds),
                           (DUE_RESPONSE, response_seconds), (DUE_SPARE, spare_seconds), (DUE_VERDICT, 0.1)):
            self.dues[i].length_ms = <uint64_t>(seconds * 1000)
        fp_keep_memory()
        self.scratch = <char*>malloc(PIECE_LARGE)
        if self.scratch == NULL or buffer_room(&self.out, 4 * PIECE_LARGE) < 0:
            raise MemoryError
        self.born_ms = fp_clock_ms()
        self.tick()
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        loop.add_reader(self.epoll, self.pump)
        self.sweeper = loop.call_later(0.1, self.sweep)

    def __dealloc__(self):
        free(self.scratch)
        buffer_free(&self.out)

    cdef inline void tick(self) noexcept:
        self.now_ms = fp_clock_ms()
        self.now_s = <uint32_t>((self.now_ms - self.born_ms) // 1000) + 1

    @property
    def now_seconds(self):
        """The route table's clock: whole seconds since this reactor began, from 1 on."""
        self.tick()
        return self.now_s

    def set_seconds(self, *, double header_seconds, double body_seconds, double idle_seconds, double connect_seconds,
                    double response_seconds):
        """Other lengths, from now on: a wait that has begun ends when it would have ended."""
        cdef int which
        cdef uint64_t length_ms
        for which, seconds in ((DUE_HEAD, header_seconds), (DUE_BODY, body_seconds), (DUE_IDLE, idle_seconds),
                               (DUE_STALL, idle_seconds), (DUE_CONNECT, connect_seconds),
                               (DUE_RESPONSE, response_seconds)):
            length_ms = <uint64_t>(seconds * 1000)
            if length_ms < self.dues[which].length_ms:
                set_aside(self, which)
            self.dues[which].length_ms = length_ms

    def close(self):
        """Close every socket at once."""
        cdef Wire wire
        cdef Exchange exchange
        if self.epoll < 0:
            return
        self.sweeper.cancel()
        self.loop.remove_reader(self.epoll)
        for listener in list(self.listeners):
            self.drop_listener(listener)
        for wire in list(self.wires):
            exchange = (<Client>wire).exchange if isinstance(wire, Client) else None
            if isinstance(wire, Upstream) and (<Upstream>wire).exchange is not None and (<Upstream>wire).exchange.own_call:
                exchange = (<Upstream>wire).exchange
            if exchange is not None:
                end_exchange(exchange, "closed", True)
            wire.shut()
        self.dead.clear()
        c_close(self.epoll)
        if self.reserve >= 0:
            c_close(self.reserve)
        self.epoll = -1

    # ---- wires

    cdef int watch(self, Wire wire) except -1:
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data_ptr = <void*>wire
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, wire.fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        self.wires.add(wire)
        return 0

    cdef void forget(self, Wire wire) noexcept:
        if wire in self.wires:
            self.dead.append(wire)
            self.wires.discard(wire)
            if isinstance(wire, Client):
                (<Client>wire).leave()

    cdef void call_later(self, Client client) noexcept:
        if not self.later:
            self.loop.call_soon(self.pump)
        self.later.append(client)

    def pump(self):
        """Serve whatever is ready. The loop calls it when the epoll descriptor is readable."""
        cdef epoll_event events[EVENTS_MAX]
        cdef int n, i, rounds = 0
        cdef Wire wire
        cdef Listener listener
        cdef unsigned int what
        cdef list later
        while rounds < ROUNDS_MAX and self.epoll >= 0:
            rounds += 1
            n = epoll_wait(self.epoll, events, EVENTS_MAX, 0)
            if n <= 0:
                break
            self.tick()
            for i in range(n):
                what = events[i].events
                if isinstance(<object>events[i].data_ptr, Listener):
                    listener = <Listener>events[i].data_ptr
                    self.accept(listener)
                    continue
                wire = <Wire>events[i].data_ptr
                if wire.closed:
                    continue
                if what & EPOLLIN:
                    wire.readable = True
                if what & EPOLLOUT:
                    wire.writable = True
                if what & EPOLLRDHUP:
                    wire.hung = wire.readable = True
                if what & (EPOLLERR | EPOLLHUP):
                    wire.hung = wire.readable = wire.writable = True
                    if isinstance(wire, Client):
                        (<Client>wire).broken = True
                self.serve(wire)
            if n < AGAIN_MIN:
                break
        if self.later:
            later = self.later
            self.later = []
            for wire in later:
                if not wire.closed:
                    self.serve(wire)
        self.dead.clear()

    cdef void serve(self, Wire wire) noexcept:
        """One wire's turn. A fault of ours costs that wire, never the process."""
        try:
            wire.on_ready()
        except Exception:
            self.fault(wire)

    cdef void fault(self, Wire wire) noexcept:
        cdef Exchange exchange = (<Client>wire).exchange if isinstance(wire, Client) else (<Upstream>wire).exchange
        self.faults += 1
        logger.exception("fault in the relay; the connection is closed")
        try:
            if exchange is not None:
                end_exchange(exchange, "fault", True)
        except Exception:
            logger.exception("fault while closing")
        wire.shut()

    def sweep(self):
        """Ten times a second: who has waited too long? The heads of the lists say it."""
        cdef int which
        cdef Wire wire
        cdef DueList* line
        self.tick()
        for which in range(2 * DUES):
            line = &self.dues[which]
            while line.first != NULL:
                wire = <Wire>line.first
                if wire.due_ms > self.now_ms:
                    break
                undue(wire)
                try:
                    wire.on_due(which % DUES)
                except Exception:
                    self.fault(wire)
        for listener in self.listeners:
            if (<Listener>listener).paused:
                (<Listener>listener).paused = False
                if self.reserve < 0:
                    self.fill_reserve()
                self.arm(listener)
        self.table.sweep(self.now_s, 200)
        self.dead.clear()
        self.sweeper = self.loop.call_later(0.1, self.sweep)

    # ---- listening

    def listen(self, int fd, tag, tls_context=None, bint fast_lane=True):
        """Accept on a bound, listening, non-blocking descriptor, which is ours from now on."""
        cdef epoll_event event
        cdef Listener listener = Listener.__new__(Listener)
        listener.fd = fd
        listener.tag = tag
        listener.tls_context = tls_context
        listener.fast_lane = fast_lane
        listener.hosts = []
        listener.counted = tag != "admin"
        listener.reactor = self
        listener.accepts_max = ACCEPTS_MAX
        event.events = EPOLLIN
        event.data_ptr = <void*>listener
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        self.listeners.append(listener)
        return listener

    cdef void drop_listener(self, Listener listener) noexcept:
        if listener.fd >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, listener.fd, NULL)
            c_close(listener.fd)
            listener.fd = -1
            self.listeners.remove(listener)

    cdef int accept(self, Listener listener) except -1:
        cdef int fd, taken = 0
        cdef Client client
        while taken < listener.accepts_max and listener.fd >= 0:
            fd = fp_accept(listener.fd)
            if fd < 0:
                if errno == EMFILE or errno == ENFILE:
                    self.shed(listener)
                elif errno == EINTR or errno == ECONNABORTED:
                    continue
                return 0
            taken += 1
            if listener.counted:
                self.accepted += 1
            client = Client.__new__(Client)
            client.reactor = self
            client.listener = listener
            client.fd = fd
            fp_nodelay(fd)
            client.peer_length = fp_peer(fd, client.peer, 46)
            try:
                if listener.trusts is not None:
                    client.trusted = listener.trusts(client.peer[:client.peer_length].decode("ascii"))
                if listener.tls_context is not None:
                    client.tls = Tls(listener.tls_context, True, None)
                self.watch(client)
                client.enter()
            except Exception:
                logger.exception("a new connection could not be set up")
                client.shut()
                continue
            due(client, DUE_HEAD)
            client.readable = client.writable = True
            if client.turned_away:
                self.turn_away(client)
            else:
                self.serve(client)
        return 0

    cdef void turn_away(self, Client client) noexcept:
        try:
            client.turn_away()
        except Exception:
            self.fault(client)

    cdef void shed(self, Listener listener) noexcept:
        """No descriptor is left: take the connection with the reserve and close it, rather than spin on it."""
        cdef int fd, error
        if self.reserve >= 0:
            c_close(self.reserve)
        fd = fp_accept(listener.fd)
        error = errno
        if fd >= 0:
            self.refused_accepts += 1
            c_close(fd)
        self.fill_reserve()
        if fd < 0 and (error == EMFILE or error == ENFILE):
            listener.paused = True
            self.arm(listener)

    cdef void fill_reserve(self) noexcept:
        try:
            self.reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.reserve = -1

    cdef void arm(self, Listener listener) noexcept:
        """Hear of new connections, or not while it is paused (its epoll entry is level-triggered and would spin)."""
        cdef epoll_event event
        event.events = 0 if listener.paused else EPOLLIN
        event.data_ptr = <void*>listener
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, listener.fd, &event)

    # ---- backends

    def add_endpoint(self, str url, str pod, bytes authority, bytes prefix, str hostname, int port, tls_context=None,
                     int index=-1):
        """A new Endpoint. `index`: that of one that was dropped, once nobody can mean that one any more."""
        if index < 0:
            index = len(self.endpoints)
            if index >= TABLE_ENDPOINTS:
                raise OverflowError("every index of an endpoint has been given away")
            self.endpoints.append(self.gone)
        elif self.endpoints[index] is not self.gone:
            raise ValueError(f"endpoint {index} has not been dropped")
        endpoint = Endpoint(index, url, pod, authority, prefix, hostname, port, tls_context)
        self.endpoints[index] = endpoint
        return endpoint

    def offer(self, list endpoints not None, *, bint several):
        """Who may be chosen, in the story's order, until the next word; nobody: it is to be asked each time."""
        self.offered = endpoints
        self.several = several

    def next_turn(self):
        """The number of a choice; it grows by one with each."""
        self.turn += 1
        return self.turn

    def drop_endpoint(self, Endpoint endpoint not None):
        """Let go of an endpoint; False when the table names it, or somebody is asking it."""
        if self.table.counts[endpoint.index] or endpoint.in_flight or endpoint.busy or endpoint.connecting:
            return False
        endpoint.close_spares()
        self.endpoints[endpoint.index] = self.gone
        return True

    def connect(self, Endpoint endpoint not None, str address):
        """Begin to connect to a literal address: future of an Upstream in hand, ConnectFailed otherwise."""
        cdef Upstream upstream = Upstream.__new__(Upstream)
        cdef int family = AF_INET6 if ":" in address else AF_INET
        cdef int error
        cdef bytes host
        cdef unsigned int scope = 0
        if "%" in address:
            address, _, zone = address.partition("%")
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        host = address.encode("ascii")
        future = self.loop.create_future()
        upstream.reactor = self
        upstream.endpoint = endpoint
        upstream.move = endpoint.moves
        upstream.ready = future
        upstream.fd = c_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if upstream.fd < 0 and (errno == EMFILE or errno == ENFILE) and self.sacrifice_spare():
            upstream.fd = c_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if upstream.fd < 0:
            error = errno
            future.set_exception(ConnectFailed(os.strerror(error), error))
            return future
        fp_nodelay(upstream.fd)
        error = fp_connect(upstream.fd, family, host, endpoint.port, scope)
        if error:
            upstream.shut()
            future.set_exception(ConnectFailed(os.strerror(error), error))
            return future
        if endpoint.tls_context is not None:
            upstream.tls = Tls(endpoint.tls_context, False, endpoint.hostname)
        endpoint.connecting += 1
        self.watch(upstream)
        self.tick()
        due(upstream, DUE_CONNECT)
        return future

    def call(self, Upstream upstream not None, bytes request not None):
        """Send a request of the proxy's own, whole: (the Exchange of it, future of its AnswerHead or UpstreamLost)."""
        cdef Exchange call
        if self.epoll < 0:
            raise RuntimeError("the reactor is closed")
        call = new_call(self, upstream, request)
        future = call.wait_for(W_HEAD, 0)
        due(upstream, DUE_RESPONSE)
        if upstream.readable:
            upstream.answer_ready()
        return call, future

    cdef bint sacrifice_spare(self) except -1:
        """No descriptor is left: of the idle connections, whosever they are, the one that has waited longest goes."""
        if self.dues[<int>DUE_SPARE].first == NULL:
            return False
        (<Upstream>self.dues[<int>DUE_SPARE].first).drop()
        return True

    cpdef give_back(self, Upstream upstream):
        """A connection that is in hand and whole: back to its pool."""
        if upstream.closed:
            return
        if not upstream.reusable or self.closing or upstream.outbox.data != NULL or not upstream.quiet() \
                or upstream.move != upstream.endpoint.moves:
            upstream.shut()
            return
        upstream.state = U_IDLE
        upstream.reused = True
        upstream.endpoint.spare.append(upstream)
        due(upstream, DUE_SPARE)

    # ---- drain

    def stop_accepting(self):
        """Drain, first step: no new connections; answers say `Connection: close`."""
        self.closing = True
        for listener in list(self.listeners):
            if listener.fast_lane or listener.tag != "admin":
                self.accept_last(listener)
                self.drop_listener(listener)

    def close_idle(self):
        """Drain, second step: connections between two requests are closed. A request on its way would be lost with its
        connection; whoever asks often has been told by an answer to take another one."""
        cdef Client client
        for wire in list(self.wires):
            if isinstance(wire, Client):
                client = wire
                # One that has never been served is about to ask; its answer will say `close`.
                if client.state == CLIENT_HEAD and client.inbox.data == NULL and client.served \
                        and client.listener.tag != "admin":
                    client.close_politely()

    cdef int accept_last(self, Listener listener) except -1:
        """Whom the kernel has accepted in our name already would be reset with the listening socket."""
        cdef uint64_t before
        while listener.fd >= 0:
            before = self.accepted
            self.accept(listener)
            if self.accepted == before:
                break
        return 0

    def exchanges(self):
        """[Exchange] in flight now."""
        return [(<Client>wire).exchange for wire in self.wires
                if isinstance(wire, Client) and (<Client>wire).exchange is not None]

    @property
    def loose_ends(self):
        """What goes on beside `exchanges`: clients that have not taken the end of their answer yet, and calls whose
        clients have left (the backend's work on them goes on)."""
        cdef Client client
        cdef int found = self.in_flight
        for wire in self.wires:
            if isinstance(wire, Client) and (<Client>wire).listener.counted:
                client = wire
                if client.exchange is not None:
                    found -= 1
                elif client.outbox.data != NULL:
                    found += 1
        return found

    # ---- counting

    cdef void count(self, Exchange exchange) noexcept:
        cdef int status = exchange.status, i
        cdef Listener listener = exchange.listener
        cdef double seconds = <double>(fp_clock_ns() - exchange.started_ns) / 1e9
        if not listener.counted:
            return
        self.in_flight -= 1
        if status <= 0 or status >= STATUSES:
            status = 499 if exchange.over == "client_gone" else 0
        if exchange.endpoint is not None:
            exchange.endpoint.counts[exchange.method * STATUSES + status] += 1
        else:
            self.own_counts[exchange.method * STATUSES + status] += 1
        for i in range(BUCKETS):
            if seconds <= BUCKET_SECONDS[i]:
                break
        else:
            i = BUCKETS
        self.buckets[i] += 1
        self.seconds_sum += seconds

    cdef void count_refusal(self, int status, const char* reason) noexcept:
        self.own_counts[M_OTHER * STATUSES + status] += 1
        logger.debug("refused a request: status=%d reason=%s", status, reason)

    def answers(self):
        """[(method, status, count)] of what no replica was asked for."""
        cdef int method, status
        out = []
        for method in range(METHODS):
            for status in range(STATUSES):
                if self.own_counts[method * STATUSES + status]:
                    out.append((_METHOD_NAMES[method], status, self.own_counts[method * STATUSES + status]))
        return out

    def durations(self):
        """([(upper bound in seconds, how many at most that long)], how many in all, their sum in seconds)."""
        cdef int i
        total = 0
        out = []
        for i in range(BUCKETS):
            total += self.buckets[i]
            out.append((BUCKET_SECONDS[i], total))
        return out, total + self.buckets[BUCKETS], self.seconds_sum

    @property
    def connections(self):
        """Open sockets of the data plane, both sides."""
        return len(self.wires)
