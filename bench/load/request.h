/* What the load asks and what it accepts as an answer: requests like the Python SDK's, every answer checked.
 *
 * An answer is right when its status is 200, its JSON-RPC id is the request's, its body is whole (its filler,
 * its number of events) and it says that it comes from the replica that issued the session. A right answer from
 * the wrong replica is a violation; anything else is an error.
 *
 * Before an aggregator each replica is a server of its own, b0, b1 …: a call names one of them by the tool's prefix,
 * and that one has to answer.
 */
#ifndef BENCH_REQUEST_H
#define BENCH_REQUEST_H

#include <stdio.h>

#include "http.h"

#define SESSION_ID_BYTES_MAX 120
#define ID_FIRST 100000000u /* nine digits always, so that lengths are constant */

struct session {
    char id[SESSION_ID_BYTES_MAX];
    uint8_t len;
    uint8_t replica;
};

struct expectation {
    size_t body_bytes; /* of a call's answer; 0: any */
    int events;        /* of a call's answer; 0: JSON */
    const char *holds; /* what stands near an answer's beginning */
};

/* A request with two holes: the session id in its head and the JSON-RPC id in its body. */
struct template {
    char before_session[1024], after_session[128];
    size_t before_len, after_len;
    char *body;
    size_t body_len, id_at, backend_at; /* where a backend's digit stands in a tool's name; 0: nowhere */
    bool has_session;
};

static inline size_t template_bytes_max(const struct template *t)
{
    return t->before_len + SESSION_ID_BYTES_MAX + t->after_len + t->body_len;
}

static void template_head(struct template *t, const char *method, const char *accept, int port, bool version)
{
    t->before_len = (size_t)snprintf(
        t->before_session, sizeof t->before_session,
        "%s /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: %s\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\nAuthorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6"
        "IkpXVCJ9.eyJzdWIiOiJ1c2VyLTEyMyIsImV4cCI6MTc5NTA4MDAwMH0.c2lnbmF0dXJlLXRoYXQtbm9ib2R5LWNoZWNrcw\r\n"
        "content-type: application/json\r\n%s%s",
        method, port, accept, version ? "mcp-protocol-version: 2025-11-25\r\n" : "",
        t->has_session ? "mcp-session-id: " : "");
    const char *line_end = t->has_session ? "\r\n" : "";
    t->after_len = (size_t)(t->body_len ? snprintf(t->after_session, sizeof t->after_session,
                                                   "%sContent-Length: %zu\r\n\r\n", line_end, t->body_len)
                                        : snprintf(t->after_session, sizeof t->after_session, "%s\r\n", line_end));
}

static void template_initialize(struct template *t, int port)
{
    t->body = strdup("{\"jsonrpc\":\"2.0\",\"id\":100000000,\"method\":\"initialize\",\"params\":{\"protocolVersion\":"
                     "\"2025-11-25\",\"capabilities\":{\"sampling\":{},\"roots\":{\"listChanged\":true}},"
                     "\"clientInfo\":{\"name\":\"mcp\",\"version\":\"0.1.0\"}}}");
    t->body_len = strlen(t->body);
    t->id_at = (size_t)(strstr(t->body, "100000000") - t->body);
    template_head(t, "POST", "application/json, text/event-stream", port, false);
}

static void template_call(struct template *t, int port, size_t body_bytes, bool prefixed)
{
    char start[256];
    static const char end[] = "\"}}}";
    size_t start_len = (size_t)snprintf(
        start, sizeof start,
        "{\"jsonrpc\":\"2.0\",\"id\":100000000,\"method\":\"tools/call\",\"params\":{\"_meta\":{\"progressToken\":1},"
        "\"name\":\"%sforecast\",\"arguments\":{\"city\":\"Springfield\",\"days\":3,\"units\":\"metric\",\"notes\":\"",
        prefixed ? "b0_" : "");
    size_t least = start_len + sizeof end - 1;
    t->body_len = body_bytes > least ? body_bytes : least;
    t->body = malloc(t->body_len + 1);
    memset(t->body, '-', t->body_len);
    memcpy(t->body, start, start_len);
    if (t->body_len > FILL_FROM + FILL_TAIL)
        fill_write(t->body, FILL_FROM, t->body_len - FILL_TAIL);
    memcpy(t->body + t->body_len - (sizeof end - 1), end, sizeof end - 1);
    t->id_at = (size_t)(strstr(start, "100000000") - start);
    t->backend_at = prefixed ? (size_t)(strstr(start, "b0_forecast") - start) + 1 : 0;
    t->has_session = true;
    template_head(t, "POST", "application/json, text/event-stream", port, true);
}

