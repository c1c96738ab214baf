"""Control and catalog routes over a stub of the SDK's catalog: what the real one doesn't show offline."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from foundry_lab.engine import spec
from foundry_lab.engine.service import catalog, control
from foundry_lab.engine.service.runtime import plain

TOKEN = "a-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class StubModel:
    id = "big-model:3"
    alias = "big"

    def __init__(self, download: Callable[[Callable[[float], None], threading.Event], None]) -> None:
        self._download = download

    def download(self, progress: Callable[[float], None], cancel: threading.Event) -> None:
        self._download(progress, cancel)


class StubCatalog:
    def __init__(self, model: StubModel) -> None:
        self.model = model

    def get_model(self, alias: str) -> StubModel | None:
        return self.model if alias == self.model.alias else None

    def get_model_variant(self, model_id: str) -> StubModel | None:
        return self.model if model_id == self.model.id else None

    def list_models(self) -> list[StubModel]:
        return [self.model]


class Routes:
    """A running server with the control routes, and what happened to it."""

    def __init__(self) -> None:
        self.stops = 0
        self.runtime = SimpleNamespace()
        self.control = control.Control(TOKEN, self.runtime, self._stop)  # type: ignore[arg-type]
        self.app = web.Application()
        self.app.router.add_post(catalog.CATALOG_ROUTE, catalog.handle_query)
        self.control.add_routes(self.app)
        self.client: TestClient[Any, Any]

    def _stop(self) -> None:
        self.stops += 1

    def serve(self, download: Callable[[Callable[[float], None], threading.Event], None]) -> None:
        self.runtime.catalog = StubCatalog(StubModel(download))

    async def download(self, alias: str = "big") -> list[dict[str, Any]]:
        async with self.client.post("/control/download", json={"alias": alias}, headers=HEADERS) as answer:
            assert answer.status == 200
            return [json.loads(line) async for line in answer.content]


@pytest.fixture
async def routes() -> AsyncIterator[Routes]:
    routes = Routes()
    server = TestServer(routes.app)
    await server.start_server(shutdown_timeout=0.1)
    async with TestClient(server) as client:
        routes.client = client
        yield routes


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
@pytest.mark.parametrize("route", ["/control/shutdown", catalog.CATALOG_ROUTE])
async def test_a_web_page_is_refused_whatever_it_knows(
    routes: Routes, route: str, headers: dict[str, str]
) -> None:
    answer = await routes.client.post(route, json={}, headers=HEADERS | headers)
    assert answer.status == 403
    assert (await answer.json())["error"].startswith("Refused: it ")
    assert routes.stops == 0
    assert (await routes.client.post(route, json={}, headers=HEADERS)).status < 300, "a program is let in"


async def test_a_download_tells_its_progress(routes: Routes) -> None:
    under_way = []

    def download(progress: Callable[[float], None], cancel: threading.Event) -> None:
        for percent in (0.0, 50.0, 100.0):
            progress(percent)
        under_way.append(routes.control.downloads)

    routes.serve(download)
    percents = [{"percent": value} for value in (0.0, 50.0, 100.0)]
    assert await routes.download() == [*percents, {"done": True, "id": "big-model:3"}]
    assert (await routes.download("big-model:3"))[-1] == {"done": True, "id": "big-model:3"}
    assert under_way == [1, 1] and routes.control.downloads == 0, "a service that downloads isn't idle"


async def test_a_download_that_fails_says_why(routes: Routes) -> None:
    def download(progress: Callable[[float], None], cancel: threading.Event) -> None:
        progress(12.0)
        raise RuntimeError("region fallback exhausted")

    routes.serve(download)
    *_, last = await routes.download()
    assert last["error"].startswith(
        "The download of big failed: region fallback exhausted. Check the internet"
    )


async def test_a_caller_who_goes_away_cancels_the_download(routes: Routes) -> None:
    cancelled = threading.Event()

    def download(progress: Callable[[float], None], cancel: threading.Event) -> None:
        percent = 0.0
        while not cancel.wait(0.01):
            percent += 0.1
            progress(percent)
        cancelled.set()

    routes.serve(download)
    answer = await routes.client.post("/control/download", json={"alias": "big"}, headers=HEADERS)
    await answer.content.readline()
    answer.close()
    assert await _within(cancelled, 10)


async def test_stopping_the_service_cancels_downloads(routes: Routes) -> None:
    cancelled = threading.Event()

    def download(progress: Callable[[float], None], cancel: threading.Event) -> None:
        progress(1.0)
        if cancel.wait(20):
            cancelled.set()

    routes.serve(download)
    answer = await routes.client.post("/control/download", json={"alias": "big"}, headers=HEADERS)
    await answer.content.readline()
    await routes.client.server.close()
    assert await _within(cancelled, 10)


async def test_an_unknown_model_is_404(routes: Routes) -> None:
    routes.serve(lambda progress, cancel: None)
    answer = await routes.client.post("/control/download", json={"alias": "small"}, headers=HEADERS)
    assert answer.status == 404
    assert await answer.json() == {"error": "The catalog has no model 'small'. It has: big."}


async def test_shutdown_wants_the_token(routes: Routes) -> None:
    assert (await routes.client.post("/control/shutdown")).status == 401
    assert routes.stops == 0
    assert (await routes.client.post("/control/shutdown", headers=HEADERS)).status == 202
    assert routes.stops == 1


async def test_unknown_control_routes_want_it_too(routes: Routes) -> None:
    assert (await routes.client.get("/control/secrets")).status == 401
    assert (await routes.client.get("/control/secrets", headers=HEADERS)).status == 404


async def test_the_catalog_needs_none(routes: Routes) -> None:
    answer = await routes.client.post(catalog.CATALOG_ROUTE, json={"filters": []})
    assert [model["name"] for model in (await answer.json())["summaries"]] == [spec.NAME]
    assert (await routes.client.post(catalog.CATALOG_ROUTE, data=b"{")).status == 400


def name_filter(*names: str) -> bytes:
    """A query as the SDK sends it to look a model up by id."""
    filters = [
        {"field": "type", "operator": "eq", "values": ["models"]},
        {"field": "kind", "operator": "eq", "values": ["Versioned"]},
        {"field": "name", "operator": "eq", "values": list(names)},
    ]
    return json.dumps({"filters": filters, "pageSize": 50}).encode()


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (b"{}", 1),
        (b'{"filters":[{"field":"type","operator":"eq","values":["models"]}],"pageSize":50}', 1),
        (name_filter(spec.NAME), 1),
        (name_filter("phi-4-mini-instruct-generic-cpu", spec.NAME), 1),
        (name_filter("phi-4-mini-instruct-generic-cpu"), 0),
        (name_filter(), 0),
    ],
)
def test_the_name_filter_is_honoured(query: bytes, count: int) -> None:
    found = catalog.find_models(query, 1000)
    assert found["totalCount"] == len(found["summaries"]) == count


@pytest.mark.parametrize("query", [b"", b"{", b"[]", b'{"filters": 5}', b'{"filters": [{}]}', b"\xff"])
def test_a_query_of_another_shape_is_a_value_error(query: bytes) -> None:
    with pytest.raises(ValueError):
        catalog.find_models(query, 1000)


async def _within(event: threading.Event, seconds: float) -> bool:
    return await asyncio.to_thread(event.wait, seconds)


@pytest.mark.parametrize(
    ("said", "plainly"),
    [
        (
            "model.cc:530 void fl::Model::Load(fl::ExecutionProvider) model not found at path: x",
            "model not found at path: x",
        ),
        (
            "http_client.cc:304 std::string fl::RetryWithBackoff(const std::function<int ()>&) no route",
            "no route",
        ),
        ("Generator output 'hidden_states' was not found.", "Generator output 'hidden_states' was not found"),
        ("", ""),
    ],
)
def test_the_sdks_words_without_cpp(said: str, plainly: str) -> None:
    assert plain(RuntimeError(said)) == plainly
