"""Control routes of the service process: what the public REST doesn't have.

The catalog in detail, downloads with progress, a clean stop. They are on a loopback
port of their own and want the bearer token of the state file, which only the service's owner can read.

    GET  /control/models     [{"id", "alias", "name", "size_bytes", "task", "device", "license", "cached",
                              "loaded", "context_length"}, …]
    POST /control/download   {"alias"} -> lines of JSON: {"percent"} …, then {"done": true, "id"} or {"error"}
    POST /control/shutdown   202, then the service stops
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from foundry_lab.engine.service.runtime import plain

if TYPE_CHECKING:
    from foundry_local_sdk import Catalog, IModel

PREFIX = "/control"
RETRY_HINT = "Check the internet connection and HTTPS_PROXY, then try again."


class _DownloadRequest(msgspec.Struct):
    alias: str


class Control:
    """The routes over one catalog of the SDK, whose blocking calls run in threads.

    Args:
        token: what the caller has to know.
        stop: called once when somebody asks for the shutdown.
    """

    def __init__(self, token: str, stop: Callable[[], None]) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._stop = stop
        self._catalog: Catalog | None = None
        self._stopping = threading.Event()

    def attach(self, catalog: Catalog) -> None:
        """Give it the SDK's catalog, once there is one; until then the routes answer 503."""
        self._catalog = catalog

    def cancel_downloads(self) -> None:
        """Make running downloads end."""
        self._stopping.set()

    def add_routes(self, app: web.Application) -> None:
        """Put the routes and the check of the token into the application."""
        app.middlewares.append(self._check_token)
        app.router.add_get(f"{PREFIX}/models", self._models)
        app.router.add_post(f"{PREFIX}/download", self._download)
        app.router.add_post(f"{PREFIX}/shutdown", self._shutdown)

    @web.middleware
    async def _check_token(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._authorization):
                return _error(401, "The control routes want the token of the service's state file.")
        return await handler(request)

    def _ready_catalog(self) -> Catalog:
        if self._catalog is None:
            raise web.HTTPServiceUnavailable(
                text='{"error": "The service is still starting."}', content_type="application/json"
            )
        return self._catalog

    async def _models(self, request: web.Request) -> web.Response:
        catalog = self._ready_catalog()
        return _json(await asyncio.to_thread(_describe_all, catalog))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        catalog = self._ready_catalog()
        try:
            alias = msgspec.json.decode(await request.read(), type=_DownloadRequest).alias
        except ValueError as error:
            return _error(400, f'Send {{"alias": "…"}} with the alias or id of a model: {error}')
        model = await asyncio.to_thread(_find, catalog, alias)
        if model is None:
            names = ", ".join(sorted(await asyncio.to_thread(_aliases, catalog))) or "none at all"
            return _error(404, f"The catalog has no model {alias!r}. It has: {names}.")

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        progress = _Progress(model, self._stopping)
        try:
            async for line in progress.lines():
                await response.write(msgspec.json.encode(line) + b"\n")
            await response.write_eof()
        finally:
            progress.cancel()  # a caller who went away wants no download either
        return response

    async def _shutdown(self, request: web.Request) -> web.Response:
        self._stop()
        return _json({"status": "stopping"}, status=202)


class _Progress:
    """One download in a thread, told as a sequence of lines."""

    def __init__(self, model: IModel, stopping: threading.Event) -> None:
        self._model = model
        self._stopping = stopping
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._last_percent = -1.0

    def cancel(self) -> None:
        self._cancelled.set()

    async def lines(self) -> Any:
        """Yield {"percent": …} as it grows, then {"done": …} or {"error": …}."""
        threading.Thread(target=self._run, name="download", daemon=True).start()
        while True:
            line = await self._queue.get()
            yield line
            if "percent" not in line:
                return

    def _run(self) -> None:
        try:
            self._model.download(self._on_progress, self._cancelled)
            self._put({"done": True, "id": self._model.id})
        except Exception as error:  # whatever the SDK or its native part raises is the caller's to know
            self._put({"error": f"The download of {self._model.alias} failed: {plain(error)}. {RETRY_HINT}"})

    def _on_progress(self, percent: float) -> None:
        if self._stopping.is_set():
            self._cancelled.set()
        if percent - self._last_percent >= 0.1 or percent >= 100.0 > self._last_percent:
            self._last_percent = percent
            self._put({"percent": percent})

    def _put(self, line: dict[str, Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._cancelled.set()


def _find(catalog: Catalog, name: str) -> IModel | None:
    """Look a model up by alias, else by id."""
    return catalog.get_model(name) or catalog.get_model_variant(name)


def _aliases(catalog: Catalog) -> set[str]:
    return {model.alias for model in catalog.list_models()}


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


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json({"error": message}, status=status)
