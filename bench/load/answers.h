/* What the stub backend says, head for head as a server on the official Python SDK under uvicorn says it. Pure text. */
#ifndef BENCH_ANSWERS_H
#define BENCH_ANSWERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "http.h"

static struct {
    uint64_t issued, seed;
} session_source;

/* 32 hex digits like a uuid4's, the last one the replica's. */
static void issue_session(char id[33], int replica)
{
    uint64_t halves[2];
    for (int i = 0; i < 2; i++) {
        uint64_t x = session_source.seed + ++session_source.issued * 0x9e3779b97f4a7c15ull;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
        halves[i] = x ^ (x >> 31);
    }
    snprintf(id, 33, "%016lx%015lx%x", halves[0], halves[1] >> 4, replica);
}

/* `session` may be empty: then the answer names none. */
static int format_json_head(char *out, size_t body_len, const char *session)
{
    return sprintf(out,
                   "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 08:30:00 GMT\r\nserver: uvicorn\r\n"
                   "content-type: application/json\r\n%s%s%scontent-length: %zu\r\n\r\n",
                   session[0] ? "mcp-session-id: " : "", session, session[0] ? "\r\n" : "", body_len);
}

static int format_stream_head(char *out, const char *session)
{
    return sprintf(out,
                   "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 08:30:00 GMT\r\nserver: uvicorn\r\n"
                   "cache-control: no-cache, no-transform\r\nconnection: keep-alive\r\n"
                   "content-type: text/event-stream\r\n%s%s%sx-accel-buffering: no\r\n"
                   "transfer-encoding: chunked\r\n\r\n",
                   session[0] ? "mcp-session-id: " : "", session, session[0] ? "\r\n" : "");
}

static int format_initialize(char *out, struct span id, int replica)
{
    return sprintf(out,
                   "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":"
                   "{\"experimental\":{},\"prompts\":{\"listChanged\":false},\"resources\":{\"subscribe\":false,"
                   "\"listChanged\":false},\"tools\":{\"listChanged\":false}},\"serverInfo\":{\"name\":\"stub\","
                   "\"version\":\"1.0 replica=%d own=1\"}}}",
                   (int)id.len, id.at, replica);
}

static int format_result(char *out, struct span id, int replica, bool own, int step)
{
    return sprintf(out,
                   "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":"
                   "\"replica=%d own=%d step=%d: the forecast for Springfield is sunny, 21 degrees, with a light wind "
                   "from the west; no rain is expected before Sunday evening\"}],\"structuredContent\":"
                   "{\"temperature\":21,\"wind\":\"west\",\"rain\":false},\"isError\":false}}",
                   (int)id.len, id.at, replica, own, step);
}

/* Tools of ordinary size, about 600 bytes each; the first of them is the one that the load calls. */
static int format_tools(char *out, struct span id, int tools)
{
    char *at = out + sprintf(out, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"tools\":[", (int)id.len, id.at);
    for (int i = 0; i < tools; i++) {
        char name[32] = "forecast";
        if (i)
            sprintf(name, "forecast_of_kind_%d", i);
        at += sprintf(at,
                      "%s{\"name\":\"%s\",\"title\":\"Weather forecast\",\"description\":\"Tells the weather of the next "
                      "days for a city: temperature, wind and rain, by the day. Give the city's name as people there "
                      "write it; for more than seven days ahead ask for the climate instead.\",\"inputSchema\":{\"type\":"
                      "\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"description\":\"Name of the city\"},\"days\":"
                      "{\"type\":\"integer\",\"minimum\":1,\"maximum\":7},\"units\":{\"type\":\"string\"},\"notes\":{\"type\":"
                      "\"string\"}},\"required\":[\"city\"]},\"annotations\":{\"readOnlyHint\":true}}",
                      i ? "," : "", name);
    }
    return (int)(at + sprintf(at, "]}}") - out);
}

/* What the stub does not have; a list of it is empty. */
static int format_empty_list(char *out, struct span id, const char *member)
{
    return sprintf(out, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"%s\":[]}}", (int)id.len, id.at, member);
}

/* As a server of the eras with sessions answers what it does not know. */
static int format_refusal(char *out, struct span id)
{
    char body[256];
    int len = sprintf(body, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"error\":{\"code\":-32600,\"message\":\"Missing session ID\"}}",
                      (int)id.len, id.at);
    return sprintf(out, "HTTP/1.1 400 Bad Request\r\nserver: uvicorn\r\ncontent-type: application/json\r\n"
                        "content-length: %d\r\n\r\n%s", len, body);
}

/* One event in one chunk. */
static int format_event(char *out, const char *data)
{
    return sprintf(out, "%zx\r\nevent: message\r\ndata: %s\r\n\r\n\r\n", strlen(data) + 26, data);
}

static int format_timed_event(char *out, int64_t now)
{
    char data[256];
    sprintf(data,
            "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\","
            "\"logger\":\"stub\",\"data\":\"at=%ld;\"}}",
            now);
    return format_event(out, data);
}

static int format_timed_comment(char *out, int64_t now)
{
    char comment[64];
    int len = sprintf(comment, ": ping - at=%ld;\r\n\r\n", now);
    return sprintf(out, "%x\r\n%s\r\n", len, comment);
}

#endif
