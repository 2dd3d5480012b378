/* The few system calls that the relay makes, in the shape it wants them. */
#ifndef FASTPROXY_POSIX_H
#define FASTPROXY_POSIX_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <netinet/tcp.h>

static inline int fp_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }

/* Bodies come and go through buffers of up to 256 KiB. glibc would give the memory of each back to the kernel, which clears
   every page of the next one: of 1 MiB each way a tenth of all the time. So up to 4 MiB stay with us. */
static inline void fp_keep_memory(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
#endif
}

/* Two pieces in one system call. */
static inline ssize_t fp_send2(int fd, const void *p, size_t n, const void *q, size_t m) {
    struct iovec parts[2] = {{(void *)p, n}, {(void *)q, m}};
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* Acknowledge what has come now, and for the moment without delay. */
static inline int fp_quickack(int fd) {
    int on = 1;
    return setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static inline int fp_nodelay(int fd) {
    int on = 1;
    return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Begin to connect to a literal address. 0: connected or on the way (EINPROGRESS); else the errno. */
static inline int fp_connect(int fd, int family, const char *host, int port, unsigned int scope) {
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    int rc;
    if (family == AF_INET) {
        memset(&v4, 0, sizeof v4);
        v4.sin_family = AF_INET;
        v4.sin_port = htons((uint16_t)port);
        if (inet_pton(AF_INET, host, &v4.sin_addr) != 1) return EINVAL;
        rc = connect(fd, (struct sockaddr *)&v4, sizeof v4);
    } else {
        memset(&v6, 0, sizeof v6);
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons((uint16_t)port);
        v6.sin6_scope_id = scope;
        if (inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) return EINVAL;
        rc = connect(fd, (struct sockaddr *)&v6, sizeof v6);
    }
    return rc == 0 || errno == EINPROGRESS ? 0 : errno;
}

static inline int fp_socket_error(int fd) {
    int value = 0;
    socklen_t size = sizeof value;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &size) != 0) return errno;
    return value;
}

/* The peer's address as text, without brackets or port; IPv4-mapped IPv6 as IPv4. Returns its length, 0 when unknown. */
static inline int fp_peer(int fd, char *out, int size) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getpeername(fd, (struct sockaddr *)&a, &n) != 0) return 0;
    if (a.ss_family == AF_INET) {
        if (!inet_ntop(AF_INET, &((struct sockaddr_in *)&a)->sin_addr, out, (socklen_t)size)) return 0;
    } else if (a.ss_family == AF_INET6) {
        struct in6_addr *v6 = &((struct sockaddr_in6 *)&a)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(v6)) {
            if (!inet_ntop(AF_INET, (const char *)v6 + 12, out, (socklen_t)size)) return 0;
        } else if (!inet_ntop(AF_INET6, v6, out, (socklen_t)size)) return 0;
    } else return 0;
    return (int)strlen(out);
}

/* How many bytes of ours the peer's kernel has acknowledged on this connection (the SYN counts as one); -1: unknown.
   linux/tcp.h of some distributions is older than the field, so its place is taken from the ABI: offset 120, u64. */
static inline int64_t fp_bytes_acked(int fd) {
    unsigned char info[256];
    socklen_t size = sizeof info;
    uint64_t value;
    memset(info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) != 0 || size < 128) return -1;
    memcpy(&value, info + 120, sizeof value);
    return (int64_t)value;
}

/* Has the connection come to its end on both sides (a reset, for one), so that the peer takes nothing of ours any more? */
static inline int fp_closed(int fd) {
    unsigned char info[256];
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 && size > 0 && info[0] == TCP_CLOSE;
}

static inline uint64_t fp_clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static inline uint64_t fp_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
#endif
