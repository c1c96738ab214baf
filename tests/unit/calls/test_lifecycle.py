"""Opening, closing, forgetting to close; secrets, proxies, and what an import costs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from clients import Client, both_clients
from stub_server import CHAT, StubService, chat, delta, error, reply, stream

import foundry_lab
from foundry_lab import FoundryAPIClient, Settings, SyncFoundryAPIClient, errors


def run(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(foundry_lab.__file__).parents[1]), **environment},
    )


def prints(code: str, expected: str, *options: str, **environment: str) -> None:
    done = run(code, *options, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


# --- open, closed, forgotten ------------------------------------------------------------------------------

FORGOTTEN = {
    "a script that never closes": """
        async def main():
            client = FoundryAPIClient(URL)
            print((await client.complete("hi")).content)
        asyncio.run(main())
        """,
    "a client that outlives its loops": """
        client = FoundryAPIClient(URL)
        async def main():
            return (await client.complete("hi")).content
        print(asyncio.run(main()))
        assert asyncio.run(main()) == asyncio.run(main()) == "hello"
        """,
    "a client dropped inside a running loop": """
        async def main():
            client = FoundryAPIClient(URL)
            print((await client.complete("hi")).content)
            del client
            gc.collect()
            await asyncio.sleep(0.05)
        asyncio.run(main())
        """,
    "a stream left in the middle": """
        async def main():
            async for chunk in FoundryAPIClient(URL).stream_complete("hi"):
                print(chunk.content)
                break
        asyncio.run(main())
        """,
    "a stream that outlives its loop": """
        async def main():
            stream = FoundryAPIClient(URL).stream_complete("hi")
            print((await anext(stream)).content)
            return stream
        kept = asyncio.run(main())
        """,
    "a sync client that is never closed": """
        client = SyncFoundryAPIClient(URL)
        print(client.complete("hi").content)
        """,
    "a sync client dropped": """
        client = SyncFoundryAPIClient(URL)
        print(client.complete("hi").content)
        del client
        gc.collect()
        """,
    "a sync stream left in the middle": """
        for chunk in SyncFoundryAPIClient(URL).stream_complete("hi"):
            print(chunk.content)
            break
        """,
    "a sync stream kept to the end of the program": """
        stream = SyncFoundryAPIClient(URL).stream_complete("hi")
        print(next(stream).content)
        """,
    "a sync stream in a circle": """
        stream = SyncFoundryAPIClient(URL).stream_complete("hi")
        stream.itself = stream
        print(next(stream).content)
        """,
}


@pytest.mark.parametrize(
    ("script", "strict"),
    [
        pytest.param(script, strict, id=f"{name}{', strict' if strict else ''}")
        for name, script in FORGOTTEN.items()
        for strict in (False, True)
        if not (strict and "outlives" in name)  # through a loop that has ended no socket can be closed
    ],
)
def test_what_nobody_closed_prints_nothing(script: str, strict: bool) -> None:
    head = (
        "import asyncio, gc, logging, os\nfrom foundry_lab import *\nURL = os.environ['FOUNDRY_ENDPOINT']\n"
    )
    # asyncio in debug mode complains when the machine is slow, which isn't what is asked here
    head += "logging.getLogger('asyncio').addFilter(lambda entry: not entry.msg.startswith('Executing'))\n"
    options = ("-X", "dev", "-W", "error::ResourceWarning") if strict else ()
    with StubService() as stub:
        prints(head + textwrap.dedent(script), "hello\n", *options, FOUNDRY_ENDPOINT=stub.url)


@both_clients
def test_a_closed_client_can_be_used_again(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for _ in range(3):
            assert client.complete("hi").content == "hello"
            client.close()
        client.close()


async def test_both_work_as_context_managers() -> None:
    with StubService() as stub:
        async with FoundryAPIClient(stub.url) as client:
            assert (await client.complete("hi")).content == "hello"
        with SyncFoundryAPIClient(stub.url) as sync:
            assert sync.complete("hi").content == "hello"


def test_the_sync_client_is_safe_in_threads() -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.complete("hi").content)) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["hello"] * 16


async def test_many_calls_at_once_share_one_look_for_the_service() -> None:
    with StubService() as stub:
        async with FoundryAPIClient(stub.url) as client:
            answers = await asyncio.gather(*(client.complete("hi") for _ in range(50)))
        assert {answer.content for answer in answers} == {"hello"}
        assert len({answer.request_id for answer in answers}) == 50


def test_the_module_has_one_liners(monkeypatch: pytest.MonkeyPatch) -> None:
    from foundry_lab import sync_client as oneliners

    with StubService() as stub:
        monkeypatch.setenv("FOUNDRY_ENDPOINT", stub.url)
        oneliners._client.cache_clear()
        try:
            assert foundry_lab.complete("hi").content == "hello"
            assert "".join(chunk.content for chunk in foundry_lab.stream("hi")) == "hello"
        finally:
            oneliners._client(Settings()).close()
            oneliners._client.cache_clear()


def test_the_one_liners_ask_whom_the_environment_names_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first use, another FOUNDRY_ENDPOINT was passed over without a word."""
    with StubService() as first, StubService() as second:
        for stub, said in ((first, "one"), (second, "two")):
            stub.on("POST", CHAT, chat(said))
            monkeypatch.setenv("FOUNDRY_ENDPOINT", stub.url)
            assert foundry_lab.complete("hi").content == said
            assert foundry_lab.complete("hi").content == said
        assert (first.count("POST", CHAT), second.count("POST", CHAT)) == (2, 2)
        monkeypatch.setenv("FOUNDRY_TIMEOUT", "soon")
        with pytest.raises(errors.ConfigurationError, match="FOUNDRY_TIMEOUT"):
            foundry_lab.stream("hi")


