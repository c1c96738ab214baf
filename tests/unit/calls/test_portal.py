"""Async work in plain calls: results, errors, Ctrl-C in all places where people press it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from jupyter_client.manager import KernelManager
from stub_server import CHAT, StubService, chat, hang, stream, text_events

from foundry_lab.calls import portal

SET_UP = """
import sys
from foundry_lab import SyncFoundryAPIClient
client = SyncFoundryAPIClient({url!r}, retries=0, timeout=300, metrics=False)
ways = dict(
    call=lambda: client.complete("hi"),
    stream=lambda: list(client.stream_complete("hi")),
    batch=lambda: client.complete_batch(["a", "b"], concurrency=1, progress=False),
)
"""
TWICE_THEN_ASK = """
for _ in range(2):
    try:
        ways[sys.argv[1]]()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(client.complete("and now?").content, flush=True)
"""
IN_A_THREAD = """
import threading
thread = threading.Thread(target=ways[sys.argv[1]], daemon=True)
try:
    thread.start()
    thread.join()
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(client.complete("and now?").content, flush=True)
"""


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as service:
        yield service


def wait_until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, "it didn't happen in time"
        time.sleep(0.01)


# --- results and ends -------------------------------------------------------------------------------------


def test_it_brings_results_and_errors() -> None:
    async def fail() -> None:
        raise LookupError("as it is")

    assert portal.wait(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(LookupError, match="as it is"):
        portal.wait(fail())


def test_what_is_no_coroutine_is_refused_and_not_waited_for() -> None:
    with pytest.raises(TypeError, match="no coroutine"):
        portal.wait(42)  # type: ignore[arg-type]


def test_a_function_that_the_loop_calls_may_wait_itself() -> None:
    """A callback of the caller's, such as a progress function, knows nothing of loops."""

    async def outer() -> str:
        return portal.wait(asyncio.sleep(0, "inner"))

    assert portal.wait(outer()) == "inner"


LEAVES = """
def leave(*_):
    raise {error}("bad row")

def rows():
    yield "a"
    leave()

if sys.argv[1] == "call":
    ways["call"] = lambda: client.complete("hi", parser=leave)
else:
    ways["batch"] = lambda: client.complete_batch(rows(), progress=False)
try:
    ways[sys.argv[1]]()
except {error} as error:
    print(error, client.complete("and now?").content, flush=True)
"""


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("way", ["call", "batch"])
def test_a_function_that_the_loop_calls_may_leave_the_program(
    way: str, error: str, stub: StubService
) -> None:
    """Asyncio lets such an error out of the loop, which ended with its thread, and who waited waited on."""
    code = SET_UP.format(url=stub.url) + LEAVES.format(error=error)
    done = subprocess.run([sys.executable, "-c", code, way], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("bad row hello\n", "")


def test_closing_cancels_what_runs_and_the_next_use_starts_again() -> None:
    ended = threading.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    own = portal.Portal("test")
    work = own.start(wait_for_ever())
    own.wait(asyncio.sleep(0))  # it is under way
    own.close()
    assert ended.is_set()
    assert work.done
    with own:
        assert own.wait(asyncio.sleep(0, "again")) == "again"


# --- Ctrl-C -----------------------------------------------------------------------------------------------

posix_only = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to one process")


@posix_only
@pytest.mark.parametrize("way", ["call", "stream", "batch"])
@pytest.mark.parametrize("code", [TWICE_THEN_ASK, IN_A_THREAD], ids=["twice", "in a thread"])
def test_ctrl_c_ends_at_once_and_the_client_goes_on(stub: StubService, way: str, code: str) -> None:
    presses = 2 if code == TWICE_THEN_ASK else 1
    stub.on("POST", CHAT, *[hang] * presses, chat("the answer"))
    process = subprocess.Popen(
        [sys.executable, "-c", SET_UP.format(url=stub.url) + code, way], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for press in range(presses):
            wait_until(lambda asked=press + 1: stub.count("POST", CHAT) == asked)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "the answer\n"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@posix_only
def test_two_ctrl_c_within_one_call_leave_it_though_its_cleaning_up_hangs(stub: StubService) -> None:
    code = """
import asyncio, sys, threading
from foundry_lab.calls import portal

def waits():
    return sys._current_frames()[threading.main_thread().ident].f_code is portal.Work.wait.__code__

async def stubborn():
    while not waits():
        await asyncio.sleep(0.01)
    print("waiting", flush=True)
    try:
        await asyncio.sleep(3600)
    finally:
        print("cleaning up", flush=True)
        await asyncio.sleep(3600)

try:
    portal.wait(stubborn())
except KeyboardInterrupt:
    print("left", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for words in ("waiting", "cleaning up"):
            assert process.stdout.readline() == f"{words}\n"
            process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "left\n"
        assert process.wait(60) is not None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("way", ["call", "stream", "batch"])
def test_the_stop_button_of_a_notebook_ends_it_twice_in_a_row(stub: StubService, way: str) -> None:
    stub.on("POST", CHAT, hang, hang, chat("the answer"))
    kernel = KernelManager()
    kernel.start_kernel()
    talk = kernel.client()
    talk.start_channels()
    try:
        talk.wait_for_ready(60)
        talk.execute_interactive(SET_UP.format(url=stub.url), timeout=60, store_history=False)
        for press in range(2):
            # Else the kernel drops what comes within a moment of an error.
            asked = talk.execute(f"ways[{way!r}]()", stop_on_error=False)
            wait_until(lambda asked=press + 1: stub.count("POST", CHAT) == asked)
            kernel.interrupt_kernel()
            while (reply := talk.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
                pass
            assert reply["content"]["ename"] == "KeyboardInterrupt"
        words: list[str] = []
        talk.execute_interactive(
            "print(client.complete('and now?').content)",
            timeout=60,
            output_hook=lambda message: words.append(message["content"].get("text", "")),
        )
        assert "the answer\n" in words
    finally:
        talk.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_leaving_a_stream_tells_the_service(stub: StubService) -> None:
    """Breaking off must not leave the service writing for nobody."""
    from foundry_lab import SyncFoundryAPIClient

    stub.on("POST", CHAT, stream(*text_events("a long answer " * 40), pause_s=0.05))
    with SyncFoundryAPIClient(stub.url, metrics=False) as client:
        with client.stream_complete("hi") as answer:
            next(iter(answer))
        stub.wait_until_left()


@pytest.mark.parametrize("end", [SystemExit("enough"), KeyboardInterrupt()])
def test_a_function_that_ends_the_program_ends_its_caller_and_nobody_else(end: BaseException) -> None:
    """It ended the loop, and all who waited for it hung."""

    async def nested() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    async def leave() -> None:
        raise end

    async def stay() -> str:
        await asyncio.sleep(0.1)
        return "stayed"

    with portal.Portal("tests") as own:
        other = own.start(stay())
        for does in (leave, nested):
            work = own.start(does())
            assert work.wait(10)
            with pytest.raises(type(end)):
                work.result()
        assert other.result() == "stayed"
