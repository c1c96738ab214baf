"""What operating systems do differently with files, acted out where this one doesn't do it."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from foundry_lab._ground import files as files


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
