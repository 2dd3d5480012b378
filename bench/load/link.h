/* A connection of the load: TCP, or TLS when the load was built with it (-DBENCH_TLS, -lssl -lcrypto).
 *
 * Connects and shakes hands blocking (loopback answers at once), then never blocks again.
 */
#ifndef BENCH_LINK_H
#define BENCH_LINK_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef BENCH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls_context;
#else
typedef void SSL;
#endif

struct link {
    int fd; /* -1: closed */
    SSL *tls;
};

/* Results of link_read and link_write below zero; 0 from link_read is the peer's end. */
enum { LINK_AGAIN = -1, LINK_BROKEN = -2 };

#ifdef BENCH_TLS
static inline ssize_t tls_result(SSL *tls, int result)
{
    if (result > 0)
        return result;
    switch (SSL_get_error(tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return LINK_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        return LINK_BROKEN;
    }
}
#endif

static inline ssize_t link_read(struct link *link, char *bytes, size_t len)
{
#ifdef BENCH_TLS
    if (link->tls)
        return tls_result(link->tls, SSL_read(link->tls, bytes, (int)len));
#endif
    ssize_t got = recv(link->fd, bytes, len, 0);
    return got >= 0 ? got : errno == EAGAIN ? LINK_AGAIN : LINK_BROKEN;
}

static inline ssize_t link_write(struct link *link, const char *bytes, size_t len)
{
#ifdef BENCH_TLS
    if (link->tls)
        return tls_result(link->tls, SSL_write(link->tls, bytes, (int)len));
#endif
    ssize_t sent = send(link->fd, bytes, len, MSG_NOSIGNAL);
    return sent >= 0 ? sent : errno == EAGAIN ? LINK_AGAIN : LINK_BROKEN;
}

static inline void link_close(struct link *link)
{
#ifdef BENCH_TLS
    if (link->tls)
        SSL_free(link->tls), link->tls = NULL;
#endif
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
}

/* `host` is the last byte of the 127.0.0.x that this end has: connections that live for one request spread over
 * many, or their ports would run out (closed ones rest for a minute). */
static inline bool link_open(struct link *link, int port, bool tls, int host)
{
    struct sockaddr_in ours = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u + (uint32_t)host)};
    struct sockaddr_in peer = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(link->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    if (bind(link->fd, (struct sockaddr *)&ours, sizeof ours) ||
        connect(link->fd, (struct sockaddr *)&peer, sizeof peer)) {
        link_close(link);
        return false;
    }
#ifdef BENCH_TLS
    if (tls) {
        if (!tls_context)
            tls_context = SSL_CTX_new(TLS_client_method()); /* no verification: a certificate of the bench's own */
        SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        link->tls = SSL_new(tls_context);
        SSL_set_fd(link->tls, link->fd);
        if (SSL_connect(link->tls) != 1) {
            link_close(link);
            return false;
        }
    }
#else
    if (tls) {
        fprintf(stderr, "load: built without TLS (OpenSSL's headers were not found)\n");
        return false;
    }
#endif
    fcntl(link->fd, F_SETFL, O_NONBLOCK);
    return true;
}

#endif
