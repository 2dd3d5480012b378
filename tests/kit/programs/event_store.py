"""The event store of a resumable Python server: a list in memory, for both SDK lines."""

import typing

from mcp.server.streamable_http import EventMessage, EventStore


class EventLog(EventStore):
    """Every event of every stream in order of arrival; an event's id is its index; a replay is of one stream."""

    def __init__(self) -> None:
        self.events: list[tuple[str, typing.Any]] = []

    async def store_event(self, stream_id: str, message: typing.Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: typing.Any) -> str | None:
        if not last_event_id.isdigit() or int(last_event_id) >= len(self.events):
            return None
        stream = self.events[int(last_event_id)][0]
        for index in range(int(last_event_id) + 1, len(self.events)):
            of_stream, message = self.events[index]
            if of_stream == stream and message is not None:
                await send_callback(EventMessage(message, str(index)))
        return stream
