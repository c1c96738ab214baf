"""Wrong answers to the exercises of notebook 1."""

# ruff: noqa: F811

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
