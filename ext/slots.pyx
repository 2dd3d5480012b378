# The index of the route table: from a key's hash to the number of its entry. Open addressing, linear probing, 4 bytes a
# slot: the number, and in the bits left over a tag of the hash, so that a foreign entry is hardly ever looked at.
#
# It doubles without a pause: new slots are reserved, the old ones (`elder`) are emptied STEP at a time by `index_advance`
# and given back in slices (`retired`); until then a lookup asks both. A slot in `elder` whose entry has moved or gone is
# marked as gone, so that the runs of those behind it hold together; among the new slots runs are closed up instead.
#
# Entries are found through `Index.entries`, which never moves; keys and hashes are theirs, not kept here.

cdef extern from "<sys/mman.h>" nogil:
    void* c_mmap "mmap"(void*, size_t, int, int, int, int64_t)
    int c_munmap "munmap"(void*, size_t)
    int c_madvise "madvise"(void*, size_t, int)
    void* MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED

cdef extern from * nogil:
    void c_prefetch "__builtin_prefetch"(const void*)

cdef enum:
    SLOTS_MIN = 16
    SLOTS_STEP = 16                # slots moved per put: a doubling is done long before the next one is due
    SLOTS_RELEASE_BYTES = 1 << 18  # given back per put: unmapping 64 pages takes some 10 µs
    SLOTS_PAGE_BYTES = 4096

cdef struct Slots:
    uint32_t* at                   # NULL: there is no such array
    uint64_t size                  # a power of two

cdef struct Index:
    Entry* entries                 # [0] is unused: number 0 means none
    Slots slots, elder, retired
    uint64_t moved                 # slots of `elder` that are empty by now
    uint32_t number_mask           # the bits of a slot that are the number; the others are the tag
    Secret secret


cdef void* reserve_memory(size_t size) noexcept nogil:
    """Address space, zero where it is read; memory only where it is written. NULL if there is none.

    No huge pages: they would save a hit about 100 of 400 ns at a million sessions, but the fault that fetches one may
    clear and compact for 5 ms (measured by bench/micro/pauses.py), and no call may take one.
    """
    cdef void* at = c_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if at == MAP_FAILED else at


cdef inline size_t _slots_bytes(Slots* slots) noexcept nogil:
    return max(<size_t>(slots.size * sizeof(uint32_t)), <size_t>SLOTS_PAGE_BYTES)


cdef bint _make_slots(Slots* slots, uint64_t size) noexcept nogil:
    slots.size = size
    slots.at = <uint32_t*>reserve_memory(_slots_bytes(slots))
    if slots.at == NULL:
        slots.size = 0
    return slots.at != NULL


cdef void _drop_slots(Slots* slots) noexcept nogil:
    if slots.at != NULL:
        c_munmap(slots.at, _slots_bytes(slots))
    slots.at = NULL
    slots.size = 0


cdef void _release_slots(Slots* slots) noexcept nogil:
    """Give back one slice, from the end."""
    cdef size_t size = _slots_bytes(slots)
    if size <= SLOTS_RELEASE_BYTES:
        _drop_slots(slots)
        return
    c_munmap(<char*>slots.at + size - SLOTS_RELEASE_BYTES, SLOTS_RELEASE_BYTES)
    slots.size -= SLOTS_RELEASE_BYTES // sizeof(uint32_t)


cdef inline uint32_t _tag(Index* index, uint64_t hash) noexcept nogil:
    return <uint32_t>(hash >> 32) & ~index.number_mask


cdef inline uint64_t _hash_of(Index* index, uint32_t number) noexcept nogil:
    """Computed again rather than kept: it is asked for when an entry moves or goes, and would cost 4 bytes."""
    cdef Entry* entry = index.entries + number
    cdef uint32_t kind = entry.use & KIND_BITS
    if kind == KEY_LONG:
        return hash_bytes(&index.secret, <const char*>entry.low, entry.high)
    return hash_packed(&index.secret, entry.low, entry.high, kind)


cdef inline bint _has_key(Entry* entry, SessionKey* key) noexcept nogil:
    if entry.high != key.high or (entry.use & KIND_BITS) != key.kind:
        return False
    if key.kind == KEY_LONG:
        return memcmp(<const void*>entry.low, <const void*>key.low, key.high) == 0
    return entry.low == key.low


cdef inline uint32_t _seek_in(Index* index, Slots* slots, SessionKey* key) noexcept nogil:
    cdef uint32_t slot, number, tag = _tag(index, key.hash)
    cdef uint64_t last = slots.size - 1, position = key.hash & last
    while True:
        slot = slots.at[position]
        if slot == 0:
            return 0
        number = slot & index.number_mask
        if (slot & ~index.number_mask) == tag and number and _has_key(index.entries + number, key):
            return number
        position = (position + 1) & last


