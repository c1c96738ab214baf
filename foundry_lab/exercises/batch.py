"""Checks of the exercises in notebook 3: how many at once, Little's law, bad rows, resuming, examples."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Wrong, attempt, described, number_of, returned

RECORDED = ((1, 2.25, 0.44), (2, 2.28, 0.87), (4, 2.22, 1.79), (8, 2.19, 3.6), (16, 2.14, 7.1))
"""Runs of 64-token answers on two cores: at once, items a second, mean latency in seconds."""
NEAR = 0.3


@exercise("3.1", "At most so many at once", points=3)
def ask_some(ask_some: Any) -> None:
    """Never more than the limit, never needlessly fewer, and the answers in the prompts' order."""
    prompts = [f"p{number}" for number in range(9)]
    for limit in (3, 1):
        now = most = asked = 0

        async def ask(prompt: str) -> str:
            nonlocal now, most, asked
            now, asked = now + 1, asked + 1
            most = max(most, now)
            await asyncio.sleep(0.05 if int(prompt[1:]) % 2 else 0.15)
            now -= 1
            return prompt.upper()

        call = f"ask_some(ask, 9 prompts, limit={limit})"
        answers = attempt(ask_some, ask, prompts, limit, call=call)
        value = answers.result(list | tuple, "a list of answers is wanted")
        if most > limit:
            raise Wrong(f"in {call} there were {most} requests under way at the same time.")
        if asked != len(prompts):
            raise Wrong(f"in {call} {asked} requests were sent; one for each prompt is wanted.")
        if most < limit:
            raise Wrong(f"in {call} at most {most} was under way; {limit} are allowed, use them.")
        if list(value) != [prompt.upper() for prompt in prompts]:
            raise Wrong(f"{call} {returned(value)}. The answers' order should be that of the prompts.")


@exercise("3.2", "Little's law", points=2)
def mean_latency_s(mean_latency_s: Any, before: Any, run: Any) -> None:
    """The prediction is near what recorded runs measured, and near `run`, a run on the learner's machine.

    It is made of the throughput of a run `before`. If the machine became faster or slower in between, that is
    nobody's mistake: then it need only fit the throughput of `run` itself, where the law holds all the same.
    """

    def predicted(at_once: int, items_per_s: float) -> float:
        call = f"mean_latency_s(at_once={at_once}, items_per_s={items_per_s:.3g})"
        value = attempt(mean_latency_s, at_once, items_per_s, call=call).result()
        return number_of(value, call, "seconds are wanted")

    for at_once, items_per_s, measured_s in RECORDED:
        value = predicted(at_once, items_per_s)
        if not _near(value, measured_s):
            raise Wrong(
                f"for at_once={at_once}, items_per_s={items_per_s} it returned {value:.3g} s; a recorded run "
                f"had {measured_s} s. Which of the law's three numbers do you know, and which is wanted?"
            )
    guess_s, own_s = (predicted(run.concurrency, each.items_per_s) for each in (before, run))
    told = f"your machine, {run.concurrency} at once: {guess_s:.2f} s predicted, {run.mean_s:.2f} s measured"
    if not (_near(guess_s, run.mean_s) or _near(own_s, run.mean_s)):
        raise Wrong(f"{told}. Is your prediction made of both arguments, and of nothing else?")
    if not _near(guess_s, run.mean_s):
        told += f" (its speed has changed; with the throughput of this run itself: {own_s:.2f} s)"
    print(told)


def _near(predicted_s: float, measured_s: float) -> bool:
    return abs(predicted_s - measured_s) <= NEAR * measured_s


_TWICE = "a row before it has the same id, so their results couldn't be told apart"
ROWS: list[tuple[dict[str, str], str]] = [
    ({"id": "a1", "text": "The soup was cold."}, ""),
    ({"id": "a2", "text": "Thank you all!"}, ""),
    ({"id": "a1", "text": "Do you have a table for two?"}, _TWICE),
    ({"id": "a3", "text": ""}, "its text is empty"),
    ({"id": "", "text": "Great service."}, "it has no id, so its result couldn't be found"),
    ({"id": "a4", "text": "The soup was cold."}, ""),
    ({"id": "a5", "text": "   "}, "its text is nothing but spaces"),
    ({"id": "a6"}, "it has no text at all"),
]
"""Rows, and why each can't be used; nothing for one that can."""


