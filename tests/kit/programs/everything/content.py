"""Short spellings of the SDK's content types, and the smallest picture and sound that are valid.

Nothing here knows a tool. The bytes are built, not pasted, so that a reader can see that they are what they claim to
be.
"""

import base64
import io
import struct
import wave
import zlib
from collections.abc import Mapping

import mcp_types as types


def picture() -> bytes:
    """A PNG of one red pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
        + chunk(b"IEND", b"")
    )


def sound() -> bytes:
    """A WAV of eight silent samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(1)
        recording.setframerate(8000)
        recording.writeframes(b"\x80" * 8)
    return buffer.getvalue()


PICTURE = picture()
PICTURE_TEXT = base64.b64encode(PICTURE).decode()
SOUND_TEXT = base64.b64encode(sound()).decode()


def text(words: str) -> types.TextContent:
    return types.TextContent(type="text", text=words)


def image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PICTURE_TEXT, mime_type="image/png")


def audio() -> types.AudioContent:
    return types.AudioContent(type="audio", data=SOUND_TEXT, mime_type="audio/wav")


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    return types.EmbeddedResource(
        type="resource", resource=types.TextResourceContents(uri=uri, text=words, mime_type=mime_type)
    )


def result(*blocks: types.ContentBlock, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=list(blocks), is_error=is_error)


def said(words: str) -> types.CallToolResult:
    return result(text(words))


def object_schema(properties: Mapping[str, Mapping[str, object]], *required: str) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema


NOTHING = object_schema({})
