"""Server-sent events, decoded without I/O: bytes in, in any split, whole events out.

Follows the event-stream interpretation rules of the WHATWG HTML standard, section 9.2.6.
"""

from collections.abc import Iterator

import msgspec

from foundry_lab._ground.checks import check_count, check_kind
from foundry_lab.errors import ResponseFormatError

DEFAULT_MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True, gc=False):  # nothing in it can lead back to it
    """One event.

    Attributes:
        data: the payload; several `data` lines are joined by a newline. Bytes, so that a JSON decoder can
            read them without a detour over `str`.
        event: its type, "message" unless the server named one.
        id: the last event id the server has set.
    """

    data: bytes
    event: str = "message"
    id: str = ""


class SSEDecoder:
    """Turns the bytes of an event stream into events.

    Args:
        max_event_bytes: an event, or a line, longer than this is refused instead of filling the memory.

    Raises:
        ConfigurationError: a limit that is no whole number from 1.
    """

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._max_bytes = check_count(max_event_bytes, "max_event_bytes")
        self._line = bytearray()  # a line whose end hasn't come yet
        self._data: list[bytes] = []  # the data lines of the event being read
        self._data_bytes = 0
        self._event = ""
        self._id = ""
        self._at_start = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; return the events they complete.

        Raises:
            ConfigurationError: a text: a piece may end in the middle of a letter, so decode what comes out.
            ResponseFormatError: as `events`.
        """
        check_kind(data, "data", (bytes, bytearray), "the bytes as they came, before they are decoded")
        return list(self.events(data))

    def events(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events they complete.

        Raises:
            ResponseFormatError: an event or a line is longer than `max_event_bytes`.
        """
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":  # the second half of a CRLF whose CR has ended the line already
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data[-1:] == b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        if lines and self._at_start:
            lines[0] = lines[0].removeprefix(_BOM)
            self._at_start = False
        for line in lines:
            if line:
                self._field(line)
                if len(line) > self._max_bytes or self._data_bytes > self._max_bytes:
                    raise self._too_long()
                continue
            if self._data:
                yield Event(b"\n".join(self._data), self._event or "message", self._id)
                self._data.clear()
                self._data_bytes = 0
            self._event = ""
        self._line += rest
        if len(self._line) > self._max_bytes:
            raise self._too_long()

    def _field(self, line: bytes) -> None:
        if line[:6] == b"data: ":  # nearly always
            name, value = b"data", line[6:]
        else:
            name, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")

    def _too_long(self) -> ResponseFormatError:
        return ResponseFormatError(
            f"The stream sent more than {self._max_bytes:,} bytes without finishing an event, so it was "
            "given up. Check that the endpoint is Foundry Local; a larger limit is the decoder's own, "
            "SSEDecoder(max_event_bytes=…)."
        )
