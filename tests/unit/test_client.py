"""What both clients give: completions, health, models, log lines, metrics."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

import psutil
import pytest
from clients import Client, both_clients
from stub_server import ALIAS, CHAT, MODEL, StubService, chat, error, hang, reply, stream

from foundry_lab import errors
from foundry_lab.calls import async_caller
from foundry_lab.calls.target import Target
from foundry_lab.metrics import MAX_MODEL_LABELS, Metrics, Record, percentile
from foundry_lab.policies.retry import Deadline


@both_clients
def test_a_completion(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        completion = client.complete(
            "hi", system="be brief", max_tokens=5, temperature=0, top_p=0.5, stop=["x"], seed=1
        )
        assert (completion.content, completion.model, completion.finish_reason) == ("hello", MODEL, "stop")
        assert completion.usage.total_tokens == 8 and completion.attempts == 1
        assert 0 < completion.latency_s < 5
        sent = stub.seen[-1]
        assert sent.json == {
            "model": MODEL,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "max_tokens": 5,
            "temperature": 0,
            "top_p": 0.5,
            "stop": ["x"],
            "seed": 1,
        }
        assert sent.headers["x-request-id"] == completion.request_id


@both_clients
def test_messages_and_extra_fields_are_sent_as_they_are(kind: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with StubService() as stub, Client(kind, stub.url) as client:
        client.complete(messages=messages, extra_body={"metadata": {"a": [1]}})
        assert stub.seen[-1].json == {"model": MODEL, "messages": messages, "metadata": {"a": [1]}}


@both_clients
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperatur": 1}, "Did you mean temperature"),
        ({"n": 2}, "extra_body"),
        ({"on_stall": "fallback"}, "stream_complete"),
        ({"timeout": 0}, "timeout"),
        ({"model": 5}, "model"),
        ({"system": 5}, "system"),
        ({"extra_body": "x"}, "extra_body"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_before_anything_is_sent(
    kind: str, options: dict[str, Any], said: str
) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        with pytest.raises(errors.ConfigurationError, match=said):
            client.complete("hi", **options)
        assert not stub.seen, "no model was looked up either"


@both_clients
@pytest.mark.parametrize(
    "options",
    [{"on_stall": "wait"}, {"parser": int}, {"idle_timeout": -1}, {"first_token_timeout": "x"}, {"seed": -1}],
    ids=str,
)
def test_options_of_streams(kind: str, options: dict[str, Any]) -> None:
    with StubService() as stub, Client(kind, stub.url) as client, pytest.raises(errors.ConfigurationError):
        client.open(**options)


@both_clients
def test_health_of_a_service_that_works(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        health = client.health_check(probe=True)
        assert (health.status, health.loaded_models, health.endpoint) == ("healthy", (MODEL,), stub.url)
        assert health.latency_s > 0 and health.probe_latency_s > 0
        assert health.memory_usage is health.uptime_s is health.version is None, "unknown is None, never zero"
        assert stub.seen[-1].json["max_tokens"] == 1


@both_clients
def test_health_of_a_service_without_a_model(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("GET", "/models/loaded", reply(200, []))
        health = client.health_check(probe=True)
        assert health.status == "degraded" and "load_model" in health.reasons[0]


@both_clients
def test_health_of_a_service_whose_model_fails(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, error(500, "boom", "server_error"))
        health = client.health_check(probe=True)
        assert health.status == "degraded" and "boom" in health.reasons[0]
        assert stub.count("POST", CHAT) == 1, "a look isn't repeated"


@both_clients
@pytest.mark.parametrize(("model", "probed"), [(None, "phi-4-mini-cpu:1"), (ALIAS, MODEL)])
def test_health_asks_the_model_that_a_completion_would_take(
    kind: str, model: str | None, probed: str
) -> None:
    """Not the first that is loaded: that may be one for speech."""
    ids = ["whisper-tiny-cpu:1", MODEL, "phi-4-mini-cpu:1"]
    with StubService() as stub, Client(kind, stub.url, model=model) as client:
        stub.on("GET", "/v1/models", reply(200, {"data": [{"id": each} for each in ids]}))
        stub.on("GET", "/models/loaded", reply(200, ids))
        assert client.health_check(probe=True).status == "healthy"
        assert stub.seen[-1].json["model"] == probed


@both_clients
def test_health_names_the_model_that_was_asked_for_and_is_missing(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, model="phi-9") as client:
        health = client.health_check(probe=True)
        assert health.status == "degraded" and "no model 'phi-9'" in health.reasons[0]


@both_clients
def test_health_of_a_service_that_is_slow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_lab.calls.health.PROBE_SLOW_S", 0.05)
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, chat("hi", delay_s=0.1))
        health = client.health_check(probe=True)
        assert health.status == "degraded"
        assert re.match(r"A one-token completion took \d+\.\d s", health.reasons[0])


@both_clients
@pytest.mark.parametrize(("free_mib", "status"), [(100, "degraded"), (10_000, "healthy")])
def test_health_when_memory_runs_out(
    kind: str, free_mib: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=free_mib * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("GET", "/status", reply(200, {"endpoints": [stub.url], "pid": os.getpid()}))
        health = client.health_check()
        assert health.status == status
        assert ("Only 100 MiB of memory are free" in " ".join(health.reasons)) == (status == "degraded")


@both_clients
def test_a_process_id_that_none_has_is_no_news_of_the_service(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for pid in (-5, 2**40, 2**70):
            stub.on("GET", "/status", reply(200, {"pid": pid}))
            health = client.health_check()
            assert (health.status, health.memory_usage, health.pid) == ("healthy", None, pid)


@both_clients
@pytest.mark.parametrize("answer", [hang, error(500, "boom", "server_error"), reply(200, b"<html>")])
def test_health_of_a_service_that_does_not_work_is_a_result(kind: str, answer: Any) -> None:
    with StubService() as stub, Client(kind, stub.url, timeout=0.3) as client:
        stub.on("GET", "/status", answer)
        health = client.health_check()
        assert health.status == "unavailable" and health.reasons
        assert stub.count("GET", "/status") <= 2, "a look isn't repeated"


@both_clients
def test_health_of_nobody_is_a_result(kind: str) -> None:
    with Client(kind, "http://127.0.0.1:9") as client:
        health = client.health_check()
    assert health.status == "unavailable" and "127.0.0.1:9" in health.reasons[0]


@both_clients
def test_models(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        (model,) = client.list_models()
        assert (model.id, model.alias, model.loaded, model.owned_by) == (MODEL, ALIAS, True, "stub")
        assert model.size_bytes is model.license is model.cached is None, "what nobody told is None"
        assert client.loaded_models() == [MODEL]


# --- what is recorded -------------------------------------------------------------------------------------


@both_clients
def test_every_outcome_is_counted_once(kind: str) -> None:
    metrics = Metrics()
    with StubService() as stub, Client(kind, stub.url, retries=0, metrics=metrics) as client:
        client.complete("hi")
        client.stream_text()
        for answer, kwargs in ((error(400, "no"), {}), (reply(200, b"<"), {}), (hang, {"timeout": 0.1})):
            stub.on("POST", CHAT, answer)
            with pytest.raises(errors.FoundryError):
                client.complete("hi", **kwargs)
        stub.on("POST", CHAT, stream(then="reset"))
        with pytest.raises(errors.StreamInterruptedError):
            client.stream_text()
    snapshot = metrics.snapshot()
    assert snapshot.requests == {"ok": 2, "http_400": 1, "format": 1, "timeout": 1, "interrupted": 1}
    assert snapshot.in_flight == 0 and snapshot.prompt_tokens == 10 and snapshot.completion_tokens == 6
    assert snapshot.ttft.count == 1
    text = metrics.text()
    assert f'foundry_lab_requests_total{{model="{MODEL}",operation="stream",outcome="ok"}} 1.0' in text
    assert f'foundry_lab_time_to_first_token_seconds_count{{model="{MODEL}"}} 1.0' in text


@both_clients
@pytest.mark.parametrize("how", ["complete", "stream"])
def test_failures_are_counted_under_the_model_that_was_asked(kind: str, how: str) -> None:
    metrics = Metrics()
    with StubService() as stub, Client(kind, stub.url, retries=0, metrics=metrics) as client:
        stub.on("POST", CHAT, error(400, "no"))
        for model in (ALIAS, None, "nobody's"):
            with pytest.raises(errors.FoundryError):
                client.ask(how, model=model)
    series = f'foundry_lab_requests_total{{model="%s",operation="{how}",outcome="%s"}} %s'
    assert series % (MODEL, "http_400", "2.0") in metrics.text()
    # No request, so no status; and no label for a name that is nobody's, or a typing error would fill one.
    assert series % ("other", "refused", "1.0") in metrics.text()


@both_clients
@pytest.mark.parametrize("how", ["complete", "stream"])
def test_what_a_failure_says_is_not_logged(kind: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)  # the service may quote the prompt
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("POST", CHAT, error(400, "can't do: my secret prompt"))
        with pytest.raises(errors.BadRequestError):
            client.ask(how)
    assert "outcome=http_400" in caplog.text and "secret" not in caplog.text


@both_clients
@pytest.mark.parametrize("use", ["complete", "stream_text", "loaded_models"])
def test_the_search_for_the_service_is_not_the_requests_time(
    kind: str, use: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "foundry_lab")
    events: list[str] = []
    begin = Deadline.__init__

    def locate(settings: object) -> Target:
        time.sleep(0.2)
        events.append("found")
        return Target(stub.url)

    def noted(self: Deadline, limit_s: float) -> None:
        events.append("deadline")
        begin(self, limit_s)

    monkeypatch.setattr(async_caller, "locate", locate)
    monkeypatch.setattr(Deadline, "__init__", noted)
    with StubService() as stub, Client(kind, None) as client:
        began = time.perf_counter()
        getattr(client, use)(*["hi"][: use == "complete"])
        took_s = time.perf_counter() - began
    assert events[-2:] == ["found", "deadline"]
    (latency_s,) = (each.record.latency_s for each in caplog.records if hasattr(each, "record"))
    assert latency_s <= took_s - 0.2


@both_clients
def test_a_service_that_was_found_and_has_ended_says_how_it_starts_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_caller, "locate", lambda settings: Target("http://127.0.0.1:9", found=True))
    with Client(kind, None, retries=0) as client:
        with pytest.raises(errors.ServiceUnavailableError, match="ensure_service") as caught:
            client.complete("hi")
        assert "FOUNDRY_ENDPOINT" not in str(caught.value)


@both_clients
def test_metrics_and_breaker_can_be_left_out(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, metrics=False, breaker=False) as client:
        assert client.ask("complete") == client.ask("stream") == "hello"
        assert client.raw.metrics is client.raw.breaker is None


@both_clients
def test_one_log_line_for_one_operation(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "foundry_lab")
    with StubService() as stub, Client(kind, stub.url) as client:
        client.loaded_models()
        caplog.clear()
        stub.on("POST", CHAT, error(503, "busy", "server_error", headers={"Retry-After": "0"}), chat("hello"))
        completion = client.complete("a prompt", model=MODEL)
        lines = [record.getMessage() for record in caplog.records if "complete" in record.getMessage()]
        assert len(lines) == 1
        for part in (completion.request_id, MODEL, "outcome=ok", "attempts=2", "tokens=5+3"):
            assert part in lines[0]
        assert "a prompt" not in caplog.text


def test_percentiles_are_interpolated_between_real_samples() -> None:
    assert percentile([], 50) is None
    assert percentile([3.0], 99) == 3.0
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0], 0) == 1.0 and percentile([1.0, 2.0], 100) == 2.0


def test_model_labels_stay_bounded() -> None:
    metrics = Metrics()
    for number in range(3 * MAX_MODEL_LABELS):
        metrics.start()
        metrics.finish(Record("complete", "id", model=f"m{number}", outcome="ok"))
    names = set(re.findall(r'model="([^"]*)"', metrics.text()))
    assert len(names) == MAX_MODEL_LABELS + 1 and "other" in names
