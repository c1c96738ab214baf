"""Checks of the exercises in notebook 1: plain HTTP, a conversation, loading, cost."""

import copy
from collections.abc import Sequence
from typing import Any

from foundry_lab.exercises.double import ALIAS, MODEL, Answer, Asked, Double, completion, error
from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Outcome, Wrong, attempt, described, number_of, returned, shown
from foundry_lab.protocol import CHAT_PATH


@exercise("1.1", "A stop string", points=1)
def body_until(body_until: Any) -> None:
    """The body has the fields of a chat request, and the word under the name that the service reads."""
    for question, word in (("Count from 1 to 10.", "5"), ("List the months.", "June")):
        call = f"body_until({MODEL!r}, {question!r}, {word!r})"
        body = attempt(body_until, MODEL, question, word, call=call).result(dict, "the body is a dict")
        if missing := [name for name in ("model", "messages", "stop") if name not in body]:
            raise Wrong(f"{call}: the body has no field named {missing[0]!r}. It has {', '.join(body)}.")
        if body["model"] != MODEL:
            raise Wrong(f"{call}: the body's model is {shown(body['model'])}; use the argument.")
        if body["messages"] != [{"role": "user", "content": question}]:
            raise Wrong(
                f"{call}: messages is {shown(body['messages'])}. It is a list, with one message in it: role "
                "user, and the question as it was given."
            )
        if body["stop"] not in (word, [word], (word,)):
            raise Wrong(f"{call}: the answer should end before {word!r}, and stop is {shown(body['stop'])}.")


@exercise("1.2", "ask, with bare requests", points=3)
def ask(ask: Any) -> None:
    """Text for an answer, an error for half an answer, for a refusal, and for no answer at all."""
    outcome, asked = _asked(ask, completion("The sea is wide."), "What is the sea?", 60)
    value = outcome.result()
    _check_request(asked, "What is the sea?", 60)
    if value != "The sea is wide.":
        raise Wrong(f'the answer was "The sea is wide.", and you {returned(value)}.')
    refused, _ = _asked(ask, error(400, "max_tokens must be >= 1"), "What is the sea?", 0)
    if refused.error is None:
        raise Wrong(f"the service refused the request (400), and you returned {shown(refused.value)}.")
    if isinstance(refused.error, LookupError | TypeError):
        raise Wrong(
            f"the service refused the request (400), and what came out was {described(refused.error)}. "
            "That says nothing about the request. Look at the status before you look into the answer."
        )
    cut, _ = _asked(ask, completion("The sea is", "length"), "What is the sea?", 3)
    if cut.error is None:
        raise Wrong(f"the answer was cut (finish_reason 'length'), and taken for whole: {shown(cut.value)}.")
    if not isinstance(cut.error, ValueError):
        raise Wrong(f"a cut answer should be a ValueError, and it raised {described(cut.error)}")
    full, _ = _asked(ask, completion("It is blue."), "What is the sea?", 3)
    if full.error is not None or full.value != "It is blue.":
        what = f"raised {described(full.error)}" if full.error is not None else returned(full.value)
        raise Wrong(
            "an answer was whole (finish_reason 'stop') and had as many tokens as max_tokens allows, 3, and "
            f"ask {what}. Look at its finish_reason."
        )
    empty, _ = _asked(ask, Answer(body={"object": "chat.completion", "choices": []}), "Hi", 60)
    if empty.error is None:
        raise Wrong(f"an answer without choices should be an error, and you returned {shown(empty.value)}.")


def _asked(function: Any, answer: Answer, question: str, limit: int) -> tuple[Outcome, Sequence[Asked]]:
    with Double(answer) as double:
        call = f"ask(url, model, {question!r}, {limit})"
        return attempt(function, double.url, MODEL, question, limit, call=call), double.asked


def _check_request(asked: Sequence[Asked], question: str, limit: int) -> None:
    if len(asked) != 1:
        raise Wrong(f"one request is wanted, and {len(asked)} came to the address that ask was given.")
    request = asked[0]
    if (request.method, request.path) != ("POST", CHAT_PATH):
        raise Wrong(f"you sent {request.method} {request.path}, and a completion is POST {CHAT_PATH}.")
    body = request.body
    if not isinstance(body, dict):
        raise Wrong("the body isn't JSON. requests makes JSON of what you give it as json=…")
    if body.get("model") != MODEL or body.get("messages") != [{"role": "user", "content": question}]:
        raise Wrong(f"give the model, and one user message with the question. The body is {shown(body)}.")
    if body.get("max_tokens") != limit:
        raise Wrong(f"max_tokens is {limit} in the call, and {shown(body.get('max_tokens'))} in the body.")


