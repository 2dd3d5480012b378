/* The stub backend: N replicas of one MCP server in one epoll loop, each on a port of its own.
 *
 * It answers as a server on the official Python SDK under uvicorn does, head for head, and remembers nothing:
 * a session id's last hex digit names the replica that issued it, so a request that reached the wrong one is
 * known without a table, at a million sessions too. It answers wrong ones all the same (as "own":0), so that a
 * proxy without stickiness does the same work as the others.
 *
 * With --tools it is as many servers as replicas, each with that many tools: an aggregator may stand before it.
 *
 *   backend [--replicas 4] [--answer json|sse] [--answer-bytes 0] [--events 10] [--tools 0]
 *           [--event-seconds 0.001] [--stream idle|comment|message] [--stream-seconds 1.0]
 *           [--keep-alive-seconds 5]
 *
 * First line on standard output: {"ports":[...]}. Then one line per line on standard input: `stats`.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "answers.h"
#include "backend_connection.h"
#include "backend_options.h"
#include "histogram.h"
#include "http.h"

#define HEAD_BYTES_MAX 32768
#define EMITTERS_MAX 1024

static struct connection *emitters[EMITTERS_MAX]; /* SSE answers under way */
static int emitters_len;

static void answer_json(struct connection *c, const char *session)
{
    static char *out;
    if (!out)
        out = malloc(options.answer_bytes + 4096);
    char body[2048];
    size_t body_len = (size_t)(c->initialize ? format_initialize(body, c->id, c->watched.replica)
                                             : format_result(body, c->id, c->watched.replica, c->own, 0));
    size_t padded = c->initialize || options.answer_bytes <= body_len ? body_len : options.answer_bytes;
    size_t head_len = (size_t)format_json_head(out, padded, session);
    memcpy(out + head_len, body, body_len);
    memset(out + head_len + body_len, ' ', padded - body_len);
    if (padded > FILL_FROM + FILL_TAIL) /* filler need not be JSON: no proxy of this bench reads answers */
        fill_write(out + head_len, FILL_FROM, padded - FILL_TAIL);
    send_bytes(c, out, head_len + padded);
}

/* The answer's head and first event now, the others a millisecond apart: events that were written back to back
 * would reach the client in batches, and a batch costs a proxy less than the events of any real tool do. */
static void answer_events(struct connection *c, const char *session)
{
    char out[1024];
    if (emitters_len == EMITTERS_MAX)
        return close_connection(c);
    send_bytes(c, out, (size_t)format_stream_head(out, session));
    c->step = 0;
    c->event_due = now;
    emitters[emitters_len++] = c;
}

/* Returns the nanoseconds until the next event is due, -1 when no answer is under way. */
static int64_t emit_events(void)
{
    char data[1024], frame[2048];
    int64_t wait = -1;
    for (int i = 0; i < emitters_len; i++) {
        struct connection *c = emitters[i];
        if (c->watched.fd >= 0 && c->event_due <= now) {
            format_result(data, c->id, c->watched.replica, c->own, ++c->step);
            send_bytes(c, frame, (size_t)format_event(frame, data));
            c->event_due += options.event_every;
            c->idle_since = now;
            if (c->step == options.events)
                send_bytes(c, "0\r\n\r\n", 5); /* a write of its own, as uvicorn does it */
        }
        if (c->watched.fd < 0 || c->step == options.events)
            emitters[i--] = emitters[--emitters_len];
        else if (wait < 0 || c->event_due - now < wait)
            wait = c->event_due > now ? c->event_due - now : 0;
    }
    return wait;
}

static bool asks(const struct connection *c, const char *method)
{
    return memmem(c->start, c->body_seen < FILL_FROM ? c->body_seen : FILL_FROM, method, strlen(method)) != NULL;
}

/* What an aggregator asks besides calls: what there is, whether all is well, and the end of a session. */
static bool answer_aggregator(struct connection *c, bool has_id)
{
    static char *out, *body;
    static const struct {
        const char *method, *member;
    } lists[] = {
        {"\"resources/templates/list\"", "resourceTemplates"},
        {"\"resources/list\"", "resources"},
        {"\"prompts/list\"", "prompts"},
    };
    if (!out)
        out = malloc((size_t)options.tools * 1024 + 8192), body = malloc((size_t)options.tools * 1024 + 4096);
    if (c->ending || !has_id) {
        send_bytes(c, out, (size_t)sprintf(out, "HTTP/1.1 %s\r\nserver: uvicorn\r\ncontent-length: 0\r\n\r\n",
                                           c->ending ? "200 OK" : "202 Accepted"));
        return true;
    }
    int len = asks(c, "\"tools/list\"") ? format_tools(body, c->id, options.tools) : 0;
    for (size_t i = 0; !len && i < sizeof lists / sizeof *lists; i++)
        if (asks(c, lists[i].method))
            len = format_empty_list(body, c->id, lists[i].member);
    if (len) {
        size_t head_len = (size_t)format_json_head(out, (size_t)len, "");
        memcpy(out + head_len, body, (size_t)len);
        send_bytes(c, out, head_len + (size_t)len);
    } else if (asks(c, "\"server/discover\""))
        send_bytes(c, out, (size_t)format_refusal(out, c->id));
    else
        return false;
    return true;
}

