"""The service process: Foundry Local's web service, the prepared model, our catalog, the control routes.

`discovery.ensure_service` starts `python -m foundry_lab.engine.service.process` in the background;
`discovery.serve` runs the same in the foreground.
"""

import argparse
import asyncio
import atexit
import contextlib
import logging
import os
import platform
import secrets
import signal
import sys
from collections.abc import Callable
from importlib import metadata

import msgspec
from aiohttp import web

from foundry_lab.engine import spec
from foundry_lab.engine.service.catalog import CATALOG_ROUTE, handle_query
from foundry_lab.engine.service.control import Control
from foundry_lab.engine.service.idle import IdleWatch, idle_stop_s
from foundry_lab.engine.service.launch import FAILURE_MARK
from foundry_lab.engine.service.runtime import HOST, Runtime
from foundry_lab.engine.service.state import End, ServiceState, note, remove_state, write_state
from foundry_lab.errors import FoundryError

log = logging.getLogger(__name__)

POLL_S = 0.5
CLOSE_TIMEOUT_S = 5.0


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that do the work."""
    found = {"python": platform.python_version()}
    for name in ("foundry-lab", "foundry-local-sdk", "onnxruntime", "onnxruntime-genai-core"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


async def run(
    *,
    port: int = 0,
    public_catalog: bool = False,
    log_file: str = "",
    on_ready: Callable[[ServiceState], None] | None = None,
) -> None:
    """Serve until a signal, the control route, the web service's own /shutdown or idleness ends it.

    Args:
        port: of the web service on 127.0.0.1; 0 takes a free one.
        public_catalog: serve the models of Microsoft's catalog as well.
        log_file: where the words of a background process go, which ends after FOUNDRY_LAB_IDLE_STOP seconds
            without work; empty in the foreground.
        on_ready: called with the state once requests are taken.

    Raises:
        EngineError: it can't start.
        ConfigurationError: FOUNDRY_LAB_IDLE_STOP is no time.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    idle = IdleWatch(idle_stop_s() if log_file else None)
    token, used = secrets.token_urlsafe(32), versions()
    runtime = Runtime()
    app = web.Application()
    app.router.add_post(CATALOG_ROUTE, handle_query)
    control = Control(token, runtime, stop.set)
    control.add_routes(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    umask = os.umask(0o077)  # what the runtime writes is nobody else's
    try:
        await web.TCPSite(runner, HOST, 0).start()
        own_url = f"http://{HOST}:{runner.addresses[0][1]}"
        await asyncio.to_thread(runtime.start, port, own_url + CATALOG_ROUTE, public_catalog)
        state = note(
            os.getpid(),
            url=runtime.url,
            control_url=own_url,
            control_token=token,
            versions=used,
            model_id=spec.MODEL_ID,
            alias=spec.ALIAS,
            log_file=log_file,
            public_catalog=public_catalog,
        )
        try:
            log.info("%s serves %s", state.url, state.model_id)
            if on_ready is not None:
                on_ready(state)
            if ended := await _until_stopped(stop, runtime, control, idle):
                log.warning("the service ends: %s", ended)
                write_state(msgspec.structs.replace(state, ended=ended))
        finally:
            remove_state(os.getpid())  # before the slow part: the next service may start meanwhile
            log.info("stopping")
    finally:
        await runner.cleanup()  # first, as it cancels downloads, which the runtime would wait for
        closed = await asyncio.to_thread(runtime.close, CLOSE_TIMEOUT_S)
        os.umask(umask)
        if not closed:
            atexit.register(_end_process)  # runs ahead of the SDK's own exit hook, which would hang


async def _until_stopped(
    stop: asyncio.Event, runtime: Runtime, control: Control, idle: IdleWatch
) -> End | None:
    """Return why it is to end, if neither the lab nor a signal asked for it."""
    while not stop.is_set():
        if runtime.shutdown_requested():
            return "shut down"
        if idle.over(downloads=control.downloads):
            return "idle"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_S)
    return None


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM end the service in good order; Windows has no handlers of the loop."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(name, stop.set)
        except NotImplementedError:
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stop.set))


def _end_process() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Run the service as the background process that `launch` starts."""
    parser = argparse.ArgumentParser(prog="python -m foundry_lab.engine.service.process")
    parser.add_argument("--public-catalog", action="store_true")
    parser.add_argument("--log-file", default="", help="where its output goes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if not sys.stdin.readline():  # whoever started us is gone, and hasn't noted it: nobody would find us
        return
    try:
        asyncio.run(run(public_catalog=arguments.public_catalog, log_file=arguments.log_file))
    except FoundryError as error:
        sys.exit(f"{FAILURE_MARK}{error}")


if __name__ == "__main__":
    main()
