"""Batches that are killed, or whose disk gives up: what was written stays, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from batch_tools import rows
from hypothesis import given
from hypothesis import strategies as st
from stub_server import CHAT, StubService, chat

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.batch.index import BatchOutputError, Index
from foundry_lab.batch.output import SYNC_AGE_S, BatchOutput
from foundry_lab.batch.report import BatchStoppedError

ITEMS = 2000
KILLS = 20
CONCURRENCY = 4


def write_items(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            body = {"messages": [{"role": "user", "content": f"prompt-{number}"}], "max_tokens": 8}
            line = {"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line) + "\n")


def command(stub: StubService, source: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "foundry_lab", "batch", str(source), "-o", str(output)),
        *("--endpoint", stub.url, "-c", str(CONCURRENCY), *more),
    ]


def whole_lines(output: Path) -> list[dict[str, Any]]:
    """The lines that are there; a half-written last one doesn't count."""
    data = output.read_bytes() if output.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def asked(stub: StubService) -> Counter[str]:
    return Counter(
        "id-" + seen.json["messages"][0]["content"].removeprefix("prompt-")
        for seen in list(stub.seen)
        if seen.path == CHAT
    )


def test_killed_at_twenty_random_moments_nothing_is_lost_or_done_twice(
    stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.003))
    source, output = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    write_items(source, ITEMS)
    chance = random.Random(4)
    in_flight = 0
    for _ in range(KILLS):
        before = asked(stub)
        process = subprocess.Popen(command(stub, source, output), stderr=subprocess.DEVNULL)
        goal = len(stub.seen) + chance.randint(1, ITEMS // KILLS)
        while len(stub.seen) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.01)
        process.kill()
        assert process.wait() == (-signal.SIGKILL if os.name == "posix" else 1), (
            "it ended before it was killed"
        )
        stub.wait_until_left()
        done = {line["custom_id"] for line in whole_lines(output)}
        again = asked(stub) - before
        in_flight += len(set(again) - done)
        assert len(set(again) - done) <= CONCURRENCY

    assert len(whole_lines(output)) < ITEMS
    subprocess.run(command(stub, source, output), check=True, stdout=subprocess.DEVNULL)
    lines = whole_lines(output)
    assert output.read_bytes().endswith(b"\n")
    assert Counter(line["custom_id"] for line in lines) == Counter(f"id-{n}" for n in range(ITEMS))
    assert all(line["error"] is None for line in lines)
    total = asked(stub)
    assert sum(total.values()) == ITEMS + in_flight  # asked again: those in flight at a kill, and no others
    assert len(total) == ITEMS


@pytest.mark.skipif(os.name != "posix", reason="sends signals to one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_and_its_kind_save_and_print_how_to_go_on(
    stub: StubService, tmp_path: Path, name: str
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.05))
    source, output = tmp_path / "items.jsonl", tmp_path / "my out.jsonl"
    write_items(source, 300)
    process = subprocess.Popen(command(stub, source, output), stderr=subprocess.PIPE, text=True)
    while not asked(stub).total() > 20:
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"To go on: foundry-lab batch {source} -o '{output}' --endpoint {stub.url}" in words
    assert "Traceback" not in words
    saved = len(whole_lines(output))
    assert 0 < saved < 300
    assert sorted(tmp_path.iterdir()) == [source, output]
    done = subprocess.run(command(stub, source, output), check=True, capture_output=True, text=True)
    assert f"{300 - saved} answered, 0 failed, {saved} done before" in done.stdout
    assert len({line["custom_id"] for line in whole_lines(output)}) == len(whole_lines(output)) == 300


