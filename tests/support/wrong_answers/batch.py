"""Wrong answers to the exercises of notebook 3."""

# ruff: noqa: F811, SIM105

import asyncio
import json

from wrong_answers.table import Table

WRONG = Table()


@WRONG.case("3.1", "there were 9 requests under way")
async def ask_some(ask, prompts, limit):
    return await asyncio.gather(*map(ask, prompts))


@WRONG.case("3.1", "3 are allowed")
async def ask_some(ask, prompts, limit):
    return [await ask(each) for each in prompts]


@WRONG.case("3.1", "there were 9 requests under way")
async def ask_some(ask, prompts, limit):

    async def one(prompt):
        async with asyncio.Semaphore(limit):
            return await ask(prompt)

    return await asyncio.gather(*map(one, prompts))


@WRONG.case("3.1", "order should be that of the prompts")
async def ask_some(ask, prompts, limit):
    places = asyncio.Semaphore(limit)

    async def one(prompt):
        async with places:
            return await ask(prompt)

    return [await each for each in asyncio.as_completed([one(each) for each in prompts])]


@WRONG.case("3.1", "3 requests were")
async def ask_some(ask, prompts, limit):
    return await asyncio.gather(*map(ask, prompts[:limit]))


@WRONG.case("3.2", "Which of the law's three numbers")
def mean_latency_s(at_once, items_per_s):
    return at_once * items_per_s


@WRONG.case("3.2", "at_once=2")
def mean_latency_s(at_once, items_per_s):
    return 1 / items_per_s


@WRONG.case("3.2", "at_once=1")
def mean_latency_s(at_once, items_per_s):
    return items_per_s / at_once


@WRONG.case("3.2", "seconds are wanted")
def mean_latency_s(at_once, items_per_s):
    return f"{at_once / items_per_s} s"


@WRONG.case("3.2", "your machine, 6 at once: 2.70 s predicted, 0.62 s measured")
def mean_latency_s(at_once, items_per_s):
    return 0.45 * at_once


@WRONG.case("3.2", "returned nan; seconds are wanted")
def mean_latency_s(at_once, items_per_s):
    return float("nan")


@WRONG.case("3.2", "KeyError: 6")
def mean_latency_s(at_once, items_per_s):
    return {1: 0.44, 2: 0.87, 4: 1.79, 8: 3.6, 16: 7.1}[at_once]


@WRONG.case("3.2", "Is your prediction made of both arguments")
def mean_latency_s(at_once, items_per_s):
    return at_once / 2.2


@WRONG.case("3.3", "KeyError")
def usable(rows):
    return [row for row in rows if row["text"]]


@WRONG.case("3.3", "the same id")
def usable(rows):
    return [row for row in rows if row.get("text", "").strip() and row["id"]]


@WRONG.case("3.3", "nothing but spaces")
def usable(rows):
    seen = {}
    for row in rows:
        if row.get("id") and row.get("text"):
            seen.setdefault(row["id"], row)
    return list(seen.values())


@WRONG.case("3.3", "you left out")
def usable(rows):
    seen = {}
    for row in rows:
        if row["id"] and row.get("text", "").strip():
            seen.setdefault(row["text"], row)
    return list({row["id"]: row for row in reversed(seen.values())}.values())


@WRONG.case("3.3", "the same id")
def usable(rows):
    return rows


@WRONG.case("3.4", "twice")
async def run_all(ask, prompts, file):
    answers = json.loads(file.read_text()) if file.exists() else {}
    for name in prompts:
        if name not in answers:
            answers[name] = await ask(prompts[name])
    file.write_text(json.dumps(answers))
    return answers


@WRONG.case("3.4", "twice")
async def run_all(ask, prompts, file):
    answers = {}
    for name in prompts:
        answers[name] = await ask(prompts[name])
        with file.open("a") as f:
            f.write(json.dumps({name: answers[name]}) + "\n")
    return answers


