"""Every exercise takes its own solution, and refuses wrong answers for the right reason."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from course_sources import answers, handed_over, stub_of
from wrong_answers import WRONG

from foundry_lab.errors import RequestTimeoutError
from foundry_lab.exercises import check, exercises

CASES = [(number, *case) for number, cases in WRONG.items() for case in cases]
pytestmark = pytest.mark.usefixtures("stub")


@pytest.mark.parametrize("number", answers())
def test_the_solution_passes(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(number, *handed_over(number, answers()[number])) is None
    assert f"✓ {number} " in capsys.readouterr().out


@pytest.mark.parametrize("number", answers())
def test_the_stub_is_told_to_be_unanswered(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(number, *handed_over(number, stub_of(answers()[number])))
    assert f"· {number} " in capsys.readouterr().out


async def greet_with_messages(client: Any) -> str:
    said = await client.complete(messages=[{"role": "user", "content": "Say hello."}], max_tokens=8)
    return str(said.content)


def body_with_a_tuple(model: str, question: str, word: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], "stop": (word,)}


async def kept_as_a_list(client: Any, question: str, limit_s: float) -> list[Any]:
    stream = client.stream_complete(question, idle_timeout=limit_s)
    try:
        async for _ in stream:
            pass
    except RequestTimeoutError as error:
        return [stream.text, error.phase]
    return [stream.text.strip(), None]


@pytest.mark.parametrize(
    ("number", "answer"), [("0.3", greet_with_messages), ("1.1", body_with_a_tuple), ("4.3", kept_as_a_list)]
)
def test_a_right_answer_that_is_written_in_another_way_passes(
    number: str, answer: object, capsys: pytest.CaptureFixture[str]
) -> None:
    check(number, answer)
    assert f"✓ {number} " in capsys.readouterr().out


def test_a_right_answer_that_a_busy_machine_made_late_is_measured_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It was taken for one that measures the time until the last token."""
    right, law = handed_over("2.4", answers()["2.4"])
    looks = 0

    async def late_at_first(client: Any, together: int) -> list[float]:
        nonlocal looks
        looks += 1
        late_s = 1.5 if looks == 1 else 0.0
        return [seconds + late_s for seconds in await right(client, together)]

    check("2.4", late_at_first, law)
    assert "✓ 2.4 " in capsys.readouterr().out and looks == 3


@pytest.mark.parametrize(
    ("number", "answer", "hint", "place", "mark"), CASES, ids=[f"{case[0]}-{case[2][:30]}" for case in CASES]
)
def test_a_wrong_answer_is_refused_with_its_reason(
    number: str,
    answer: object,
    hint: str,
    place: int,
    mark: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = handed_over(number, answers()[number])
    given[place] = answer
    check(number, *given)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"{mark} {number} ")
    assert hint in said
    gc.collect()
    assert "never retrieved" not in caplog.text, "asyncio explains in its words what the hint says already"


def test_every_exercise_has_an_answer_and_three_wrong_ones() -> None:
    assert set(answers()) == set(exercises())
    assert {number for number in exercises() if len(WRONG.get(number, ())) < 3} == set()


@pytest.mark.parametrize("number", answers())
def test_no_hint_gives_the_solution_away(number: str) -> None:
    """A line of the solution, word by word, never stands in the test's text."""
    import inspect

    test = inspect.getsource(exercises()[number].test)
    solution = set(answers()[number].splitlines()) - set(stub_of(answers()[number]).splitlines())
    lines = [line.strip() for line in solution if len(line.strip()) > 25 and "SOLUTION" not in line]
    assert not [line for line in lines if line in test]
