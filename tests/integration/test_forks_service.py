"""Forked processes against the real service: each gets the answers to its own questions."""

from __future__ import annotations

import os
from typing import Any

import pytest
from forking import answers_of_forks, seed_of

from foundry_lab import SyncFoundryAPIClient
from foundry_lab.engine import spec

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

CHILDREN, DISTINCT = 4, 5
OPTIONS: dict[str, Any] = {"model": spec.MODEL_ID, "temperature": 1.5, "max_tokens": 4, "timeout": 120}
"""Hot, so that answers differ; a seed for each question makes them repeatable."""


@pytest.fixture(scope="module")
def expected(endpoint: str) -> dict[str, str]:
    """The answer to each question, from a process that didn't fork."""
    asked = [
        f"process {who}, question {number}"
        for who in (*range(CHILDREN), "parent")
        for number in range(DISTINCT)
    ]
    with SyncFoundryAPIClient(endpoint) as client:
        answers = {
            prompt: client.complete(prompt, seed=seed_of(prompt), **OPTIONS).content for prompt in asked
        }
    assert len(set(answers.values())) > 0.9 * len(answers), "a swapped answer would hardly show"
    return answers


@pytest.mark.parametrize("how", ["sync", "async", "stream", "one-liner"])
def test_every_process_gets_its_own_answers(how: str, endpoint: str, expected: dict[str, str]) -> None:
    """As in tests/unit/calls/test_forks.py, where a stub answers a thousand."""
    answers = answers_of_forks(
        endpoint, how, children=CHILDREN, questions=2 * DISTINCT, distinct=DISTINCT, **OPTIONS
    )
    assert len(answers) == (CHILDREN + 1) * 2 * DISTINCT
    assert [asked for asked, answer, _ in answers if answer != expected[asked]] == []
    ids = [request_id for *_, request_id in answers if request_id]
    assert len(set(ids)) == len(ids)
