"""The service's contract without I/O: bytes out for a request, types back for a reply. Knows no clock and no socket."""

from foundry_lab.protocol.reply import (
    UNKNOWN_ROUTE,
    UNREADABLE,
    Chat,
    Message,
    Reply,
    chat_decoder,
    decode,
    error_in_body,
    excerpt,
    is_event_stream,
    not_a_stream,
    parse_completion,
    raise_for_status,
    unexpected,
)
from foundry_lab.protocol.request import (
    CHAT_PATH,
    MAX_BODY_BYTES,
    Call,
    _check_types,
    build_chat,
    build_messages,
)

__all__ = [
    "CHAT_PATH",
    "MAX_BODY_BYTES",
    "Call",
    "Reply",
    "build_chat",
    "build_messages",
    "decode",
    "parse_completion",
    "raise_for_status",
]
