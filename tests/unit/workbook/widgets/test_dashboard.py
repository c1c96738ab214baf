"""The dashboard without a browser: what it shows, what its buttons do, what stays without them."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator

import pytest
from stub_server import CHAT, StubService, chat, reply

from foundry_lab import CircuitBreaker, SyncFoundryAPIClient
from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.proxy import FaultProxy
from foundry_lab.metrics import Metrics, Record
from foundry_lab.workbook.widgets import HealthDashboard


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


@pytest.fixture
def proxy(stub: StubService) -> Iterator[FaultProxy]:
    with FaultProxy(stub.url) as running:
        yield running


@pytest.fixture
def dashboard(proxy: FaultProxy) -> Iterator[HealthDashboard]:
    client = SyncFoundryAPIClient(
        proxy.url, retries=0, breaker=CircuitBreaker(failure_threshold=2), metrics=Metrics()
    )
    made = HealthDashboard(client, proxy=proxy, interval_s=0.05)
    yield made
    made.close()


def wait_for(dashboard: HealthDashboard, text: str, limit_s: float = 5.0) -> str:
    deadline = time.monotonic() + limit_s
    while text not in dashboard._view.value:
        assert time.monotonic() < deadline, f"{text!r} never showed: {dashboard._view.value}"
        time.sleep(0.01)
    return str(dashboard._view.value)


def test_the_light_follows_the_service(dashboard: HealthDashboard) -> None:
    assert 'data-status="not watched"' in dashboard.html()
    dashboard._start.click()
    wait_for(dashboard, 'data-status="healthy"')
    dashboard._fault.value = "reset"
    assert "closed the connection" in wait_for(dashboard, 'data-status="unavailable"')
    dashboard._fault.value = "no fault"
    wait_for(dashboard, 'data-status="healthy"')
    dashboard._stop.click()
    assert 'data-status="not watched"' in dashboard.html()


def test_its_requests_carry_the_clients_headers(stub: StubService) -> None:
    client = SyncFoundryAPIClient(stub.url, api_key="k", headers={"X-Class": "7b"}, metrics=False)
    dashboard = HealthDashboard(client)
    dashboard._ask_once()
    dashboard.close()
    assert stub.seen[-1].headers["x-class"] == "7b"
    assert stub.seen[-1].headers["authorization"] == "Bearer k"


def test_asking_moves_requests_and_breaker(stub: StubService, dashboard: HealthDashboard) -> None:
    dashboard._ask.click()
    wait_for(dashboard, "hello")
    assert "<b>1</b> answered, <b>0</b> failed" in wait_for(dashboard, "breaker <b>closed</b>")
    stub.on("POST", CHAT, reply(500, b"{}"))
    for failed in (1, 2):
        dashboard._ask.click()
        wait_for(dashboard, f"<b>{failed}</b> failed")
    wait_for(dashboard, "breaker <b>open</b>")


def test_healthy_beside_an_open_breaker_is_explained(
    stub: StubService, dashboard: HealthDashboard, proxy: FaultProxy
) -> None:
    """A look goes past the breaker, so the two may differ for some seconds: which puzzled learners."""
    stub.on("POST", CHAT, reply(500, b"{}"))
    for _ in range(2):
        dashboard._ask_once()
    dashboard.start()
    seen = wait_for(dashboard, 'data-status="healthy"')
    assert "breaker <b>open</b>: after failed requests it lets none through" in seen
    dashboard._client.breaker._open_s = 0.0
    assert "breaker <b>half-open</b>: the next request is a trial" in dashboard.html()


def test_the_lines_survive_where_svg_does_not(dashboard: HealthDashboard) -> None:
    """JupyterLab takes SVG elements out of the outputs of a notebook that isn't trusted, but not images."""
    dashboard.start()
    wait_for(dashboard, "<polyline")
    page = dashboard._repr_mimebundle_()["text/html"]
    assert "<svg" not in page
    charts = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert [alt.split(" over the last")[0] for alt, _ in charts] == ["memory", "latency of a look"]
    memory, latency = (base64.b64decode(data) for _, data in charts)
    assert "nothing measured, now ?" in charts[0][0] and b"<polyline" not in memory  # the stub has no process
    assert " ms, now " in charts[1][0] and b"<polyline" in latency


