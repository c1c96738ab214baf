"""Streamed answers in both clients: what they know, time limits, leaving early."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from clients import Client, both_clients
from stub_server import (
    CHAT,
    DONE,
    ROLE,
    STOP,
    USAGE,
    StubService,
    chat,
    delta,
    event,
    hang,
    stream,
    text_events,
)

from foundry_lab import FoundryAPIClient, Metrics, SyncFoundryAPIClient, errors


def until(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Wait for a condition of the stub's own thread."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@both_clients
def test_a_stream_knows_its_text_times_and_usage(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(ROLE, *(delta(c) for c in "abcd"), STOP, USAGE, DONE, pause_s=0.1))
        answer = client.open()
        assert (answer.text, answer.ttft_s, answer.tokens_per_s, answer.usage) == ("", None, None, None)
        chunks = client.read(answer)
        assert [chunk.content for chunk in chunks] == ["a", "b", "c", "d", ""]
        assert chunks[-1].finish_reason == answer.finish_reason == "stop"
        assert answer.text == "abcd" and answer.usage.total_tokens == 8 and answer.model
        times = [chunk.elapsed_s for chunk in chunks]
        assert times == sorted(times) and answer.ttft_s == times[0] > 0
        np.testing.assert_allclose(answer.inter_token_s, np.diff(times[:-1]))
        assert answer.tokens_per_s == pytest.approx(3 / (times[3] - times[0]))
        assert client.read(answer) == [], "a stream that has ended stays ended"


def thinks(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]})


@both_clients
def test_reasoning_is_a_sign_of_life_and_no_part_of_the_text(kind: str) -> None:
    """The first text comes after every limit: what is thought meanwhile keeps the stream alive."""
    parts = [thinks(f"{n} ") for n in range(8)]
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("POST", CHAT, stream(ROLE, *parts, delta("four"), STOP, DONE, pause_s=0.4))
        answer = client.open(first_token_timeout=2.5, idle_timeout=2.5)
        chunks = client.read(answer)
        assert answer.text == "four" and answer.reasoning == "0 1 2 3 4 5 6 7 "
        assert "".join(chunk.reasoning for chunk in chunks) == answer.reasoning
        assert len(answer.arrivals_s) == 1 and answer.ttft_s > 2.5


@both_clients
def test_silence_after_reasoning_is_silence_between_pieces(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("POST", CHAT, stream(ROLE + thinks("Hm."), then="hang"))
        answer = client.open(idle_timeout=0.3)
        assert client.next(answer).reasoning == "Hm."
        with pytest.raises(errors.RequestTimeoutError) as caught:
            client.next(answer)
        assert caught.value.phase == "idle"


@both_clients
def test_the_connection_of_a_whole_answer_is_used_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_lab.calls.stream_reader.DRAIN_S", 30.0)  # the stub may be slow to end one
    with StubService() as stub, Client(kind, stub.url) as client:
        for _ in range(5):
            assert client.stream_text() == "hello"
        assert client.complete("hi").content == "hello"
        assert len(stub.peers) == 1


@both_clients
def test_nothing_is_sent_before_the_iteration(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        client.leave(client.open())
        with pytest.raises(errors.ConfigurationError):
            client.open(temperatur=1)
        assert not stub.seen


@both_clients
@pytest.mark.parametrize("how", ["leave", "forget"])
def test_leaving_early_closes_the_connection(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(*[delta("x")] * 10_000, pause_s=0.01))
        client.loaded_models()
        idle = stub.connections()
        answer = client.open()
        assert client.next(answer).content == "x"
        if how == "leave":
            client.leave(answer)
        else:
            del answer
            gc.collect()
        client.loaded_models()  # gives the async client's loop a turn
        assert until(lambda: stub.connections() <= idle)
        assert client.raw.metrics.snapshot().in_flight == 0


async def test_every_way_out_of_the_loop_closes_the_connection() -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, stream(*[delta("x")] * 10_000, pause_s=0.01))
        async with FoundryAPIClient(stub.url) as client:
            await client.loaded_models()

            async def breaks() -> None:
                async for _ in client.stream_complete("hi"):
                    break

            async def raises() -> None:
                async for _ in client.stream_complete("hi"):
                    raise KeyError

            async def leaves_a_block() -> None:
                async with client.stream_complete("hi") as answer:
                    await anext(answer)

            async def reads_on() -> None:
                async for _ in client.stream_complete("hi"):
                    pass

            for way in (breaks, leaves_a_block):
                await way()
            with pytest.raises(KeyError):
                await raises()
            task = asyncio.create_task(reads_on())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gc.collect()
            assert await asyncio.to_thread(until, lambda: stub.connections() <= 1)
            assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_plain_loop_that_breaks_closes_the_connection() -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        stub.on("POST", CHAT, stream(*[delta("x")] * 10_000, pause_s=0.01))
        for _ in client.stream_complete("hi"):
            break
        assert until(lambda: stub.connections() <= 1)


async def test_a_cancelled_completion_closes_its_connection() -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, hang)
        async with FoundryAPIClient(stub.url) as client:
            task = asyncio.create_task(client.complete("hi"))
            await asyncio.to_thread(until, lambda: stub.count("POST", CHAT) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(until, lambda: stub.connections() == 0)
            assert client.metrics is not None and client.metrics.snapshot().requests["cancelled"] >= 1


# --- time limits ------------------------------------------------------------------------------------------


def limit(client: Client, **options: Any) -> errors.RequestTimeoutError:
    with pytest.raises(errors.RequestTimeoutError) as caught:
        client.stream_text(**options)
    return caught.value


@both_clients
def test_no_first_token_in_time(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, hang)
        error = limit(client, timeout=20, first_token_timeout=1.0)
        assert (error.phase, error.limit_s) == ("first_token", 1.0) and "on_stall" in str(error)
        stub.on("POST", CHAT, stream(ROLE, then="hang"))
        assert limit(client, timeout=20, first_token_timeout=1.0).phase == "first_token"


@both_clients
def test_silence_between_tokens(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(delta("a") + delta("b"), then="hang"))
        answer = client.open(timeout=20, idle_timeout=1.0)
        with pytest.raises(errors.RequestTimeoutError) as caught:
            client.read(answer)
        assert (caught.value.phase, caught.value.limit_s, answer.text) == ("idle", 1.0, "ab")


@both_clients
def test_tokens_that_keep_coming_meet_the_total_limit(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(*[delta("x")] * 1000, pause_s=0.02))
        error = limit(client, timeout=0.3, idle_timeout=20)
        assert (error.phase, error.limit_s) == ("total", 0.3)


@both_clients
def test_a_clock_with_a_coarse_tick_names_the_right_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a timer may fire up to 16 ms before its time."""
    monkeypatch.setattr("foundry_lab.calls.stream_reader.CLOCK_TICK_S", 60.0)
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(ROLE, delta("x"), then="hang"))
        assert limit(client, timeout=30, idle_timeout=0.5).phase == "total"