@exercise("1.3", "A conversation by hand", points=2)
def two_turns(two_turns: Any) -> None:
    """The second request holds the first question, its answer, and the second question."""
    seen: list[Any] = []
    answers = ["A cat.", "It eats mice."]

    def ask(messages: Any) -> str:
        seen.append(copy.deepcopy(messages))
        return answers[min(len(seen), 2) - 1]

    questions = ("Name one animal.", "What does it eat?")
    call = f"two_turns(ask, {questions[0]!r}, {questions[1]!r})"
    value = attempt(two_turns, ask, *questions, call=call).result()
    if len(seen) != 2:
        raise Wrong(f"ask was called {len(seen)} times; two questions are two requests.")
    if seen[0] != [{"role": "user", "content": questions[0]}]:
        raise Wrong(
            f"the first request should be one user message, the first question. It was {shown(seen[0])}."
        )
    if not isinstance(seen[1], list) or not all(isinstance(each, dict) for each in seen[1]):
        raise Wrong(f"messages are a list of dicts, and the second request was {shown(seen[1])}.")
    roles = [message.get("role") for message in seen[1]]
    if roles != ["user", "assistant", "user"]:
        raise Wrong(f"the roles of the second request are {roles}. Who asked, who answered, who asks again?")
    texts = [message.get("content") for message in seen[1]]
    if texts != [questions[0], answers[0], questions[1]]:
        raise Wrong(f"the second request says {texts}. It needs what was really said, in its order.")
    if value != answers[1]:
        raise Wrong(f"the last answer was {answers[1]!r}, and you {returned(value)}.")


@exercise("1.4", "Unload and load", points=2)
def reload(reload: Any) -> None:
    """Two GETs with the alias, in the right order."""
    answers = {f"GET /models/unload/{ALIAS}": "unloaded", f"GET /models/load/{ALIAS}": "loaded"}

    def respond(asked: Asked) -> Answer:
        status = answers.get(f"{asked.method} {asked.path}")
        return Answer(body={"status": status}) if status else error(404, "not found")

    with Double(respond) as double:
        outcome = attempt(reload, double.url, ALIAS, call=f"reload(url, {ALIAS!r})")
        seen = [f"{asked.method} {asked.path}" for asked in double.asked]
    if not seen and outcome.error is None:
        raise Wrong("no request came to the address that your function was given.")
    wanted = list(answers)
    if seen == wanted[::-1]:
        raise Wrong("you load first and unload then, so no model is left in memory.")
    for asked in seen:
        if asked not in wanted:
            raise Wrong(f"the service answered 404 to {asked}. Compare it with the table of routes.")
    outcome.result()
    if seen != wanted:
        raise Wrong(f"the service was asked: {', '.join(seen)}. Two requests are wanted, one of each kind.")


@exercise("1.5", "The cost of a token", points=2)
def cost_per_token(cost_per_token: Any) -> None:
    """The slope of a line through measurements, whatever the fixed cost is."""
    for fixed_s, per_token_s in ((0.08, 0.006), (0.5, 0.02)):
        tokens = [8, 16, 32, 64, 32, 16, 8]
        seconds = [fixed_s + per_token_s * count for count in tokens]
        value = attempt(cost_per_token, tokens, seconds).result()
        what = f"for {fixed_s} s + {per_token_s} s a token, it"
        number = number_of(value, what)
        if abs(number - per_token_s) <= 0.01 * per_token_s:
            continue
        if abs(number * per_token_s - 1) < 0.01:
            raise Wrong(f"{what} returned {number:.4g}, tokens a second. Seconds a token are wanted.")
        if abs(number - 1000 * per_token_s) <= 10 * per_token_s:
            raise Wrong(f"{what} returned {number:.4g}: milliseconds a token. Seconds are wanted.")
        if abs(number - fixed_s) <= 0.01 * fixed_s:
            raise Wrong(f"{what} returned {number:.4g}: that is the fixed cost.")
        if per_token_s < number < per_token_s + fixed_s:
            raise Wrong(f"{what} returned {number:.4g}, too much: the fixed cost of each request is in it.")
        raise Wrong(f"{what} returned {number:.4g}.")
