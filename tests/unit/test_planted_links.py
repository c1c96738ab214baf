"""Wherever the package writes a file: a link at that name leads into none of the user's other files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_stubs import StubEngine, write_notebook
from stub_server import CHAT, StubService

from foundry_lab import SyncFoundryAPIClient, workbook
from foundry_lab.batch.index import BatchOutputError
from foundry_lab.batch.report import BatchStoppedError
from foundry_lab.errors import ConfigurationError
from foundry_lab.policies.cache import ResponseCache
from foundry_lab.workbook import copies, runner

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows: making a link takes a right of its own")
another_user = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can act as one")
NOBODY = 65534


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_bytes(b"precious\n")
    return file


def plant(link: Path, target: Path, *, by_another: bool = False) -> None:
    link.symlink_to(target)
    if by_another:
        os.lchown(link, NOBODY, NOBODY)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that others may write to as well."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@another_user
@pytest.mark.parametrize("missing", [False, True])
def test_a_batch_refuses_an_output_that_is_another_users_link(out: Path, victim: Path, missing: bool) -> None:
    if missing:
        victim.unlink()
    plant(out / "results.jsonl", victim, by_another=True)
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        with pytest.raises(BatchOutputError, match="another user put a link there"):
            client.complete_batch(["a"], output=out / "results.jsonl", progress=False)
        assert not stub.count("POST", CHAT)
    assert victim.exists() != missing


def test_ones_own_link_to_an_output_is_followed(out: Path, tmp_path: Path) -> None:
    plant(out / "results.jsonl", tmp_path / "elsewhere.jsonl")
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        client.complete_batch(["a"], output=out / "results.jsonl", progress=False)
    assert (tmp_path / "elsewhere.jsonl").read_text().count("\n") == 1


def test_a_batch_puts_its_results_in_order_past_a_link(out: Path, victim: Path) -> None:
    plant(out / "results.jsonl.part", victim)
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        client.complete_batch(["a", "b"], output=out / "results.jsonl", ordered=True, progress=False)
    assert victim.read_bytes() == b"precious\n"
    assert (out / "results.jsonl").read_text().count("\n") == 2


def test_a_batch_adds_nothing_to_a_link_in_the_place_of_its_backup(out: Path, victim: Path) -> None:
    output = out / "results.jsonl"
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        client.complete_batch(["a", "b"], output=output, progress=False)
        plant(out / "results.jsonl.bak", victim)
        with pytest.raises(
            BatchStoppedError, match=r"jsonl\.bak is a link, and isn't followed.*Remove the link"
        ):
            client.complete_batch(["c", "b"], output=output, progress=False)
    assert victim.read_bytes() == b"precious\n"


@pytest.mark.parametrize("name", ["a\0b.jsonl", "x" * 300])
def test_names_that_no_file_can_have_are_refused_before_anything_is_asked(out: Path, name: str) -> None:
    with StubService() as stub, SyncFoundryAPIClient(stub.url) as client:
        with pytest.raises(ConfigurationError, match="can't be a file"):
            client.complete_batch(["a"], output=str(out / name), progress=False)
        with pytest.raises(ConfigurationError, match="can't be a file"):
            SyncFoundryAPIClient(stub.url, cache=str(out / name))
        assert not stub.seen


@another_user
def test_a_cache_refuses_another_users_link(out: Path, tmp_path: Path) -> None:
    plant(out / "cache.db", tmp_path / "new.db", by_another=True)
    with pytest.raises(ConfigurationError, match="another user put a link there"):
        ResponseCache(out / "cache.db")
    assert not (tmp_path / "new.db").exists()


def test_a_cache_is_for_its_owners_eyes(out: Path) -> None:
    """It holds what the model said."""
    umask = os.umask(0)
    try:
        ResponseCache(out / "cache.db").close()
    finally:
        os.umask(umask)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in out.iterdir())


def test_copies_of_notebooks_replace_a_link(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "folder", lambda: tmp_path / "notebooks")
    write_notebook(tmp_path / "notebooks" / "01_basic.ipynb", "# Basics")
    plant(out / "01_basic.ipynb", tmp_path / "missing")
    plant(out / "01_basic.ipynb.part", tmp_path / "missing too")
    assert copies.copy_to(out).copied == ["01_basic.ipynb"]
    assert not (out / "01_basic.ipynb").is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"notebooks", "out"}


def test_results_of_a_run_replace_a_link(
    engine: StubEngine, out: Path, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "folder", lambda: tmp_path / "notebooks")
    (tmp_path / "notebooks" / "data").mkdir(parents=True)
    (tmp_path / "notebooks" / "data" / "words.txt").write_text("one two")
    book = write_notebook(tmp_path / "notebooks" / "01_basic.ipynb", "# Basics")
    (out / "data").mkdir()
    names = ("01_basic.ipynb", "01_basic.html", "data/words.txt")
    for name in names:
        plant(out / name, victim)
    runner.run_notebook(book, out)
    assert victim.read_bytes() == b"precious\n"
    assert not any((out / name).is_symlink() for name in names)
