/* What the stub backend was asked to do. */
#ifndef BENCH_BACKEND_OPTIONS_H
#define BENCH_BACKEND_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLICAS_MAX 16

static struct {
    int replicas, events, tools;
    size_t answer_bytes;
    bool sse, timed_streams, stream_messages;
    int64_t event_every, stream_every, keep_alive;
} options = {4, 10, 0, 0, false, false, false, 1000000, 1000000000, 5000000000};

static int64_t nanoseconds(const char *seconds)
{
    return (int64_t)(atof(seconds) * 1e9);
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--replicas"))
            options.replicas = atoi(value);
        else if (!strcmp(name, "--answer"))
            options.sse = !strcmp(value, "sse");
        else if (!strcmp(name, "--answer-bytes"))
            options.answer_bytes = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--events"))
            options.events = atoi(value);
        else if (!strcmp(name, "--tools"))
            options.tools = atoi(value);
        else if (!strcmp(name, "--event-seconds"))
            options.event_every = nanoseconds(value);
        else if (!strcmp(name, "--stream"))
            options.timed_streams = strcmp(value, "idle") != 0, options.stream_messages = !strcmp(value, "message");
        else if (!strcmp(name, "--stream-seconds"))
            options.stream_every = nanoseconds(value);
        else if (!strcmp(name, "--keep-alive-seconds"))
            options.keep_alive = nanoseconds(value);
        else {
            fprintf(stderr, "backend: unknown option %s\n", name);
            exit(2);
        }
    }
    if (options.replicas < 1 || options.replicas > REPLICAS_MAX) {
        fprintf(stderr, "backend: --replicas must be 1 to %d\n", REPLICAS_MAX);
        exit(2);
    }
}

#endif
