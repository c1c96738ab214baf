"""What may stand in a batch: prompts, arguments of `complete`, or lines of the OpenAI Batch format."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from foundry_lab.calls.chat import ChatOptions, ChatRequest
from foundry_lab.config import Settings
from foundry_lab.errors import ConfigurationError
from foundry_lab.protocol import CHAT_PATH

MAX_ID_LENGTH = 512
_BATCH_KEYS = {"custom_id", "method", "url", "body"}
_CHAT_URL = re.compile(r"(?:[^?#]*/)?chat/completions/?(?:[?#].*)?")
"""OpenAI's path, Azure's, or a full address of either: a batch goes to the service that it is given."""
_DROPPED = {"n": 1, "logprobs": False, "top_logprobs": 0}
"""What the service leaves out without a word, and the value for which that makes no difference."""


class BatchInputError(ConfigurationError):
    """The input of a batch can't be used; nothing was sent.

    Attributes:
        problems: what is wrong, one sentence an item; at most the first hundred.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class BatchItem(msgspec.Struct, frozen=True):
    """One request of a batch.

    Attributes:
        number: its place in the input, from 1.
        custom_id: its name in the output; "item-000001" where the input names none.
        fingerprint: of everything that is sent, so that a changed request can be told from a finished one;
            of the problem, where nothing is.
        request: None where the input can't be used; `problem` says why.
    """

    number: int
    custom_id: str
    fingerprint: str
    request: ChatRequest | None
    problem: str = ""


