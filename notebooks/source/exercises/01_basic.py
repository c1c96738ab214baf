# %% [markdown] exercise="1.1"
"""
### Exercise 1.1 · A stop string

Guess first: if you ask "Count from 1 to 10." with the stop string `5`, is the 5 in the answer?

Then write `body_until(model, question, word)`. It returns the body of a request, as a dict: the model, the question as one message of the user, and a stop string, so that the answer ends before `word`.
"""


# %% answer="1.1"
def body_until(model, question, word):
    """Return the body of a request whose answer ends before the word."""
    ### BEGIN SOLUTION
    return {"model": model, "messages": [{"role": "user", "content": question}], "stop": [word]}
    ### END SOLUTION


# %% check="1.1"
from foundry_lab.exercises import check

check("1.1", body_until)

# %% [markdown]
"""
When your answer is right, see whether you guessed right: send `body_until(model, "Count from 1 to 10.", "5")` with `http.post`, as above.
"""

# %% [markdown] exercise="1.2"
"""
### Exercise 1.2 · `ask`, with bare requests

Write `ask(url, model, question, max_tokens)` with nothing but `http`. It returns the text of the answer. But:

- if the answer was cut (look at its `finish_reason`), it raises a `ValueError`;
- if the service refuses the request, with a status such as 400, it raises an error;
- if there are no choices in the answer, it raises an error.

The check gives you answers of each kind, from a small web server of its own.
"""


# %% answer="1.2"
def ask(url, model, question, max_tokens):
    """Return the model's whole answer to one question."""
    ### BEGIN SOLUTION
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
    response = http.post(url + "/v1/chat/completions", json=body, timeout=30)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    if choice["finish_reason"] == "length":
        raise ValueError(f"the answer was cut at {max_tokens} tokens; allow more")
    return choice["message"]["content"]
    ### END SOLUTION


# %% check="1.2"
from foundry_lab.exercises import check

check("1.2", ask)

# %% [markdown] exercise="1.3"
"""
### Exercise 1.3 · A conversation by hand

Write `two_turns(ask, first, second)`. It asks the first question and then the second one, in **one** conversation, and returns the second answer.

`ask(messages)` is given to you: it takes a list of messages, and returns the text of the answer.
"""


# %% answer="1.3"
def two_turns(ask, first, second):
    """Ask two questions in one conversation; return the second answer."""
    ### BEGIN SOLUTION
    messages = [{"role": "user", "content": first}]
    answer = ask(messages)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": second}]
    return ask(messages)
    ### END SOLUTION


# %% check="1.3"
from foundry_lab.exercises import check

check("1.3", two_turns)

# %% [markdown] exercise="1.4"
"""
### Exercise 1.4 · Unload and load, with plain HTTP

Here are two more routes of the service. Both are `GET` requests, and both take the alias only.

| route | what it does |
|---|---|
| `/models/unload/{alias}` | takes the model out of memory |
| `/models/load/{alias}` | loads the model into memory |

Write `reload(url, alias)`: it takes the model out of memory, and then loads it again. (The check has a small web server of its own, so the real model stays where it is.)
"""


# %% answer="1.4"
def reload(url, alias):
    """Unload a model and load it again."""
    ### BEGIN SOLUTION
    for action in ("unload", "load"):
        http.get(f"{url}/models/{action}/{alias}", timeout=60).raise_for_status()
    ### END SOLUTION


# %% check="1.4"
from foundry_lab.exercises import check

check("1.4", reload)

# %% [markdown] exercise="1.5"
"""
### Exercise 1.5 · The cost of a token

Write `cost_per_token(tokens, seconds)`. It takes two lists: how many tokens each answer had, and how long each took. It returns how many seconds **one more token** costs. The fixed cost of a request is not a part of it.

NumPy finds the line through points. After `import numpy as np`, `np.polyfit(x, y, 1)` gives two numbers: how steep the line is, and where it starts.
"""


# %% answer="1.5"
def cost_per_token(tokens, seconds):
    """Return the seconds that one more token costs."""
    ### BEGIN SOLUTION
    import numpy as np

    slope, _ = np.polyfit(tokens, seconds, 1)
    return slope
    ### END SOLUTION


# %% check="1.5"
from foundry_lab.exercises import check

check("1.5", cost_per_token)
