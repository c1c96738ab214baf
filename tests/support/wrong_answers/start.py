"""Wrong answers to the exercises of notebook 0."""

# ruff: noqa: F811

import asyncio

import requests

from wrong_answers.table import Table

WRONG = Table()

http = requests.Session()
http.trust_env = False


@WRONG.case("0.1", 'the reply said "It is nine o\'clock."')
def text_of(reply):
    return "Blue."


@WRONG.case("0.1", "KeyError: 'message'")
def text_of(reply):
    return reply["message"]["content"]


@WRONG.case("0.1", "Python counts from 0")
def text_of(reply):
    return reply["choices"][1]["message"]["content"]


@WRONG.case("0.1", "you returned {'content'")
def text_of(reply):
    return reply["choices"][0]["message"]


@WRONG.case("0.2", "asked POST /status")
def status_of(address):
    return http.post(address + "/status").json()


@WRONG.case("0.2", "no request came to the address")
def status_of(address):
    return {"pid": 1}


@WRONG.case("0.2", "the JSON in the answer is wanted")
def status_of(address):
    return http.get(address + "/status")


@WRONG.case("0.2", "GET /v1/models")
def status_of(address):
    return http.get(address + "/v1/models").json()


@WRONG.case("0.3", "has no attribute 'content'")
async def greet(client):
    reply = client.complete("Say hello.", max_tokens=8)
    return reply.content


@WRONG.case("0.3", "the client said 'Good morning.'")
async def greet(client):
    await client.complete("Say hello.", max_tokens=8)
    return "Hello!"


@WRONG.case("0.3", "you returned namespace")
async def greet(client):
    return await client.complete("Say hello.")


@WRONG.case("0.3", "was called 0 times")
async def greet(client):
    return "Hello!"


@WRONG.case("0.4", "never more than 1 of the 3 was under way")
async def ask_all(ask, questions):
    return [await ask(each) for each in questions]


@WRONG.case("0.4", "raised TypeError")
async def ask_all(ask, questions):
    return await asyncio.gather(map(ask, questions))


@WRONG.case("0.4", "Which word is missing")
async def ask_all(ask, questions):
    return asyncio.gather(*map(ask, questions))


@WRONG.case("0.4", "the order in which they ended")
async def ask_all(ask, questions):
    return [await each for each in asyncio.as_completed([ask(each) for each in questions])]


@WRONG.case("0.4", "returned None (is a `return` missing?)")
async def ask_all(ask, questions):
    await asyncio.gather(*map(ask, questions))


@WRONG.case("0.2", "isn't what /status answered")
def status_of(address):
    return {"code": http.get(address + "/status").status_code}


@WRONG.case("0.1", "you returned None (is a `return` missing?)")
def text_of(reply):
    print(reply["choices"][0]["message"]["content"])


@WRONG.case("0.3", "keep the question, 'Say hello.'")
async def greet(client):
    return (await client.complete("Name one colour.", max_tokens=8)).content


@WRONG.case("0.4", "ask_all(ask, ['middle', 'quick']) raised IndexError")
async def ask_all(ask, questions):
    return await asyncio.gather(ask(questions[0]), ask(questions[1]), ask(questions[2]))


@WRONG.case("0.4", "you returned coroutines")
async def ask_all(ask, questions):
    return [ask(each) for each in questions]