@both_clients
def test_a_reader_who_takes_time_is_no_silence_of_the_service(kind: str) -> None:
    all_sent = threading.Event()

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        response = await stream(*text_events("a b c d e"), pause_s=0.05)(request, stop)
        all_sent.set()
        return response

    def take_time() -> None:
        time.sleep(0.7)
        assert all_sent.wait(15)  # a stub that is slow is a silent service

    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, answer)
        reading = client.open(idle_timeout=0.3, timeout=20)
        text = client.next(reading).content
        if kind == "async":
            client._finish(asyncio.to_thread(take_time))
        else:
            take_time()
        assert text + "".join(chunk.content for chunk in client.read(reading)) == "a b c d e"


@both_clients
def test_a_stalled_stream_falls_back_to_a_plain_request_when_asked(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, hang, chat("whole"))
        answer = client.open(on_stall="fallback", timeout=4)  # half for each
        chunks = client.read(answer)
        assert [(chunk.content, chunk.finish_reason) for chunk in chunks] == [("whole", "stop")]
        assert answer.text == "whole" and answer.usage.total_tokens == 8
        assert [seen.json.get("stream", False) for seen in stub.seen if seen.path == CHAT] == [True, False]
        assert "without streaming" in caplog.text


@both_clients
def test_a_fallback_that_is_left_at_its_only_piece_is_counted(kind: str) -> None:
    metrics = Metrics()
    with StubService() as stub, Client(kind, stub.url, metrics=metrics) as client:
        stub.on("POST", CHAT, hang, chat("whole"))
        answer = client.open(on_stall="fallback", first_token_timeout=0.5)
        assert client.next(answer).content == "whole"
        del answer
        gc.collect()
        client.loaded_models()  # gives the async client's loop a turn
        assert until(lambda: metrics.snapshot().in_flight == 0)
        assert metrics.snapshot().requests == {"ok": 1} and metrics.snapshot().completion_tokens == 3


@both_clients
def test_a_closed_stream_gives_nothing_more(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, chat("a b c d"))
        answer = client.open()
        client.next(answer)
        client.leave(answer)
        assert client.read(answer) == []


@both_clients
def test_the_text_is_that_of_the_pieces_given_out_however_many_came_at_once(kind: str) -> None:
    """Who leaves at a piece would else find the next ones in the text, or not, as the network had it."""
    parts = [thinks("one "), thinks("two "), *(delta(text) for text in "abcd"), STOP, DONE]
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, stream(b"".join(parts)))
        answer = client.open()
        seen = [(client.next(answer).content, answer.text, answer.reasoning) for _ in range(4)]
        assert seen == [
            ("", "", "one "),
            ("", "", "one two "),
            ("a", "a", "one two "),
            ("b", "ab", "one two "),
        ]
        client.leave(answer)
        client.leave(answer)
        assert (answer.text, answer.reasoning) == ("ab", "one two ")


