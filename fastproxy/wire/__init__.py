"""Bytes to events and back: heads, chunks, Server-Sent Events. Sans-io: no asyncio, socket, ssl or clock lives here."""
