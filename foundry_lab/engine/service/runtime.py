"""The Foundry Local runtime out of its SDK: one manager, its web service, the model loaded."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_lab.engine import paths, spec
from foundry_lab.engine.model.genai import write_config
from foundry_lab.engine.private import check_model, own_folder, using_home
from foundry_lab.engine.service.native import load_runtime
from foundry_lab.errors import EngineError
from foundry_lab.protocol.failure import readable

if TYPE_CHECKING:
    from foundry_local_sdk import Catalog, FoundryLocalManager

PUBLIC_CATALOG = "https://api.catalog.azureml.ms/asset-gallery/v1.0/models"
"""Microsoft's catalog, the SDK's own default."""
HOST = "127.0.0.1"
UNPIN_S = 0.1


class Runtime:
    """The SDK's manager from start to close. Every call may block: use a thread.

    Attributes:
        catalog: the SDK's. Only after `start`, and so is `url`.
        url: base URL of the web service without a trailing slash.
    """

    catalog: Catalog
    url: str

    def __init__(self) -> None:
        self._manager: FoundryLocalManager | None = None

    def start(self, port: int, catalog_url: str, public_catalog: bool) -> None:
        """Start the web service and load the prepared model.

        Args:
            port: to listen at on 127.0.0.1; 0 takes a free one.
            catalog_url: of the loopback catalog.
            public_catalog: ask Microsoft's catalog as well, behind ours.

        Raises:
            EngineError: it doesn't come up.
        """
        _set_environment()
        if port:
            _check_free(port)
        load_runtime()
        from foundry_local_sdk import Configuration, FoundryLocalException, FoundryLocalManager, LogLevel

        # Asking Microsoft's catalog offline costs 4 s, and the order is a preference: ours comes first.
        catalogs = [catalog_url, PUBLIC_CATALOG] if public_catalog else [catalog_url]
        cache = fit_to_machine()
        configuration = Configuration(
            "foundry-lab",
            app_data_dir=str(paths.home() / "app"),
            model_cache_dir=str(cache),
            logs_dir=str(paths.home() / "logs"),
            log_level=LogLevel.WARNING,
            web=Configuration.WebService(urls=f"http://{HOST}:{port}"),
            catalog_urls=[(url, None) for url in catalogs],
            disable_nonessential_telemetry=True,
        )
        try:
            self._manager = FoundryLocalManager(configuration)
            self._manager.start_web_service()
            if sys.platform == "linux":
                threading.Thread(target=_unpin_threads, name="unpin-threads", daemon=True).start()
            assert self._manager.urls
            self.catalog, self.url = self._manager.catalog, self._manager.urls[0].rstrip("/")
            model = self.catalog.get_model_variant(spec.MODEL_ID)
            if model is None:
                raise EngineError(
                    f"foundry-local-sdk {metadata.version('foundry-local-sdk')} doesn't take the lab's "
                    f"catalog: {spec.MODEL_ID} isn't listed. Install the version the lab was made for: "
                    "pip install --upgrade --force-reinstall foundry-lab"
                )
            model.load()
        except FoundryLocalException as error:
            raise EngineError(
                f"Foundry Local didn't start: {plain(error)}. If the model is damaged, make it anew: "
                "foundry-lab model prepare --force"
            ) from error

    def shutdown_requested(self) -> bool:
        """Whether somebody posted to the web service's /shutdown."""
        return self._manager is not None and self._manager.is_shutdown_requested()

    def close(self, timeout: float) -> bool:
        """Stop the web service and let the model go. False if that took more than `timeout` seconds.

        After a POST to /shutdown it would take for ever: that handler (SDK 2.2.1) waits for itself.
        """
        if self._manager is None:
            return True
        if self.shutdown_requested():
            return False
        closing = threading.Thread(target=self._manager.close, name="close-runtime", daemon=True)
        closing.start()
        closing.join(timeout)
        return not closing.is_alive()


def plain(error: Exception) -> str:
    """Return the SDK's words without the C++ file, line and signature in front of them."""
    return readable(str(error)).rstrip(". ")


def _unpin_threads() -> None:
    """Let every thread run on the CPUs that the process has; for ever, as each connection brings a new one.

    Foundry Local pins the thread of a connection, in which a model computes, to all CPUs but the last of the
    machine (oatpp does, on Linux). On two CPUs all services would share the first: two of one thread each
    made 58 tokens/s together, and make 112 so. They would even leave the CPU that a hub gave to its user.
    """
    while True:
        time.sleep(UNPIN_S)
        everywhere = os.sched_getaffinity(os.getpid())
        for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
            with contextlib.suppress(OSError):  # it has ended, or a container doesn't allow this
                if os.sched_getaffinity(thread) != everywhere:
                    os.sched_setaffinity(thread, everywhere)


def _set_environment() -> None:
    """Set what the native libraries read from the environment, before they are loaded."""
    os.environ["ORT_TELEMETRY_DISABLED"] = "1"
    # They leave a session number in the folder for temporary files, and databases in the user's cache.
    app = str(own_folder(paths.home() / "app"))
    own_folder(paths.home() / "logs")  # where they may write addresses
    os.environ["FOUNDRY_LAB_HOME"] = str(paths.home())  # which XDG_CACHE_HOME would move
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"), app))
    # libcurl sends even loopback requests to http_proxy and ALL_PROXY, and the catalog would not be found.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    hosts = [host for host in direct.split(",") if host] + ["127.0.0.1", "localhost"]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(hosts))


def fit_to_machine() -> Path:
    """Give the prepared model this machine's number of threads; return the model cache for Foundry Local.

    Raises:
        EngineError: there is none, its configuration can't be written, or others could change it.
    """
    model = paths.model_dir()
    with using_home():
        try:
            check_model()
        except FileNotFoundError:  # removed since it was looked at
            raise EngineError(
                f"The model isn't prepared in {model}. Prepare it: foundry-lab model prepare --force"
            ) from None
        if paths.shared_models() is None:
            write_config(model)
            return paths.model_cache()
        cache = own_folder(paths.run_dir()) / "models"
        _link(model, cache / model.relative_to(paths.model_cache()))
        return cache


def _link(model: Path, place: Path) -> None:
    """Make a shared model's files appear in a folder of ours, where the configuration is ours too."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in spec.MODEL_FILES:
        try:
            (place / name).symlink_to(model / name)
        except OSError:  # Windows lets few users do it
            shutil.copyfile(model / name, place / name)
    write_config(place)


def _check_free(port: int) -> None:
    """Raise EngineError if somebody listens at the port; Windows would let two programs share it."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        raise EngineError(
            f"Port {port} of {HOST} is taken by another program. "
            "Choose another port, or none to get a free one."
        )
