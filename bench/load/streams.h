/* The GET streams of the load: opened together, watched for events that carry their time, hung up together. */
#ifndef BENCH_STREAMS_H
#define BENCH_STREAMS_H

#include <sys/epoll.h>

#include "histogram.h"
#include "http.h"
#include "link.h"
#include "request.h"

struct stream {
    struct link link;
    bool open; /* its head has come, with status 200 */
    struct body body;
    char line[512];
    size_t line_len;
};

static struct {
    struct stream *all;
    uint32_t count, open, lost;
    uint64_t events;
    int64_t read_at;
    int poller;
    struct histogram delay;
} streams = {.poller = -1};

static void stream_close(struct stream *s)
{
    streams.open -= s->open;
    streams.lost++;
    s->open = false;
    link_close(&s->link);
}

/* Lines of events; the one with `at=` says when the backend wrote it. */
static void stream_take_body(void *owner, const char *bytes, size_t len)
{
    struct stream *s = owner;
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != '\n') {
            s->line[s->line_len] = bytes[i];
            s->line_len += s->line_len < sizeof s->line - 1;
            continue;
        }
        s->line[s->line_len] = 0;
        const char *at = strstr(s->line, "at=");
        if (at && s->line_len) {
            streams.events++;
            histogram_add(&streams.delay, streams.read_at - atol(at + 3));
        }
        s->line_len = 0;
    }
}

static void stream_read(struct stream *s)
{
    static char buffer[65536];
    ssize_t got = link_read(&s->link, buffer, sizeof buffer);
    streams.read_at = now_nanoseconds();
    if (got == LINK_AGAIN)
        return;
    if (got <= 0)
        return stream_close(s);
    const char *bytes = buffer;
    size_t len = (size_t)got;
    if (!s->open) { /* heads are small and come in one piece here: one that does not is counted as lost */
        size_t head_len = head_length(bytes, len);
        if (!head_len || atoi(bytes + 9) != 200)
            return stream_close(s);
        s->open = true;
        streams.open++;
        body_start(&s->body, bytes, head_len);
        bytes += head_len, len -= head_len;
    }
    body_feed(&s->body, bytes, len, stream_take_body, s);
    if (s->body.state == BODY_DONE)
        stream_close(s);
}

static bool streams_turn(int timeout_milliseconds)
{
    struct epoll_event events[256];
    int ready = epoll_wait(streams.poller, events, 256, timeout_milliseconds);
    for (int i = 0; i < ready; i++)
        stream_read(events[i].data.ptr);
    return ready > 0;
}

static void streams_open(uint32_t wanted, const struct session *sessions, uint32_t sessions_len, int port)
{
    struct template request = {0};
    char head[2048];
    int64_t started = now_nanoseconds(), moved = started;
    template_stream(&request, port);
    streams.poller = epoll_create1(EPOLL_CLOEXEC);
    streams.all = calloc(wanted, sizeof *streams.all);
    while (streams.open + streams.lost < wanted && now_nanoseconds() - moved < 10000000000) {
        if (streams.count < wanted && streams.count - streams.open - streams.lost < 64) {
            struct stream *s = &streams.all[streams.count++];
            size_t len = template_write(&request, head, &sessions[(streams.count - 1) % sessions_len], ID_FIRST, 0);
            if (!link_open(&s->link, port, false, 1) || link_write(&s->link, head, len) != (ssize_t)len)
                stream_close(s);
            struct epoll_event event = {EPOLLIN, {.ptr = s}};
            epoll_ctl(streams.poller, EPOLL_CTL_ADD, s->link.fd, &event);
            moved = now_nanoseconds();
        } else if (streams_turn(100))
            moved = now_nanoseconds();
    }
    printf("{\"streams\":%u,\"open\":%u,\"lost\":%u,\"seconds\":%.3f}\n", wanted, streams.open, streams.lost,
           (double)(now_nanoseconds() - started) / 1e9);
}

static void streams_watch(double seconds)
{
    int64_t started = now_nanoseconds(), until = started + (int64_t)(seconds * 1e9);
    streams.events = 0;
    memset(&streams.delay, 0, sizeof streams.delay);
    while (now_nanoseconds() < until)
        streams_turn(10);
    printf("{\"events\":%lu,\"open\":%u,\"lost\":%u,\"seconds\":%.3f,", streams.events, streams.open, streams.lost,
           (double)(now_nanoseconds() - started) / 1e9);
    histogram_print(&streams.delay);
    printf("}\n");
}

static void streams_hang_up(void)
{
    uint32_t open = streams.open;
    for (uint32_t i = 0; i < streams.count; i++)
        link_close(&streams.all[i].link);
    free(streams.all);
    close(streams.poller);
    streams.all = NULL, streams.poller = -1;
    streams.count = streams.open = streams.lost = 0;
    printf("{\"hung_up\":%u}\n", open);
}

#endif