class ItemReader:
    """Reads items. What an item doesn't say comes from the batch's own options.

    Args:
        options: `ChatOptions` for all items.
        settings: for the default model and time limit.
        override_model: the items' own models don't count.

    Attributes:
        plain: the request of an item that says nothing but a prompt, and that empty.

    Raises:
        ConfigurationError: an option that can't be used.
    """

    def __init__(
        self, options: Mapping[str, Any], settings: Settings, *, override_model: bool = False
    ) -> None:
        self._options = {name: value for name, value in options.items() if value is not None}
        if "messages" in self._options:
            raise ConfigurationError(
                "messages=… would be the same for every item; give each item its own: "
                '{"messages": […]}. A system prompt for all is system="…".'
            )
        self._timeout_s = settings.timeout
        self._model: str = settings.model or "" if settings.model_is_explicit else ""
        self._override_model = override_model
        self.plain = ChatRequest.build("", self._options, self._timeout_s)
        _check_answerable(self.plain)

    def read(self, number: int, raw: object, fill: Callable[[object], object] | None = None) -> BatchItem:
        """Return the item; one that can't be used has a `problem` instead of a request. Never raises.

        Args:
            raw: the item, or the ConfigurationError that stands for one which couldn't even be read.
            fill: makes an item of a row, or raises ConfigurationError.
        """
        custom_id = automatic_id(number)
        try:
            if isinstance(raw, ConfigurationError):
                raise raw
            if fill is not None:
                raw = fill(raw)
            elif isinstance(raw, str) and raw.startswith("{"):
                raw = _batch_line_in(raw) or raw
            if isinstance(raw, str):
                request = self._prompt(str(raw))
            else:
                if isinstance(raw, Mapping) and raw.get("custom_id") is not None:
                    custom_id = _check_id(raw["custom_id"])
                request = self._request(raw)
            body = request.call(request.model or self._model).body or b""
            return BatchItem(number, custom_id, _digest(body), request)
        except ConfigurationError as error:
            problem = str(error)
        except RecursionError:
            problem = "It is nested too deeply; flatten it."
        fingerprint = _digest(problem.encode("utf-8", "backslashreplace"))
        return BatchItem(number, custom_id, fingerprint, None, problem)

    def _prompt(self, text: str) -> ChatRequest:
        system, user = self.plain.messages[:-1], {"role": "user", "content": text}
        return msgspec.structs.replace(self.plain, messages=[*system, user])

    def _request(self, raw: object) -> ChatRequest:
        if not isinstance(raw, Mapping):
            raise ConfigurationError(
                f"An item is {str(raw)[:60]!r}, of type {type(raw).__name__}; give a prompt, a dict of "
                "complete()'s arguments, or a line of the OpenAI Batch format."
            )
        for name in raw:
            if not isinstance(name, str):
                raise ConfigurationError(f"It has a field named {name!r}; give names that are texts.")
        options = self._batch_line(raw) if "body" in raw or "url" in raw else self._arguments(raw)
        if self._override_model:
            options.pop("model", None)
        prompt = options.pop("prompt", None)
        request = ChatRequest.build(prompt, {**self._options, **options}, self._timeout_s)
        _check_answerable(request)
        if options.keys().isdisjoint(("response_model", "parser")):
            return msgspec.structs.replace(request, shape=self.plain.shape)  # by which one of its own is told
        return request

    def _arguments(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: value for name, value in raw.items() if name != "custom_id"}
        unknown = options.keys() - ChatOptions.__annotations__.keys() - {"prompt"}
        if unknown and not options.keys() & {"prompt", "messages"}:
            raise ConfigurationError(
                f"It has neither a prompt nor messages, but {', '.join(sorted(map(repr, unknown)))}. Rows of "
                'a table need a template, such as template="Summarise: {text}".'
            )
        return options

    def _batch_line(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := raw.keys() - _BATCH_KEYS:
            raise ConfigurationError(f"A line of the Batch format has no field {min(unknown, key=repr)!r}.")
        method, url, body = raw.get("method", "POST"), raw.get("url", CHAT_PATH), raw.get("body")
        if str(method).upper() != "POST":
            raise ConfigurationError(f"method is {method!r}; only POST can be batched.")
        if not (isinstance(url, str) and _CHAT_URL.fullmatch(url)):
            raise ConfigurationError(f"url is {url!r}; only {CHAT_PATH} can be batched.")
        if not isinstance(body, Mapping):
            raise ConfigurationError("body isn't a JSON object with the request's fields.")
        if raw.get("custom_id") is None:
            raise ConfigurationError("It has no custom_id, by which its result is found again.")
        fields = dict(body)
        if fields.pop("stream", False):
            raise ConfigurationError("stream is true, but a batch keeps whole answers; leave it out.")
        options: dict[str, Any] = {"messages": fields.pop("messages", ())}
        if (model := fields.pop("model", None)) is not None:
            if model == "":
                raise ConfigurationError("body.model is ''; give a model's id or alias, or leave it out.")
            options["model"] = model
        options["extra_body"] = {**self._options.get("extra_body", {}), **fields}
        return options


def automatic_id(number: int) -> str:
    """Return the custom_id of an item that names none."""
    return f"item-{number:06d}"


def _check_answerable(request: ChatRequest) -> None:
    """Refuse what the service drops silently: its answer would be to another request."""
    for name, harmless in _DROPPED.items():
        if (value := request.fields.get(name)) is not None and value != harmless:
            raise ConfigurationError(
                f"{name} is {value!r}, which the service leaves out without a word; take it out."
            )
    for message in request.messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list | tuple) else ():
            if part["type"] != "text":
                raise ConfigurationError(
                    f"A message has a part of type {part['type']!r}, which the service leaves out without a "
                    "word; give text alone."
                )


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _batch_line_in(text: str) -> dict[str, Any] | None:
    """Return the line of the Batch format that a text is, as an open file gives them; else None."""
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return line if isinstance(line, dict) and {"custom_id", "body"} <= line.keys() <= _BATCH_KEYS else None


def _check_id(custom_id: object) -> str:
    if (
        not isinstance(custom_id, str)
        or not 0 < len(custom_id) <= MAX_ID_LENGTH
        or custom_id.encode("utf-8", "ignore").decode() != custom_id
    ):
        raise ConfigurationError(
            f"custom_id is {str(custom_id)[:60]!r}; give a text of 1 to {MAX_ID_LENGTH} characters, none of "
            "them half a character (a lone surrogate)."
        )
    return custom_id