# --- secrets ----------------------------------------------------------------------------------------------

KEY, HEADER = "key-that-nobody-may-see", "header-that-nobody-may-see"


@both_clients
def test_key_and_headers_go_out_with_every_request(kind: str) -> None:
    with StubService() as stub:
        with Client(kind, stub.url, api_key=KEY, headers={"X-Team": HEADER}) as client:
            client.complete("hi")
            client.stream_text()
            client.health_check()
        assert stub.seen
        for seen in stub.seen:
            assert seen.headers["authorization"] == f"Bearer {KEY}" and seen.headers["x-team"] == HEADER
            assert seen.headers["x-request-id"]


@both_clients
def test_key_and_headers_never_show(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def look(thing: Any) -> None:
        shown.extend((repr(thing), str(thing)))

    with (
        StubService() as stub,
        Client(kind, stub.url, retries=0, api_key=KEY, headers={"X": HEADER}) as client,
    ):
        for answer in (error(401, "wrong key"), error(500, "boom", "server_error"), reply(200, b"<html>")):
            stub.on("POST", CHAT, answer)
            for how in ("complete", "stream"):
                with pytest.raises(errors.FoundryError) as caught:
                    client.ask(how)
                look(caught.value)
        stub.on("POST", CHAT, stream(delta("a"), then="reset"))
        answer = client.open()
        with pytest.raises(errors.StreamInterruptedError) as broken:
            client.read(answer)
        for thing in (broken.value, answer, client.raw, client.raw.settings, client.raw.caller.target):
            look(thing)
        look(client.health_check())
    text = "\n".join([*shown, caplog.text])
    assert KEY not in text and HEADER not in text


@pytest.mark.parametrize("header", [{"X": "a\r\nY: b"}, {"X\n": "a"}, {"X": "\0"}, {"X": "\u20ac"}, {"X": 5}])
def test_headers_that_cannot_be_sent_are_refused_without_their_value(header: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match="header"):
        FoundryAPIClient("http://127.0.0.1:1", headers=header)
    with pytest.raises(errors.ConfigurationError) as caught:
        FoundryAPIClient("http://127.0.0.1:1", api_key="two\nlines")
    assert "lines" not in str(caught.value).replace("one line", "")


# --- environment ------------------------------------------------------------------------------------------


def test_a_proxy_in_the_environment_changes_nothing() -> None:
    nowhere = "http://127.0.0.1:9"
    code = """
        import asyncio, os
        from foundry_lab import *
        print(SyncFoundryAPIClient().complete("hi").content)
        async def main():
            async with FoundryAPIClient() as client:
                print((await client.complete("hi")).content)
        asyncio.run(main())
        """
    with StubService() as stub:
        variables = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), nowhere)
        prints(code, "hello\nhello\n", FOUNDRY_ENDPOINT=stub.url, NO_PROXY="", no_proxy="", **variables)


@pytest.mark.parametrize(
    ("use", "absent"),
    [
        ("import foundry_lab", "aiohttp requests pydantic numpy"),
        ("from foundry_lab import FoundryAPIClient", "requests pydantic numpy tqdm"),
        ("from foundry_lab import SyncFoundryAPIClient", "requests pydantic numpy tqdm"),
    ],
)
def test_importing_is_light(use: str, absent: str) -> None:
    heavy = f"{absent} matplotlib ipywidgets onnx foundry_local_sdk openai jsonschema click nbconvert"
    code = f"import sys\n{use}\nprint(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    prints(code, "[]\n")


def test_every_public_name_is_there() -> None:
    for name in foundry_lab.__all__:
        assert getattr(foundry_lab, name).__name__ == name


def test_every_error_is_a_public_name() -> None:
    from foundry_lab.batch import items, output, report

    for module in (errors, items, output, report):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, errors.FoundryError):
                assert getattr(foundry_lab, name) is kind and name in foundry_lab.__all__


def test_a_dropped_client_is_freed() -> None:
    with StubService() as stub:
        client = SyncFoundryAPIClient(stub.url)
        client.complete("hi")
        del client
        gc.collect()
        left = [each for each in gc.get_objects() if type(each) is SyncFoundryAPIClient]
        assert not [each for each in left if each.endpoint == stub.url]
