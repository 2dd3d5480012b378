from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.errno cimport EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EPIPE, errno
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

import asyncio
import logging
import os
import socket
import ssl

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char*, const char*, size_t)

cdef extern from "posix.h" nogil:
    ctypedef struct epoll_event "struct epoll_event":
        uint32_t events
        void* data_ptr "data.ptr"
    int EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR
    unsigned int EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)
    int MSG_NOSIGNAL, SHUT_WR, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_STREAM, AF_INET, AF_INET6
    ssize_t c_recv "recv"(int, void*, size_t, int)
    ssize_t c_send "send"(int, const void*, size_t, int)
    int c_close "close"(int)
    int c_shutdown "shutdown"(int, int)
    int c_socket "socket"(int, int, int)
    ssize_t fp_send2(int, const void*, size_t, const void*, size_t)
    void fp_keep_memory()
    int fp_accept(int)
    int fp_quickack(int)
    int fp_nodelay(int)
    int fp_connect(int, int, const char*, int, unsigned int)
    int fp_socket_error(int)
    int fp_peer(int, char*, int)
    int64_t fp_bytes_acked(int)
    bint fp_closed(int)
    uint64_t fp_clock_ms()
    uint64_t fp_clock_ns()
    void* memmem(const void*, size_t, const void*, size_t)
