"""Wrong answers to the exercises of notebook 5."""

# ruff: noqa: F811

import requests

from wrong_answers.table import Table

WRONG = Table()

http = requests.Session()
http.trust_env = False

CHAT = "/v1/chat/completions"


@WRONG.case("5.2", "6 are wanted at least")
def my_client(url):
    model = http.get(url + "/models/loaded").json()[0]

    def ask(prompt, timeout_s):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
        return http.post(url + CHAT, json=body, timeout=timeout_s).json()["choices"][0]["message"]["content"]

    return ask


@WRONG.case("5.2", "doesn't work without faults either")
def my_client(url):
    return lambda prompt, timeout_s: ""


@WRONG.case("5.2", "Return the function itself")
def my_client(url):
    print("hello")


@WRONG.case("5.2", "0 of 9 trials passed")
def my_client(url):
    model = http.get(url + "/models/loaded").json()[0]

    def ask(prompt, timeout_s):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
        try:
            answer = http.post(url + CHAT, json=body, timeout=timeout_s)
            return answer.json()["choices"][0]["message"]["content"]
        except Exception:
            return "Sorry."

    return ask