static void open_stream(struct connection *c, const char *session)
{
    char out[1024];
    send_bytes(c, out, (size_t)format_stream_head(out, session));
    c->streaming = true;
    counts.streams++, counts.streams_open++;
    /* spread over the interval, or every stream would speak in the same instant */
    c->event_due = now + (int64_t)((counts.streams * 0x9e3779b97f4a7c15ull >> 11) % (uint64_t)options.stream_every);
}

static void answer(struct connection *c, struct span session)
{
    char issued[33], named[160];
    snprintf(named, sizeof named, "%.*s", (int)session.len, session.at ? session.at : "");
    counts.requests++;
    counts.unsound += !c->sound;
    const char *end = c->start + (c->body_seen < FILL_FROM ? c->body_seen : FILL_FROM);
    const char *id = memmem(c->start, (size_t)(end - c->start), "\"id\":", 5);
    c->id = id ? (struct span){id + 5, 0} : (struct span){"null", 4};
    while (id && c->id.at + c->id.len < end && c->id.at[c->id.len] != ',' && c->id.at[c->id.len] != '}')
        c->id.len++;
    c->initialize = !session.at && memmem(c->start, (size_t)(end - c->start), "\"initialize\"", 12);
    if (c->initialize) {
        counts.initializes++;
        issue_session(issued, c->watched.replica);
        return answer_json(c, issued);
    }
    counts.foreign += !c->own;
    if (c->get)
        return open_stream(c, named);
    if (options.tools && answer_aggregator(c, id != NULL))
        return;
    (options.sse ? answer_events : answer_json)(c, named);
}

static void take_body(void *owner, const char *bytes, size_t len)
{
    struct connection *c = owner;
    if (c->body_seen < FILL_FROM) {
        size_t room = FILL_FROM - c->body_seen;
        memcpy(c->start + c->body_seen, bytes, len < room ? len : room);
    }
    if (c->body_len > FILL_FROM + FILL_TAIL) {
        uint64_t from = c->body_seen > FILL_FROM ? c->body_seen : FILL_FROM;
        uint64_t to = c->body_seen + len < c->body_len - FILL_TAIL ? c->body_seen + len : c->body_len - FILL_TAIL;
        if (from < to && !fill_matches(bytes + (from - c->body_seen), from, to - from))
            c->sound = false;
    }
    c->body_seen += len;
}

static void keep_head(struct connection *c, const char *bytes, size_t len)
{
    c->head_len = len;
    if (c->head == bytes)
        return;
    c->head = realloc(c->head, len);
    memcpy(c->head, bytes, len);
}

/* One request out of the bytes; returns how many it took, 0 when it needs more. */
static size_t take_head(struct connection *c, const char *bytes, size_t len)
{
    size_t head_len = head_length(bytes, len);
    if (!head_len)
        return 0;
    struct span session = header_value(bytes, head_len, "mcp-session-id");
    c->own = session.at && hex_digit(session.at[session.len - 1]) == c->watched.replica;
    c->get = bytes[0] == 'G';
    c->ending = bytes[0] == 'D';
    c->sound = true;
    c->body_seen = 0;
    body_start(&c->body, bytes, head_len);
    /* a proxy may have turned a length into chunks: then the filler is not checked, only parsed */
    c->body_len = c->body.chunked || c->get ? 0 : c->body.left;
    if (c->get)
        c->body.state = BODY_DONE;
    size_t used = head_len + body_feed(&c->body, bytes + head_len, len - head_len, take_body, c);
    c->in_body = c->body.state != BODY_DONE;
    if (c->in_body) /* the session id is wanted again when the body has come */
        keep_head(c, bytes, head_len);
    else
        answer(c, session);
    return used;
}

