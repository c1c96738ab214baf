"""A chat completion: the caller's arguments checked, sent, parsed, validated."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from foundry_lab import errors, protocol
from foundry_lab._ground.checks import check_count, check_kind, check_timeout, did_you_mean
from foundry_lab.calls.models import Ask, Directory
from foundry_lab.errors import ConfigurationError
from foundry_lab.protocol.structured import DEFAULT_PARSE_ATTEMPTS, Shape, parser_shape, shape_of
from foundry_lab.types import Completion

MAX_COMPLAINT = 500
"""Characters of what is wrong with an answer that are told: a validator may repeat all of the answer."""


class ChatOptions(TypedDict, total=False):
    """What `complete` and `stream_complete` take besides the prompt; all of it is optional.

    `messages`: a conversation, instead of a prompt. `model`: alias or id. `system`: a system prompt.
    `max_tokens`, `temperature`, `top_p`, `stop`, `seed`, `tools`, `tool_choice`, `response_format`: as in
    OpenAI's chat completions. `extra_body`: further fields for the body, sent as they are.
    `timeout`: seconds for everything, all attempts included.
    `cache`: whether to use the client's response cache, if it has one; True by default.
    For `complete` only:
    `response_model`: a pydantic model, msgspec Struct, dataclass or JSON schema the answer must fit.
    `parser`: a function of the text; a ValueError of it makes the model try again. It is called in the thread
    of the client's event loop: it may use a client, but mustn't wait for another thread that uses one.
    `parse_attempts`: how often the model is asked before StructuredOutputError.
    For streams only: `first_token_timeout` and `idle_timeout` in seconds, both `timeout` by default;
    `on_stall`: "error", or "fallback" to ask once more without streaming when no first token comes in time;
    `first_token_timeout` is then half of `timeout` by default.
    """

    messages: Sequence[Mapping[str, Any]]
    model: str
    system: str
    max_tokens: int
    temperature: float
    top_p: float
    stop: str | Sequence[str]
    seed: int
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    response_format: Mapping[str, Any]
    extra_body: Mapping[str, Any]
    timeout: float
    response_model: Any
    parser: Callable[[str], Any]
    parse_attempts: int
    cache: bool
    first_token_timeout: float
    idle_timeout: float
    on_stall: Literal["error", "fallback"]


BODY_FIELDS = frozenset(
    ("max_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format")
)
STREAM_OPTIONS = frozenset(("first_token_timeout", "idle_timeout", "on_stall"))
COMPLETE_OPTIONS = frozenset(("response_model", "parser", "parse_attempts"))
_OTHER_NAMES = {"base_url": "endpoint", "max_retries": "retries", "default_headers": "headers"}
_OF_THE_CLIENT = frozenset(
    ("endpoint", "api_key", "headers", "retries", "retry", "settings", "breaker", "metrics", "ca_file")
)
"""What belongs to the client; `_OTHER_NAMES` has what others call it."""
_ALL = frozenset(ChatOptions.__annotations__)
_ALLOWED = {True: _ALL - COMPLETE_OPTIONS, False: _ALL - STREAM_OPTIONS}  # by whether it streams


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the caller means it, checked; the model's name isn't resolved yet.

    Attributes:
        fields: the body's fields but for model and messages.
    """

    messages: list[dict[str, Any]]
    model: str | None
    fields: dict[str, Any]
    timeout_s: float
    shape: Shape | None = None
    parse_attempts: int = DEFAULT_PARSE_ATTEMPTS
    cache: bool = True
    first_token_s: float = 0.0
    idle_s: float = 0.0
    fallback: bool = False

    @classmethod
    def build(
        cls, prompt: str | None, options: Mapping[str, Any], timeout_s: float, *, stream: bool = False
    ) -> ChatRequest:
        """Return the request for a prompt and `ChatOptions`; `timeout_s` is the client's default, in seconds.

        Raises:
            ConfigurationError: an option that doesn't exist, or a value that can't be used.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if not given.keys() <= (allowed := _ALLOWED[stream]):
            raise wrong_name(next(name for name in given if name not in allowed), allowed)
        fields = {name: value for name, value in given.items() if name in BODY_FIELDS}
        if "extra_body" in given:
            check_kind(given["extra_body"], "extra_body", (Mapping,), "a dict of fields")
            if "stream" in given["extra_body"]:
                raise wrong_name("stream", allowed)
            fields.update(given["extra_body"])
        if "model" in given:
            check_kind(given["model"], "model", (str,), "the name of a model")
        if "timeout" in given:
            timeout_s = check_timeout(given["timeout"])
        if "cache" in given:
            check_kind(
                given["cache"], "cache", (bool,), "True or False, and a file to FoundryAPIClient(cache=…)"
            )
        own = _limits(given, timeout_s) if stream else _shape(given, fields)
        return cls(
            messages=protocol.build_messages(prompt, given.get("messages"), given.get("system")),
            model=given.get("model"),
            fields=protocol.build_fields(fields),
            timeout_s=timeout_s,
            cache=given.get("cache", True),
            **own,
        )

    def call(self, model_id: str, *, stream: bool = False) -> protocol.Call:
        """Return the call that asks this model."""
        body = {"model": model_id, "messages": self.messages, **self.fields}
        return protocol.build_chat(body, stream=stream, cacheable=self.cache and not stream)


def _limits(given: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return a stream's own part of a request."""
    on_stall = given.get("on_stall", "error")
    if not isinstance(on_stall, str) or on_stall not in ("error", "fallback"):
        raise ConfigurationError(f'on_stall={on_stall!r} is not allowed. Choose "error" or "fallback".')
    fallback = on_stall == "fallback"
    first_token_s = given.get("first_token_timeout", timeout_s / 2 if fallback else timeout_s)
    return {
        "first_token_s": check_timeout(first_token_s, "first_token_timeout"),
        "idle_s": check_timeout(given.get("idle_timeout", timeout_s), "idle_timeout"),
        "fallback": fallback,
    }


