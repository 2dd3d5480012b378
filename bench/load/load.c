/* The load: MCP clients in one epoll loop, closed loop or open loop, every answer checked.
 *
 *   load --port P [--connections 64] [--body-bytes 400] [--answer-bytes 0] [--events 0] [--tls 1] [--backends 0]
 *
 * One command per line on standard input, one line of JSON per command on standard output:
 *   sessions N        open sessions until there are N
 *   closed SECONDS    each connection sends its next call when the last one is answered
 *   open RATE SECONDS calls at a fixed rate, timed from the instant each was due (no coordinated omission)
 *   fresh SECONDS     closed loop with a new connection per call
 *   initialize SECONDS  closed loop of `initialize`, ids not kept
 *   list SECONDS      closed loop of tools/list
 *   each N            a call at each of the first N backends for every open session, in their order
 *   streams N · watch SECONDS · hangup    GET streams: open, read for a while, close
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>

#include "streams.h"

enum ask { ASK_CALL, ASK_INITIALIZE, ASK_LIST, ASKS };

struct connection {
    struct link link;
    bool busy, writing, reused;
    char *out;
    size_t out_len, out_at;
    struct answer answer;
    uint32_t session, id;
    int backend;
    int64_t due;
};

static struct {
    int port, connections, backends;
    size_t body_bytes;
    bool tls;
    struct expectation expected;
} options = {.connections = 64, .body_bytes = 400, .expected.holds = "replica="};

static struct {
    enum ask ask;
    bool fresh, keep;
    int in_order; /* calls for each session, one after another; 0: any session, any backend */
    double rate; /* per second; 0: closed loop */
    int64_t started, until;
    uint64_t begun_max, begun, done, errors, violations, bytes;
    struct histogram latency;
} run;

static struct template templates[ASKS];
static struct connection *connections;
static uint32_t *idle, idle_first, idle_count; /* a ring: the connection that has rested longest goes next */
static struct session *sessions;
static uint32_t sessions_len, sessions_room, next_id;
static uint64_t random_state = 0x853c49e6748fea9bull;
static int poller;

static uint32_t random_below(uint32_t bound)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (uint32_t)(((random_state >> 32) * bound) >> 32);
}

static void rest(struct connection *c)
{
    c->busy = false;
    idle[(idle_first + idle_count++) % (uint32_t)options.connections] = (uint32_t)(c - connections);
}

static void fail(struct connection *c)
{
    if (run.errors++ < 3)
        fprintf(stderr, "load: port %d: error: status %d, %lu body bytes, %d events: %.*s\n", options.port,
                c->answer.status, c->answer.body_bytes, c->answer.events,
                (int)(c->answer.body_bytes < 200 ? c->answer.body_bytes : 200), c->answer.start);
    link_close(&c->link);
    if (c->busy)
        rest(c);
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {events, {.ptr = c}};
    epoll_ctl(poller, operation, c->link.fd, &event);
}

static bool connect_again(struct connection *c)
{
    link_close(&c->link);
    c->reused = c->writing = false;
    if (!link_open(&c->link, options.port, options.tls, run.fresh ? 2 + (int)random_below(200) : 1))
        return false;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    return true;
}

static void write_request(struct connection *c)
{
    while (c->out_at < c->out_len) {
        ssize_t sent = link_write(&c->link, c->out + c->out_at, c->out_len - c->out_at);
        if (sent == LINK_AGAIN)
            break;
        if (sent < 0) {
            if (!c->reused || !connect_again(c))
                return fail(c);
            c->out_at = 0; /* the proxy had closed a resting connection: not an error of its */
            continue;
        }
        c->out_at += (size_t)sent;
    }
    bool writing = c->out_at < c->out_len;
    if (writing != c->writing)
        watch(c, EPOLL_CTL_MOD, writing ? EPOLLIN | EPOLLOUT : EPOLLIN);
    c->writing = writing;
}

static void begin(struct connection *c, int64_t due)
{
    c->busy = true;
    c->due = due;
    c->id = ID_FIRST + next_id++ % 800000000u;
    c->session = run.ask == ASK_INITIALIZE ? 0 : random_below(sessions_len);
    c->backend = options.backends ? (int)random_below((uint32_t)options.backends) : 0;
    if (run.in_order) {
        c->session = (uint32_t)(run.begun / (uint64_t)run.in_order);
        c->backend = (int)(run.begun % (uint64_t)run.in_order);
    }
    c->out_len = template_write(&templates[run.ask], c->out, &sessions[c->session], c->id, c->backend);
    c->out_at = 0;
    answer_expect(&c->answer, run.ask == ASK_CALL ? options.expected.body_bytes : 0);
    run.begun++;
    if (c->link.fd < 0 && !connect_again(c))
        return fail(c);
    write_request(c);
}