@both_clients
@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda take: take.__name__)
def test_a_stream_is_not_copied(kind: str, take: Callable[[Any], object]) -> None:
    """Two would read one connection; a copy of the task inside it fails with words about futures."""
    with (
        StubService() as stub,
        Client(kind, stub.url) as client,
        pytest.raises(TypeError, match=r"Keep its \.text"),
    ):
        take(client.open())


# --- several at one stream --------------------------------------------------------------------------------


@pytest.mark.parametrize("first_s", [0.0, 60.0], ids=["between two pieces", "before the first"])
def test_a_stream_closed_from_another_thread_ends_at_once(first_s: float) -> None:
    metrics = Metrics()
    with StubService() as stub, SyncFoundryAPIClient(stub.url, retries=0, metrics=metrics) as client:
        stub.on("POST", CHAT, stream(delta("x"), first_s=first_s, then="hang"))
        answer = client.stream_complete("hi", timeout=90)
        with ThreadPoolExecutor() as threads:
            read = threads.submit(list, answer)
            assert until(lambda: stub.count("POST", CHAT) == 1 and (first_s > 0 or answer.text == "x"))
            answer.close()
            assert [chunk.content for chunk in read.result(5)] == ["x"] * (not first_s)
        assert until(lambda: stub.connections() == 0), "the service goes on"
        assert metrics.snapshot().requests == {"cancelled": 1}


@pytest.mark.parametrize("first_s", [0.0, 60.0], ids=["between two pieces", "before the first"])
async def test_a_stream_closed_by_another_task_ends_at_once(first_s: float) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, stream(delta("x"), first_s=first_s, then="hang"))
        async with FoundryAPIClient(stub.url, retries=0) as client:
            answer = client.stream_complete("hi", timeout=90)

            async def read() -> list[str]:
                async with asyncio.timeout(10):  # what it cancels is told apart from what closing cancels
                    return [chunk.content async for chunk in answer]

            reading = asyncio.create_task(read())
            begun = (lambda: stub.count("POST", CHAT) == 1) if first_s else (lambda: answer.text == "x")
            assert await asyncio.to_thread(until, begun)
            await answer.aclose()
            assert await reading == ["x"] * (not first_s) and not reading.cancelling()
            assert await asyncio.to_thread(until, lambda: stub.connections() == 0), "the service goes on"


async def test_a_task_that_is_cancelled_as_its_stream_is_closed_is_cancelled() -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, hang)
        async with FoundryAPIClient(stub.url) as client:
            answer = client.stream_complete("hi")
            reading = asyncio.ensure_future(anext(answer))
            assert await asyncio.to_thread(until, lambda: stub.count("POST", CHAT) == 1)
            reading.cancel()
            await answer.aclose()
            with pytest.raises(asyncio.CancelledError):
                await reading


async def test_a_second_reader_is_refused_and_the_first_reads_on() -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, stream(*text_events("a b c"), pause_s=0.1))
        async with FoundryAPIClient(stub.url) as client:
            answer = client.stream_complete("hi")
            first = asyncio.ensure_future(anext(answer))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="a stream each"):
                await anext(answer)
            text = (await first).content
            assert text + "".join([chunk.content async for chunk in answer]) == answer.text == "a b c"


def test_a_stream_is_not_read_on_in_another_loop() -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, stream(*text_events("a b c"), pause_s=0.1))
        answer = FoundryAPIClient(stub.url).stream_complete("hi")

        async def read() -> str:
            return (await anext(answer)).content

        assert asyncio.run(read()) == "a"
        with pytest.raises(errors.StreamInterruptedError, match="event loop that began it") as caught:
            asyncio.run(read())
        assert caught.value.partial == "a"


def test_a_parser_may_read_a_stream_of_the_same_client() -> None:
    """It runs in the loop that the client's streams are read in."""
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        stub.on("POST", CHAT, chat("hello"), stream(*text_events("a b c"), pause_s=0.05))

        def judge(text: str) -> str:
            return f"{text}: {''.join(chunk.content for chunk in client.stream_complete('judge'))}"

        assert client.complete("hi", parser=judge).parsed == "hello: a b c"


async def test_a_stream_in_a_circle_is_collected_while_metrics_are_counted() -> None:
    """The collector comes at any time, so also while the thread holds their lock."""
    metrics = Metrics()
    metrics._lock = threading.RLock()  # type: ignore[assignment]  # so that the test fails and doesn't hang
    with StubService() as stub:
        stub.on("POST", CHAT, stream(delta("x"), then="hang"))
        async with FoundryAPIClient(stub.url, metrics=metrics) as client:
            answer = client.stream_complete("hi")
            await anext(answer)
            answer.itself = answer  # type: ignore[attr-defined]  # as an error's traceback may lead back to it
            del answer
            with metrics._lock:
                gc.collect()
                assert metrics.snapshot().in_flight == 1, "bookkeeping in the middle of bookkeeping"
            assert await asyncio.to_thread(until, lambda: metrics.snapshot().in_flight == 0)
            assert await asyncio.to_thread(until, lambda: stub.connections() == 0)