cdef inline int64_t _position_of(Slots* slots, uint64_t hash, uint32_t slot) noexcept nogil:
    """Where exactly this slot stands, or -1; looks at no entry."""
    cdef uint64_t last = slots.size - 1, position = hash & last
    while slots.at[position]:
        if slots.at[position] == slot:
            return position
        position = (position + 1) & last
    return -1


cdef inline void _seat(Slots* slots, uint64_t hash, uint32_t slot) noexcept nogil:
    cdef uint64_t last = slots.size - 1, position = hash & last
    while slots.at[position]:
        position = (position + 1) & last
    slots.at[position] = slot


cdef void _close_gap(Index* index, uint64_t gap) noexcept nogil:
    """Empty a slot and move up those behind it that may stand nearer to their home, so that no tombstone is needed."""
    cdef uint32_t* at = index.slots.at
    cdef uint64_t last = index.slots.size - 1, position = gap, home
    while True:
        position = (position + 1) & last
        if at[position] == 0:
            break
        home = _hash_of(index, at[position] & index.number_mask) & last
        if ((position - home) & last) >= ((position - gap) & last):
            at[gap] = at[position]
            gap = position
    at[gap] = 0


# The index's own doors ------------------------------------------------------------------------------------------------

cdef bint index_open(Index* index, Entry* entries, uint32_t numbers) noexcept nogil:
    """Ready for entries 1 to `numbers`; False without memory. The secret is the caller's to set."""
    cdef int bits = 1
    while numbers >> bits:
        bits += 1
    index.number_mask = (<uint32_t>1 << bits) - 1
    index.entries = entries
    return _make_slots(&index.slots, SLOTS_MIN)


cdef void index_close(Index* index) noexcept nogil:
    _drop_slots(&index.slots)
    _drop_slots(&index.elder)
    _drop_slots(&index.retired)


cdef inline uint64_t index_bytes(Index* index) noexcept nogil:
    return _slots_bytes(&index.slots) + (index.elder.size + index.retired.size) * sizeof(uint32_t)


cdef inline uint32_t index_seek(Index* index, SessionKey* key) noexcept nogil:
    """The number of the entry that has this key, or 0."""
    cdef uint32_t number = _seek_in(index, &index.slots, key)
    if number == 0 and index.elder.at != NULL:
        number = _seek_in(index, &index.elder, key)
    return number


cdef inline void index_add(Index* index, uint64_t hash, uint32_t number) noexcept nogil:
    """After `index_grow`, with a key that is not there."""
    _seat(&index.slots, hash, _tag(index, hash) | number)


cdef void index_remove(Index* index, uint32_t number) noexcept nogil:
    """While the entry still holds its key."""
    cdef uint64_t hash = _hash_of(index, number)
    cdef uint32_t slot = _tag(index, hash) | number
    cdef int64_t position = _position_of(&index.slots, hash, slot)
    if position >= 0:
        _close_gap(index, position)
    else:
        index.elder.at[_position_of(&index.elder, hash, slot)] = ~index.number_mask


cdef void index_advance(Index* index) noexcept nogil:
    """One step of a doubling under way: a few microseconds."""
    cdef uint64_t position, hash, stop = min(index.moved + SLOTS_STEP, index.elder.size)
    cdef uint32_t number
    if index.retired.at != NULL:
        _release_slots(&index.retired)
    if index.elder.at == NULL:
        return
    for position in range(index.moved, stop):
        c_prefetch(index.entries + (index.elder.at[position] & index.number_mask))
    for position in range(index.moved, stop):
        number = index.elder.at[position] & index.number_mask
        if number:
            hash = _hash_of(index, number)
            _seat(&index.slots, hash, _tag(index, hash) | number)
            index.elder.at[position] = ~index.number_mask
    index.moved = stop
    if stop == index.elder.size:
        index.retired, index.elder = index.elder, index.retired  # `retired` is none by now: see index_grow


cdef bint index_grow(Index* index, uint64_t used) noexcept nogil:
    """Make room for one more than `used`: at three quarters, begin to move into twice as many. False without memory."""
    cdef Slots wider
    if (used + 1) * 4 <= index.slots.size * 3:
        return True
    if not _make_slots(&wider, index.slots.size * 2):
        return False
    while index.elder.at != NULL or index.retired.at != NULL:
        index_advance(index)  # not a single round: the last doubling was over after size / SLOTS_STEP puts
    index.elder, index.slots, index.moved = index.slots, wider, 0
    return True