static bool keep_session(const struct answer *answer)
{
    struct span id = header_value(answer->head, answer->head_len, "mcp-session-id");
    if (!id.at || id.len > SESSION_ID_BYTES_MAX)
        return false;
    if (!run.keep)
        return true;
    if (sessions_len == sessions_room) {
        sessions_room = sessions_room ? sessions_room * 2 : 1024;
        sessions = realloc(sessions, sessions_room * sizeof *sessions);
    }
    struct session *session = &sessions[sessions_len++];
    memcpy(session->id, id.at, id.len);
    session->len = (uint8_t)id.len;
    session->replica = (uint8_t)answer_number(answer, "replica="); /* an aggregator names none: 255 */
    return true;
}

static bool may_begin(void)
{
    return run.begun < run.begun_max && now_nanoseconds() < run.until;
}

static void finish(struct connection *c)
{
    static const struct expectation initialized = {.holds = "\"protocolVersion\":"}, listed = {.holds = "\"tools\":["};
    const struct expectation *expected[] = {&options.expected, &initialized, &listed};
    if (!answer_is_right(&c->answer, c->id, expected[run.ask]))
        return fail(c);
    if (run.ask == ASK_INITIALIZE && !keep_session(&c->answer))
        return fail(c);
    if (run.ask == ASK_CALL) {
        int own = sessions[c->session].replica == 255 ? c->backend : sessions[c->session].replica;
        run.violations += answer_number(&c->answer, "replica=") != own || answer_number(&c->answer, "own=") != 1;
    }
    run.bytes += c->answer.body_bytes;
    histogram_add(&run.latency, now_nanoseconds() - c->due);
    run.done++;
    c->reused = true;
    if (run.fresh)
        link_close(&c->link);
    rest(c);
}

static void read_answer(struct connection *c)
{
    static char buffer[262144];
    while (c->link.fd >= 0) {
        ssize_t got = link_read(&c->link, buffer, sizeof buffer);
        if (got == LINK_AGAIN)
            return;
        if (got <= 0 && !c->busy)
            return link_close(&c->link);
        if (got <= 0 && c->reused && !c->answer.head_len && connect_again(c)) {
            c->out_at = 0;
            return write_request(c);
        }
        enum progress progress = got > 0 && c->busy ? answer_take(&c->answer, buffer, (size_t)got) : ANSWER_BAD;
        if (progress == ANSWER_BAD)
            return fail(c);
        if (progress == ANSWER_WHOLE)
            return finish(c);
        if (!c->link.tls) /* TLS may hold bytes that the poller does not see */
            return;
    }
}

/* Sends what is due on connections that rest; returns the nanoseconds until the next call is due, -1: none. */
static int64_t begin_due(void)
{
    int64_t now = now_nanoseconds();
    while (idle_count && run.begun < run.begun_max && now < run.until) {
        int64_t due = run.rate ? run.started + (int64_t)((double)run.begun * 1e9 / run.rate) : now;
        if (due > now)
            return due - now;
        struct connection *c = &connections[idle[idle_first]];
        idle_first = (idle_first + 1) % (uint32_t)options.connections;
        idle_count--;
        begin(c, due);
        now = now_nanoseconds();
    }
    return -1;
}

static void run_load(void)
{
    struct epoll_event events[128];
    int64_t moved = run.started = now_nanoseconds();
    run.until += run.started;
    while (may_begin() || idle_count < (uint32_t)options.connections) {
        int64_t wait = begin_due();
        struct timespec timeout = {wait >= 0 ? 0 : 1, wait >= 0 ? wait : 0};
        if (wait < 0 && idle_count == (uint32_t)options.connections)
            break;
        int ready = epoll_pwait2(poller, events, 128, &timeout, NULL);
        if (ready > 0 || wait >= 0)
            moved = now_nanoseconds();
        else if (now_nanoseconds() - moved > 10000000000) { /* nothing at all for ten seconds: unanswered */
            for (int i = 0; i < options.connections; i++)
                if (connections[i].busy)
                    fail(&connections[i]);
            break;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->link.fd >= 0 && events[i].events & EPOLLOUT)
                write_request(c);
            if (c->link.fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_answer(c);
        }
    }
    printf("{\"requests\":%lu,\"errors\":%lu,\"violations\":%lu,\"sessions\":%u,\"bytes\":%lu,\"seconds\":%.4f,",
           run.done, run.errors, run.violations, sessions_len, run.bytes,
           (double)(now_nanoseconds() - run.started) / 1e9);
    histogram_print(&run.latency);
    printf("}\n");
}

