# cython: language_level=3, binding=False, freethreading_compatible=False
"""The ground floor, one compiled module: bytes in, bytes out. It decides nothing that the story has not decided before.

Read in this order: http1 and chunks (what the bytes are), jsonrpc (the one question asked of a body), table (session to
replica), then the relay: wire (a socket, its buffers, TLS), deadlines, heads (rewriting), exchange (one request and all
it causes: its state and the story's verbs; lifecycle, request_body and answer_body are what happens to it), fastlane,
client and upstream (the two protocols), reactor (the loop's one descriptor).
"""

include "includes.pxi"
include "buffer.pyx"
include "http1.pyx"
include "chunks.pyx"
include "doors.pyx"
include "jsonrpc.pyx"
include "table.pyx"
include "relay.pyx"
