"""Check of the exercise in notebook 5 that a program can grade: one's own client takes the checklist."""

from typing import Any

from foundry_lab import ensure_service
from foundry_lab.errors import ConfigurationError
from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Partly, Wrong, attempt
from foundry_lab.faults.checklist import Checklist, run_checklist

LIMIT_S = 300.0
ENOUGH, FULL = 6, 8
"""Trials passed, of nine: for part of the points, and for all."""


@exercise("5.2", "Your own client", points=4)
def my_client(my_client: Any) -> None:
    """A client that the learner wrote takes the nine trials."""
    outcome = attempt(run_checklist, my_client, ensure_service(), call="my_client", limit_s=LIMIT_S)
    if isinstance(outcome.error, ConfigurationError):
        raise Wrong(str(outcome.error))
    result: Checklist = outcome.result()
    passed = sum(trial.passed for trial in result.trials)
    print(result)
    if passed >= FULL:
        return
    failed = next(trial for trial in result.trials if not trial.passed)
    hint = f"One that failed: {failed.demand}. What was seen: {failed.seen}."
    if passed >= ENOUGH:
        raise Partly(f"{passed} of 9 trials; {FULL} are wanted for all points. {hint}", points=2)
    raise Wrong(f"{passed} of 9 trials passed; {ENOUGH} are wanted at least. {hint}")
