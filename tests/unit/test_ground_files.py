"""What operating systems do differently with files, acted out where this one doesn't do it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from foundry_lab._ground import files as files
from foundry_lab.errors import ConfigurationError


class Busy:
    """A rename that is refused a few times, as on Windows while a virus scanner reads the file."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals

    def rename(self, target: str, *, loudly: bool) -> str:
        if self.left:
            self.left -= 1
            raise PermissionError(errno.EACCES, "in use")
        return f"{target} {loudly}"


def test_windows_is_asked_until_it_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(files, "PATIENCE_S", 30.0)
    assert files.patiently(Busy(3).rename, "new", loudly=True) == "new True"


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(files, "PATIENCE_S", 0.1)
    began = time.monotonic()
    with pytest.raises(PermissionError, match="in use"):
        files.patiently(Busy(1_000_000).rename, "new", loudly=True)
    assert time.monotonic() - began >= 0.1


def test_elsewhere_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WINDOWS", False)
    busy = Busy(3)
    with pytest.raises(PermissionError):
        files.patiently(busy.rename, "new", loudly=True)
    assert busy.left == 2


def test_another_error_is_final_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "WINDOWS", True)
    with pytest.raises(FileNotFoundError):
        files.patiently((tmp_path / "missing").rename, tmp_path / "new")


def test_what_is_forced_to_disk_is_there(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"kept")
        files.force_to_disk(number := file.fileno())
    assert (tmp_path / "file").read_bytes() == b"kept"
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.force_to_disk(number)


# --- links that somebody planted, names that no file can have ---------------------------------------------

posix = pytest.mark.skipif(os.name == "nt", reason="Windows: making a link takes a right of its own")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that somebody wants us to write into."""
    file = tmp_path / "victim"
    file.write_bytes(b"precious")
    return file


@posix
@pytest.mark.parametrize("planted_at", ["new", "new.part"])
def test_a_planted_link_is_replaced_and_not_followed(victim: Path, planted_at: str, tmp_path: Path) -> None:
    (tmp_path / planted_at).symlink_to(victim)
    files.write_whole(tmp_path / "new", b"ours")
    assert (tmp_path / "new").read_bytes() == b"ours" and not (tmp_path / "new").is_symlink()
    assert victim.read_bytes() == b"precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new", "victim"]


@posix
def test_a_file_for_nobody_elses_eyes(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        files.write_whole(tmp_path / "new", b"ours", private=True)
    finally:
        os.umask(umask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(victim, b"ours")
    monkeypatch.undo()
    assert victim.read_bytes() == b"precious"
    assert list(victim.parent.iterdir()) == [victim]


def test_a_ctrl_c_while_a_file_is_written_leaves_the_old_one(victim: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.replacing(victim) as file:
        file.write(b"half of")
        raise KeyboardInterrupt
    assert victim.read_bytes() == b"precious"
    assert list(victim.parent.iterdir()) == [victim]


@posix
def test_a_link_is_not_opened(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(victim)
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_CREAT):
        with pytest.raises(OSError, match="link is a link, and isn't followed"):
            files.no_link(str(tmp_path / "link"), flags)
    with open(victim, "ab", opener=files.no_link) as file:
        file.write(b"!")
    assert victim.read_bytes() == b"precious!"


@posix
def test_ones_own_links_are_fine_and_another_users_are_not(victim: Path, tmp_path: Path) -> None:
    link, further = tmp_path / "link", tmp_path / "further"
    link.symlink_to("victim")
    further.symlink_to(link)
    for path in (victim, link, further, tmp_path / "missing", victim / "below a file"):
        files.check_links(path)
    if os.geteuid() == 0:
        os.lchown(link, 65534, 65534)
        for path in (link, further):
            with pytest.raises(PermissionError, match="another user put a link there"):
                files.check_links(path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="in a circle"):
        files.check_links(tmp_path / "circle")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a\0b", "NUL"),
        ("x" * 300, "longer than 255 bytes"),
        ("folder/" + "ä" * 130, "longer than 255 bytes"),
        ("~nobody-is-called-so/x", "nobody's home"),
        ("\ud800", "no text in UTF-8"),
        (5, "it is a int"),
    ],
)
def test_a_name_that_no_file_can_have(name: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^output=.*{why}.*Give another name"):
        files.as_path(name, "output")


@pytest.mark.parametrize("name", ["NUL", "con.jsonl", "a?b", "folder/com1.txt"])
def test_names_that_windows_keeps_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WINDOWS", True)
    with pytest.raises(ConfigurationError, match="Windows has no file"):
        files.as_path(name, "output")


@pytest.mark.parametrize("name", ["a.jsonl", "/tmp/ä", "nullen.txt", "contents", Path("a/b c")])
def test_names_that_files_can_have(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for windows in (False, True):
        monkeypatch.setattr(files, "WINDOWS", windows)
        assert files.as_path(name, "output") == Path(name)
    assert files.as_path("~/x", "output") == Path.home() / "x"
