"""Where the lab keeps what it prepares. Nothing here creates a directory."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from foundry_lab.engine import spec


def home() -> Path:
    """Root of everything: FOUNDRY_LAB_HOME, or the platform's cache directory for this user."""
    chosen = os.environ.get("FOUNDRY_LAB_HOME", "").strip()
    if chosen:
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_cache_path("foundry-lab", appauthor=False)


def model_cache() -> Path:
    """The directory given to Foundry Local as its model cache."""
    return home() / "models"


def model_dir() -> Path:
    """Where the prepared model lies; Foundry Local looks for PUBLISHER/NAME-VERSION."""
    return model_cache() / spec.PUBLISHER / f"{spec.NAME}-{spec.VERSION}"


def downloads() -> Path:
    """What was fetched and not yet converted."""
    return home() / "downloads"


def run_dir() -> Path:
    """State, lock and log of the running service."""
    return home() / "run"