@pytest.mark.skipif(os.name != "posix", reason="closes a terminal")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_the_batch_tidily_and_under_nohup_not_at_all(
    stub: StubService, tmp_path: Path, nohup: bool
) -> None:
    """Nothing can be written to it any more, neither the bar nor how to go on."""
    import fcntl
    import pty
    import termios

    stub.on("POST", CHAT, chat(delay_s=0.02))
    source, output = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    write_items(source, 200)
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen(
        command(stub, source, output),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    while not asked(stub).total() > 20:
        time.sleep(0.01)
    os.close(ours)
    code = process.wait(timeout=60)
    assert sorted(tmp_path.iterdir()) == [source, output]
    if nohup:
        assert len(whole_lines(output)) == 200
    else:
        assert code == 130
        assert 0 < len(whole_lines(output)) < 200


NO_ROOM_FOR_A_COPY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["foundry-lab", *sys.argv[2:]]
from foundry_lab.workbook.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files by setrlimit")
def test_no_room_for_putting_the_results_in_order_is_one_sentence(stub: StubService, tmp_path: Path) -> None:
    """A reader of the index that was still open complained after that, in a traceback."""
    source, output = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    write_items(source, 100)
    first = command(stub, source, output, "--no-progress")
    subprocess.run(first, check=True, stdout=subprocess.DEVNULL)
    room = str(output.stat().st_size // 2)
    words = [*first[first.index("batch") :], "--ordered"]
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM_FOR_A_COPY, room, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Every result is in")
    assert done.stderr.count("\n") == 1, done.stderr
    assert len(whole_lines(output)) == 100
    assert sorted(tmp_path.iterdir()) == [source, output]


LIMITED = """
import asyncio, resource, signal, sys
from foundry_lab import SyncFoundryAPIClient
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
SyncFoundryAPIClient(sys.argv[1]).complete_batch([str(n) for n in range(200)], output=sys.argv[2])
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files by setrlimit")
def test_a_file_that_cannot_grow_stops_the_batch_and_stays_valid(stub: StubService, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, stub.url, str(output)], capture_output=True, text=True, check=False
    )
    assert "BatchStoppedError" in done.stderr
    assert "there is no room on the disk" in done.stderr
    assert "run the same batch again to go on" in done.stderr
    lines = whole_lines(output)
    assert 20 < len(lines) < 200
    assert output.read_bytes().endswith(b"\n")
    report = SyncFoundryAPIClient(stub.url).complete_batch([str(n) for n in range(200)], output=output)
    assert (report.skipped, report.done) == (len(lines), 200 - len(lines))
    assert len({line["custom_id"] for line in whole_lines(output)}) == 200


class FailingFile(io.FileIO):
    """A file that takes half of a line after some lines, and then fails, as a full disk does."""

    fail_after = 3
    code = errno.ENOSPC

    def write(self, data: Any) -> int:
        if self.fail_after == 0:
            raise OSError(self.code, os.strerror(self.code))
        self.fail_after -= 1
        return super().write(data[: len(data) // 2] if self.fail_after == 0 else data)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no room on the disk.*Make room"),
        (errno.EACCES, "isn't allowed any more.*Allow it again"),
        (errno.EROFS, "isn't allowed any more"),
        (errno.EIO, "the disk says"),
    ],
)
async def test_a_disk_that_fails_in_mid_line_leaves_whole_lines(
    stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    output = tmp_path / "out.jsonl"
    output.touch()
    monkeypatch.setattr(FailingFile, "code", code)
    monkeypatch.setattr("foundry_lab.batch.output.FileIO", lambda path, *_, **__: FailingFile(path, "r+b"))
    async with FoundryAPIClient(stub.url) as client:
        with pytest.raises(BatchStoppedError, match=f"(?s){words}") as caught:
            await client.complete_batch([str(n) for n in range(20)], output=output)
    assert caught.value.report.done == 2
    assert len(whole_lines(output)) == 2
    assert output.read_bytes().endswith(b"\n")


def test_after_a_line_that_did_not_fit_no_smaller_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request in flight comes back with less: at the old position it would leave a hole of zeros."""

    class FullOnce(FailingFile):
        def write(self, data: Any) -> int:
            self.fail_after, left = self.fail_after - 1, self.fail_after
            if left == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return io.FileIO.write(self, data[: len(data) // 2] if left == 2 else data)

    path = tmp_path / "out.jsonl"
    path.touch()
    monkeypatch.setattr("foundry_lab.batch.output.FileIO", lambda path, *_, **__: FullOnce(path, "r+b"))
    output = BatchOutput(path, Index())
    output.write("x", "ab", True, LINES[0])
    for _ in range(2):
        with pytest.raises(BatchOutputError, match="1 results of this run before that are in it"):
            output.write("y", "cd", False, LINES[1])
    output.close()
    assert path.read_bytes() == LINES[0]


async def test_a_disk_that_fails_to_sync_stops_the_batch(
    stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(number: int) -> None:
        raise OSError(errno.EIO, "the cable came out")

    stub.on("POST", CHAT, chat(delay_s=0.02))
    monkeypatch.setattr("foundry_lab.batch.output._sync_folder", lambda path: None)
    monkeypatch.setattr("os.fsync", fsync)
    async with FoundryAPIClient(stub.url) as client:
        with pytest.raises(BatchStoppedError, match="the cable came out"):
            await client.complete_batch([str(n) for n in range(500)], output=tmp_path / "out.jsonl")
    assert 0 < len(whole_lines(tmp_path / "out.jsonl")) < 200


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps others from changing an open file")
@pytest.mark.parametrize("change", ["removed", "replaced", "emptied", "added to"])
async def test_an_output_that_somebody_else_changes_stops_the_batch(
    stub: StubService, tmp_path: Path, change: str
) -> None:
    """What would be written goes nowhere, or behind a hole of zeros: no result may count then."""
    output = tmp_path / "out.jsonl"
    stub.on("POST", CHAT, chat(delay_s=0.02))
    prompts = [str(n) for n in range(500)]
    async with FoundryAPIClient(stub.url) as client:
        batch = asyncio.create_task(client.complete_batch(prompts, output=output, progress=False))
        while not (output.exists() and output.stat().st_size > 1000):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if change == "removed":
            output.unlink()
        elif change == "replaced":
            shutil.copy(output, tmp_path / "copy")
            (tmp_path / "copy").replace(output)
        elif change == "emptied":
            os.truncate(output, 0)
        else:
            with output.open("ab") as file:
                file.write(LINES[0])
        with pytest.raises(BatchStoppedError, match="removed, replaced or changed"):
            await batch
        if change != "removed":
            assert b"\0" not in output.read_bytes()
        assert (await client.complete_batch(prompts[:30], output=output, progress=False)).failed == 0
    assert {f"item-{n:06d}" for n in range(1, 31)} <= {line["custom_id"] for line in whole_lines(output)}


async def test_lines_count_when_they_are_on_disk_and_in_groups(
    stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    syncs: list[int] = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda number: (syncs.append(number), real(number))[1])
    monkeypatch.setattr("foundry_lab.batch.run.Run._show_durable", lambda self, lines: counted.append(lines))
    stub.on("POST", CHAT, chat(delay_s=0.01))
    async with FoundryAPIClient(stub.url) as client:
        report = await client.complete_batch([str(n) for n in range(100)], output=tmp_path / "out.jsonl")
    groups = report.wall_s / SYNC_AGE_S + 3
    assert counted == sorted(counted)
    assert counted[-1] == 100
    assert 2 <= len(counted) <= groups
    assert len(counted) <= len(syncs) <= groups + 3


LINES = [
    b'{"id":"batch_req_ab","custom_id":"x","response":null,"error":{"code":"c","message":"m"}}\n',
    '{"id":"batch_req_cd","custom_id":"ü","response":null,"error":null}\n'.encode(),
]


@given(st.integers(0, len(LINES[0] + LINES[1])))
def test_any_cut_of_the_output_is_mended(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "out.jsonl"
    path.write_bytes((LINES[0] + LINES[1])[:length])
    index = Index()
    output = BatchOutput(path, index)
    whole = (length >= len(LINES[0])) + (length >= len(LINES[0] + LINES[1]))
    assert output.found == whole
    assert path.read_bytes() == b"".join(LINES[:whole])
    assert index.line_of("x") == (("ab", True) if whole else None)
    output.write("y", "ef", False, LINES[1])
    output.close()
    assert path.read_bytes() == b"".join([*LINES[:whole], LINES[1]])


@pytest.mark.parametrize("kind", [list, iter])
async def test_no_room_for_notes_of_what_is_where_is_one_sentence(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    class Small(Index):
        def __init__(self) -> None:
            super().__init__()
            self._db.execute("PRAGMA max_page_count = 12")  # as if the folder of temporary files were full

    monkeypatch.setattr("foundry_lab.batch.plan.Index", Small)
    items, output = [{"prompt": "a", "custom_id": f"{n:0400}"} for n in range(200)], tmp_path / "out.jsonl"
    error = BatchOutputError if kind is list else BatchStoppedError
    with pytest.raises(error, match=r"full\)\. Make room for temporary files, then run"):
        await client.complete_batch(kind(items), output=output)
    done = len(rows(output)) if output.exists() else 0
    assert (done > 0) is (stub.count("POST", CHAT) > 0) is (kind is iter)
    monkeypatch.undo()
    report = await client.complete_batch(kind(items), output=output)
    assert (report.skipped, report.done) == (done, 200 - done)