static void prepare_run(enum ask ask, double seconds)
{
    memset(&run, 0, sizeof run);
    run.ask = ask;
    run.until = (int64_t)(seconds * 1e9);
    run.begun_max = UINT64_MAX;
}

static void obey(const char *line)
{
    double first = 0, second = 0;
    char name[32] = "";
    sscanf(line, "%31s %lf %lf", name, &first, &second);
    if (!strcmp(name, "streams") && sessions_len)
        return streams_open((uint32_t)first, sessions, sessions_len, options.port);
    if (!strcmp(name, "watch") && streams.count)
        return streams_watch(first);
    if (!strcmp(name, "hangup") && streams.count)
        return streams_hang_up();
    if (!strcmp(name, "sessions")) {
        prepare_run(ASK_INITIALIZE, 3600);
        run.keep = true;
        run.begun_max = first > sessions_len ? (uint64_t)first - sessions_len : 0;
        return run_load();
    }
    enum ask ask = !strcmp(name, "initialize") ? ASK_INITIALIZE : !strcmp(name, "list") ? ASK_LIST : ASK_CALL;
    prepare_run(ask, strcmp(name, "open") ? first : second);
    run.fresh = !strcmp(name, "fresh");
    if (!strcmp(name, "each")) {
        run.in_order = first < 1 ? 1 : (int)first;
        run.begun_max = (uint64_t)sessions_len * (uint64_t)run.in_order;
        run.until = INT64_MAX / 2;
    }
    if (!strcmp(name, "open")) { /* as many as are due in that time, however late the last of them are answered */
        run.rate = first;
        run.begun_max = (uint64_t)(first * second);
        run.until = INT64_MAX / 2;
    }
    if (run.ask != ASK_INITIALIZE && !sessions_len)
        printf("{\"error\":\"no session is open\"}\n");
    else if (ask == ASK_CALL && !run.fresh && !run.in_order && strcmp(name, "closed") && strcmp(name, "open"))
        printf("{\"error\":\"unknown command, or streams that are not open\"}\n");
    else
        run_load();
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        long value = atol(argv[i + 1]);
        if (!strcmp(argv[i], "--port"))
            options.port = (int)value;
        else if (!strcmp(argv[i], "--connections"))
            options.connections = (int)value;
        else if (!strcmp(argv[i], "--body-bytes"))
            options.body_bytes = (size_t)value;
        else if (!strcmp(argv[i], "--answer-bytes"))
            options.expected.body_bytes = (size_t)value;
        else if (!strcmp(argv[i], "--events"))
            options.expected.events = (int)value;
        else if (!strcmp(argv[i], "--backends"))
            options.backends = (int)value;
        else if (!strcmp(argv[i], "--tls"))
            options.tls = value != 0;
        else {
            fprintf(stderr, "load: unknown option %s\n", argv[i]);
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    char line[256];
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    prctl(PR_SET_TIMERSLACK, 1); /* the default of 50 us would be part of every open-loop latency */
    poller = epoll_create1(EPOLL_CLOEXEC);
    template_initialize(&templates[ASK_INITIALIZE], options.port);
    template_call(&templates[ASK_CALL], options.port, options.body_bytes, options.backends > 0);
    template_list(&templates[ASK_LIST], options.port);
    size_t room = template_bytes_max(&templates[ASK_CALL]) + template_bytes_max(&templates[ASK_INITIALIZE]);
    connections = calloc((size_t)options.connections, sizeof *connections);
    idle = calloc((size_t)options.connections, sizeof *idle);
    for (int i = 0; i < options.connections; i++) {
        connections[i].link.fd = -1;
        connections[i].out = malloc(room);
        rest(&connections[i]);
    }
    while (fgets(line, sizeof line, stdin)) {
        obey(line);
        fflush(stdout);
    }
    return 0;
}
