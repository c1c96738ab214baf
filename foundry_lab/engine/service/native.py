"""Loading the native libraries of the SDK, and what to do where the system lacks what they need."""

import importlib
import re
import sys

from foundry_lab.errors import EngineError

MODULE = "foundry_local_sdk._native"
"""Loads them when it is imported; the SDK itself puts that off until its manager is made."""
_MISSING = re.compile(r"\b(lib[\w.+-]+?)\.so([\w.]*): cannot open shared object file")
_FROM_PIP = ("libfoundry_local", "libonnxruntime")


def load_runtime() -> None:
    """Load them.

    Raises:
        EngineError: that isn't possible here; the message says what to install.
    """
    try:
        importlib.import_module(MODULE)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"The Foundry Local runtime can't be loaded: {error}. {remedy(str(error))}"
        ) from error


def remedy(problem: str) -> str:
    """Return what to do, given what the loader said."""
    for name, version in _MISSING.findall(problem):
        if name == "libatomic":  # the one that slim images of Debian leave out
            return "Install it: sudo apt-get install libatomic1, or on Fedora sudo dnf install libatomic"
        if not name.startswith(_FROM_PIP):
            return f"Install the system's package that has {name}.so{version}"
    advice = "Install it anew: python -m pip install --force-reinstall foundry-local-sdk"
    if sys.platform == "win32":
        advice += " ; if that doesn't help, install the Microsoft Visual C++ Redistributable"
    return advice