def _shape(given: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a request that says what the answer must look like; the field for it is added."""
    if COMPLETE_OPTIONS.isdisjoint(given):
        return {}
    if "response_model" in given and "parser" in given:
        raise ConfigurationError("Give response_model or parser, not both.")
    attempts = check_count(given.get("parse_attempts", DEFAULT_PARSE_ATTEMPTS), "parse_attempts")
    shape = None
    if "response_model" in given:
        shape = shape_of(given["response_model"])
        fields.setdefault("response_format", shape.response_format())
    elif "parser" in given:
        shape = parser_shape(given["parser"])
    return {"shape": shape, "parse_attempts": attempts}


async def complete(
    directory: Directory, ask: Ask, request: ChatRequest, replies: list[protocol.Reply] | None = None
) -> Completion:
    """Get one answer, and where a shape was asked for, ask again until it fits or the attempts are used up.

    Args:
        replies: takes each reply of the model's.

    Raises:
        StructuredOutputError: no answer had the shape; `.text` holds the last one.
    """
    started = time.perf_counter()
    asked, sent = request, 0
    for _ in range(request.parse_attempts):
        reply = await answer(directory, ask, asked)
        if replies is not None:
            replies.append(reply)
        completion = protocol.parse_completion(reply, time.perf_counter() - started)
        if request.shape is None:
            return completion
        sent += reply.attempts
        try:
            parsed = request.shape.parse(completion)
        except (ValueError, msgspec.MsgspecError) as error:
            problem = str(error)[:MAX_COMPLAINT]
        else:
            return msgspec.structs.replace(completion, parsed=parsed, attempts=sent)
        answered = {"role": "assistant", "content": completion.content}
        told = f"That is not usable: {problem}. Answer again, with nothing but what was asked for."
        messages = [*request.messages, answered, {"role": "user", "content": told}]
        asked = msgspec.structs.replace(request, messages=messages)
    assert request.shape is not None, "without a shape the first answer was returned"
    raise errors.StructuredOutputError(
        f"The model was asked {request.parse_attempts} times for {request.shape.name!r} and never wrote it; "
        f"the last problem: {problem}. Its last text is in .text. Simplify the shape, show an example in the "
        "prompt, allow more max_tokens, or use a larger model.",
        text=completion.content,
        attempts=request.parse_attempts,
    )


async def one_token(ask: Ask, model_id: str) -> None:
    """Have one token generated, in one attempt, past breaker and retries: does the model really work?"""
    body = {"model": model_id, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    call = msgspec.structs.replace(protocol.build_chat(body), once=True)
    protocol.parse_completion(await ask(call), 0.0)


async def answer(
    directory: Directory, ask: Ask, request: ChatRequest, begin_stream: Ask | None = None
) -> protocol.Reply:
    """Send the request to the model its name stands for; a name that has gone stale is looked up again.

    Args:
        begin_stream: has it answered as a stream, and returns the beginning.
    """
    begin = begin_stream or ask
    model_id = await directory.choose(ask, request.model)
    try:
        return await begin(request.call(model_id, stream=begin_stream is not None))
    except (errors.ModelNotFoundError, errors.ModelNotLoadedError):
        directory.forget()
        if (current := await directory.choose(ask, request.model)) == model_id:
            raise
    return await begin(request.call(current, stream=begin_stream is not None))


def wrong_name(name: str, known: Collection[str]) -> ConfigurationError:
    """Return the error for an option that doesn't exist, or not there; `known` are those that do."""
    argument = _OTHER_NAMES.get(name, name)
    if name == "stream":
        advice = "The method decides: complete() gives a whole answer; for a stream use stream_complete(…)."
    elif argument in _OF_THE_CLIENT and f"{argument}s" not in known:  # a batch has endpoints
        owner = f"FoundryAPIClient({argument}=…), or SyncFoundryAPIClient({argument}=…)"
        advice = f"It belongs to the client, not to one call: {owner}."
    elif name in _ALL:
        advice = f"Only {'complete' if name in COMPLETE_OPTIONS else 'stream_complete'}() has it."
    else:
        hint = did_you_mean(argument, known) or f"There are: {', '.join(sorted(known))}. "
        advice = f"{hint}Fields that this client doesn't know go into extra_body={{{name!r}: …}}."
    return ConfigurationError(f"There is no option {name!r} here. {advice}")
