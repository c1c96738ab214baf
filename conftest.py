"""What every test shares, notebooks included: a cache of its own, and none of the caller's settings.

The tests kill and restart services, so they never use the learner's own cache. Theirs is kept between runs,
because preparing the model means a download.

With `-n 3`, each of pytest-xdist's workers has a home below it, and so a service of its own: what one worker
kills or unloads, no other needs. The model has one thread there, as several would wait for each other.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import platformdirs
import pytest
from hurried import hurry
from jupyter_client.provisioning.local_provisioner import LocalPortCache
from nbval.plugin import IPyNbCell

from foundry_lab.engine import paths

pytest_plugins = ["fault_table"]

KEPT = {"FOUNDRY_LAB_HOME", "FOUNDRY_LAB_GGUF"}  # where the model comes from is the caller's business

UNIT = Path(__file__).parent / "tests" / "unit"
LAST_COMPUTING = 0.85
"""Where, from 0 to 1, the last file that computes begins; with short ones all workers end at one time."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or no test's child would hear of a Ctrl-C
    for name in [name for name in os.environ if name.startswith("FOUNDRY_") and name not in KEPT]:
        del os.environ[name]
    # These would keep the notebooks' plots from showing, and the tests of what is printed from passing.
    for name in ("MPLBACKEND", "TQDM_DISABLE", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    if "FOUNDRY_LAB_HOME" not in os.environ:
        home = platformdirs.user_cache_path("foundry-lab-tests", appauthor=False)
        _copy_prepared_model(paths.home(), home)
        os.environ["FOUNDRY_LAB_HOME"] = str(home)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        home = paths.home() / worker
        _copy_prepared_model(paths.home(), home)
        os.environ["FOUNDRY_LAB_HOME"] = str(home)
        os.environ["FOUNDRY_LAB_THREADS"] = "1"
    if sys.platform == "linux":
        LocalPortCache.find_available_port = _reserved_port


_RESERVED: list[socket.socket] = []


def _reserved_port(cache: LocalPortCache, ip: str) -> int:
    """Find a port for a kernel that the system gives to nobody else, such as a server of another worker.

    jupyter_client lets go of it at once, seconds before the kernel listens there. On Linux two sockets that
    allow it may have one port while neither listens.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((ip, 0))
    _RESERVED.append(reserved)
    return int(reserved.getsockname()[1])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Prepare the model once, before there are workers that would each do it."""
    from foundry_lab.engine import prepare_model

    prepare_model()


def _copy_prepared_model(source: Path, home: Path) -> None:
    """Spare a second download, and let the tests run offline where the workbook does."""
    if (source / "models").is_dir() and not (home / "models").exists():
        home.mkdir(parents=True, exist_ok=True)
        part = home / "models.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source / "models", part)
        part.rename(home / "models")


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, IPyNbCell):
        hurry(item.cell)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files of unit tests, which mostly wait, between those that compute, as workers share processors."""
    files = dict.fromkeys(item.path for item in items)
    waiting = [path for path in files if UNIT in path.parents]
    computing = [path for path in files if UNIT not in path.parents]
    places = {path: n / len(waiting) for n, path in enumerate(waiting)}
    places |= {path: LAST_COMPUTING * n / len(computing) for n, path in enumerate(computing)}
    items.sort(key=lambda item: places[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the service before a notebook does, so that its outputs don't show whether one ran already."""
    if isinstance(item, IPyNbCell) and item.cell_num == 0:
        from foundry_lab.engine import ensure_service

        ensure_service(progress=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the service that the notebooks and the integration tests shared."""
    if (paths.run_dir() / "state.json").exists():
        from foundry_lab.engine import stop_service

        stop_service()
