# %% [markdown] exercise="0.1"
"""
### Exercise 0.1 · A path in JSON

The text of an answer lies deep inside the reply. Write `text_of(reply)`: it takes a reply like the one above, as a dict, and returns the text of its **first** choice.

Fill in the function below. Run the cell, and then the cell after it: it tells you whether your answer is right.
"""


# %% answer="0.1"
def text_of(reply):
    """Return the text of the reply's first choice."""
    ### BEGIN SOLUTION
    return reply["choices"][0]["message"]["content"]
    ### END SOLUTION


# %% check="0.1"
from foundry_lab.exercises import check

check("0.1", text_of)

# %% [markdown] exercise="0.2"
"""
### Exercise 0.2 · GET by hand

Write `status_of(address)`: it sends a GET request to the path `/status` of the service at this address, and returns the JSON of the answer as a dict. Use `http`, as above.

(The check gives you another address than `endpoint`: a small program stands there, writes down what you ask, and passes it on to the service. So use the argument.)
"""


# %% answer="0.2"
def status_of(address):
    """Return what the service at this address says about itself."""
    ### BEGIN SOLUTION
    answer = http.get(address + "/status", timeout=5)
    return answer.json()
    ### END SOLUTION


# %% check="0.2"
from foundry_lab.exercises import check

check("0.2", status_of)

# %% [markdown] exercise="0.3"
"""
### Exercise 0.3 · The missing await

This function fails with the error that you have just read:

```python
async def greet(client):
    reply = client.complete("Say hello.", max_tokens=8)
    return reply.content
```

Write it so that it works.
"""


# %% answer="0.3"
async def greet(client):
    """Return what the client's model says to "Say hello."."""
    ### BEGIN SOLUTION
    reply = await client.complete("Say hello.", max_tokens=8)
    return reply.content
    ### END SOLUTION


# %% check="0.3"
from foundry_lab.exercises import check

check("0.3", greet)

# %% [markdown] exercise="0.4"
"""
### Exercise 0.4 · Three at once

Write `ask_all(ask, questions)`. `ask` is an async function: `await ask(question)` gives the answer to one question. Ask all the questions **at the same time**, and return the list of answers, in the order of the questions.
"""


# %% answer="0.4"
async def ask_all(ask, questions):
    """Return the answers to all the questions, asked at the same time."""
    ### BEGIN SOLUTION
    return await asyncio.gather(*(ask(question) for question in questions))
    ### END SOLUTION


# %% check="0.4"
from foundry_lab.exercises import check

check("0.4", ask_all)
