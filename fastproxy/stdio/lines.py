"""Lines out of a byte stream, one JSON-RPC message each (spec: transports, stdio). Sans-io.

A line ends with LF or CR LF; blank ones are none. A line beyond the limit is an error that cannot be mended, since
nobody knows where its message would have ended; what is kept meanwhile never exceeds the limit by more than a piece.
"""


class LineTooLong(Exception):
    """The peer has written more than a line may hold."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"a line of more than {bytes_max} bytes")


class Lines:
    """What has come of the current line."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._begun = bytearray()

    @property
    def kept_bytes(self) -> int:
        """Of a line that has no end yet."""
        return len(self._begun)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now. LineTooLong: no more can be read; what came before it is lost, too."""
        end = data.rfind(b"\n")
        if end < 0:
            self._keep(data)
            return []
        whole = data[:end]
        if self._begun:
            whole = bytes(self._begun) + whole
            self._begun.clear()
        lines = [line for line in map(bytes.rstrip, whole.split(b"\n")) if line]
        if lines and max(map(len, lines)) > self._bytes_max:
            raise LineTooLong(self._bytes_max)
        self._keep(data[end + 1 :])
        return lines

    def _keep(self, rest: bytes) -> None:
        self._begun += rest
        if len(self._begun) > self._bytes_max:
            self._begun.clear()
            raise LineTooLong(self._bytes_max)


def as_line(message: bytes) -> bytes:
    """A JSON text as one line. Line breaks stand between tokens only (inside of strings JSON has them escaped)."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\n", b" ").replace(b"\r", b" ")
    return message + b"\n"
