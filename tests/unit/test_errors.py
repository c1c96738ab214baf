"""Errors get out of worker processes whole: pickled and copied, they keep message, type and attributes."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import foundry_lab
from foundry_lab import errors
from foundry_lab.batch.report import BatchReport

for module in pkgutil.walk_packages(foundry_lab.__path__, "foundry_lab."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)  # so that every error class is known


def family(kind: type[errors.FoundryError]) -> Iterator[type[errors.FoundryError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


OUTPUT: Any = SimpleNamespace(path=Path("results.jsonl"))
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "APIStatusError": {"status": 429, "hint": "Wait.", "retry_after": 1.5, "request_id": "req-1"},
    "RequestTimeoutError": {"phase": "idle", "limit_s": 3.0},
    "StreamInterruptedError": {"partial": "so far"},
    "CircuitOpenError": {"retry_after": 2.0},
    "StructuredOutputError": {"text": "no city", "attempts": 3},
    "BatchInputError": {"problems": ("line 3 is no JSON",)},
    "BatchStoppedError": {"report": BatchReport(OUTPUT, None, 1)},
}


def make(kind: type[errors.FoundryError]) -> errors.FoundryError:
    """Return an error of this kind as the package raises it, with a note of the caller's."""
    given = next((ATTRIBUTES[base.__name__] for base in kind.__mro__ if base.__name__ in ATTRIBUTES), {})
    error = kind("what happened", **given)
    error.add_note("while asking for a city")
    return error


KINDS = sorted(set(family(errors.FoundryError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_an_error_made_again_is_the_same(
    kind: type[errors.FoundryError], again: Callable[[errors.FoundryError], errors.FoundryError]
) -> None:
    error = make(kind)
    other = again(error)
    assert type(other) is kind and other is not error
    assert (str(other), other.args) == (str(error), error.args)
    described = [{name: repr(value) for name, value in vars(each).items()} for each in (other, error)]
    assert described[0] == described[1]


def test_the_names_that_would_work_come_along() -> None:
    error = errors.ModelNotFoundError("no such model", status=404)
    error.available = ("a", "b")
    assert pickle.loads(pickle.dumps(error)).available == ("a", "b")


def _fail() -> None:
    raise errors.RequestTimeoutError("too slow", phase="first_token", limit_s=1.0)


def test_a_worker_process_hands_its_error_over() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(errors.RequestTimeoutError, match="too slow") as caught:
            pool.submit(_fail).result(180)
        assert (caught.value.phase, caught.value.limit_s) == ("first_token", 1.0)
