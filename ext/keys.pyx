# Session keys as the route table holds them: packed into 16 bytes where their shape allows, and hashed under a secret.
#
# The shapes are those that servers hand out: 32 hex digits (Python SDK), a UUID (TypeScript, Java, Rust), the same behind
# "mcp-session-" (mcp-go), 22 base64url characters of 16 bytes (C# SDK), 26 base32 characters (Go SDK), and anything up
# to 16 bytes. A key is packed only if unpacking gives the same bytes back; every other key lives out of line.
#
# The hash is SipHash-1-3 (Aumasson and Bernstein; the one of Rust's and CPython's own tables): ids are chosen by backends
# and looked up with clients' bytes, so without a secret anybody could pile all sessions up on one slot.

cdef enum:
    KEY_BYTES_MAX = 128  # interface §4: a longer session id is stored under its SHA-256

# How `low` and `high` are to be read. Four bits; the last four carry two bits of a base32 key, which has 130 of them.
cdef enum KeyKind:
    KEY_NONE = 0
    KEY_HEX, KEY_UUID, KEY_MCP_UUID, KEY_BASE64, KEY_SHORT
    KEY_LONG             # low: pointer to the bytes, high: their number
    KEY_BASE32 = 8

cdef struct SessionKey:
    uint64_t low, high
    uint64_t hash
    uint32_t kind

cdef struct Secret:
    uint64_t first, second

cdef const char* HEX_DIGITS = b"0123456789abcdef"
cdef const char* BASE32_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
cdef const char* BASE64_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
cdef const char* MCP_PREFIX = b"mcp-session-"

cdef enum:
    MCP_PREFIX_BYTES = 12
    NOT_A_DIGIT = 0x80

# Value of each byte as a digit, NOT_A_DIGIT where it is none.
cdef uint8_t HEX_VALUE[256]
cdef uint8_t BASE32_VALUE[256]
cdef uint8_t BASE64_VALUE[256]


cdef void _fill_digits(uint8_t* values, const char* digits, int count) noexcept:
    cdef int value
    memset(values, NOT_A_DIGIT, 256)
    for value in range(count):
        values[<uint8_t>digits[value]] = value

_fill_digits(HEX_VALUE, HEX_DIGITS, 16)
_fill_digits(BASE32_VALUE, BASE32_DIGITS, 32)
_fill_digits(BASE64_VALUE, BASE64_DIGITS, 64)


# SipHash-1-3 ----------------------------------------------------------------------------------------------------------

cdef struct SipState:
    uint64_t a, b, c, d


