/* The little HTTP/1.1 that the bench speaks: where a head ends, a header's value, how long a body is.
 *
 * Shared by the load, the stub backend and the floor. It trusts its peers: strictness is what the proxies
 * under test are for, and a bench that parsed strictly would measure itself.
 */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>

struct span {
    const char *at;
    size_t len;
};

/* Bytes of the head with its empty line, or 0 while it is incomplete. */
static inline size_t head_length(const char *bytes, size_t len)
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

static inline struct span header_value(const char *head, size_t len, const char *name)
{
    const char *end = head + len, *line = memchr(head, '\n', len);
    size_t name_len = strlen(name);
    while (line && ++line + name_len < end) {
        if (line[name_len] == ':' && strncasecmp(line, name, name_len) == 0) {
            const char *value = line + name_len + 1;
            while (*value == ' ' || *value == '\t')
                value++;
            const char *stop = memchr(value, '\r', (size_t)(end - value));
            return (struct span){value, (size_t)(stop - value)};
        }
        line = memchr(line, '\n', (size_t)(end - line));
    }
    return (struct span){NULL, 0};
}

enum body_state { BODY_DATA, BODY_SIZE, BODY_EXTENSION, BODY_CHUNK, BODY_CHUNK_END, BODY_TRAILER, BODY_DONE };

/* A body as it streams past: `left` bytes of it, or chunks until the last one. */
struct body {
    uint64_t left;
    enum body_state state;
    bool chunked;
    bool line_empty; /* in a trailer: nothing but CR so far */
};

typedef void (*body_sink)(void *owner, const char *bytes, size_t len);

static inline void body_start(struct body *body, const char *head, size_t len)
{
    struct span coding = header_value(head, len, "transfer-encoding");
    *body = (struct body){.chunked = coding.at != NULL, .state = BODY_SIZE};
    if (body->chunked)
        return;
    struct span length = header_value(head, len, "content-length");
    body->left = length.at ? strtoull(length.at, NULL, 10) : 0;
    body->state = body->left ? BODY_DATA : BODY_DONE;
}

static inline int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* One byte of chunk framing, that is of everything but a chunk's data. */
static inline void body_frame(struct body *body, char c)
{
    switch (body->state) {
    case BODY_SIZE:
        if (hex_digit(c) >= 0)
            body->left = body->left * 16 + (uint64_t)hex_digit(c);
        else if (c == '\n')
            body->state = body->left ? BODY_CHUNK : BODY_TRAILER, body->line_empty = true;
        else
            body->state = BODY_EXTENSION;
        return;
    case BODY_EXTENSION:
        if (c == '\n')
            body->state = body->left ? BODY_CHUNK : BODY_TRAILER, body->line_empty = true;
        return;
    case BODY_CHUNK_END:
        if (c == '\n')
            body->state = BODY_SIZE;
        return;
    case BODY_TRAILER:
        if (c == '\n' && body->line_empty)
            body->state = BODY_DONE;
        else
            body->line_empty = c == '\n' || (c == '\r' && body->line_empty);
        return;
    default:
        return;
    }
}

/* Takes bytes up to the body's end, hands its data to `sink`; returns how many bytes belonged to it. */
static inline size_t body_feed(struct body *body, const char *bytes, size_t len, body_sink sink, void *owner)
{
    size_t at = 0;
    while (at < len && body->state != BODY_DONE) {
        if (body->state != BODY_DATA && body->state != BODY_CHUNK) {
            body_frame(body, bytes[at++]);
            continue;
        }
        size_t take = len - at < body->left ? len - at : (size_t)body->left;
        if (sink)
            sink(owner, bytes + at, take);
        at += take;
        body->left -= take;
        if (body->left == 0)
            body->state = body->state == BODY_DATA ? BODY_DONE : BODY_CHUNK_END;
    }
    return at;
}

/* Filler that proves itself: the byte at offset i of a body is FILL[i % FILL_PERIOD]. A body that lost,
 * doubled or swapped a piece does not match, whatever its length. */
#define FILL_PERIOD 61

static inline void fill_write(char *bytes, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        bytes[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345678"[i % FILL_PERIOD];
}

static inline bool fill_matches(const char *bytes, size_t offset, size_t len)
{
    static char pattern[65536 + FILL_PERIOD];
    if (!pattern[0])
        fill_write(pattern, 0, sizeof pattern);
    for (size_t at = 0; at < len;) {
        size_t take = len - at < 65536 ? len - at : 65536;
        if (memcmp(bytes + at, pattern + (offset + at) % FILL_PERIOD, take) != 0)
            return false;
        at += take;
    }
    return true;
}

/* Where the filler of a padded body begins and how far before the end it stops. */
#define FILL_FROM 512
#define FILL_TAIL 64

#endif
