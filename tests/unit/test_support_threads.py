"""The tests' own look at threads: one that works is seen, one that waits in a pool isn't."""

from __future__ import annotations

import asyncio
import threading

from threads import left, working


async def test_a_thread_of_the_loops_pool_counts_while_it_works() -> None:
    before = working()
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(20)

    working_on = asyncio.ensure_future(asyncio.to_thread(work))
    while not begun.is_set():  # noqa: ASYNC110 - waiting in a thread would make one more that works for a while
        await asyncio.sleep(0.005)
    assert len(left(before, limit_s=0.1)) == 1
    end.set()
    await working_on
    assert left(before) == set()
    assert any(
        thread.name.startswith("asyncio_") for thread in threading.enumerate()
    )  # it is there, and waits


def test_a_thread_of_ones_own_counts_until_it_ends() -> None:
    before = working()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(20,), name="one's own")
    thread.start()
    assert left(before, limit_s=0.1) == {f"one's own {thread.ident}"}
    end.set()
    assert left(before) == set()
