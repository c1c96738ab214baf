"""Where results go: named files, nameless ones, and what can't be an output."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from batch_tools import asked, by_prompt, ids, names_in, rows, until
from other_user import as_nobody, needs_root, public_folder
from stub_server import CHAT, StubService, chat

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.batch.index import BatchOutputError, Index
from foundry_lab.batch.items import BatchInputError
from foundry_lab.batch.output import BatchOutput
from foundry_lab.batch.report import BatchStoppedError
from foundry_lab.errors import ConfigurationError


@pytest.mark.skipif(
    os.name != "posix", reason="Windows removes the file when it is closed, or the process ends"
)
async def test_without_an_output_no_file_is_left_even_if_the_kernel_is_killed(
    client: FoundryAPIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = await client.complete_batch(["one", "two"], ordered=True)
    assert names_in(tmp_path) == []  # while the results are still there
    assert len(list(report.results())) == 2


async def test_results_without_an_output_are_read_whole_and_in_order_on_request(
    client: FoundryAPIClient, stub: StubService
) -> None:
    stub.on("POST", CHAT, by_prompt)
    prompts = [f"{'slow' if n % 4 == 0 else 'quick'} {n}" for n in range(12)]
    finished = await client.complete_batch(prompts)
    ordered = await client.complete_batch(prompts, ordered=True)
    names = [f"item-{number:06}" for number in range(1, 13)]
    assert [result.custom_id for result in ordered.results()] == names
    assert sorted(result.custom_id for result in finished.results()) == sorted(names)
    both = zip(ordered.results(), ordered.results(), strict=True)  # two readers at once
    assert all(one == other for one, other in both)


async def test_without_an_output_and_without_room_it_says_so(
    client: FoundryAPIClient, stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(BatchOutputError, match=r"No space left on device.*output="):
        await client.complete_batch(["one"])
    assert stub.count("POST", CHAT) == 0


async def test_the_output_is_in_the_order_of_the_input_on_request(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, by_prompt)
    prompts = [f"{'slow' if n % 4 == 0 else 'quick'} {n}" for n in range(12)]
    for ordered, name in ((False, "a.jsonl"), (True, "b.jsonl")):
        await client.complete_batch(prompts, output=tmp_path / name, ordered=ordered, concurrency=4)
    assert ids(tmp_path / "a.jsonl") != sorted(ids(tmp_path / "a.jsonl"))
    assert ids(tmp_path / "b.jsonl") == sorted(ids(tmp_path / "a.jsonl"))


async def test_the_output_of_something_else_is_refused_and_left_alone(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    for content in ("my precious notes\n", "my precious notes", '{"id": 1}\n', '["a"]\n{"b": 2}\n', "x\0y"):
        output.write_text(content)
        with pytest.raises(BatchOutputError, match=r"Line 1 of .* is no result of a batch"):
            await client.complete_batch(["a"], output=output)
        assert output.read_text() == content
    assert stub.seen == []


async def test_outputs_that_cannot_be_written_are_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    items = tmp_path / "items.txt"
    items.write_text("a\n")
    with pytest.raises(BatchOutputError, match="doesn't exist"):
        await client.complete_batch(["a"], output=tmp_path / "missing" / "out.jsonl")
    for folder in (tmp_path, "", "/"):
        with pytest.raises(BatchOutputError, match="can't be used: it is a folder"):
            await client.complete_batch(["a"], output=folder)
    with pytest.raises(BatchInputError, match="is the input"):
        await client.complete_batch(items, output=items)
    assert items.read_text() == "a\n"
    assert stub.seen == []


@pytest.mark.skipif(os.name != "posix", reason="no such files on Windows")
async def test_an_output_that_is_no_file_is_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    """Reading what is in it already would never end, and nothing would be kept."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", "/dev/zero", tmp_path / "pipe"):
        with pytest.raises(BatchOutputError, match="a device or a pipe"):
            await client.complete_batch(["a"], output=path)
    assert stub.seen == []


async def test_two_batches_cannot_share_an_output(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.3))
    first = asyncio.create_task(client.complete_batch(["a"], output=tmp_path / "out.jsonl"))
    await until(lambda: asked(stub))
    with pytest.raises(BatchOutputError, match="Another batch is writing"):
        await client.complete_batch(["a"], output=tmp_path / "out.jsonl")
    assert (await first).done == 1


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
async def test_a_link_to_an_output_is_that_output(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat(delay_s=0.3), chat())
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    first = asyncio.create_task(client.complete_batch(["a"], output=tmp_path / "real.jsonl"))
    await until(lambda: asked(stub))
    with pytest.raises(BatchOutputError, match=r"Another batch is writing to .*link\.jsonl"):
        await client.complete_batch(["a"], output=tmp_path / "link.jsonl")
    await first
    report = await client.complete_batch(["a", "b"], output=tmp_path / "link.jsonl", ordered=True)
    assert (report.skipped, report.done) == (1, 1)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(ids(tmp_path / "real.jsonl")) == 2