@exercise("3.3", "Rows that can't be used", points=2)
def usable(usable: Any) -> None:
    """Rows without a text, or without an id of their own, are left out, and no other."""
    outcome = attempt(usable, [dict(row) for row, _ in ROWS], call="usable(rows)")
    if isinstance(outcome.error, KeyError):
        raise Wrong(f"it raised {described(outcome.error)} at a row without that column: {ROWS[-1][0]}.")
    kept = outcome.result(list | tuple, "a list of rows is wanted")
    for row, why in ROWS:
        if not why and row not in kept:
            raise Wrong(f"you left out {row}, and nothing is wrong with it.")
        if why and row in kept:
            raise Wrong(f"you kept {row}, but {why}.")
    if list(kept) != [row for row, why in ROWS if not why]:
        raise Wrong(f"you returned {len(kept)} rows, some of them twice, changed, or in another order.")


class _Killed(BaseException):
    """As sudden as a power cut: no `except Exception` stops it."""


class _Mortal:
    """Answers, and notes what it was asked, until its time has come."""

    def __init__(self, dies_at: int) -> None:
        self.dies_at: int | None = dies_at
        self.asked: list[str] = []

    async def ask(self, prompt: str) -> str:
        if len(self.asked) == self.dies_at:
            raise _Killed
        self.asked.append(prompt)
        return prompt.upper()


@exercise("3.4", "Go on where it stopped", points=3)
def run_all(run_all: Any) -> None:
    """Killed after any number of answers and run again, nothing is asked twice and nothing is missing."""
    prompts = {f"m{number}": f"Question {number}" for number in range(5)}
    wanted = {name: prompt.upper() for name, prompt in prompts.items()}
    for killed_after in (0, 2, 4):
        service = _Mortal(killed_after)
        when = f"killed after {killed_after} answers and run again"
        # Windows can't remove a file that is still open, as the one that was killed may leave it.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "results.jsonl"
            first = attempt(run_all, service.ask, prompts, file, call="run_all(ask, prompts, file)")
            if first.error is None and not service.asked and killed_after:
                raise Wrong(
                    "with a new file it asked nothing. Does it keep answers outside of its file, too?"
                )
            if first.error is None:
                raise Wrong("the run was killed in the middle, and your function went on as if nothing were.")
            if not isinstance(first.error, _Killed | BaseExceptionGroup):  # a TaskGroup makes a group of it
                first.result()  # raises the hint
            service.dies_at = None
            value = attempt(run_all, service.ask, prompts, file, call=f"{when}, it").result()
            again = attempt(run_all, service.ask, prompts, file, call="run a third time, it").result()
        if twice := {prompt for prompt in service.asked if service.asked.count(prompt) > 1}:
            raise Wrong(f"{when}, it asked {min(twice)!r} twice. Is each answer in the file at once?")
        if value != wanted:
            raise Wrong(f"{when}, it {returned(value)}; all five by name, old and new, are wanted.")
        if again != wanted:
            raise Wrong(
                f"when nothing was left to do, it {returned(again)}. Did the second run keep the "
                "lines of the first?"
            )


TEMPLATE = "Classify the customer's message as praise, complaint or question.\n\nMessage: {text}"
EXAMPLES = [("Lovely cake!", "praise"), ("Why {name} on my bill?", "question")]


@exercise("3.5", "Examples in the prompt", points=2)
def with_examples(with_examples: Any) -> None:
    """The wording stays as it was, the examples stand before the message, and braces do no harm."""
    call = "with_examples(template, examples)"
    template = attempt(with_examples, TEMPLATE, list(EXAMPLES), call=call).result(str, "a template is a text")
    outcome = attempt(lambda: template.format(text="Is it open?"))
    if outcome.error is not None:
        raise Wrong(
            f"the new template can't be filled: {described(outcome.error).partition('   (')[0]}. The example "
            f"{EXAMPLES[1][0]!r} has braces. How are they written in a template, if they are meant as braces?"
        )
    prompt = outcome.value
    if prompt.count("Is it open?") != 1:
        raise Wrong(f"a row's text stands {prompt.count('Is it open?')} times in the prompt; once is wanted.")
    _, found, rest = prompt.partition(TEMPLATE.partition("\n\n")[0])
    if not found:
        raise Wrong(
            "the instruction of the old template is no longer there, word by word. Then nobody can tell "
            "whether the examples or the new words made the difference."
        )
    for text, label in EXAMPLES:
        _, found, behind = rest.partition(text)
        if not found:
            raise Wrong(f"the example {text!r} is not in the prompt, after the instruction: {prompt!r}")
        for next_text in ("Is it open?", *dict(EXAMPLES)):
            behind = behind.partition(next_text)[0]
        if label not in behind:
            raise Wrong(f"the example {text!r} is not followed by its label, {label!r}, before the next.")
    if prompt.index("Is it open?") < max(prompt.index(text) for text, _ in EXAMPLES):
        raise Wrong(f"the message, {{text}}, should come last, after the examples: {prompt!r}")