def test_it_sets_no_colour_of_text_but_the_lights(dashboard: HealthDashboard) -> None:
    """A colour of ours can't be read in both the light and the dark theme."""
    dashboard.start()
    wait_for(dashboard, 'data-status="healthy"')
    assert re.findall(r"[^-]color:(#\w+)", dashboard.html()) == ["#2e9e5b"]


def test_every_input_has_a_label(dashboard: HealthDashboard) -> None:
    assert [dashboard._fault.description, dashboard._rate.description] == ["Fault", "Rate"]


def test_a_cancelled_request_is_no_failure(dashboard: HealthDashboard) -> None:
    for outcome in ("ok", "cancelled", "timeout"):
        dashboard._client.metrics.start()
        dashboard._client.metrics.finish(Record("complete", "id", outcome=outcome))
    assert "<b>1</b> answered, <b>1</b> failed" in dashboard.html()


def test_health_checks_do_not_count_as_requests(stub: StubService, dashboard: HealthDashboard) -> None:
    dashboard.start()
    wait_for(dashboard, "<polyline")
    assert "<b>0</b> answered, <b>0</b> failed" in dashboard.html()


def test_the_rate_reaches_the_proxy_and_refused_ignores_it(
    dashboard: HealthDashboard, proxy: FaultProxy
) -> None:
    dashboard._fault.value = "latency"
    dashboard._rate.value = 0.3
    assert [(fault.kind, fault.rate) for fault in proxy.faults] == [("latency", 0.3)]
    dashboard._fault.value = "refused"
    assert [(fault.kind, fault.rate) for fault in proxy.faults] == [("refused", 1.0)]


def test_readable_without_javascript_and_safe_against_html(
    stub: StubService, dashboard: HealthDashboard
) -> None:
    stub.on("POST", CHAT, chat("<script>alert(1)</script>"))
    dashboard._ask.click()
    wait_for(dashboard, "&lt;script&gt;")
    bundle = dashboard._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "breaker" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


def test_stop_ends_the_looks(stub: StubService, dashboard: HealthDashboard, proxy: FaultProxy) -> None:
    dashboard.start()
    wait_for(dashboard, 'data-status="healthy"')
    dashboard.stop()
    dashboard._ask_once()  # when the proxy has answered this, it has read what the last look sent
    while proxy.in_flight:
        time.sleep(0.01)
    stub.wait_until_read()
    looks = stub.count("GET", "/status")
    time.sleep(0.2)
    assert stub.count("GET", "/status") == looks


def test_closed_it_shows_what_was_seen_and_takes_no_more_clicks(dashboard: HealthDashboard) -> None:
    """A notebook's last cell closes it, and after "Run All" its place was empty."""
    dashboard.start()
    wait_for(dashboard, "<polyline")
    dashboard.close()
    assert "<polyline" in dashboard._view.value
    assert dashboard.widget.comm is not None
    (_, buttons, switches) = dashboard.widget.children
    assert all(control.disabled for control in (*buttons.children, *switches.children))


def test_without_a_proxy_there_are_no_switches(stub: StubService) -> None:
    dashboard = HealthDashboard(SyncFoundryAPIClient(stub.url, metrics=False))
    assert len(dashboard.widget.children) == 2
    dashboard.close()


def test_a_proxy_that_is_none_is_refused(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="proxy is a str"):
        HealthDashboard(SyncFoundryAPIClient(stub.url), proxy=stub.url)  # type: ignore[arg-type]


def test_an_interval_that_makes_no_sense_is_refused(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="interval_s"):
        HealthDashboard(SyncFoundryAPIClient(stub.url), interval_s=0)
