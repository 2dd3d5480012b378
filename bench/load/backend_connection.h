/* The stub backend's connections: accepting, sending with what the socket does not take kept for later, closing. */
#ifndef BENCH_BACKEND_CONNECTION_H
#define BENCH_BACKEND_CONNECTION_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http.h"

enum kind { LISTENER, CONNECTION, CONTROL };

struct watched {
    enum kind kind;
    int fd;
    int replica;
};

struct connection {
    struct watched watched;
    struct connection *previous, *next; /* in the list of all */
    char *head;                         /* a head that came in pieces */
    size_t head_len;
    bool in_body, get, ending, initialize, own, streaming, sound;
    struct body body;
    uint64_t body_len;   /* declared, to know where filler ends */
    uint64_t body_seen;
    char start[FILL_FROM]; /* the body's first bytes: JSON-RPC method and id */
    struct span id; /* of the JSON-RPC request, in `start` */
    int step;       /* of an SSE answer */
    char *pending;         /* answer bytes that the socket did not take yet */
    size_t pending_at, pending_len;
    int64_t idle_since, event_due;
};

static struct {
    uint64_t requests, initializes, streams, foreign, unsound;
    int64_t streams_open, connections_open;
} counts;

static int poller;
static struct connection all = {.previous = &all, .next = &all};
static struct connection *dead;
static int64_t now;

static void close_connection(struct connection *c)
{
    if (c->watched.fd < 0)
        return;
    close(c->watched.fd);
    c->watched.fd = -1;
    counts.connections_open--;
    counts.streams_open -= c->streaming;
    c->previous->next = c->next;
    c->next->previous = c->previous;
    c->next = dead; /* freed after this batch of events: another of them may still name it */
    dead = c;
}

static void watch(struct connection *c, uint32_t events)
{
    struct epoll_event event = {events, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->watched.fd, &event);
}

static void send_bytes(struct connection *c, const char *bytes, size_t len)
{
    if (c->watched.fd < 0)
        return;
    if (!c->pending_len) {
        ssize_t sent = send(c->watched.fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return close_connection(c);
        sent = sent < 0 ? 0 : sent;
        if ((size_t)sent == len)
            return;
        bytes += sent, len -= (size_t)sent;
        watch(c, EPOLLIN | EPOLLOUT);
    }
    c->pending = realloc(c->pending, c->pending_len + len);
    memcpy(c->pending + c->pending_len, bytes, len);
    c->pending_len += len;
}

static void send_pending(struct connection *c)
{
    ssize_t sent = send(c->watched.fd, c->pending + c->pending_at, c->pending_len - c->pending_at, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return close_connection(c);
    c->pending_at += sent > 0 ? (size_t)sent : 0;
    if (c->pending_at < c->pending_len)
        return;
    free(c->pending);
    c->pending = NULL, c->pending_at = c->pending_len = 0;
    watch(c, EPOLLIN);
}

/* Closed ones are freed when no event of this turn can name them any more. */
static void free_closed(void)
{
    while (dead) {
        struct connection *gone = dead;
        dead = gone->next;
        free(gone->head), free(gone->pending), free(gone);
    }
}

static void accept_connections(struct watched *listener)
{
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *c = calloc(1, sizeof *c);
        c->watched = (struct watched){CONNECTION, fd, listener->replica};
        c->idle_since = now;
        c->next = all.next, c->previous = &all;
        all.next->previous = c, all.next = c;
        counts.connections_open++;
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

#endif
