"""Looking at other processes."""

from __future__ import annotations

import psutil


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie, which some containers never bury."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
