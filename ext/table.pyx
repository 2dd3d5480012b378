# The route table: which endpoint holds a session. Bounded, least recently used out, about 41 bytes a session.
#
#   key --keys.pyx--> hash --slots.pyx--> number --entries--> Entry    (a hit reads two cache lines, one of each array)
#
# Entries are an array of 32-byte records, half a cache line each. Its address space is reserved for the whole capacity
# at the start and memory comes page by page as it is used, so it never moves: a number and an Entry* stay true until
# the entry goes. No operation may stall the loop; each does a bounded amount of work:
#   growth     slots.pyx doubles a few slots at a time.
#   expiry     an entry past its time is dropped when it is looked up, when it is drawn for eviction, or by `sweep`.
#   eviction   no linked list: moving an entry to its front would touch four more cache lines on each hit. An entry bears
#              the tick of its last use. A table of at most DRAWS entries loses exactly its least recently used one; a
#              larger one loses the oldest of DRAWS drawn at random, which is among the oldest 5 % in 96 of 100 cases
#              and in the younger half once in 2^64.
#
# Must never be done here: a Python call on `find`, a walk over all entries outside `clear`, a write to an entry's
# endpoint from outside (the counts per endpoint would lie).

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

import os

cdef enum:
    TABLE_PINNED = 1 << 7          # a stream is open: neither evicted nor expired
    TABLE_ENDPOINTS = 1 << 16
    TABLE_CAPACITY_MAX = 1 << 30
    TABLE_OVERSHOOT = 1 << 16      # pinned entries may exceed the capacity; open descriptors bound them
    TABLE_DRAWS = 64               # candidates of an eviction: all in flight at once they cost 2 µs at a million
    TABLE_KEYS_SKIP = 4096         # free entries that one call of `keys` may pass over
    KIND_BITS = 15                 # of Entry.use; the rest is the tick of the last use
    TICK = 16
    EPOCHS = 255
    EPOCH_STALE = 0                # of entries that were stale when a sweep saw them; never the table's own

FLAG_PINNED = TABLE_PINNED

# The fast lane may read all of it and write expires, touch_at and flags; seconds are on the caller's own clock.
cdef struct Entry:
    uint64_t low, high             # the packed key; in a free entry `low` is the next free number
    uint32_t expires               # gone from this second on
    uint32_t touch_at              # the store's record wants renewal from this second on
    uint32_t use                   # tick of the last use, and the key's kind (KEY_NONE: free)
    uint16_t endpoint
    uint8_t epoch                  # unequal to the table's: to be asked of the store again
    uint8_t flags

include "keys.pyx"
include "slots.pyx"


cdef inline uint32_t _kind(const Entry* entry) noexcept nogil:
    return entry.use & KIND_BITS


cdef inline bint _is_expired(const Entry* entry, uint32_t now) noexcept nogil:
    return entry.expires <= now and not entry.flags & TABLE_PINNED


