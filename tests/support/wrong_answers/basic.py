"""Wrong answers to the exercises of notebook 1."""

# ruff: noqa: F811

import json

import numpy
import requests

from wrong_answers.table import Table

WRONG = Table()

http = requests.Session()
http.trust_env = False

CHAT = "/v1/chat/completions"


@WRONG.case("1.1", "no field named 'mess")
def body_until(model, question, word):
    return {"model": model, "prompt": question}


@WRONG.case("1.1", "should end before 'June'")
def body_until(model, question, word):
    return {"model": model, "messages": [{"role": "user", "content": question}], "stop": "5"}


@WRONG.case("1.1", "It is a list")
def body_until(model, question, word):
    return {"model": model, "messages": question, "stop": word}


@WRONG.case("1.1", "no field named 'stop'")
def body_until(model, question, word):
    return {"model": model, "messages": [{"role": "user", "content": question}], "stop_string": word}


@WRONG.case("1.2", "Look at the status")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    choice = http.post(url + CHAT, json=body, timeout=30).json()["choices"][0]
    if choice["finish_reason"] == "length":
        raise ValueError("cut")
    return choice["message"]["content"]


@WRONG.case("1.2", "the answer was cut (finish_reason 'length')")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + CHAT, json=body, timeout=30)
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


@WRONG.case("1.2", "the service refused the request (400), and you returned None")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + CHAT, json=body, timeout=30)
    if not response.ok:
        return None
    return " ".join(each["message"]["content"] for each in response.json()["choices"])


@WRONG.case("1.2", "an answer without choices")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + CHAT, json=body, timeout=30)
    response.raise_for_status()
    for choice in response.json()["choices"]:
        if choice["finish_reason"] == "length":
            raise ValueError("cut")
        return choice["message"]["content"]


@WRONG.case("1.2", "None in the body")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    response = http.post(url + CHAT, json=body, timeout=30)
    return response.json()["choices"][0]["message"]["content"]


@WRONG.case("1.3", "the roles of the second request are ['user']")
def two_turns(ask, first, second):
    ask([{"role": "user", "content": first}])
    return ask([{"role": "user", "content": second}])


@WRONG.case("1.3", "['user', 'user', 'user']")
def two_turns(ask, first, second):
    messages = [{"role": "user", "content": first}]
    messages.append({"role": "user", "content": ask(messages)})
    messages.append({"role": "user", "content": second})
    return ask(messages)


@WRONG.case("1.3", "['assistant', 'user', 'user']")
def two_turns(ask, first, second):
    messages = [{"role": "user", "content": first}]
    answer = ask(messages)
    return ask([{"role": "assistant", "content": answer}, *messages, {"role": "user", "content": second}])


@WRONG.case("1.3", "two questions are two requests")
def two_turns(ask, first, second):
    return ask([{"role": "user", "content": first}, {"role": "user", "content": second}])


@WRONG.case("1.4", "404 to POST /models/unload/double")
def reload(url, alias):
    http.post(f"{url}/models/unload/{alias}")
    http.post(f"{url}/models/load/{alias}")


@WRONG.case("1.4", "you load first")
def reload(url, alias):
    http.get(f"{url}/models/load/{alias}")
    http.get(f"{url}/models/unload/{alias}")


@WRONG.case("1.4", "Two requests are wanted")
def reload(url, alias):
    http.get(f"{url}/models/unload/{alias}")


@WRONG.case("1.4", "404 to GET /models/unload/double-model")
def reload(url, alias):
    for each in ("unload", "load"):
        http.get(f"{url}/models/{each}/double-model").raise_for_status()


@WRONG.case("1.5", "the fixed cost of each request")
def cost_per_token(tokens, seconds):
    return sum(seconds) / sum(tokens)


@WRONG.case("1.5", "ZeroDivisionError")
def cost_per_token(tokens, seconds):
    return (seconds[-1] - seconds[0]) / (tokens[-1] - tokens[0])


@WRONG.case("1.5", "Seconds a token are wanted")
def cost_per_token(tokens, seconds):
    return 1 / numpy.polyfit(tokens, seconds, 1)[0]


@WRONG.case("1.5", "that is the fixed cost")
def cost_per_token(tokens, seconds):
    return numpy.polyfit(tokens, seconds, 1)[1]


@WRONG.case("1.1", "the body is a dict")
def body_until(model, question, word):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": question}], "stop": word})


@WRONG.case("1.1", "the body's model is 'model'; use the argument")
def body_until(model, question, word):
    return {"model": "model", "messages": [{"role": "user", "content": question}], "stop": word}


@WRONG.case("1.2", "the answer was \"The sea is wide.\", and you returned {'content'")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    return http.post(url + CHAT, json=body, timeout=30).json()["choices"][0]["message"]


@WRONG.case("1.2", "a cut answer should be a ValueError, and it raised RuntimeError: cut")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + CHAT, json=body, timeout=30)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    if choice["finish_reason"] == "length":
        raise RuntimeError("cut")
    return choice["message"]["content"]


@WRONG.case("1.2", "one request is wanted, and 2 came")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    answers = [http.post(url + CHAT, json=body, timeout=30) for _ in range(2)]
    return answers[0].json()["choices"][0]["message"]["content"]


@WRONG.case("1.2", "you sent POST /v1/completions")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    answer = http.post(url + "/v1/completions", json=body, timeout=30)
    return answer.json()["choices"][0]["message"]["content"]


@WRONG.case("1.2", "the body isn't JSON")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    return http.post(url + CHAT, data=body, timeout=30).json()["choices"][0]["message"]["content"]


@WRONG.case("1.2", "one user message with the question")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "system", "content": question}], "max_tokens": max_tokens}
    return http.post(url + CHAT, json=body, timeout=30).json()["choices"][0]["message"]["content"]


@WRONG.case("1.3", "the first request should be one user message")
def two_turns(ask, first, second):
    ask([{"role": "user", "content": first + " " + second}])
    return ask([{"role": "user", "content": second}])


@WRONG.case("1.3", "messages are a list of dicts")
def two_turns(ask, first, second):
    answer = ask([{"role": "user", "content": first}])
    return ask([first, answer, second])


@WRONG.case("1.3", "It needs what was really said")
def two_turns(ask, first, second):
    messages = [{"role": "user", "content": first}]
    ask(messages)
    messages += [{"role": "assistant", "content": "An answer."}, {"role": "user", "content": second}]
    return ask(messages)


@WRONG.case("1.3", "the last answer was 'It eats mice.', and you returned 'A cat.'")
def two_turns(ask, first, second):
    messages = [{"role": "user", "content": first}]
    answer = ask(messages)
    ask([*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": second}])
    return answer


@WRONG.case("1.4", "no request came to the address")
def reload(url, alias):
    return [f"{url}/models/{each}/{alias}" for each in ("unload", "load")]


@WRONG.case("1.5", "a number is wanted")
def cost_per_token(tokens, seconds):
    return numpy.polyfit(tokens, seconds, 1)


@WRONG.case("1.5", "for 0.08 s + 0.006 s a token, it returned 0.")
def cost_per_token(tokens, seconds):
    return min(seconds)


@WRONG.case("1.2", "Look at its finish_reason")
def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + CHAT, json=body, timeout=30)
    response.raise_for_status()
    if response.json()["usage"]["completion_tokens"] >= max_tokens:
        raise ValueError("cut")
    return response.json()["choices"][0]["message"]["content"]


@WRONG.case("1.5", "milliseconds a token. Seconds are wanted")
def cost_per_token(tokens, seconds):
    return 1000 * numpy.polyfit(tokens, seconds, 1)[0]