cdef inline uint64_t _rotate(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef inline void _sip_round(SipState* state) noexcept nogil:
    state.a += state.b
    state.c += state.d
    state.b = _rotate(state.b, 13) ^ state.a
    state.d = _rotate(state.d, 16) ^ state.c
    state.a = _rotate(state.a, 32) + state.d
    state.c += state.b
    state.d = _rotate(state.d, 21) ^ state.a
    state.b = _rotate(state.b, 17) ^ state.c
    state.c = _rotate(state.c, 32)


cdef inline void _sip_absorb(SipState* state, uint64_t word) noexcept nogil:
    state.d ^= word
    _sip_round(state)
    state.a ^= word


cdef inline SipState _sip_begin(const Secret* secret) noexcept nogil:
    cdef SipState state
    state.a = secret.first ^ <uint64_t>0x736f6d6570736575   # the constants spell "somepseudorandomlygeneratedbytes"
    state.b = secret.second ^ <uint64_t>0x646f72616e646f6d
    state.c = secret.first ^ <uint64_t>0x6c7967656e657261
    state.d = secret.second ^ <uint64_t>0x7465646279746573
    return state


cdef inline uint64_t _sip_end(SipState* state, uint64_t tail) noexcept nogil:
    _sip_absorb(state, tail)
    state.c ^= 0xFF
    _sip_round(state)
    _sip_round(state)
    _sip_round(state)
    return state.a ^ state.b ^ state.c ^ state.d


cdef uint64_t hash_bytes(const Secret* secret, const char* data, Py_ssize_t length) noexcept nogil:
    cdef SipState state = _sip_begin(secret)
    cdef uint64_t word, tail = <uint64_t>(length & 0xFF) << 56
    cdef Py_ssize_t at = 0, shift = 0
    while at + 8 <= length:
        memcpy(&word, data + at, 8)  # little-endian, as every machine that we build for
        _sip_absorb(&state, word)
        at += 8
    while at < length:
        tail |= <uint64_t><uint8_t>data[at] << shift
        at += 1
        shift += 8
    return _sip_end(&state, tail)


cdef inline uint64_t hash_packed(const Secret* secret, uint64_t low, uint64_t high, uint32_t kind) noexcept nogil:
    """The hash of the 17 bytes low, high, kind: the same function without the loops."""
    cdef SipState state = _sip_begin(secret)
    _sip_absorb(&state, low)
    _sip_absorb(&state, high)
    return _sip_end(&state, (<uint64_t>17 << 56) | kind)


cdef Secret read_secret(bytes secret) except *:
    cdef Secret words
    if len(secret) != 16:
        raise ValueError(f"expected a secret of 16 bytes, got {len(secret)}")
    memcpy(&words, <const char*>secret, 16)
    return words


def siphash13(bytes secret not None, bytes data not None):
    """The hash alone, for the test that compares it with another implementation."""
    cdef Secret words = read_secret(secret)
    return hash_bytes(&words, data, len(data))


# Packing --------------------------------------------------------------------------------------------------------------

cdef inline uint64_t _digits(const char* text, int count, int bits, const uint8_t* values, uint8_t* bad) noexcept nogil:
    cdef uint64_t word = 0
    cdef uint8_t value
    cdef int i
    for i in range(count):
        value = values[<uint8_t>text[i]]
        bad[0] |= value
        word = (word << bits) | value
    return word


cdef inline bint _pack_uuid(const char* text, SessionKey* key) noexcept nogil:
    cdef uint8_t bad = 0
    cdef uint64_t low = (_digits(text, 8, 4, HEX_VALUE, &bad) << 32) \
        | (_digits(text + 9, 4, 4, HEX_VALUE, &bad) << 16) | _digits(text + 14, 4, 4, HEX_VALUE, &bad)
    cdef uint64_t high = (_digits(text + 19, 4, 4, HEX_VALUE, &bad) << 48) | _digits(text + 24, 12, 4, HEX_VALUE, &bad)
    if bad & NOT_A_DIGIT or text[8] != c'-' or text[13] != c'-' or text[18] != c'-' or text[23] != c'-':
        return False
    key.low, key.high = low, high
    return True


cdef inline bint _pack_radix(const char* text, int half, int bits, const uint8_t* values,
                             SessionKey* key, uint64_t* tail) noexcept nogil:
    """Two halves of 60 bits each, and the two digits after them, whose lowest 8 bits fill the words up."""
    cdef uint8_t bad = 0
    cdef uint64_t low = _digits(text, half, bits, values, &bad)
    cdef uint64_t high = _digits(text + half, half, bits, values, &bad)
    cdef uint64_t rest = _digits(text + 2 * half, 2, bits, values, &bad)
    if bad & NOT_A_DIGIT:
        return False
    if bits == 6:
        if rest & 15:
            return False  # 22 digits hold 132 bits; the last four are zero in what encodes 16 bytes
        rest >>= 4
    key.low = low | ((rest & 15) << 60)
    key.high = high | (((rest >> 4) & 15) << 60)
    tail[0] = rest >> 8
    return True


cdef inline uint32_t _pack(const char* text, Py_ssize_t length, SessionKey* key) noexcept nogil:
    cdef uint8_t bad = 0
    cdef uint64_t tail = 0
    if length == 32:
        key.low = _digits(text, 16, 4, HEX_VALUE, &bad)
        key.high = _digits(text + 16, 16, 4, HEX_VALUE, &bad)
        if not bad & NOT_A_DIGIT:
            return KEY_HEX
    elif length == 36:
        if _pack_uuid(text, key):
            return KEY_UUID
    elif length <= 16:
        if memchr(text, 0, length) == NULL:  # a NUL could not be told from the padding
            key.low = key.high = 0
            memcpy(&key.low, text, length if length < 8 else 8)
            if length > 8:
                memcpy(&key.high, text + 8, length - 8)
            return KEY_SHORT
    elif length == 26:
        if _pack_radix(text, 12, 5, BASE32_VALUE, key, &tail):
            return KEY_BASE32 | <uint32_t>tail
    elif length == 22:
        if _pack_radix(text, 10, 6, BASE64_VALUE, key, &tail):
            return KEY_BASE64
    elif length == 36 + MCP_PREFIX_BYTES:
        if memcmp(text, MCP_PREFIX, MCP_PREFIX_BYTES) == 0 and _pack_uuid(text + MCP_PREFIX_BYTES, key):
            return KEY_MCP_UUID
    key.low, key.high = <uint64_t>text, <uint64_t>length
    return KEY_LONG


cdef inline void read_key(const Secret* secret, const char* text, Py_ssize_t length, SessionKey* key) noexcept nogil:
    """Fill `key` from 1 to KEY_BYTES_MAX bytes; a KEY_LONG borrows `text`."""
    key.kind = _pack(text, length, key)
    if key.kind == KEY_LONG:
        key.hash = hash_bytes(secret, text, length)
    else:
        key.hash = hash_packed(secret, key.low, key.high, key.kind)


cdef inline void _write_digits(char* text, uint64_t word, int count, int bits, const char* digits) noexcept nogil:
    cdef int i
    for i in range(count):
        text[count - 1 - i] = digits[word & ((1 << bits) - 1)]
        word >>= bits


cdef void _write_uuid(char* text, uint64_t low, uint64_t high) noexcept nogil:
    _write_digits(text, low >> 32, 8, 4, HEX_DIGITS)
    _write_digits(text + 9, low >> 16, 4, 4, HEX_DIGITS)
    _write_digits(text + 14, low, 4, 4, HEX_DIGITS)
    _write_digits(text + 19, high >> 48, 4, 4, HEX_DIGITS)
    _write_digits(text + 24, high, 12, 4, HEX_DIGITS)
    text[8] = text[13] = text[18] = text[23] = c'-'


cdef bytes write_key(uint64_t low, uint64_t high, uint32_t kind):
    """The key's bytes again."""
    cdef char text[KEY_BYTES_MAX]
    cdef uint64_t rest = (low >> 60) | ((high >> 60) << 4)
    if kind == KEY_HEX:
        _write_digits(text, low, 16, 4, HEX_DIGITS)
        _write_digits(text + 16, high, 16, 4, HEX_DIGITS)
        return text[:32]
    if kind == KEY_UUID:
        _write_uuid(text, low, high)
        return text[:36]
    if kind == KEY_MCP_UUID:
        memcpy(text, MCP_PREFIX, MCP_PREFIX_BYTES)
        _write_uuid(text + MCP_PREFIX_BYTES, low, high)
        return text[:36 + MCP_PREFIX_BYTES]
    if kind == KEY_BASE64:
        _write_digits(text, low, 10, 6, BASE64_DIGITS)
        _write_digits(text + 10, high, 10, 6, BASE64_DIGITS)
        _write_digits(text + 20, rest << 4, 2, 6, BASE64_DIGITS)
        return text[:22]
    if kind >= KEY_BASE32:
        _write_digits(text, low, 12, 5, BASE32_DIGITS)
        _write_digits(text + 12, high, 12, 5, BASE32_DIGITS)
        _write_digits(text + 24, rest | (<uint64_t>(kind - KEY_BASE32) << 8), 2, 5, BASE32_DIGITS)
        return text[:26]
    if kind == KEY_LONG:
        return (<const char*>low)[:high]
    memcpy(text, &low, 8)
    memcpy(text + 8, &high, 8)
    return text[:16].rstrip(b"\0")
