# Deadlines without a timer each: every kind of wait has one length, so a list in order of arrival is in order of
# expiry, and a coarse sweep looks at the heads of a few lists. Lists hold borrowed pointers; a wire that closes leaves.
# When a length shrinks, those who wait keep their deadline in an older list of that kind: the new ones would wait behind.

cdef enum Due:
    DUE_HEAD = 0      # a client must send its whole head
    DUE_BODY          # the next piece of a body
    DUE_IDLE          # a client between requests
    DUE_STALL         # a client that does not take what we send
    DUE_LINGER        # a client that was told to go
    DUE_CONNECT       # to a backend
    DUE_RESPONSE      # the backend's head
    DUE_SPARE         # an idle connection to a backend
    DUE_VERDICT       # what became of a request that met a connection just being closed
    DUES

cdef struct DueList:
    PyObject* first
    PyObject* last
    uint64_t length_ms


cdef void undue(Wire wire) noexcept:
    cdef DueList* line
    if wire.due_list < 0:
        return
    line = &wire.reactor.dues[wire.due_list + DUES * wire.due_older]
    if wire.due_previous != NULL:
        (<Wire>wire.due_previous).due_next = wire.due_next
    else:
        line.first = wire.due_next
    if wire.due_next != NULL:
        (<Wire>wire.due_next).due_previous = wire.due_previous
    else:
        line.last = wire.due_previous
    wire.due_next = wire.due_previous = NULL
    wire.due_list = -1
    wire.due_older = False


cdef void due(Wire wire, int which) noexcept:
    """From now on the wire waits for `which`, and for nothing else."""
    cdef DueList* line = &wire.reactor.dues[which]
    undue(wire)
    wire.due_ms = wire.reactor.now_ms + line.length_ms
    wire.due_list = which
    wire.due_previous = line.last
    if line.last != NULL:
        (<Wire>line.last).due_next = <PyObject*>wire
    else:
        line.first = <PyObject*>wire
    line.last = <PyObject*>wire


cdef void set_aside(Reactor reactor, int which) noexcept:
    """Move who waits for `which` to the older list, which stays in order of expiry."""
    cdef DueList* line = &reactor.dues[which]
    cdef DueList* older = &reactor.dues[which + DUES]
    cdef PyObject* at = older.first
    cdef Wire wire
    while line.first != NULL:
        wire = <Wire>line.first
        undue(wire)
        while at != NULL and (<Wire>at).due_ms <= wire.due_ms:
            at = (<Wire>at).due_next
        wire.due_list = which
        wire.due_older = True
        wire.due_next = at
        wire.due_previous = older.last if at == NULL else (<Wire>at).due_previous
        if wire.due_previous != NULL:
            (<Wire>wire.due_previous).due_next = <PyObject*>wire
        else:
            older.first = <PyObject*>wire
        if at != NULL:
            (<Wire>at).due_previous = <PyObject*>wire
        else:
            older.last = <PyObject*>wire
