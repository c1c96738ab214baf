"""Loading the native libraries of the SDK, and what to do where the system lacks what they need."""

from __future__ import annotations

import importlib
import re
import sys

from ..errors import EngineError

MODULE = "foundry_local_sdk._native"
"""Loads them when it is imported; the SDK itself puts that off until its manager is made."""
_MISSING = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
_PACKAGES = {  # what the libraries of foundry-local-sdk 2.2 need, by the names of Debian and of Fedora
    "libatomic": ("libatomic1", "libatomic"),
    "libstdc++": ("libstdc++6", "libstdc++"),
}


def load_runtime() -> None:
    """Load them.

    Raises:
        EngineError: that isn't possible here; the message says what to install.
    """
    try:
        importlib.import_module(MODULE)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"The Foundry Local runtime can't be loaded: {error}. {remedy(str(error))}."
        ) from error


def remedy(problem: str) -> str:
    """Return what to do, given what the loader said."""
    missing = _MISSING.search(problem)
    if missing:
        name = missing[1].partition(".so")[0]
        if name in _PACKAGES:
            debian, fedora = _PACKAGES[name]
            return f"Install it: sudo apt-get install {debian}, or on Fedora sudo dnf install {fedora}"
        return f"Install the system's package that has {missing[1]}"
    advice = "Install it anew: python -m pip install --force-reinstall foundry-local-sdk"
    if sys.platform == "win32":
        advice += "; if that doesn't help, install the Microsoft Visual C++ Redistributable"
    return advice
