"""The log of events that a client of the session era may ask for again with `Last-Event-ID`.

In memory and unbounded: a conformance run writes a few hundred events, and the process ends with it.
"""

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage


class EventLog(EventStore):
    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []  # an event's id is its place here, from 1

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        if (
            not last_event_id.isascii()
            or not last_event_id.isdigit()
            or not 0 < int(last_event_id) <= len(self._events)
        ):
            return None
        place = int(last_event_id)
        stream = self._events[place - 1][0]
        for number, (owner, message) in enumerate(self._events[place:], place + 1):
            if owner == stream and message is not None:  # a priming event has no message and is not repeated
                await send_callback(EventMessage(message, str(number)))
        return stream