static void template_list(struct template *t, int port)
{
    t->body = strdup("{\"jsonrpc\":\"2.0\",\"id\":100000000,\"method\":\"tools/list\"}");
    t->body_len = strlen(t->body);
    t->id_at = (size_t)(strstr(t->body, "100000000") - t->body);
    t->has_session = true;
    template_head(t, "POST", "application/json, text/event-stream", port, true);
}

static void template_stream(struct template *t, int port)
{
    t->has_session = true;
    template_head(t, "GET", "text/event-stream", port, true);
}

static size_t template_write(const struct template *t, char *out, const struct session *session, uint32_t id,
                             int backend)
{
    char *at = mempcpy(out, t->before_session, t->before_len);
    if (t->has_session)
        at = mempcpy(at, session->id, session->len);
    at = mempcpy(at, t->after_session, t->after_len);
    if (t->body_len) {
        char *body = at;
        at = mempcpy(body, t->body, t->body_len);
        if (t->backend_at)
            body[t->backend_at] = (char)('0' + backend);
        for (char *digit = body + t->id_at + 8; digit >= body + t->id_at; digit--, id /= 10)
            *digit = (char)('0' + id % 10);
    }
    return (size_t)(at - out);
}

/* An answer while it arrives. */
struct answer {
    int status; /* 0: the head is not complete */
    char head[4096];
    size_t head_len;
    struct body body;
    char start[FILL_FROM];
    uint64_t body_bytes;
    size_t expected_bytes; /* where the filler ends; 0: none */
    int events;
    char last; /* of an event's bytes, carriage returns aside */
    bool sound;
};

static void answer_expect(struct answer *answer, size_t expected_bytes)
{
    answer->status = 0, answer->head_len = 0, answer->body_bytes = 0, answer->events = 0, answer->last = 0;
    answer->expected_bytes = expected_bytes;
    answer->sound = true;
}

static void answer_take_body(void *owner, const char *bytes, size_t len)
{
    struct answer *answer = owner;
    if (answer->body_bytes < FILL_FROM) {
        size_t room = FILL_FROM - answer->body_bytes;
        memcpy(answer->start + answer->body_bytes, bytes, len < room ? len : room);
    }
    if (answer->expected_bytes > FILL_FROM + FILL_TAIL) {
        uint64_t from = answer->body_bytes > FILL_FROM ? answer->body_bytes : FILL_FROM;
        uint64_t end = answer->body_bytes + len, stop = answer->expected_bytes - FILL_TAIL;
        end = end < stop ? end : stop;
        if (from < end && !fill_matches(bytes + (from - answer->body_bytes), from, end - from))
            answer->sound = false;
    } else if (answer->start[0] == 'e') /* event: message */
        for (size_t i = 0; i < len; i++) {
            if (bytes[i] == '\r')
                continue;
            answer->events += bytes[i] == '\n' && answer->last == '\n';
            answer->last = bytes[i] == '\n' && answer->last == '\n' ? 0 : bytes[i];
        }
    answer->body_bytes += len;
}

enum progress { ANSWER_MORE, ANSWER_WHOLE, ANSWER_BAD };

static enum progress answer_take(struct answer *answer, const char *bytes, size_t len)
{
    if (!answer->status) {
        size_t before = answer->head_len, take = sizeof answer->head - before;
        take = len < take ? len : take;
        memcpy(answer->head + before, bytes, take);
        answer->head_len += take;
        size_t head_len = head_length(answer->head, answer->head_len);
        if (!head_len)
            return answer->head_len == sizeof answer->head ? ANSWER_BAD : ANSWER_MORE;
        answer->head_len = head_len;
        answer->status = atoi(answer->head + 9);
        body_start(&answer->body, answer->head, head_len);
        bytes += head_len - before, len -= head_len - before;
    }
    size_t used = body_feed(&answer->body, bytes, len, answer_take_body, answer);
    return answer->body.state != BODY_DONE ? ANSWER_MORE : used == len ? ANSWER_WHOLE : ANSWER_BAD;
}

static int answer_number(const struct answer *answer, const char *name)
{
    size_t len = answer->body_bytes < FILL_FROM ? answer->body_bytes : FILL_FROM;
    const char *at = memmem(answer->start, len, name, strlen(name));
    return at ? atoi(at + strlen(name)) : -1;
}

static bool answer_holds(const struct answer *answer, const char *text)
{
    size_t len = answer->body_bytes < FILL_FROM ? answer->body_bytes : FILL_FROM;
    return memmem(answer->start, len, text, strlen(text)) != NULL;
}

static bool answer_is_right(const struct answer *answer, uint32_t id, const struct expectation *expected)
{
    return answer->status == 200 && answer->sound && answer_number(answer, "\"id\":") == (int)id &&
           answer_holds(answer, expected->holds) &&
           (!expected->events || answer->events == expected->events) &&
           (!expected->body_bytes || answer->body_bytes == expected->body_bytes);
}

#endif