cdef class RouteTable:
    """Session key (1 to 128 bytes) to endpoint. See the head of ext/table.pyx for what it promises."""

    cdef Entry* entries            # [0] is unused: number 0 means none
    cdef Index index
    cdef uint32_t limit, top, vacant, used  # entries: possible, ever taken, first free one, live
    cdef uint32_t tick, uses       # of use; `uses` counts up to the next tick
    cdef uint32_t hand, marks, marks_of_pass  # of the sweep; marks since its last whole round began, and since this one
    cdef uint32_t now              # the latest second that a caller has named
    cdef uint8_t epoch
    cdef uint32_t* counts          # live entries per endpoint
    cdef uint64_t long_bytes, random
    cdef readonly uint32_t capacity
    cdef readonly uint64_t hits, misses, evictions, expirations

    def __cinit__(self, uint32_t capacity, *, bytes secret=None):
        if not 1 <= capacity <= TABLE_CAPACITY_MAX:
            raise ValueError(f"expected a capacity from 1 to {TABLE_CAPACITY_MAX}, got {capacity}")
        secret = os.urandom(16) if secret is None else secret
        self.index.secret = read_secret(secret)
        self.random = self.index.secret.first | 1
        self.capacity = capacity
        self.limit = capacity + TABLE_OVERSHOOT
        self.epoch = 1
        self.counts = <uint32_t*>calloc(TABLE_ENDPOINTS, sizeof(uint32_t))
        self.entries = <Entry*>reserve_memory((<size_t>self.limit + 1) * sizeof(Entry))
        if self.counts == NULL or self.entries == NULL or not index_open(&self.index, self.entries, self.limit):
            raise MemoryError(f"no address space for a route table of {capacity} sessions")

    def __dealloc__(self):
        if self.entries != NULL:
            self.free_long_keys()
            c_munmap(self.entries, (<size_t>self.limit + 1) * sizeof(Entry))
        index_close(&self.index)
        free(self.counts)

    # The C door -------------------------------------------------------------------------------------------------------

    cdef Entry* find(self, const char* text, Py_ssize_t length, uint32_t now) noexcept nogil:
        """The live entry, now the most recently used one, or NULL. Good until the next put, remove or sweep."""
        cdef uint32_t number = self.lookup(text, length)
        cdef Entry* entry = self.entries + number
        self.now = now
        if number == 0:
            self.misses += 1
            return NULL
        if _is_expired(entry, now):
            self.drop(number)
            self.expirations += 1
            self.misses += 1
            return NULL
        self.hits += 1
        self.mark_used(entry)
        return entry

    # The Python door --------------------------------------------------------------------------------------------------

    def put(self, bytes key not None, uint16_t endpoint, *, uint8_t flags=0, uint32_t expires, uint32_t touch_at):
        """Insert or replace; fresh, and the most recently used. The key that was evicted for it, or None."""
        cdef SessionKey sought
        cdef bytes evicted = None
        if not 1 <= PyBytes_GET_SIZE(key) <= KEY_BYTES_MAX:
            raise ValueError(f"expected a key of 1 to {KEY_BYTES_MAX} bytes, got {len(key)}")
        read_key(&self.index.secret, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &sought)
        cdef uint32_t number = index_seek(&self.index, &sought)
        if number:
            self.counts[self.entries[number].endpoint] -= 1
        else:
            index_advance(&self.index)
            if self.used >= self.capacity:
                evicted = self.evict()
            number = self.insert(&sought)
        cdef Entry* entry = self.entries + number
        entry.endpoint, entry.flags, entry.expires, entry.touch_at = endpoint, flags, expires, touch_at
        entry.epoch = self.epoch
        self.counts[endpoint] += 1
        self.mark_used(entry)
        return evicted

    def get(self, bytes key not None, uint32_t now):
        """(endpoint, flags, expires, touch_at, stale), or None if missing or expired. A hit counts as use."""
        cdef Entry* entry = self.find(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), now)
        if entry == NULL:
            return None
        return entry.endpoint, entry.flags, entry.expires, entry.touch_at, entry.epoch != self.epoch

    def renew(self, bytes key not None, uint32_t expires, uint32_t touch_at):
        """New times, and fresh again; no use. False if it is not there."""
        cdef uint32_t number = self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        cdef Entry* entry = self.entries + number
        if number:
            entry.expires, entry.touch_at, entry.epoch = expires, touch_at, self.epoch
        return number != 0

    def set_flags(self, bytes key not None, uint8_t flags):
        """Replace the flags; no use. False if it is not there."""
        cdef uint32_t number = self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if number:
            self.entries[number].flags = flags
        return number != 0

    def remove(self, bytes key not None):
        """Forget, pinned or not. True if it was there."""
        cdef uint32_t number = self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if number:
            self.drop(number)
        return number != 0

    def __contains__(self, bytes key not None):
        """Held, expired or not; neither use nor hit."""
        return self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) != 0

    def __len__(self):
        """Entries held, those included whose time is over and that nobody has asked for since."""
        return self.used

    def clear(self):
        """Forget all and give the memory back. The one operation whose time grows with the table."""
        cdef Slots fresh
        if not _make_slots(&fresh, SLOTS_MIN):
            raise MemoryError("no memory for an empty route table")
        self.free_long_keys()
        c_madvise(self.entries, (<size_t>self.limit + 1) * sizeof(Entry), MADV_DONTNEED)
        memset(self.counts, 0, TABLE_ENDPOINTS * sizeof(uint32_t))
        index_close(&self.index)
        self.index.slots = fresh
        self.top = self.vacant = self.used = self.hand = 0

    def mark_stale(self, bytes key not None):
        """Stale until `put` or `renew` makes it fresh; no use. (endpoint, flags) of the entry, or None if there is none."""
        cdef uint32_t number = self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        cdef Entry* entry = self.entries + number
        if number == 0:
            return None
        entry.epoch = EPOCH_STALE
        return entry.endpoint, entry.flags

    def mark_all_stale(self):
        """From now on every entry is stale until `put` or `renew` makes it fresh. O(1)."""
        cdef uint32_t number
        self.epoch = self.epoch % EPOCHS + 1
        self.marks += 1
        self.marks_of_pass += 1
        if self.marks < EPOCHS:
            return
        # The epoch that begins now was in use 255 marks ago, and no round of the sweep has passed since: entries of
        # that time would look fresh. Only a caller that marks 255 times within one round of its sweep comes here.
        for number in range(1, self.top + 1):
            self.entries[number].epoch = EPOCH_STALE
        self.marks = self.marks_of_pass = 0

    def sweep(self, uint32_t now, uint32_t budget):
        """Look at the next `budget` entries and drop those whose time is over; the number dropped. A budget of 1,024
        stays far below a millisecond; a round an hour is enough to keep ticks and epochs from coming round. It also
        brings a table that open streams had pushed over its capacity back to it."""
        cdef uint32_t dropped = 0, visited, victim
        self.now = now
        for visited in range(min(budget, self.top)):
            if visited % SLOTS_STEP == 0:
                index_advance(&self.index)
            self.hand += 1
            if self.hand > self.top:
                self.hand = 1
                self.marks, self.marks_of_pass = self.marks_of_pass, 0
            dropped += self.visit(self.hand)
        for visited in range(budget // TABLE_DRAWS):  # open streams had pushed the table over its capacity
            victim = self.choose_victim() if self.used > self.capacity else 0
            if victim == 0:
                break
            self.give_up(victim)
        return dropped

    def count(self, uint16_t endpoint):
        """Entries of one endpoint."""
        return self.counts[endpoint]

    def keys(self, uint32_t limit, uint32_t after=0):
        """Up to `limit` keys, and what to pass as `after` to go on (0: that was all). Each key that stays is seen once.
        Passes over no more than 4,096 free entries, so a sparse table may answer with fewer keys, even none."""
        cdef list found = []
        cdef uint64_t number = after
        cdef uint64_t stop = min(number + limit + TABLE_KEYS_SKIP, <uint64_t>self.top)
        while number < stop and len(found) < limit:
            number += 1
            if _kind(self.entries + number):
                found.append(self.key_of(number))
        return found, (number if number < self.top else 0)

    @property
    def memory_bytes(self):
        """What the table holds of the machine's memory; the system's and malloc's own overhead comes on top."""
        return (<uint64_t>self.top + 1) * sizeof(Entry) + index_bytes(&self.index) + self.long_bytes

    # Entries ----------------------------------------------------------------------------------------------------------

    cdef inline uint32_t lookup(self, const char* text, Py_ssize_t length) noexcept nogil:
        cdef SessionKey key
        if not 1 <= length <= KEY_BYTES_MAX:
            return 0
        read_key(&self.index.secret, text, length, &key)
        return index_seek(&self.index, &key)

    cdef inline void mark_used(self, Entry* entry) noexcept nogil:
        # One tick per use, or per thousandth of the table that has been used: 28 bits then last for hours under full
        # load, and `visit` holds back what has not been used for half of that.
        self.uses += 1
        if self.uses > self.used >> 10:
            self.uses = 0
            self.tick += TICK
        entry.use = self.tick | _kind(entry)

    cdef inline uint32_t age(self, const Entry* entry) noexcept nogil:
        return self.tick - (entry.use & ~<uint32_t>KIND_BITS)

    cdef uint32_t insert(self, SessionKey* key) except 0:
        """A new entry under `key`, in the index but otherwise not filled in."""
        cdef uint32_t number = self.vacant if self.vacant else self.top + 1
        cdef uint64_t low = key.low
        if number > self.limit:
            raise MemoryError(f"the route table is full: {self.used} sessions with open streams, capacity {self.capacity}")
        if not index_grow(&self.index, self.used):
            raise MemoryError("no memory for the route table to grow")
        if key.kind == KEY_LONG:
            low = <uint64_t>malloc(key.high)
            if low == 0:
                raise MemoryError("no memory for a session key")
            memcpy(<void*>low, <const void*>key.low, key.high)
            self.long_bytes += key.high
        cdef Entry* entry = self.entries + number
        if self.vacant:
            self.vacant = <uint32_t>entry.low
        else:
            self.top = number
        entry.low, entry.high, entry.use = low, key.high, key.kind
        self.used += 1
        index_add(&self.index, key.hash, number)
        return number

    cdef void drop(self, uint32_t number) noexcept nogil:
        cdef Entry* entry = self.entries + number
        index_remove(&self.index, number)
        if _kind(entry) == KEY_LONG:
            self.long_bytes -= entry.high
            free(<void*>entry.low)
        self.counts[entry.endpoint] -= 1
        self.used -= 1
        entry.use = KEY_NONE
        entry.low = self.vacant
        self.vacant = number

    cdef inline bint visit(self, uint32_t number) noexcept nogil:
        """The sweep's look at one entry; True if it was dropped."""
        cdef Entry* entry = self.entries + number
        if not _kind(entry):
            return False
        if _is_expired(entry, self.now):
            self.drop(number)
            self.expirations += 1
            return True
        if entry.epoch != self.epoch:
            entry.epoch = EPOCH_STALE
        if self.age(entry) > <uint32_t>1 << 31:  # half round the clock: hold it there
            entry.use = (self.tick - (<uint32_t>1 << 31)) | _kind(entry)
        return False

    # Eviction ---------------------------------------------------------------------------------------------------------

    cdef bytes evict(self):
        """Make room for one; the key that had to go. None if an expired entry could, or if all are pinned."""
        cdef uint32_t number = self.choose_victim()
        cdef bytes evicted = None
        if number:
            if not _is_expired(self.entries + number, self.now):
                evicted = self.key_of(number)
            self.give_up(number)
        return evicted

    cdef void give_up(self, uint32_t number) noexcept nogil:
        if _is_expired(self.entries + number, self.now):
            self.expirations += 1
        else:
            self.evictions += 1
        self.drop(number)

    cdef uint32_t choose_victim(self) noexcept nogil:
        """The least recently used entry (see the head of this file), an expired one before all; 0: all are pinned."""
        cdef uint32_t drawn[TABLE_DRAWS]
        cdef uint32_t i, best = 0, count = min(<uint32_t>TABLE_DRAWS, self.top)
        for i in range(count):
            drawn[i] = i + 1 if self.top <= TABLE_DRAWS else self.draw()
            c_prefetch(self.entries + drawn[i])
        for i in range(count):
            best = self.less_wanted(best, drawn[i])
        for i in range(min(self.top, <uint32_t>TABLE_KEYS_SKIP)):  # all pinned: on from here in order, for a while
            if best:
                break
            best = self.less_wanted(0, 1 + (drawn[0] + i) % self.top)
        return best

    cdef inline uint32_t draw(self) noexcept nogil:
        self.random ^= self.random << 13  # xorshift64 (Marsaglia)
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return 1 + <uint32_t>(((self.random >> 32) * self.top) >> 32)

    cdef inline uint32_t less_wanted(self, uint32_t best, uint32_t number) noexcept nogil:
        cdef const Entry* entry = self.entries + number
        cdef const Entry* other = self.entries + best
        if not _kind(entry) or entry.flags & TABLE_PINNED:
            return best
        if best == 0 or _is_expired(entry, self.now):
            return number
        if _is_expired(other, self.now) or self.age(other) >= self.age(entry):
            return best
        return number

    cdef bytes key_of(self, uint32_t number):
        return write_key(self.entries[number].low, self.entries[number].high, _kind(self.entries + number))

    cdef void free_long_keys(self) noexcept nogil:
        cdef uint32_t number
        for number in range(1, self.top + 1):
            if _kind(self.entries + number) == KEY_LONG:
                free(<void*>self.entries[number].low)
        self.long_bytes = 0
