# %% [markdown] exercise="3.1"
"""
### Exercise 3.1 · At most so many at once

Write `ask_some(ask, prompts, limit)`. Like `gather`, it returns the list of all answers, in the order of the prompts. But never more than `limit` requests are under way at the same time. `await ask(prompt)` gives one answer.

`asyncio.Semaphore(limit)` helps: at most `limit` tasks are inside of its `async with` block, and the others wait before it.
"""


# %% answer="3.1"
async def ask_some(ask, prompts, limit):
    """Return the answers to all the prompts, with at most `limit` requests at the same time."""
    ### BEGIN SOLUTION
    places = asyncio.Semaphore(limit)

    async def one(prompt):
        async with places:
            return await ask(prompt)

    return await asyncio.gather(*(one(prompt) for prompt in prompts))
    ### END SOLUTION


# %% check="3.1"
from foundry_lab.exercises import check

check("3.1", ask_some)

# %% [markdown] exercise="3.2"
"""
### Exercise 3.2 · Little's law

Write `mean_latency_s(at_once, items_per_s)`. It predicts the mean latency of a run in seconds, from the number of requests at once and the throughput. The check compares your predictions with runs that were recorded.

Then it tries your function on your own machine: a run with 4 at once gives the throughput, your function predicts the mean latency with 6 at once, and a run with 6 at once measures it. (The cell makes both runs before it checks, so it takes a while.) The prediction must be within 30 percent. (If your machine became faster or slower between the two runs, the check says so, and takes the throughput of the second run.) Before you run the check, write down what you expect, by your table above.
"""


# %% answer="3.2"
def mean_latency_s(at_once, items_per_s):
    """Return the mean latency in seconds that Little's law predicts."""
    ### BEGIN SOLUTION
    return at_once / items_per_s
    ### END SOLUTION


# %% check="3.2"
from foundry_lab.exercises import check

four = plots.SweepPoint.of(4, await client.complete_batch(prompts * 2, concurrency=4, **quiet))
six = plots.SweepPoint.of(6, await client.complete_batch(prompts * 2, concurrency=6, **quiet))
check("3.2", mean_latency_s, four, six)

# %% [markdown] exercise="3.3"
"""
### Exercise 3.3 · Rows that can't be used

Before it sends anything, the runner looks at every row. It refuses the whole batch if one can't be used.

Write `usable(rows)`: it takes a list of rows, each a dict, and returns a new list with those that can be used, in their order. A row can be used if it has a `text` that isn't empty (spaces alone don't count), and an `id` that isn't empty and that no row before it has.
"""


# %% answer="3.3"
def usable(rows):
    """Return the rows that have a text, and an id of their own."""
    ### BEGIN SOLUTION
    good, seen = [], set()
    for row in rows:
        name, text = row.get("id", ""), row.get("text", "")
        if name and name not in seen and text.strip():
            good.append(row)
            seen.add(name)
    return good
    ### END SOLUTION


# %% check="3.3"
from foundry_lab.exercises import check

check("3.3", usable)

# %% [markdown] exercise="3.4"
"""
### Exercise 3.4 · Go on where it stopped

Write a small batch runner of your own: `run_all(ask, prompts, file)`. `prompts` is a dict, from a name to a prompt. `file` is a `Path`. `await ask(prompt)` gives one answer. Ask one prompt after the other, and return a dict from each name to its answer.

It must survive its own death: the check kills it in the middle, and runs it again with the same file. Nothing may be asked twice, and nothing may be missing. So write each answer into the file at once, as one line of JSON.
"""


# %% answer="3.4"
async def run_all(ask, prompts, file):
    """Return all answers by name; ask only what the file doesn't hold."""
    ### BEGIN SOLUTION
    import json

    answers = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            answers.update(json.loads(line))
    for name, prompt in prompts.items():
        if name not in answers:
            answers[name] = await ask(prompt)
            with file.open("a", encoding="utf-8") as output:
                output.write(json.dumps({name: answers[name]}) + "\n")
    return answers
    ### END SOLUTION


# %% check="3.4"
from foundry_lab.exercises import check

check("3.4", run_all)

# %% [markdown] exercise="3.5"
"""
### Exercise 3.5 · Examples in the prompt

A model often does better if the prompt shows it some examples. (This is called **few-shot**.) To find out whether they help, change nothing else: the wording must stay as it is.

Write `with_examples(template, examples)`. `template` is one like that of the task above; `examples` is a list of pairs, a message and its label. It returns a new template: the instruction as it was, then each example with its label after it, then the message, `{text}`.

Careful: a message may hold braces, `{` or `}`. In a template these are written twice.
"""


# %% answer="3.5"
def with_examples(template, examples):
    """Return the template with examples between its instruction and its message."""
    ### BEGIN SOLUTION
    instruction, message = template.rsplit("\n\n", 1)
    shown = [
        f"Message: {text}\nLabel: {label}".replace("{", "{{").replace("}", "}}") for text, label in examples
    ]
    return "\n\n".join([instruction, *shown, message + "\nLabel:"])
    ### END SOLUTION


# %% check="3.5"
from foundry_lab.exercises import check

check("3.5", with_examples)

# %% [markdown]
"""
When your answer is right, grade it: run the sixty messages with the new template (`task | {"template": …}`), and count the right answers as above. Do the examples help this model? Take examples that are not among the sixty.
"""
