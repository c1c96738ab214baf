"""The service's contract without I/O: bytes out for a request, types back for a reply."""

from foundry_lab.protocol.reply import Reply, decode, parse_completion, raise_for_status
from foundry_lab.protocol.request import CHAT_PATH, Call, build_chat, build_fields, build_messages
from foundry_lab.protocol.sse import SSEDecoder

__all__ = [
    "CHAT_PATH",
    "Call",
    "Reply",
    "SSEDecoder",
    "build_chat",
    "build_fields",
    "build_messages",
    "decode",
    "parse_completion",
    "raise_for_status",
]
