"""Control routes of the service process: what the public REST doesn't have.

The catalog in detail, downloads with progress, a clean stop. They are on a loopback port of their own, which
no web page may use, and want the bearer token of the state file, which only the service's owner can read.

    GET  /control/models     [{"id", "alias", "name", "size_bytes", "task", "device", "license", "cached",
                              "loaded", "context_length"}, …]
    POST /control/download   {"alias"} -> lines of JSON: {"percent"} …, then {"done": true, "id"} or {"error"}
    POST /control/shutdown   202, then the service stops
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from foundry_lab._ground.loopback import foreign
from foundry_lab.engine.service.runtime import Runtime, plain

if TYPE_CHECKING:
    from foundry_local_sdk import Catalog, IModel

PREFIX = "/control"


class Control:
    """The routes over the runtime's catalog, whose blocking calls run in threads.

    Args:
        token: what the caller has to know; it is told to nobody before the runtime has started.
        runtime: whose catalog it is.
        stop: called once when somebody asks for the shutdown.

    Attributes:
        downloads: how many are under way.
    """

    def __init__(self, token: str, runtime: Runtime, stop: Callable[[], None]) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._runtime = runtime
        self._stop = stop
        self.downloads = 0

    def add_routes(self, app: web.Application) -> None:
        """Put the routes into the application, and the checks of who asks, which hold for all its routes."""
        app.middlewares.append(self._check_caller)
        app.router.add_get(f"{PREFIX}/models", self._models)
        app.router.add_post(f"{PREFIX}/download", self._download)
        app.router.add_post(f"{PREFIX}/shutdown", self._shutdown)

    @web.middleware
    async def _check_caller(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host, origin, site = (request.headers.get(name) for name in ("Host", "Origin", "Sec-Fetch-Site"))
        _, port, *_ = request.get_extra_info("sockname", ("", 0))
        if reason := foreign(host, origin, port, site):
            return _error(403, f"Refused: {reason}. Ask from a program.")
        if request.path.startswith(PREFIX):
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._authorization):
                return _error(401, "The control routes want the token of the service's state file.")
        return await handler(request)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(_describe_all, self._runtime.catalog))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        catalog = self._runtime.catalog
        try:
            alias = msgspec.json.decode(await request.read(), type=dict[str, str])["alias"]
        except (ValueError, KeyError, RecursionError) as error:  # no JSON of this shape, or too deep
            return _error(400, f'Send {{"alias": "…"}} with the alias or id of a model: {error}')
        model = await asyncio.to_thread(lambda: catalog.get_model(alias) or catalog.get_model_variant(alias))
        if model is None:
            aliases = {known.alias for known in await asyncio.to_thread(catalog.list_models)}
            names = ", ".join(sorted(aliases)) or "none at all"
            return _error(404, f"The catalog has no model {alias!r}. It has: {names}.")

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        cancel = threading.Event()
        self.downloads += 1
        try:
            async for line in _download_lines(model, cancel):
                await response.write(msgspec.json.encode(line) + b"\n")
            await response.write_eof()
        finally:
            self.downloads -= 1
            cancel.set()  # a caller who went away wants no download either, nor does a service that stops
        return response

    async def _shutdown(self, request: web.Request) -> web.Response:
        self._stop()
        return web.json_response({"status": "stopping"}, status=202)


async def _download_lines(model: IModel, cancel: threading.Event) -> AsyncIterator[dict[str, Any]]:
    """Download in a thread; yield {"percent": …} as it grows, then {"done": …} or {"error": …}."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(line: dict[str, Any]) -> None:
        try:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        except RuntimeError:  # the loop is closed: nobody listens any more
            cancel.set()

    def download() -> None:
        try:
            model.download(lambda percent: tell({"percent": percent}), cancel)
            tell({"done": True, "id": model.id})
        except Exception as error:  # whatever the SDK or its native part raises is the caller's to know
            reason = f"The download of {model.alias} failed: {plain(error)}."
            tell({"error": f"{reason} Check the internet connection and HTTPS_PROXY, then try again."})

    threading.Thread(target=download, name="download", daemon=True).start()
    while True:
        line = await lines.get()
        yield line
        if "percent" not in line:
            return


def _describe_all(catalog: Catalog) -> list[dict[str, Any]]:
    """Return one entry a model variant, since the id, which requests want, is the variant's."""
    return [_describe(variant) for model in catalog.list_models() for variant in model.variants]


def _describe(model: IModel) -> dict[str, Any]:
    info = model.info
    return {
        "id": info.id,
        "alias": info.alias,
        "name": info.display_name or info.name,
        "size_bytes": None if info.file_size_mb is None else info.file_size_mb * 2**20,
        "task": info.task,
        "device": info.runtime.device_type if info.runtime else None,
        "license": info.license,
        "cached": model.is_cached,
        "loaded": model.is_loaded,
        "context_length": info.context_length,
    }


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