@WRONG.case("3.4", "it returned")
async def run_all(ask, prompts, file):
    done = {}
    if file.exists():
        for line in file.read_text().splitlines():
            done |= json.loads(line)
    new = {}
    for name in prompts:
        if name in done:
            continue
        new[name] = await ask(prompts[name])
        with file.open("a") as f:
            f.write(json.dumps({name: new[name]}) + "\n")
    return new


@WRONG.case("3.4", "went on as if nothing were")
async def run_all(ask, prompts, file):
    answers = {}
    for name in prompts:
        try:
            answers[name] = await ask(prompts[name])
        except BaseException:
            pass
    return answers


@WRONG.case("3.5", "has braces")
def with_examples(template, examples):
    return "".join((f"{text}: {label}\n" for text, label in examples)) + template


@WRONG.case("3.5", "is not in the prompt")
def with_examples(template, examples):
    return template


@WRONG.case("3.5", "no longer there, word by word")
def with_examples(template, examples):
    return (
        "Label it.\n"
        + "".join((f"{text}: {label}\n" for text, label in examples)).replace("{", "{{").replace("}", "}}")
        + "{text}"
    )


@WRONG.case("3.5", "stands 0 times")
def with_examples(template, examples):
    return template.replace("{text}", "") + "".join(
        (f"{text}: {label}\n" for text, label in examples)
    ).replace("{", "{{").replace("}", "}}")


@WRONG.case("3.1", "a list of answers is wanted")
async def ask_some(ask, prompts, limit):
    places = asyncio.Semaphore(limit)
    answers = {}

    async def one(prompt):
        async with places:
            answers[prompt] = await ask(prompt)

    await asyncio.gather(*map(one, prompts))
    return answers


@WRONG.case("3.2", "Is your prediction made of both arguments")
def mean_latency_s(at_once, items_per_s):
    return at_once / items_per_s if items_per_s < 3 else at_once * items_per_s


@WRONG.case("3.3", "a list of rows is wanted")
def usable(rows):
    return {row["id"]: row for row in rows if row.get("text")}


@WRONG.case("3.3", "in another order")
def usable(rows):
    good = {row["id"]: row for row in reversed(rows) if row["id"] and row.get("text", "").strip()}
    return list(good.values())


@WRONG.case("3.4", "raised AttributeError")
async def run_all(ask, prompts, file):
    return {name: await ask(prompt) for name, prompt in prompts.elements()}


@WRONG.case("3.4", "all five by name, old and new, are wanted")
async def run_all(ask, prompts, file):
    answers = file.read_text().splitlines() if file.exists() else []
    for prompt in list(prompts.values())[len(answers) :]:
        answers.append(await ask(prompt))
        file.write_text("\n".join(answers))
    return answers


@WRONG.case("3.5", "a template is a text")
def with_examples(template, examples):
    return [template, *examples]


@WRONG.case("3.5", "is not followed by its label, 'praise'")
def with_examples(template, examples):
    instruction, message = template.split("\n\n")
    shown = "\n".join(text for text, label in examples).replace("{", "{{").replace("}", "}}")
    return "\n\n".join([instruction, shown, message])


@WRONG.case("3.5", "is not followed by its label, 'praise'")
def with_examples(template, examples):
    instruction, message = template.split("\n\n")
    shown = [text for text, label in examples] + [label for text, label in examples]
    return "\n".join([instruction, "\n".join(shown).replace("{", "{{").replace("}", "}}"), message])


@WRONG.case("3.5", "is not in the prompt, after the instruction")
def with_examples(template, examples):
    shown = "\n".join(text for text, label in examples).replace("{", "{{").replace("}", "}}")
    return shown + "\n" + template


remembered = {}


@WRONG.case("3.4", "Does it keep answers outside of its file")
async def run_all(ask, prompts, file):
    for name in prompts:
        if name not in remembered:
            remembered[name] = await ask(prompts[name])
            file.write_text(json.dumps(remembered))
    return remembered


@WRONG.case("3.5", "should come last, after the examples")
def with_examples(template, examples):
    shown = "\n".join(f"{text}: {label}" for text, label in examples)
    return template + "\n\n" + shown.replace("{", "{{").replace("}", "}}")
