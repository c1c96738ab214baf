"""The minutes in notebooks and in the teacher's guide are what their rule gives for the text of today."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from course_sources import ROOT, SOURCES, generator

NAMES = [path.stem for path in sorted(SOURCES.glob("[0-9]*.py"))]
WORDS_A_MINUTE = 130
MINUTES_AN_EXERCISE = 2
MINUTES_A_LINE = 1
STEP = 5
"""Minutes are given in steps of five; a small change of the text needs no new figure."""
RUNNING = {
    "a few seconds": 0,
    "less than one minute": 1,
    "about one minute": 1,
    "less than two minutes": 2,
    "about two minutes": 2,
}
HEAD = re.compile(
    r"\*\*Time:\*\* about (?P<whole>\d+) minutes: (?P<read>\d+) to read and run, "
    r"(?P<solve>\d+) for the (?P<count>\w+) exercises\..* Running the cells takes (?P<run>[^.(]+?)(?: \(|\.)"
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


class Minutes(NamedTuple):
    read: float
    solve: float


def said(name: str) -> re.Match[str]:
    head = next(generator().cells(SOURCES / f"{name}.py"))
    found = HEAD.search(head.text)
    assert found, head.text
    return found


def computed(name: str, run_minutes: int) -> Minutes:
    exercises = generator().exercise_cells(name)
    tasks = [part for parts in exercises.values() for part in parts]
    lesson = [part for part in generator().cells(SOURCES / f"{name}.py") if part not in tasks]
    told = [part for part in tasks if not {"answer", "check"} & set(part.settings)]
    lines = sum(solution_lines(part.text) for part in tasks if "answer" in part.settings)
    return Minutes(
        read=words(lesson) / WORDS_A_MINUTE + run_minutes,
        solve=words(told) / WORDS_A_MINUTE + len(exercises) * MINUTES_AN_EXERCISE + lines * MINUTES_A_LINE,
    )


def words(parts: list[Any]) -> int:
    return sum(len(part.text.split()) for part in parts)


def solution_lines(answer: str) -> int:
    """Lines between the markers; an answer may have more than one pair of them."""
    solutions = [part.split("### END SOLUTION")[0] for part in answer.split("### BEGIN SOLUTION")[1:]]
    return sum(bool(line.strip()) for solution in solutions for line in solution.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_the_head_says_what_the_rule_gives(name: str) -> None:
    head = said(name)
    for given, exact in zip((head["read"], head["solve"]), computed(name, RUNNING[head["run"]]), strict=True):
        assert int(given) % STEP == 0
        assert int(given) == pytest.approx(exact, abs=STEP - 1)
    assert int(head["whole"]) == int(head["read"]) + int(head["solve"])
    assert head["count"] == NUMBERS[len(generator().exercise_cells(name))]


def test_the_rule_is_told() -> None:
    told = next(generator().cells(SOURCES / "00_start.py")).text
    assert f"{WORDS_A_MINUTE} words a minute" in told
    assert "for each exercise two minutes and one more for each line of its solution" in told
    for name in NAMES[1:]:
        assert "computed, not measured; [0 · Start](00_start.ipynb) says how" in said(name)[0]


def test_the_teachers_guide_has_the_same_minutes() -> None:
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d) · \w+ \| (\d+) \|", guide, re.MULTILINE)
    assert table == [(str(place), said(name)["whole"]) for place, name in enumerate(NAMES)]
