"""Log lines: quiet unless asked for, one a request, no prompts and no secrets."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from clients import Client, both_clients
from stub_server import CHAT, StubService, chat, error, reply

from foundry_lab import BatchStoppedError
from foundry_lab.errors import ConfigurationError, FoundryError, ServerError
from foundry_lab.logs import LOGGER, configure_logging, reset_logging

SECRET = "sk-very-secret"
PROMPT = "the colour of my front door is teal and nobody may know it"


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    yield io.StringIO()
    reset_logging()


def client(kind: str, stub: StubService, **kwargs: object) -> Client:
    return Client(kind, stub.url, api_key=SECRET, headers={"X-Team": SECRET}, metrics=False, **kwargs)


def requests_in(out: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return [line for line in lines if "request_id" in line]


@both_clients
@pytest.mark.parametrize("how", ["complete", "stream"])
def test_one_json_line_a_request(kind: str, how: str, stub: StubService, out: io.StringIO) -> None:
    configure_logging("INFO", json=True, stream=out)
    with client(kind, stub) as ours:
        ours.ask(how)
    (line,) = requests_in(out)
    assert line["operation"] == how
    assert (line["outcome"], line["attempts"], line["level"]) == ("ok", 1, "INFO")
    assert line["model"] == stub.seen[-1].json["model"]
    assert line["request_id"] == stub.seen[-1].headers["x-request-id"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (5, 3)
    assert 0 < line["latency_s"] < 5
    assert ("ttft_s" in line) == (how == "stream")


@both_clients
def test_a_failure_is_a_warning_with_its_outcome_and_attempts(
    kind: str, stub: StubService, out: io.StringIO
) -> None:
    configure_logging("WARNING", json=True, stream=out)
    stub.on("POST", CHAT, reply(503, b"busy", headers={"Retry-After": "0"}))
    with client(kind, stub, retries=2) as ours, pytest.raises(ServerError):
        ours.complete("hi")
    (line,) = requests_in(out)
    assert (line["outcome"], line["attempts"], line["level"]) == ("http_503", 3, "WARNING")


@both_clients
@pytest.mark.parametrize("as_json", [True, False])
def test_prompts_keys_and_answers_are_never_logged(
    kind: str, as_json: bool, stub: StubService, out: io.StringIO
) -> None:
    configure_logging("DEBUG", json=as_json, stream=out)
    stub.on("POST", CHAT, chat("a confidential answer"), reply(500, b"{}"), chat("again"))
    with client(kind, stub, retries=1) as ours:
        ours.complete(PROMPT, system=PROMPT)
        ours.complete(PROMPT)
        ours.health_check(probe=True)
    text = out.getvalue()
    assert text.count("\n") >= 3
    for secret in (SECRET, "teal", "confidential"):
        assert secret not in text


@both_clients
@pytest.mark.parametrize("as_json", [True, False])
def test_failures_quote_nothing_into_the_log(
    kind: str, as_json: bool, stub: StubService, out: io.StringIO
) -> None:
    configure_logging("DEBUG", json=as_json, stream=out)
    stub.on("POST", CHAT, chat("a confidential answer"), error(400, f"can't tokenize {PROMPT!r}"))
    with client(kind, stub) as ours:
        for options in ({"parser": int}, {}):
            with pytest.raises(FoundryError):  # whose message does quote it
                ours.complete(PROMPT, **options)
    assert "http_400" in out.getvalue()
    for secret in ("teal", "confidential"):
        assert secret not in out.getvalue()


def test_a_batch_quotes_no_prompt_when_its_service_fails(stub: StubService, out: io.StringIO) -> None:
    configure_logging("DEBUG", stream=out)
    stub.on("POST", CHAT, error(500, f"can't tokenize {PROMPT!r}"))
    with client("sync", stub, retries=0) as ours, pytest.raises(BatchStoppedError):
        ours.complete_batch([PROMPT] * 20, wait_for_service=0.5, progress=False)
    assert "no service works" in out.getvalue() and "(http_500)" in out.getvalue()
    assert "teal" not in out.getvalue()


@both_clients
def test_a_model_whose_name_has_line_ends_forges_no_line(
    kind: str, stub: StubService, out: io.StringIO
) -> None:
    configure_logging(stream=out)
    stub.on("POST", CHAT, chat("hi", model="a\n2026 INFO \x1b[2J"))
    with client(kind, stub) as ours:
        ours.complete("hi")
        with pytest.raises(FoundryError):
            ours.complete("hi", model="b\n2026 INFO")
    assert "model=a\\n2026" in out.getvalue() and "model=b\\n2026" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert not [line for line in out.getvalue().splitlines() if line.startswith("2026 INFO")]


@pytest.mark.parametrize("as_json", [True, False])
def test_prompts_are_logged_on_request_and_cut(as_json: bool, stub: StubService, out: io.StringIO) -> None:
    configure_logging("INFO", json=as_json, stream=out, prompts=10)
    with client("sync", stub) as ours:
        ours.complete(PROMPT)
        ours.ask("stream")
    text = out.getvalue()
    assert text.isascii() or not as_json, "a stream in another encoding can't spoil it"
    if as_json:
        text = "\n".join(str(json.loads(line)) for line in text.splitlines())
    assert "the colour…" in text
    assert PROMPT[:11] not in text


def test_a_prompt_of_parts_is_logged_whatever_numbers_are_in_it(stub: StubService, out: io.StringIO) -> None:
    """The request takes numpy's numbers; the log of it must not be what fails."""
    configure_logging(json=True, stream=out, prompts=60)
    parts = [{"type": "text", "text": "teal", "weight": np.int64(3)}]
    with client("sync", stub) as asking:
        assert asking.complete(messages=[{"role": "user", "content": parts}]).content == "hello"
    assert "teal" in str(requests_in(out)[0]["prompt"])