static void take_bytes(struct connection *c, const char *bytes, size_t len)
{
    while (len && c->watched.fd >= 0) {
        size_t used;
        if (c->in_body) {
            used = body_feed(&c->body, bytes, len, take_body, c);
            if (c->body.state == BODY_DONE) {
                c->in_body = false;
                size_t head_len = c->head_len;
                c->head_len = 0;
                answer(c, header_value(c->head, head_len, "mcp-session-id"));
            }
        } else if (c->head_len) { /* the rest of a head that came in pieces */
            if (c->head_len + len > HEAD_BYTES_MAX)
                return close_connection(c);
            c->head = realloc(c->head, c->head_len + len);
            memcpy(c->head + c->head_len, bytes, len);
            size_t before = c->head_len;
            c->head_len = 0;
            used = take_head(c, c->head, before + len);
            if (!used) {
                c->head_len = before + len;
                return;
            }
            used -= before;
        } else if (!(used = take_head(c, bytes, len))) {
            if (len > HEAD_BYTES_MAX)
                return close_connection(c);
            return keep_head(c, bytes, len);
        }
        bytes += used, len -= used;
    }
}

static void read_connection(struct connection *c)
{
    static char buffer[262144];
    ssize_t got = recv(c->watched.fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        return close_connection(c);
    c->idle_since = now;
    take_bytes(c, buffer, (size_t)got);
}

static void send_event(struct connection *c)
{
    char frame[512];
    int (*format)(char *, int64_t) = options.stream_messages ? format_timed_event : format_timed_comment;
    send_bytes(c, frame, (size_t)format(frame, now_nanoseconds()));
    c->event_due += options.stream_every;
}

/* Every millisecond for timed streams, else every half second: one pass over all connections. */
static void sweep(void)
{
    for (struct connection *c = all.next, *next; c != &all; c = next) {
        next = c->next;
        if (c->streaming && options.timed_streams && c->event_due <= now)
            send_event(c);
        else if (!c->streaming && !c->in_body && !c->pending_len && now - c->idle_since > options.keep_alive)
            close_connection(c);
    }
}

static void print_stats(void)
{
    char line[256];
    if (!fgets(line, sizeof line, stdin))
        exit(0);
    printf("{\"requests\":%lu,\"initializes\":%lu,\"streams\":%lu,\"streams_open\":%ld,\"connections_open\":%ld,"
           "\"foreign\":%lu,\"unsound\":%lu}\n",
           counts.requests, counts.initializes, counts.streams, counts.streams_open, counts.connections_open,
           counts.foreign, counts.unsound);
    fflush(stdout);
}

static void listen_on(struct watched *listener, int replica)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    *listener = (struct watched){LISTENER, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), replica};
    if (bind(listener->fd, (struct sockaddr *)&address, len) || listen(listener->fd, 4096)) {
        perror("backend: listen");
        exit(1);
    }
    getsockname(listener->fd, (struct sockaddr *)&address, &len);
    printf("%s%d", replica ? "," : "{\"ports\":[", ntohs(address.sin_port));
    struct epoll_event event = {EPOLLIN, {.ptr = listener}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener->fd, &event);
}

int main(int argc, char **argv)
{
    static struct watched listeners[REPLICAS_MAX], control = {CONTROL, 0, 0};
    struct epoll_event events[256], event = {EPOLLIN, {.ptr = &control}};
    read_options(argc, argv);
    session_source.seed = (uint64_t)now_nanoseconds() ^ (uint64_t)getpid() << 40;
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int replica = 0; replica < options.replicas; replica++)
        listen_on(&listeners[replica], replica);
    puts("]}");
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    prctl(PR_SET_TIMERSLACK, 1); /* the default of 50 us would be a twentieth of an event's distance */
    for (int64_t swept = 0, wait = -1;;) {
        int64_t sweep_every = options.timed_streams && counts.streams_open ? 1000000 : 500000000;
        struct timespec timeout = {0, wait >= 0 && wait < sweep_every ? wait : sweep_every};
        int ready = epoll_pwait2(poller, events, 256, &timeout, NULL);
        now = now_nanoseconds();
        for (int i = 0; i < ready; i++) {
            struct watched *watched = events[i].data.ptr;
            struct connection *c = events[i].data.ptr;
            if (watched->kind == LISTENER)
                accept_connections(watched);
            else if (watched->kind == CONTROL)
                print_stats();
            else {
                if (watched->fd >= 0 && events[i].events & EPOLLOUT)
                    send_pending(c);
                if (watched->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                    read_connection(c);
            }
        }
        wait = emit_events();
        if (now - swept >= sweep_every)
            swept = now, sweep();
        free_closed();
    }
}
