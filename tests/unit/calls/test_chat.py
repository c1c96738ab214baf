"""Asking for a stream where none can come says what to use instead."""

from __future__ import annotations

from typing import Any

import pytest

from foundry_lab.calls.chat import ChatRequest
from foundry_lab.errors import ConfigurationError


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream_complete"])
@pytest.mark.parametrize("options", [{"stream": True}, {"extra_body": {"stream": True}}], ids=str)
def test_stream_is_no_option(options: dict[str, Any], stream: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"use stream_complete\(") as caught:
        ChatRequest.build("hi", options, 30.0, stream=stream)
    assert "system" not in str(caught.value) and "extra_body" not in str(caught.value)
