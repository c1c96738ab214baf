"""Results: as dicts for JSON and tables, and as keys."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pydantic import BaseModel

from foundry_lab.types import Chunk, Completion, Health, Model, Usage

CALL = {"id": "c1", "function": {"name": "f"}}


class City(BaseModel):
    name: str


RESULTS = [
    Completion(content="a", model="m", usage=Usage(1, 2, 3), tool_calls=(CALL,), parsed=City(name="Rome")),
    Completion(content="a", model="m", parsed={"name": "Rome"}),
    Chunk(content="a", elapsed_s=0.5, tool_calls=(CALL,)),
    Health(status="healthy", endpoint="http://127.0.0.1:1", versions={"python": "3.12"}),
    Model(id="m:1", alias="m"),
    Usage(1, 2, 3),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_every_result_is_a_key_and_a_dict(result: Any) -> None:
    twin = copy.deepcopy(result)
    assert twin == result and len({twin, result}) == 1
    row = result.to_dict()
    assert list(row) == list(result.__struct_fields__) and json.loads(json.dumps(row))


def test_what_is_in_the_dict() -> None:
    row = RESULTS[0].to_dict()
    assert row["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert row["parsed"] == {"name": "Rome"}
    assert Completion(content="", model="m", parsed=1j).to_dict()["parsed"] == "1j"


def test_different_results_differ_as_keys() -> None:
    assert len({hash(Usage(number)) for number in range(100)}) > 90