def test_health_checks_are_debug(stub: StubService, out: io.StringIO) -> None:
    configure_logging("INFO", stream=out)
    with client("sync", stub) as ours:
        ours.health_check()
        assert "health_check" not in out.getvalue()
        configure_logging("DEBUG", stream=out)
        ours.health_check()
    assert "health_check" in out.getvalue()


def test_text_lines_are_in_utc_and_name_the_request(stub: StubService, out: io.StringIO) -> None:
    configure_logging(stream=out)
    with client("sync", stub) as ours:
        ours.complete("hi")
    (line,) = [line for line in out.getvalue().splitlines() if " complete " in line]
    assert f" INFO {LOGGER}: {stub.seen[-1].headers['x-request-id']} complete model=" in line
    assert "outcome=ok attempts=1" in line


def test_the_level_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, stub: StubService, out: io.StringIO
) -> None:
    monkeypatch.setenv("FOUNDRY_LOG_LEVEL", "error")
    configure_logging(stream=out)
    with client("sync", stub) as ours:
        ours.complete("hi")
    assert out.getvalue() == ""
    monkeypatch.setenv("FOUNDRY_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError, match="FOUNDRY_LOG_LEVEL='loud'"):
        configure_logging()


def test_configured_twice_says_everything_once(stub: StubService, out: io.StringIO) -> None:
    configure_logging(json=True, stream=io.StringIO())
    configure_logging(json=True, stream=out)
    with client("sync", stub) as ours:
        ours.complete("hi")
    assert len(requests_in(out)) == 1
    reset_logging()
    logger = logging.getLogger(LOGGER)
    assert (logger.level, logger.propagate) == (logging.NOTSET, True)
    assert not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers)


def test_what_an_application_had_set_itself_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger(LOGGER)
    monkeypatch.setattr(logger, "level", logging.ERROR)
    monkeypatch.setattr(logger, "propagate", False)
    for _ in range(2):
        configure_logging("DEBUG", stream=io.StringIO())
    reset_logging()
    assert (logger.level, logger.propagate) == (logging.ERROR, False)


@pytest.mark.parametrize(
    "kwargs", [{"level": "loud"}, {"prompts": -1}, {"prompts": "abc"}, {"prompts": 1.5}, {"stream": "my.log"}]
)
def test_bad_values_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=str(next(iter(kwargs.values())))):
        configure_logging(**kwargs)


def test_quiet_by_default(stub: StubService) -> None:
    """Even a failure writes nothing by itself: the exception says it."""
    stub.on("POST", CHAT, reply(500, b"{}"))
    code = (
        "from foundry_lab import SyncFoundryAPIClient as C\n"
        f"try: C({stub.url!r}, retries=0).complete('hi')\n"
        "except Exception: pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert stub.count("POST", CHAT) == 1
