# The relay: sockets under one epoll descriptor that lives inside the event loop. Each part is a file of its own.

include "sse.pyx"
include "wire.pyx"
include "deadlines.pyx"
include "endpoint.pyx"
include "heads.pyx"
include "nagle.pyx"
include "sieve.pyx"
include "exchange.pyx"
include "fastlane.pyx"
include "client.pyx"
include "upstream.pyx"
include "reactor.pyx"
