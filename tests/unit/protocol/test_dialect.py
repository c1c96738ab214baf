"""The routes of the two contracts."""

from __future__ import annotations

from foundry_lab.protocol.dialect import CURRENT, LEGACY
from foundry_lab.types import Model


def test_a_model_is_loaded_by_what_its_contract_takes_and_no_colon_is_quoted() -> None:
    """foundry-local-sdk 2.2.1 decodes no %3A."""
    model = Model(id="an id:1", alias="a/b:c")
    assert CURRENT.change("load", model) == "/models/load/a%2Fb:c"
    assert LEGACY.change("unload", model) == "/openai/unload/an%20id:1"
