/* The floor: what any userspace proxy must pay. An epoll loop that copies, with one lookup by session id.
 *
 * It checks nothing, rewrites nothing, limits nothing, counts nothing and has no timer: it learns a session's
 * replica from the answer that carries a new id, finds it again per request, and copies bytes both ways over
 * kept connections. Its figures are the yardstick; it is no proxy that anyone should run.
 *
 *   floor PORT BACKEND_PORT...
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../load/http.h"

#define BACKENDS_MAX 16
#define HEAD_BYTES_MAX 32768
#define IDLE_MAX 256

/* One socket; a client's `peer` is the upstream connection that serves it at the moment, and the reverse. */
struct side {
    int fd;
    int backend;        /* of an upstream connection; -1: a client */
    struct side *peer;
    bool in_body, learns;
    uint32_t watched;
    struct body body;   /* what is still to come from this side */
    char *head;         /* a head that came in pieces */
    size_t head_len;
    char *pending;      /* bytes that this side's socket did not take yet */
    size_t pending_at, pending_len;
    struct side *next_dead;
};

struct __attribute__((packed)) entry {
    uint64_t high, low; /* 128 bits of the id's hash; both 0: empty */
    uint8_t backend;
};

static struct {
    struct entry *entries;
    uint64_t mask, used;
} table;

static struct {
    int ports[BACKENDS_MAX];
    struct side *idle[BACKENDS_MAX][IDLE_MAX];
    int idle_len[BACKENDS_MAX];
    int count, next;
} backends;

static int poller;
static struct side *dead;
static char buffer[65536]; /* stays in the second-level cache between read and write */

static struct entry hash_id(struct span id)
{
    struct entry hash = {0x9e3779b97f4a7c15ull ^ id.len, 0xc2b2ae3d27d4eb4full, 0};
    for (size_t at = 0; at < id.len; at += 8) {
        uint64_t word = 0;
        memcpy(&word, id.at + at, id.len - at < 8 ? id.len - at : 8);
        __uint128_t a = (__uint128_t)(hash.high ^ word) * 0xa0761d6478bd642full;
        __uint128_t b = (__uint128_t)(hash.low ^ word) * 0xe7037ed1a0b428dbull;
        hash.high = (uint64_t)a ^ (uint64_t)(a >> 64);
        hash.low = (uint64_t)b ^ (uint64_t)(b >> 64);
    }
    return hash;
}

static struct entry *table_find(struct entry key)
{
    uint64_t at = key.high & table.mask;
    while ((table.entries[at].high | table.entries[at].low) &&
           (table.entries[at].high != key.high || table.entries[at].low != key.low))
        at = (at + 1) & table.mask;
    return &table.entries[at];
}

static void table_put(struct entry key)
{
    if (table.used * 4 >= (table.mask + 1) * 3) {
        struct entry *old = table.entries;
        uint64_t old_len = table.mask + 1;
        table.mask = old_len * 2 - 1;
        table.entries = calloc(old_len * 2, sizeof key);
        for (uint64_t i = 0; i < old_len; i++)
            if (old[i].high | old[i].low)
                *table_find(old[i]) = old[i];
        free(old);
    }
    struct entry *entry = table_find(key);
    table.used += !(entry->high | entry->low);
    *entry = key;
}

static void watch(struct side *side, uint32_t events)
{
    if (side->watched == events)
        return;
    struct epoll_event event = {side->watched = events, {.ptr = side}};
    epoll_ctl(poller, EPOLL_CTL_MOD, side->fd, &event);
}

static struct side *new_side(int fd, int backend)
{
    struct side *side = calloc(1, sizeof *side);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    side->fd = fd, side->backend = backend, side->watched = EPOLLIN;
    struct epoll_event event = {EPOLLIN, {.ptr = side}};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return side;
}

static void close_side(struct side *side)
{
    if (!side || side->fd < 0)
        return;
    close(side->fd);
    side->fd = -1;
    side->next_dead = dead; /* freed after this batch of events: another of them may still name it */
    dead = side;
    if (side->peer) {
        struct side *peer = side->peer;
        side->peer = peer->peer = NULL;
        return close_side(peer);
    }
    for (int i = 0; side->backend >= 0 && i < backends.idle_len[side->backend]; i++)
        if (backends.idle[side->backend][i] == side) {
            backends.idle[side->backend][i] = backends.idle[side->backend][--backends.idle_len[side->backend]];
            return;
        }
}

