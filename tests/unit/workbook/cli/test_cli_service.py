"""A command leaves the machine as it found it: no service that it started, no handler of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import pytest
from cli_stubs import StubEngine

from foundry_lab.workbook.cli.service import ENDING, handled, interrupting, left_as_found


def test_a_service_is_stopped_if_it_was_not_there_before(engine: StubEngine) -> None:
    with left_as_found():
        engine.ensure_service()
    assert engine.calls == ["ensure", "stop"]
    for state, keep in ((object(), False), (None, True)):
        engine.state, engine.calls = state, []
        with left_as_found(keep=keep):
            pass
        assert engine.calls == []


def test_a_service_that_a_thread_still_starts_is_stopped_after_that(
    engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python ends when that thread has ended: by then there is a service that nobody asked to stop."""
    later: list[Any] = []
    monkeypatch.setattr("atexit.register", later.append)
    with pytest.raises(KeyboardInterrupt), left_as_found():
        raise KeyboardInterrupt
    assert engine.calls == ["stop"]
    (stop,) = later
    stop()
    assert engine.calls == ["stop", "stop"]


def test_nothing_ends_the_stopping(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who presses Ctrl-C again would leave it running."""
    monkeypatch.setattr("atexit.register", lambda function: None)

    def stop() -> None:
        for each in ENDING:
            signal.raise_signal(each)
        engine.calls.append("stopped")

    monkeypatch.setattr("foundry_lab.engine.stop_service", stop)
    with contextlib.suppress(KeyboardInterrupt), interrupting(), left_as_found():
        signal.raise_signal(ENDING[-1])
        engine.calls.append("not reached")
    assert engine.calls == ["stopped"]


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    before = {each: signal.getsignal(each) for each in ENDING}
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupting():
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert {each: signal.getsignal(each) for each in ENDING} == before


def test_in_another_thread_handlers_are_left_alone() -> None:
    """Python allows them in the main thread only."""
    done: list[bool] = []

    def work() -> None:
        with handled(signal.SIG_IGN):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
