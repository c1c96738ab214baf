"""Where the lab keeps what it prepares. Nothing here creates a directory."""

import os
from pathlib import Path

import platformdirs

from foundry_lab._ground.files import as_path
from foundry_lab.engine import spec

SHARED_VARIABLE = "FOUNDRY_LAB_MODELS"


def named_by(variable: str) -> Path | None:
    """The path that an environment variable names, or None. Raises ConfigurationError if it can't be one.

    A relative one is made absolute in the environment: after a change of folder, and in a notebook's kernel,
    which runs in the folder of the notebook, it would name another place, and so another service.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    path = as_path(value, variable)
    if not path.is_absolute():
        path = path.absolute()
        os.environ[variable] = str(path)
    return path


def home() -> Path:
    """Root of everything: FOUNDRY_LAB_HOME, or the platform's cache directory for this user."""
    return named_by("FOUNDRY_LAB_HOME") or platformdirs.user_cache_path("foundry-lab", appauthor=False)


def shared_models() -> Path | None:
    """FOUNDRY_LAB_MODELS: a folder of prepared models that somebody else looks after and the lab reads."""
    return named_by(SHARED_VARIABLE)


def model_cache() -> Path:
    """Where prepared models lie. A recipe keeps to its own folder; number 2 was there before the others."""
    return shared_models() or home() / ("models" if spec.RECIPE == 2 else f"models-{spec.RECIPE}")


def model_dir() -> Path:
    """Where the prepared model lies; Foundry Local looks for PUBLISHER/NAME-VERSION."""
    return model_cache() / spec.PUBLISHER / f"{spec.NAME}-{spec.VERSION}"


def downloads() -> Path:
    """What was fetched and not yet converted."""
    return home() / "downloads"


def run_dir() -> Path:
    """State, locks and log of the running service; closed to other users, who can't even hold its locks."""
    return home() / "run"