static void pour(struct side *to, const char *bytes, size_t len)
{
    if (!to->pending_len) {
        ssize_t sent = send(to->fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return close_side(to);
        sent = sent < 0 ? 0 : sent;
        if ((size_t)sent == len)
            return;
        bytes += sent, len -= (size_t)sent;
    }
    to->pending = realloc(to->pending, to->pending_len + len);
    memcpy(to->pending + to->pending_len, bytes, len);
    to->pending_len += len;
    watch(to, to->watched | EPOLLOUT);
    if (to->peer)
        watch(to->peer, to->peer->watched & ~(uint32_t)EPOLLIN); /* back-pressure: no more from there */
}

static void pour_pending(struct side *to)
{
    ssize_t sent = send(to->fd, to->pending + to->pending_at, to->pending_len - to->pending_at, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return close_side(to);
    to->pending_at += sent > 0 ? (size_t)sent : 0;
    if (to->pending_at < to->pending_len)
        return;
    free(to->pending);
    to->pending = NULL, to->pending_at = to->pending_len = 0;
    watch(to, EPOLLIN);
    if (to->peer)
        watch(to->peer, to->peer->watched | EPOLLIN);
}

static struct side *take_upstream(int backend)
{
    if (backends.idle_len[backend])
        return backends.idle[backend][--backends.idle_len[backend]];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)backends.ports[backend]),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("floor: connect");
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return new_side(fd, backend);
}

/* A request's head has come: choose a replica, take a connection to it. */
static bool begin_request(struct side *client, const char *head, size_t head_len)
{
    struct span id = header_value(head, head_len, "mcp-session-id");
    int backend = -1;
    if (id.at) {
        struct entry *entry = table_find(hash_id(id));
        backend = entry->high | entry->low ? entry->backend : -1;
    }
    if (backend < 0)
        backend = backends.next++ % backends.count;
    struct side *upstream = take_upstream(backend);
    if (!upstream)
        return false;
    client->peer = upstream, upstream->peer = client;
    upstream->learns = !id.at;
    body_start(&client->body, head, head_len);
    return true;
}

static bool begin_answer(struct side *upstream, const char *head, size_t head_len)
{
    struct span id = upstream->learns ? header_value(head, head_len, "mcp-session-id") : (struct span){NULL, 0};
    if (id.at) {
        struct entry key = hash_id(id);
        key.backend = (uint8_t)upstream->backend;
        table_put(key);
    }
    body_start(&upstream->body, head, head_len);
    return true;
}

static void end_answer(struct side *upstream)
{
    struct side *client = upstream->peer;
    client->peer = upstream->peer = NULL;
    upstream->in_body = client->in_body = false;
    watch(upstream, EPOLLIN);
    if (backends.idle_len[upstream->backend] < IDLE_MAX)
        backends.idle[upstream->backend][backends.idle_len[upstream->backend]++] = upstream;
    else
        close_side(upstream);
}

static void take_bytes(struct side *side, const char *bytes, size_t len)
{
    bool client = side->backend < 0;
    size_t in_head = 0;
    if (!side->in_body) {
        if (side->head_len) {
            side->head = realloc(side->head, side->head_len + len);
            memcpy(side->head + side->head_len, bytes, len);
            bytes = side->head, len += side->head_len;
            side->head_len = 0;
        }
        in_head = head_length(bytes, len);
        if (!in_head) {
            if (len > HEAD_BYTES_MAX)
                return close_side(side);
            if (bytes != side->head) {
                side->head = realloc(side->head, len);
                memcpy(side->head, bytes, len);
            }
            side->head_len = len;
            return;
        }
        if (!(client ? begin_request : begin_answer)(side, bytes, in_head))
            return close_side(side);
        side->in_body = true;
    }
    body_feed(&side->body, bytes + in_head, len - in_head, NULL, NULL);
    pour(side->peer, bytes, len);
    if (side->fd >= 0 && !client && side->body.state == BODY_DONE)
        end_answer(side);
}

static void read_side(struct side *side)
{
    ssize_t got = recv(side->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 || (side->backend >= 0 && !side->peer)) /* an idle upstream has nothing to say */
        return close_side(side);
    take_bytes(side, buffer, (size_t)got);
}

static int listen_on(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("floor: listen");
        exit(1);
    }
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    if (argc < 3 || argc - 2 > BACKENDS_MAX) {
        fprintf(stderr, "usage: floor PORT BACKEND_PORT...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        backends.ports[backends.count++] = atoi(argv[i]);
    table.mask = 1023;
    table.entries = calloc(1024, sizeof(struct entry));
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(atoi(argv[1]));
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct side *side = events[i].data.ptr;
            if (!side) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
                    new_side(fd, -1);
                continue;
            }
            if (side->fd >= 0 && events[i].events & EPOLLOUT)
                pour_pending(side);
            if (side->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_side(side);
        }
        while (dead) {
            struct side *gone = dead;
            dead = gone->next_dead;
            free(gone->head), free(gone->pending), free(gone);
        }
    }
}
