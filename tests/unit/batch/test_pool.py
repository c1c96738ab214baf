"""Several services behind one batch, adaptive concurrency, and a Dask cluster with a worker that dies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from stub_server import CHAT, MODEL, StubService, chat, error, reply

from foundry_lab import FoundryAPIClient, RetryPolicy
from foundry_lab.batch.options import AdaptiveConcurrency, as_policy
from foundry_lab.batch.report import BatchStoppedError
from foundry_lab.errors import ConfigurationError, ModelNotFoundError, ServiceUnavailableError

NOWHERE = "http://127.0.0.1:9"  # where these batches' own client points: only the endpoints given are asked
QUICK = RetryPolicy(retries=1, backoff_initial_s=0.01)


@pytest.fixture
def stubs() -> Iterator[list[StubService]]:
    with ExitStack() as stack:
        yield [stack.enter_context(StubService()) for _ in range(3)]


def urls(stubs: list[StubService]) -> list[str]:
    return [stub.url for stub in stubs]


def asked(stub: StubService) -> int:
    return stub.count("POST", CHAT)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text(encoding="utf-8").splitlines()]


PROMPTS = [str(n) for n in range(90)]


# --- endpoints --------------------------------------------------------------------------------------------


async def test_a_client_class_of_ones_own_has_batches_too(stubs: list[StubService]) -> None:
    class TeamClient(FoundryAPIClient):
        def __init__(self, team: str) -> None:
            super().__init__(stubs[0].url, headers={"X-Team": team})

    async with TeamClient("blue") as client:
        report = await client.complete_batch(["a"])
    assert report.done == 1
    assert stubs[0].seen[-1].headers["x-team"] == "blue"


async def test_a_batch_is_spread_over_services(stubs: list[StubService]) -> None:
    for stub in stubs:
        stub.on("POST", CHAT, chat(delay_s=0.1))
    async with FoundryAPIClient(NOWHERE) as client:
        report = await client.complete_batch(PROMPTS, endpoints=urls(stubs))
    assert report.done == 90
    assert all(10 <= asked(stub) <= 60 for stub in stubs)
    assert all(stub.most_at_once == 2 for stub in stubs)  # concurrency is meant for each service


async def test_one_address_may_stand_alone(stubs: list[StubService]) -> None:
    async with FoundryAPIClient(NOWHERE) as client:
        assert (await client.complete_batch(["a"], endpoints=stubs[0].url)).done == 1
        assert (await client.complete_batch(["a"], endpoints=iter(urls(stubs)))).done == 1


async def test_the_slow_service_gets_less(stubs: list[StubService]) -> None:
    for stub, delay_s in zip(stubs, (0.005, 0.005, 1.0), strict=True):
        stub.on("POST", CHAT, chat(delay_s=delay_s))
    async with FoundryAPIClient(NOWHERE) as client:
        await client.complete_batch(PROMPTS, endpoints=urls(stubs))
    assert asked(stubs[2]) < asked(stubs[0]) / 2


async def test_a_service_that_dies_is_left_out_and_its_items_run_elsewhere(
    stubs: list[StubService], tmp_path: Path
) -> None:
    dying = StubService()
    dying.on("POST", CHAT, chat(delay_s=0.02))
    dying.__enter__()
    for stub in stubs[:2]:
        stub.on("POST", CHAT, chat(delay_s=0.02))
    async with FoundryAPIClient(NOWHERE, retry=QUICK) as client:
        batch = asyncio.create_task(
            client.complete_batch(
                PROMPTS, endpoints=[*urls(stubs[:2]), dying.url], output=tmp_path / "out.jsonl"
            )
        )
        while asked(dying) < 5:  # noqa: ASYNC110 - the stub lives in another thread
            await asyncio.sleep(0.01)
        await asyncio.to_thread(dying.__exit__)
        report = await batch
    assert (report.done, report.failed) == (90, 0)
    assert len(set(ids(tmp_path / "out.jsonl"))) == 90


async def test_a_service_that_only_fails_is_left_out(stubs: list[StubService]) -> None:
    stubs[0].on("POST", CHAT, error(500, "broken", "server_error"))
    async with FoundryAPIClient(NOWHERE, retry=QUICK) as client:
        report = await client.complete_batch([str(n) for n in range(200)], endpoints=urls(stubs))
    assert 1 <= report.failed <= 8
    assert report.done == 200 - report.failed


async def test_a_service_that_is_missing_at_the_start_is_done_without(stubs: list[StubService]) -> None:
    async with FoundryAPIClient(NOWHERE, retry=QUICK) as client:
        report = await client.complete_batch(PROMPTS, endpoints=["http://127.0.0.1:9", *urls(stubs)])
        assert report.done == 90
        with pytest.raises(ServiceUnavailableError):
            await client.complete_batch(PROMPTS, endpoints=["http://127.0.0.1:9", "http://127.0.0.1:10"])


async def test_every_service_needs_the_model(stubs: list[StubService]) -> None:
    stubs[1].on("GET", "/v1/models", reply(200, {"data": [{"id": "other:1"}]}))
    async with FoundryAPIClient(NOWHERE, model="stub-1b") as client:
        with pytest.raises(ModelNotFoundError, match="It has: other"):
            await client.complete_batch(PROMPTS, endpoints=urls(stubs))
    assert sum(map(asked, stubs)) == 0


OTHER = "other:1"


@pytest.mark.parametrize("refusal", [error(400, "Model not loaded"), error(404, "Model not found")])
async def test_a_service_that_comes_back_without_the_model_is_waited_for(
    stubs: list[StubService], refusal: Any
) -> None:
    """Whatever words it finds for that, and however well its other model generates."""
    stub = stubs[0]

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        gone = (await request.json())["model"] == MODEL and asked(stub) > 4
        return await (refusal if gone else chat())(request, stop)

    stub.on("POST", CHAT, answer)
    stub.on("GET", "/models/loaded", reply(200, [MODEL]), reply(200, [OTHER]))
    stub.on("GET", "/v1/models", *(reply(200, {"data": [{"id": each}]}) for each in (MODEL, OTHER)))
    async with FoundryAPIClient(stub.url, model=MODEL, retry=QUICK) as client:
        with pytest.raises(BatchStoppedError, match=f"has no model '{MODEL}'") as caught:
            await client.complete_batch(PROMPTS, concurrency=1, wait_for_service=3)
    assert (caught.value.report.done, caught.value.report.failed) == (4, 0)


async def test_a_service_that_only_fails_must_prove_the_model_of_the_batch(stubs: list[StubService]) -> None:
    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        is_other = (await request.json())["model"] == OTHER
        return await (chat() if is_other else error(500, "broken", "server_error"))(request, stop)

    stubs[0].on("POST", CHAT, answer)
    stubs[0].on("GET", "/models/loaded", reply(200, [OTHER, MODEL]))
    async with FoundryAPIClient(stubs[0].url, model=MODEL, retry=QUICK) as client:
        with pytest.raises(BatchStoppedError, match="No service worked") as caught:
            await client.complete_batch(PROMPTS, wait_for_service=0.5)
    assert caught.value.report.failed <= 8


async def test_a_service_that_comes_late_needs_the_model_too(stubs: list[StubService]) -> None:
    with StubService() as probe:
        late = StubService(port=int(probe.url.rpartition(":")[2]))
        url = probe.url
    late.on("GET", "/v1/models", reply(200, {"data": [{"id": OTHER}]}))
    late.on("GET", "/models/loaded", reply(200, [OTHER]))

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        while not late.count("GET", "/v1/models"):  # noqa: ASYNC110 - it lives in another thread
            await asyncio.sleep(0.01)
        return await chat()(request, stop)

    stubs[0].on("POST", CHAT, answer)
    async with FoundryAPIClient(NOWHERE, model=MODEL, retry=QUICK) as client:
        batch = asyncio.create_task(client.complete_batch(PROMPTS, endpoints=[url, stubs[0].url]))
        while not asked(stubs[0]):  # noqa: ASYNC110 - the stub lives in another thread
            await asyncio.sleep(0.01)
        with late:
            report = await batch
    assert (report.done, report.failed, asked(late)) == (90, 0, 0)


async def test_an_unknown_model_of_an_iterators_item_is_that_items_failure(stubs: list[StubService]) -> None:
    async with FoundryAPIClient(stubs[0].url, retry=QUICK) as client:
        items: list[Any] = ["a", {"prompt": "b", "model": "gpt-4o"}, "c"]
        report = await client.complete_batch(iter(items), wait_for_service=0.5)
    assert (report.done, report.failed) == (2, 1)


# --- adaptive concurrency -----------------------------------------------------------------------------------


def feed(policy: AdaptiveConcurrency, latency_s: Any, windows: int = 30) -> list[int]:
    limits = []
    for _ in range(windows):
        for _ in range(8):
            policy.observe(latency_s(policy.limit), 10, True)
        limits.append(policy.limit)
    return limits


def test_it_grows_while_latency_stays() -> None:
    assert feed(AdaptiveConcurrency(2, maximum=10), lambda limit: 1.0) == [*range(3, 11), *[10] * 22]


def test_it_stays_small_where_requests_only_wait_for_each_other() -> None:
    limits = feed(AdaptiveConcurrency(2), lambda limit: float(limit))
    assert max(limits) <= 4


def test_it_finds_the_knee() -> None:
    limits = feed(AdaptiveConcurrency(2), lambda limit: max(1.0, limit / 6), windows=60)
    assert 4 <= sum(limits[20:]) / len(limits[20:]) <= 9


def test_failures_halve_it_at_once_and_never_below_the_minimum() -> None:
    policy = AdaptiveConcurrency(16, minimum=3)
    for expected in (8, 4, 3, 3):
        policy.observe(1.0, 1, ok=False)
        assert policy.limit == expected


@pytest.mark.parametrize(
    "bad",
    [
        {"start": 0}, {"minimum": 3}, {"maximum": 1}, {"tolerance": 0.5}, {"window": 0},
        {"start": "2"}, {"start": 2.5}, {"maximum": 16.0}, {"tolerance": "much"}, {"window": None},
    ],
)  # fmt: skip
def test_limits_out_of_order_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must grow in this order"):
        AdaptiveConcurrency(**bad)


def test_what_concurrency_may_be() -> None:
    adaptive, own = as_policy("adaptive"), AdaptiveConcurrency(3)
    assert adaptive.limit < adaptive.maximum
    assert as_policy(own) is own
    for bad in (0, True, 2.0, "5", 5000):
        with pytest.raises(ConfigurationError, match="whole number"):
            as_policy(bad)


@pytest.mark.parametrize("number", [1, 5, 1024])
def test_a_number_stays_whatever_is_seen(number: int) -> None:
    policy = as_policy(number)
    assert set(feed(policy, lambda limit: 1.0) + feed(policy, float)) == {number}
    policy.observe(1.0, 1, ok=False)
    assert policy.limit == policy.maximum == number


async def test_an_adaptive_batch_follows_its_policy(stubs: list[StubService]) -> None:
    stubs[0].on("POST", CHAT, chat(delay_s=0.05))
    async with FoundryAPIClient(stubs[0].url) as client:
        policy = AdaptiveConcurrency(2, maximum=6, tolerance=1e6)
        assert (await client.complete_batch([str(n) for n in range(120)], concurrency=policy)).done == 120
        assert (policy.limit, stubs[0].most_at_once) == (6, 6)
        stubs[0].on("POST", CHAT, error(429, "slow down"))
        with pytest.raises(BatchStoppedError):
            await client.complete_batch(["a"] * 50, concurrency=policy, wait_for_service=0.2, timeout=0.5)
        assert policy.limit == 1


async def test_an_adaptive_batch_keeps_to_the_limit_of_the_moment_at_each_service(
    stubs: list[StubService],
) -> None:
    for stub in stubs[:2]:
        stub.on("POST", CHAT, chat(delay_s=0.05))
    policy = AdaptiveConcurrency(2, maximum=8, window=1000)  # it decides nothing before the end
    async with FoundryAPIClient(NOWHERE) as client:
        report = await client.complete_batch(PROMPTS, endpoints=urls(stubs[:2]), concurrency=policy)
    assert report.done == 90
    assert [stub.most_at_once for stub in stubs[:2]] == [2, 2]


async def test_what_never_reached_the_service_teaches_the_policy_nothing(stubs: list[StubService]) -> None:
    class Spy(AdaptiveConcurrency):
        seen = 0

        def observe(self, latency_s: float, tokens: int, ok: bool) -> bool:
            self.seen += 1
            return super().observe(latency_s, tokens, ok)

    policy = Spy(1)
    async with FoundryAPIClient(stubs[0].url, cache=True) as client:
        items: list[Any] = ["same"] * 20 + [{"prompt": "b", "model": "gpt-4o"}, {"prompt": 5}]
        report = await client.complete_batch(iter(items), concurrency=policy, temperature=0)
    assert (report.cached, report.failed) == (19, 2)
    assert policy.seen == asked(stubs[0]) == 1


# --- a Dask cluster -----------------------------------------------------------------------------------------


@pytest.fixture
def cluster(stubs: list[StubService], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("FOUNDRY_ENDPOINT", stubs[0].url)  # workers inherit it, those started later too
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


async def test_a_worker_that_dies_loses_nothing_and_doubles_nothing(
    cluster: Any, stubs: list[StubService], tmp_path: Path
) -> None:
    stub = stubs[0]
    stub.on("POST", CHAT, chat(delay_s=0.02))
    output = tmp_path / "out.jsonl"
    items: list[Any] = [{"prompt": f"p{n}", "custom_id": f"id-{n}"} for n in range(200)]
    async with FoundryAPIClient(NOWHERE) as client:
        batch = asyncio.create_task(
            client.complete_batch(items, output=output, cluster=cluster, chunk_size=10, max_tokens=4)
        )
        while asked(stub) < 50:  # noqa: ASYNC110 - the stub lives in another thread
            await asyncio.sleep(0.01)
        pids = cluster.run(lambda: __import__("os").getpid())
        psutil.Process(next(iter(pids.values()))).kill()
        report = await batch
    assert (report.done, report.failed) == (200, 0)
    assert Counter(ids(output)) == Counter(item["custom_id"] for item in items)
    assert 200 <= asked(stub) <= 200 + 2 * 2 * 10  # only chunks of the dead worker ran again
    async with FoundryAPIClient(NOWHERE) as client:
        assert (await client.complete_batch(items, output=output, max_tokens=4)).skipped == 200


async def test_workers_keep_to_the_concurrency_and_errors_are_results(
    cluster: Any, stubs: list[StubService]
) -> None:
    stub = stubs[0]
    stub.on("POST", CHAT, error(400, "no"), chat(delay_s=0.01))
    async with FoundryAPIClient(NOWHERE) as client:
        report = await client.complete_batch([str(n) for n in range(60)], cluster=cluster, concurrency=1)
    assert (report.done, report.failures) == (59, {"http_400": 1})
    assert stub.most_at_once <= 2  # one for each worker process, whatever its threads


async def test_a_worker_without_a_service_stops_the_batch(cluster: Any, stubs: list[StubService]) -> None:
    stubs[0].on("GET", "/models/loaded", reply(200, []))
    async with FoundryAPIClient(NOWHERE) as client:
        with pytest.raises(BatchStoppedError, match=r"worker .* can't go on.*No chat model"):
            await client.complete_batch(PROMPTS, cluster=cluster)


async def test_a_worker_whose_service_breaks_stops_the_batch(cluster: Any, stubs: list[StubService]) -> None:
    stubs[0].on("POST", CHAT, error(500, "broken", "server_error"))
    async with FoundryAPIClient(NOWHERE, retry=QUICK) as client:
        with pytest.raises(BatchStoppedError, match=r"worker .* can't go on: No service worked"):
            await client.complete_batch(PROMPTS, cluster=cluster, wait_for_service=0.5)


async def test_clusters_that_cannot_be_used_are_refused(cluster: Any) -> None:
    async with FoundryAPIClient(NOWHERE, cache=True) as client:
        with pytest.raises(ConfigurationError, match="response cache"):
            await client.complete_batch(["a"], cluster=cluster)
    async with FoundryAPIClient(NOWHERE) as client:
        for options, words in (
            ({"cluster": "tcp://127.0.0.1:8786"}, r"no distributed\.Client"),
            ({"cluster": cluster, "chunk_size": 0}, "chunk_size=0"),
            ({"cluster": cluster, "endpoints": ["http://127.0.0.1:9"]}, "not both"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                await client.complete_batch(["a"], **options)  # type: ignore[arg-type]
        cluster.close()
        with pytest.raises(ConfigurationError, match="or it is closed"):
            await client.complete_batch(["a"], cluster=cluster)
