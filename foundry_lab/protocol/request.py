"""The service's contract without I/O: requests as bytes, replies as typed results.

Both clients share everything here, and nothing here opens a connection. Routes and shapes were read off
foundry-local-sdk 2.2; the chat part is OpenAI's chat completions format.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import msgspec

from foundry_lab._ground.checks import as_number, check_kind
from foundry_lab.errors import ConfigurationError

CHAT_PATH = "/v1/chat/completions"
MAX_BODY_BYTES = 64 * 1024 * 1024


class Call(msgspec.Struct, frozen=True):
    """One request, ready for a transport.

    Attributes:
        control: it goes to the lab service's own control route instead of the REST service.
        cacheable: the response cache may answer it.
        on_data: called with each piece of a successful reply as it arrives.
        once: it is sent as it is, past retries and breaker: a look at the service must show its state.
    """

    method: str
    path: str
    body: bytes | None = None
    control: bool = False
    cacheable: bool = False
    once: bool = False
    on_data: Callable[[bytes], None] | None = None


# --- requests -------------------------------------------------------------------------------------------


def build_messages(
    prompt: str | None, messages: Sequence[Mapping[str, Any]] | None, system: str | None
) -> list[dict[str, Any]]:
    """Return the chat messages for a prompt, or for messages, with a system prompt in front.

    Raises:
        ConfigurationError: neither or both were given, or a message has no role or no usable content.
    """
    if (prompt is None) == (messages is None):
        raise ConfigurationError(
            'Give either a prompt or messages: complete("Hello") or complete(messages=[…]).'
        )
    if prompt is not None:
        if not isinstance(prompt, str):
            raise ConfigurationError(
                f"The prompt is a {type(prompt).__name__}; give a string, or messages=[…] for a conversation."
            )
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ConfigurationError(
            f'messages={messages!r} must be a list with at least {{"role": "user", "content": "…"}} in it.'
        )
    for number, message in enumerate(messages, 1):
        if not _is_message(message):
            raise ConfigurationError(
                f"Message {number} is {message!r}; each needs a role and a content, such as "
                '{"role": "user", "content": "Hello"}. A content is a text, or a list of parts such as '
                '{"type": "text", "text": "Hello"}; the service would leave out any other.'
            )
    chat = [dict(message) for message in messages]
    if system is None:
        return chat
    check_kind(system, "system", (str,), "a text")
    return [{"role": "system", "content": system}, *chat]


def _is_message(message: object) -> bool:
    if not isinstance(message, (dict, Mapping)) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        return len(content) > 0 and all(map(_is_part, content))
    return isinstance(content, str) or (content is None and bool(message.keys() & {"content", "tool_calls"}))


def _is_part(part: object) -> bool:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        return False
    return part["type"] != "text" or isinstance(part.get("text"), str)


def build_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a chat request's body, as they are sent; those that are None are left out.

    Raises:
        ConfigurationError: a value of the wrong type, or one that the service would ignore.
    """
    fields = {name: value for name, value in given.items() if value is not None}
    _check_types(fields)
    if "response_format" in fields:
        fields["response_format"] = _in_both_readings(fields["response_format"])
    return fields


def build_chat(body: dict[str, Any], *, stream: bool = False, cacheable: bool = False) -> Call:
    """Return the chat-completion request with this body, to which a stream's own fields are added.

    Raises:
        ConfigurationError: a value that JSON can't carry.
    """
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    try:
        encoded = _encode(body)
        if b"null" in encoded:  # as which msgspec writes NaN and infinity
            json.dumps(body, allow_nan=False, skipkeys=True, default=str)
    except RecursionError:
        raise ConfigurationError("The request is nested too deeply; flatten it.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"The request can't be written as JSON: {error}. Give texts, finite numbers (so no NaN and no "
            "infinity), lists and dicts."
        ) from error
    return Call("POST", CHAT_PATH, encoded, cacheable=cacheable)


def _in_both_readings(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a `response_format` that means the same to OpenAI's contract and to Foundry Local.

    foundry-local-sdk 2.2.1 reads the whole of `json_schema` as the schema, so OpenAI's wrapper of name,
    strict and schema permits any JSON; with the schema's own keys beside the wrapper's the answer is held to
    it. Free white space lets a small model write blanks until max_tokens.

    Raises:
        ConfigurationError: it says json_schema and holds no schema.
    """
    if asked.get("type") != "json_schema":
        return asked
    wrapper = asked.get("json_schema")
    wrapper = wrapper if isinstance(wrapper, Mapping) else {}
    schema = wrapper.get("schema")
    if not isinstance(schema, Mapping):
        if wrapper.keys() - {"name", "strict", "description", "schema"}:
            return asked  # it is the schema itself, as Foundry Local reads it
        raise ConfigurationError(
            f"response_format={asked!r} holds no schema. Give "
            '{"type": "json_schema", "json_schema": {"name": "city", "schema": {…}}}, or response_model=…'
        )
    both = {"x-guidance": {"whitespace_flexible": False}, **wrapper, **schema, "schema": schema}
    return {**asked, "json_schema": both}


def _plain(value: object) -> str | int | float:
    """Return what stands for a value that msgspec doesn't know, such as a number or a text of numpy's.

    Raises:
        TypeError: nothing does.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode

_WHOLE = (int, Integral)  # the second for numpy's numbers; the first is checked much faster
_NUMBER = (int, float, Real)
_TYPES: dict[str, tuple[tuple[Any, ...], str]] = {
    "max_tokens": (_WHOLE, "a whole number"),
    "max_completion_tokens": (_WHOLE, "a whole number"),
    "temperature": (_NUMBER, "a number"),
    "top_p": (_NUMBER, "a number"),
    "seed": (_WHOLE, "a whole number"),
    "stop": ((str, list, tuple), "a string or a list of strings"),
    "tools": ((list, tuple), "a list of tools, each a dict"),
    "tool_choice": ((str, Mapping), 'a text, such as "auto", or a dict'),
    "response_format": ((Mapping,), 'a dict with a "type", such as {"type": "json_object"}'),
}
LARGEST_SEED = 2**31 - 1
"""A larger or a negative seed is ignored or cut to 32 bits without a word (foundry-local-sdk 2.2.1)."""


def _check_types(fields: Mapping[str, Any]) -> None:
    """Refuse what the service would ignore: it takes a value of the wrong type for not given."""
    for name, value in fields.items():
        if (rule := _TYPES.get(name)) is None:
            continue
        types, words = rule
        if not isinstance(value, types) or isinstance(value, bool):
            raise ConfigurationError(f"{name}={value!r} must be {words}.")
        if types is _NUMBER and not math.isfinite(as_number(value)):
            raise ConfigurationError(f"{name}={str(value)[:40]} can't be sent; give a finite number.")
        if name == "seed" and not 0 <= value <= LARGEST_SEED:
            raise ConfigurationError(f"seed={value} must be from 0 to {LARGEST_SEED}: others aren't kept to.")
        if name == "stop":
            texts = [value] if isinstance(value, str) else value
            if not all(isinstance(each, str) and each for each in texts):
                raise ConfigurationError(f"stop={value!r} must be {words}, none of them empty.")
        if name == "response_format" and not isinstance(value.get("type"), str):
            raise ConfigurationError(f"response_format={value!r} must be {words}.")
        if name == "tools" and not all(isinstance(each, Mapping) for each in value):
            raise ConfigurationError(f"tools={value!r} must be {words}.")