async def test_answers_without_an_output_are_put_in_order_without_more_room(
    client: FoundryAPIClient, stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = tempfile.TemporaryFile

    def nearly_full(**options: Any) -> Any:
        if made:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(make(**options))
        return made[0]

    stub.on("POST", CHAT, by_prompt)
    monkeypatch.setattr("tempfile.TemporaryFile", nearly_full)
    report = await client.complete_batch(["slow", "quick"], ordered=True, concurrency=2)
    assert [result.content for result in report.results()] == ["re: slow", "re: quick"]


async def test_results_that_cannot_be_put_in_order_are_no_lost_report(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part").mkdir()
    with pytest.raises(BatchStoppedError, match="couldn't be put in order") as caught:
        await client.complete_batch(["a", "b"], output=output, ordered=True)
    assert caught.value.report.done == len(list(caught.value.report.results())) == 2


async def test_an_output_that_is_open_elsewhere_is_not_a_full_disk(
    client: FoundryAPIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that is open in a viewer can't be replaced."""

    def in_use(*_: object) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr("foundry_lab.batch.output.WINDOWS", True)
    monkeypatch.setattr(Path, "replace", in_use)
    with pytest.raises(BatchStoppedError, match="Close the program that has it open"):
        await client.complete_batch(["a", "b"], output=tmp_path / "out.jsonl", ordered=True)
    assert names_in(tmp_path) == ["out.jsonl"]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of ours to which somebody has links lead; it must stay as it is."""
    (tmp_path / "home").mkdir()
    file = tmp_path / "home" / "precious"
    file.write_text("precious")
    yield file
    assert file.read_text() == "precious"
    assert names_in(tmp_path / "home") == ["precious"]


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", ["out.jsonl.part", "out.jsonl.bak", ".out.jsonl.lock"])
async def test_a_link_planted_at_a_name_beside_the_output_is_not_followed(
    client: FoundryAPIClient, victim: Path, tmp_path: Path, name: str, dangling: bool
) -> None:
    """Whoever may write to the folder can guess these names."""
    output = tmp_path / "out.jsonl"
    await client.complete_batch([{"prompt": "a", "custom_id": "x"}], output=output)
    (tmp_path / name).symlink_to(victim.with_name("new") if dangling else victim)
    changed = [{"prompt": "b", "custom_id": "x"}]  # so that its old line goes into the backup
    with contextlib.suppress(BatchOutputError, BatchStoppedError):
        report = await client.complete_batch(changed, output=output)
        assert report.done == 1
    assert [row["error"] for row in rows(output)] == [None] * len(rows(output))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="makes a link of another user's")
async def test_an_output_that_another_user_made_a_link_is_refused(
    client: FoundryAPIClient, stub: StubService, victim: Path, tmp_path: Path
) -> None:
    for target in (victim, victim.with_name("new")):
        link = tmp_path / "out.jsonl"
        link.symlink_to(target)
        os.lchown(link, 65534, 65534)
        with pytest.raises(BatchOutputError, match="another user put a link there"):
            await client.complete_batch(["a"], output=link)
        link.unlink()
    assert stub.seen == []


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, "a\0b", "half \ud800"])
async def test_names_that_the_system_cannot_take_are_refused(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, name: str
) -> None:
    """The lock and the part beside the output have longer names."""
    with pytest.raises((BatchOutputError, ConfigurationError)) as caught:
        await client.complete_batch(["a"], output=f"{tmp_path}/{name}")
    assert "another name" in str(caught.value) or "Choose a" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"can't be (read|a file)"):
        await client.complete_batch(Path(f"{tmp_path}/{name}.txt"))
    assert stub.seen == []
    assert names_in(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such rights")
async def test_who_may_read_the_results_stays_the_owners_choice(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await client.complete_batch(["a", "b"], output=output)
    output.chmod(0o600)
    report = await client.complete_batch([{"custom_id": "item-000001", "prompt": "A"}, "b"], output=output)
    assert report.replaced == 1
    for path in (output, tmp_path / "out.jsonl.bak"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@needs_root
def test_an_output_out_of_reach_is_one_sentence(stub: StubService, tmp_path: Path) -> None:
    client = SyncFoundryAPIClient(stub.url)
    client.complete_batch(["imports what it needs, as another user may not"])
    source = tmp_path / "in.txt"
    source.write_text("a", encoding="utf-8")
    said = as_nobody(lambda: client.complete_batch(source, output=tmp_path / "out.jsonl"))
    assert said == "BatchInputError"
    with public_folder() as folder:
        source = source.rename(folder / "in.txt")
        said = as_nobody(lambda: client.complete_batch(source, output=tmp_path / "out.jsonl"))
    assert said == "BatchOutputError"


def test_threads_that_read_at_once_get_every_line() -> None:
    """On Python 3.13 a step of one's query while another began the same one gave no row, or another's."""
    output = BatchOutput(None, Index())
    for number in range(50):
        output.write(f"item-{number:06d}", "f", False, b'{"id":"%04d"}\n' % number)
    lines = list(output.read())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: [list(output.read()) for _ in range(100)], range(8)))
    finally:
        sys.setswitchinterval(before)
    assert all(each == lines for reader in found for each in reader)
